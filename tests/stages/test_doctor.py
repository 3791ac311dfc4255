"""`avatar doctor` and `avatar models`: what is ready, what is missing and what to do about it; models read whole on demand."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.models.files import folder_digest
from stages import __main__ as command
from stages.doctor import components, known_models, listed, shown, verified, verified_folder
from stages.params import parse_params

ROOT = Path(__file__).resolve().parents[2]
RAW = yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())


def parsed(**sections):
    raw = copy.deepcopy(RAW)
    for name, change in sections.items():
        raw[name] |= change
    return parse_params(raw)


def found(params, role):
    (component,) = (c for c in components(params) if c.role == role)
    return component


def drawn(**values):
    teacher = {"backends": {"folder": 1.0}, "folder": {"path": str(ROOT)}}
    return parsed(identities={"backend": "diffusers", "diffusers": values}, teacher=teacher)


def model_folder(root):
    (root / "unet").mkdir(parents=True)
    (root / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "U"]}'
    )
    (root / "unet" / "config.json").write_text("{}")
    save_file({"a": np.ones(3, np.float32)}, root / "unet" / "diffusion_pytorch_model.safetensors")
    return root


def test_what_ships_with_the_project_is_ready():
    for component in components(parsed()):
        assert component.ready or component.role == "speech", shown(component)  # espeak is an extra
        assert component.card.training == "yes"


def test_a_missing_model_is_named_with_its_licence_memory_and_next_step(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    component = found(drawn(revision="a" * 40), "identities")
    assert not component.ready
    text = "\n".join(shown(component))
    assert (
        "MISSING  identities" in text
        and "Tongyi-MAI/Z-Image-Turbo, Apache-2.0, training allowed, 16 GB" in text
    )
    assert f"hf download Tongyi-MAI/Z-Image-Turbo --revision {'a' * 40}" in text


def test_a_folder_of_yours_that_is_missing_is_named():
    component = found(
        parsed(teacher={"backends": {"folder": 1.0}, "folder": {"path": "none-such"}}), "teacher"
    )
    assert component.lacking == ("teacher.folder.path: expected a folder, found no none-such; make it",)


def test_a_reference_that_is_not_what_was_declared_is_named(tmp_path):
    scores = tmp_path / "scores.json"
    scores.write_text("{}")
    params = parsed(evaluate={"metrics": ["IQA"], "IQA": {"path": str(scores), "sha256": "0" * 64}})
    component = found(params, "evaluate")
    assert component.name == "IQA (reference)" and "expected SHA-256 000000000000" in component.lacking[0]


def test_a_baseline_without_a_section_is_missing_and_one_with_its_videos_is_ready(tmp_path):
    (tmp_path / "lhm").mkdir()
    section = {"metrics": [], "baselines": ["lhm", "omniavatar"], "lhm": {"path": str(tmp_path / "lhm")}}
    lhm, omniavatar = (c for c in components(parsed(evaluate=section)) if c.role == "evaluate")
    assert lhm.ready and lhm.name == "lhm (baseline)" and lhm.card.training == "no"
    (line,) = omniavatar.lacking
    assert (
        line.startswith("the row says `not run`; evaluate.omniavatar: give `path`") and "1536bf31abae" in line
    )


def test_the_command_says_how_many_are_ready_and_fails_when_one_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    raw = copy.deepcopy(RAW)
    raw["speech"] |= {"backend": "folder", "folder": {"path": str(ROOT)}}
    raw["teacher"] |= {"backends": {"folder": 1.0}, "folder": {"path": str(ROOT)}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    runner = CliRunner()
    done = runner.invoke(command.app, ["doctor"])
    assert done.exit_code == 0 and "19 of 19 components are ready" in done.output
    raw["identities"] |= {"backend": "diffusers", "diffusers": {"preset": "sdxl"}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    done = runner.invoke(command.app, ["doctor"])
    assert done.exit_code == 1 and "18 of 19 components are ready" in done.output
    line = "stabilityai/stable-diffusion-xl-base-1.0 --revision 462165984030d82259a11f4367a4eed129e94a7b"
    assert f"hf download {line}" in done.output


@pytest.mark.models("transformers", "accelerate")
def test_models_are_verified_byte_by_byte(tmp_path):
    folder = model_folder(tmp_path / "model")
    digest = verified_folder(folder)
    assert digest == folder_digest(folder)
    params = drawn(preset="sdxl", model=str(folder), sha256=digest)
    assert verified(params) == [f"model: {folder} is whole"]
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="it is another model, or damaged"):
        verified(params)
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors: expected \d+ bytes"):
        verified_folder(folder)
    with pytest.raises(UserError, match="none-such: expected a folder with a model, found none"):
        verified_folder(tmp_path / "none-such")


def test_a_score_model_and_detectors_are_named_with_what_they_lack(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    file = tmp_path / "tracker.pt"
    file.write_bytes(b"tracks")
    digest = sha256_file(file)
    params = parsed(
        score={"backend": "ltx2", "ltx2": {"revision": "a" * 40, "frames": 24}},
        perception={
            "keypoints": "wholebody",
            "tracks": "cotracker",
            "cotracker": {"path": str(file), "sha256": digest},
        },
    )
    score, keypoints, tracks = (
        found(params, role) for role in ("score", "perception.keypoints", "perception.tracks")
    )
    assert any("hf download Lightricks/LTX-2.5-Diffusers" in line for line in score.lacking)
    assert "score.ltx2.frames: expected 1 more than a multiple of 8, found 24" in score.lacking
    assert "LTX-2.x Community License, training under conditions" in shown(score)[0]
    assert "perception.wholebody.path: expected the path of a pose network" in keypoints.lacking[-1]
    assert tracks.ready and "CC BY-NC 4.0, training NOT allowed" in shown(tracks)[0]
    params = parsed(perception={"tracks": "cotracker", "cotracker": {"path": str(file), "sha256": digest}})
    assert verified(params) == [f"facebook/cotracker3: {file} is whole"]
    file.write_bytes(b"trackz")
    tracks = found(params, "perception.tracks")
    assert "tracker.pt: expected SHA-256" in tracks.lacking[0]
    assert shown(tracks)[-1].strip() == "from https://github.com/facebookresearch/co-tracker"
    with pytest.raises(UserError, match=r"tracker\.pt: expected SHA-256"):
        verified(params)


def test_the_list_names_every_model_and_what_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--Qwen--Qwen-Image" / "snapshots" / ("b" * 40)).mkdir(parents=True)
    text = "\n".join(listed())
    for name, card in known_models().items():
        assert f"{name}: {card.id}" in text
    assert "Qwen/Qwen-Image, at 75e0b4be04f6; Apache-2.0, training allowed; 58 GB; bbbbbbbbbbbb" in text
    assert "Lightricks/LTX-2.5-Diffusers, its revision is yours to pin" in text
    assert "evaluate.hunyuan_video_avatar: HunyuanVideo-Avatar, at fd59436af88e; Tencent Hunyuan" in text
    on_the_hub = [card for card in known_models().values() if "/" in card.id]
    assert text.count("not downloaded") == len(on_the_hub) - 1
    assert (
        "OmniAvatar-14B, at 1536bf31abae; Apache-2.0, training allowed; 36 GB; from https://github.com"
        in text
    )
