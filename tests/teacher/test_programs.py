"""Video models that run as programs of their own, by stand-ins that read and write as the real ones do."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog
from avatar_core.io.video import read_video
from avatar_core.models.files import folder_digest
from avatar_core.teacher.baselines import EchoMimicBaseline, HunyuanVideoAvatar, OmniAvatarBaseline
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.omniavatar import OmniAvatar
from avatar_core.teacher.wan_s2v import WanSpeechToVideo
from stages import teacher as stage_teacher
from stages.common import Stage
from stages.params import parse_params
from tests.teacher.programs import (
    ROOT,
    checkout,
    in_step,
    recorded_run,
    request_of,
    save_portrait,
    seeds_of,
    voice,
)

PRESETS = {
    "omniavatar": OmniAvatar,
    "echomimic_v2": EchoMimicV2,
    "wan_s2v": WanSpeechToVideo,
    "hunyuan": HunyuanVideoAvatar,  # a baseline alone
}


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    return save_portrait(tmp_path_factory.mktemp("portrait"), 512)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_calls_its_program_and_brings_the_video_into_step(tmp_path, portrait, name):
    teacher = checkout(tmp_path, PRESETS[name])
    assert teacher.lacking() == []
    requests = [request_of(portrait, f"clip{k}", frames=30 + 7 * k, seed=k) for k in range(2)]
    done, folder = [], tmp_path / "out"
    folder.mkdir()
    teacher.videos(requests, folder, CPU, lambda: done.append(1))
    assert len(done) == 2 and sorted(p.name for p in folder.iterdir()) == [
        "clip0.mp4",
        "clip1.mp4",
        "log.txt",
    ]
    for request in requests:
        video = read_video(folder / f"{request.name}.mp4")
        assert len(video) == request.num_frames
        lag, alike = in_step(video, request.speech.audio)
        assert lag == 0 and alike > (0.9 if name == "omniavatar" else 0.6), (
            lag,
            alike,
        )  # 16 fps cannot follow 25
    assert teacher.card.revision == teacher.commit


def test_omniavatar_makes_many_clips_at_one_start_and_each_start_is_its_own(tmp_path, portrait):
    teacher = replace(checkout(tmp_path, OmniAvatar), batch=2)
    folder = tmp_path / "out"
    folder.mkdir()
    requests = [
        request_of(portrait, f"c{k}", "full_body" if k == 2 else "face", frames=12, seed=k) for k in range(3)
    ]
    teacher.videos(requests, folder, CPU, lambda: None)
    shapes = [read_video(folder / f"c{k}.mp4").shape for k in range(3)]
    assert shapes == [(12, 720, 720, 3), (12, 720, 720, 3), (12, 720, 400, 3)]


def test_the_stage_mixes_teachers_and_says_whose_each_clip_is(tmp_path, portrait, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    wan, omni = checkout(tmp_path / "wan", WanSpeechToVideo), checkout(tmp_path / "omni", OmniAvatar)
    section = {
        "backends": {"wan_s2v": 1.0, "omniavatar": 1.0},
        "wan_s2v": vars(wan),
        "omniavatar": vars(omni),
    }
    raw, data = recorded_run(tmp_path, portrait, section, sounds=[voice(12, k) for k in range(3)], clips=2)
    planned = read_catalog(data / "speech" / "catalog.parquet")
    seeded = (Stage("teacher", 0, params, data) for params in seeds_of(raw))
    stage = next(s for s in seeded if len({stage_teacher.teacher_of(s, row) for row in planned}) == 2)
    stage_teacher.main(stage)
    rows = read_catalog(stage.out / "catalog.parquet")
    cards = {"wan_s2v": wan.card, "omniavatar": omni.card}
    assert {row["backend"] for row in rows} == set(cards) and len(rows) == 5
    for row in rows:
        card = cards[row["backend"]]
        assert (row["model"], row["revision"], row["licence"]) == (card.id, card.revision, "Apache-2.0")
        video = read_video(stage.out / f"{row['id']}.mp4")
        assert len(video) == row["t_len"] and max(video.shape[1:3]) == 128
    assert all("model" not in row for row in planned)


def test_what_is_missing_is_said_with_the_next_step(tmp_path):
    teacher = checkout(tmp_path, OmniAvatar)
    nothing = OmniAvatar(launcher=["no-such-torchrun"])
    lines = "\n".join(nothing.lacking())
    assert (
        "teacher.omniavatar.launcher: expected the command that starts its python, found no no-such-torchrun"
        in lines
    )
    assert (
        "git clone https://github.com/Omni-Avatar/OmniAvatar && git -C OmniAvatar checkout 1536bf31abaec74364fb7d5883470d5b23ffa7f8"
        in lines
    )
    assert "teacher.omniavatar.weights: expected Wan2.1-T2V-14B/models_t5_umt5-xxl-enc-bf16.pth" in lines
    assert "hf download Wan-AI/Wan2.1-T2V-14B --local-dir <weights>/Wan2.1-T2V-14B" in lines
    (other,) = replace(teacher, commit="").lacking()
    assert (
        f"expected commit 1536bf31abae, found {teacher.commit[:12]}" in other and "checkout 1536bf31" in other
    )
    assert replace(teacher, commit="any").lacking() == []
    empty = Path(teacher.weights, "OmniAvatar-1.3B", "pytorch_model.pt")
    empty.write_bytes(b"")  # a download that broke off
    (line,) = teacher.lacking()
    assert "expected OmniAvatar-1.3B/pytorch_model.pt" in line
    empty.write_bytes(b"weights")
    cut = Path(teacher.weights, "Wan2.1-T2V-1.3B", "diffusion_pytorch_model.safetensors")
    cut.write_bytes(cut.read_bytes()[:-1])
    assert [f"{cut}: expected" in line for line in teacher.lacking()] == [True]


@pytest.mark.parametrize(
    "baseline, same", [(OmniAvatarBaseline, OmniAvatar), (EchoMimicBaseline, EchoMimicV2)]
)
def test_a_baseline_has_the_keys_of_the_teacher_of_its_name(baseline, same):
    own = {field.name: field for field in fields(baseline)}
    for field in (f for f in fields(same) if f.name != "poses"):  # videos from a folder need none
        assert (own[field.name].default, own[field.name].metadata) == (field.default, field.metadata)
    assert baseline().launcher == []


def test_declared_weights_are_read_whole(tmp_path, portrait):
    teacher = checkout(tmp_path, WanSpeechToVideo)
    weights = Path(teacher.weights)
    declared = replace(teacher, weights_sha256=folder_digest(weights))
    assert declared.folders() == {weights: declared.weights_sha256} and teacher.folders() == {}
    with pytest.raises(
        UserError, match=r"weights: expected SHA-256 0{12}\.\.\., .*another model, or damaged"
    ):
        other = replace(teacher, weights_sha256="0" * 64)
        other.videos([request_of(portrait, "c", frames=10)], tmp_path, CPU, lambda: None)


@pytest.mark.parametrize("name", ["hunyuan_video_avatar", "HunyuanVideo-Avatar"])
def test_a_model_whose_licence_forbids_it_is_no_teacher(name):
    raw = yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())
    raw["teacher"]["backends"] = {name: 1.0}
    with pytest.raises(UserError, match=rf"teacher\.backends: .*found {name}: .*clause 5\(b\), forbids"):
        parse_params(raw)
