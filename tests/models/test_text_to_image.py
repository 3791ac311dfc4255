"""Portraits by published text-to-image classes: tiny models with random weights, through the stage to its artifacts."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.identities.diffusion import PRESETS, DiffusionIdentities
from avatar_core.identities.prompts import portrait_prompt
from avatar_core.io.catalog import read_catalog
from avatar_core.io.images import read_image
from avatar_core.models.files import folder_digest
from avatar_core.procedural.people.identity import load_dictionary, sample_identities
from stages import identities
from stages.common import Stage
from stages.params import parse_params
from tests.models.tiny_text_to_image import save_tiny

pytestmark = pytest.mark.models("transformers", "accelerate")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """preset -> (folder, digest) of a tiny model, made when it is first asked for."""
    kept = {}

    def get(preset):
        if preset not in kept:
            folder = save_tiny(preset, tmp_path_factory.mktemp("models") / preset)
            kept[preset] = (folder, folder_digest(folder))
        return kept[preset]

    return get


def backend(saved, preset, **changes):
    folder, digest = saved(preset)
    values = {
        "model": str(folder),
        "sha256": digest,
        "width": 256,
        "height": 288,
        "steps": 1,
        "dtype": "fp32",
    }
    return DiffusionIdentities(preset=preset, **(values | changes))


def stage_of(saved, data, **changes):
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    source = vars(backend(saved, "z-image-turbo", **changes))
    raw["run"]["shards"] = [0]
    raw["teacher"] |= {"backends": {"folder": 1.0}, "folder": {"path": "x"}}
    raw["identities"] |= {"backend": "diffusers", "diffusers": source, "train": 1, "val": 1, "test": 1}
    return Stage("identities", None, parse_params(raw), data)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_presets_class_draws(saved, preset):
    source = backend(saved, preset, batch=2)
    assert source.lacking() == []
    people = source.people(3, 5)
    drawn = list(source.portraits(people, CPU))
    assert [p.id for p, _, _ in drawn] == [p.id for p in people]
    for _, image, _ in drawn:
        assert image.shape == (288, 256, 3) and image.dtype == np.uint8 and image.std() > 4
    assert np.abs(drawn[0][1].astype(float) - drawn[1][1]).mean() > 5, "two people look the same"
    (_, alone, _) = next(iter(backend(saved, preset).portraits(people[1:2], CPU)))
    # a person's noise is its own, whoever is drawn beside it; half-way sums differ by rounding
    assert np.abs(alone.astype(float) - drawn[1][1]).mean() < 1


def test_the_stage_makes_people_and_portraits(saved, tmp_path):
    stage = stage_of(saved, tmp_path / "data")
    identities.main(stage)
    people = json.loads((stage.out / "identities.json").read_text())
    assert [p["split"] for p in people] == ["train", "val", "test"]
    assert all(set(p["attributes"]) == {"sex", "age", "build", "skin_tone", "prompt"} for p in people)
    rows = {row["id"]: row for row in read_catalog(stage.out / "catalog.parquet")}
    folder, digest = saved("z-image-turbo")
    for person in people:
        row = rows[person["id"]]
        assert (row["backend"], row["model"], row["revision"]) == ("diffusers", folder.name, digest)
        assert row["licence"] == "Apache-2.0" and row["qc"]["contrast"] > 4
        assert read_image(stage.out / "portraits" / f"{person['id']}.png").shape == (288, 256, 3)
    assert (stage.reports / "contact_sheet.png").is_file()


def test_a_killed_run_goes_on_where_it_was(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    first = stage_of(saved, tmp_path / "a")
    identities.main(first)

    stage, calls, draw, write = (
        stage_of(saved, tmp_path / "b"),
        [],
        DiffusionIdentities._draw,
        identities.write_json,
    )

    def killed(path, value):
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, value)

    def counted(self, pipeline, people):
        calls.extend(people)
        return draw(self, pipeline, people)

    monkeypatch.setattr(DiffusionIdentities, "_draw", counted)
    monkeypatch.setattr(identities, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        identities.main(stage)
    monkeypatch.setattr(identities, "write_json", write)
    identities.main(stage)
    assert len(calls) == 4  # one whole before the kill, one cut off by it, two after
    for path in sorted((first.out / "portraits").iterdir()):
        assert (stage.out / "portraits" / path.name).read_bytes() == path.read_bytes()


def test_what_is_missing_or_wrong_is_said_before_work(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "f" * 40
    cases = {
        "hf download Tongyi-MAI/Z-Image-Turbo --revision f{40}": {"model": "", "revision": commit},
        "hf download Tongyi-MAI/Z-Image-Turbo --revision f332072aa78b": {"model": ""},
        "identities.diffusers.width: expected a multiple of 32, found 300": {"width": 300},
        "expected at most 2400000 pixels, found 2048 x 2048": {"width": 2048, "height": 2048},
        "expected SHA-256 .*another model, or damaged": {"sha256": "0" * 64},
    }
    for line, change in cases.items():
        source = backend(saved, "z-image-turbo", **change)
        with pytest.raises(UserError, match=line):
            next(iter(source.portraits(source.people(1, 0), CPU)))


def test_a_model_that_draws_from_pictures_alone_is_refused(saved, tmp_path):
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(saved("z-image-turbo")[0], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "StableVideoDiffusionPipeline"})
    )
    (line,) = backend(saved, "z-image-turbo", model=str(folder)).lacking()
    assert "expected a pipeline that draws from text, found StableVideoDiffusionPipeline" in line


def test_the_procedural_teacher_cannot_follow_drawn_people(saved):
    raw = yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())
    raw["identities"] |= {"backend": "diffusers"}
    with pytest.raises(
        UserError, match=r"teacher\.backends: expected a backend that does without attributes"
    ):
        parse_params(raw)


def test_prompts_say_what_is_seen_and_fit_the_encoders():
    dictionary = load_dictionary()
    texts = {}
    for person in sample_identities(150, 3, "prompts"):
        about = person.attributes
        long, brief = (portrait_prompt(about, dictionary, kind) for kind in (False, True))
        assert {"female": "woman", "male": "man"}[about["sex"]] in re.findall(r"\w+", long)
        assert f"{about['age']:.0f}-year-old" in long and "head to shoes" in long and "head to shoes" in brief
        # CLIP reads words, signs and single digits, 75 of them
        assert len(re.findall(r"\d|[^\W\d]+|[^\w\s]", brief)) <= 75, brief
        assert "{" not in long + brief
        texts[long] = person
    assert len(texts) > 145
