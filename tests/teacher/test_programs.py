"""Video models that run as programs of their own, by stand-ins that read and write as the real ones do."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from avatar_core.clock import SAMPLES_PER_FRAME
from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.identities.procedural import ProceduralIdentities
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.catalog import read_catalog
from avatar_core.io.images import write_png
from avatar_core.io.video import read_video, write_mp4
from avatar_core.models.files import folder_digest
from avatar_core.speech import Speech
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.collect import collect, sound_lag
from avatar_core.teacher.command import CommandTeacher
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.omniavatar import OmniAvatar
from avatar_core.teacher.picture import framed
from avatar_core.teacher.programs import run_program
from avatar_core.teacher.wan_s2v import WanSpeechToVideo
from stages.common import Stage
from stages.params import parse_params

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "stand_in.py"
PRESETS = {"omniavatar": OmniAvatar, "echomimic_v2": EchoMimicV2, "wan_s2v": WanSpeechToVideo}


def voice(frames, seed=0):
    """Syllables of noise: loud and silent by turns, irregularly."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.choice([0.02, 0.1, 0.3], frames), SAMPLES_PER_FRAME)
    return (loud * rng.normal(size=len(loud)) * 0.8).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    source = ProceduralIdentities()
    image, _ = source.portrait(source.people(1, 3)[0], 512)
    path = tmp_path_factory.mktemp("portrait") / "person.png"
    write_png(path, image)
    return path


def request_of(portrait, name, framing="waist_up", frames=30, seed=5):
    speech = Speech(voice(frames, seed), [], "words", "en", "v")
    return ClipRequest(name, "p", 0, {"sex": "male"}, portrait, speech, framing, 256, seed)


def checkout(root, preset):
    """A repository with the stand-in where the real script lies, the real configs' keys, and weights by their names."""
    repository, weights = root / "repository", root / "weights"
    script = repository / preset.script
    script.parent.mkdir(parents=True)
    shutil.copyfile(STAND_IN, script)
    if preset is OmniAvatar:
        base, own = "pretrained_models/Wan2.1-T2V-1.3B", "pretrained_models/OmniAvatar-1.3B"
        config = {
            "text_encoder_path": f"{base}/models_t5_umt5-xxl-enc-bf16.pth", "exp_path": own, "vae_path": f"{base}/Wan2.1_VAE.pth",
            "dit_path": f"{base}/diffusion_pytorch_model.safetensors", "wav2vec_path": "pretrained_models/wav2vec2-base-960h",
            "num_persistent_param_in_dit": None, "seed": 42, "overlap_frame": 13, "guidance_scale": 4.5, "num_steps": 50, "fps": 25,
            "silence_duration_s": 0.3,
        }  # fmt: skip
        write_yaml(repository / "configs" / "inference_1.3B.yaml", config)
    if preset is EchoMimicV2:
        names = ("denoising_unet", "reference_unet", "pose_encoder", "motion_module")
        config = {f"{name}_path": f"./pretrained_weights/{name}.pth" for name in names}
        config |= {"pretrained_base_model_path": "./pretrained_weights/sd-image-variations-diffusers",
                   "audio_model_path": "./pretrained_weights/audio_processor/tiny.pt",
                   "inference_config": "./configs/inference/inference_v2.yaml"}  # fmt: skip
        write_yaml(repository / "configs" / "prompts" / "infer.yaml", config)
        write_yaml(repository / "configs" / "inference" / "inference_v2.yaml", {})
        for name, length in (("short", 10), ("long", 80)):
            (root / "poses" / name).mkdir(parents=True)
            for k in range(length):
                np.save(root / "poses" / name / f"{k}.npy", np.zeros(1))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    values = {
        "checkout": str(repository),
        "weights": str(weights),
        "commit": head,
        "launcher": [sys.executable],
    }
    if preset is OmniAvatar:
        values["model"] = "1.3B"
    if preset is EchoMimicV2:
        values["poses"] = str(root / "poses")
    teacher = preset(**values)
    for name in teacher.weight_files():
        path = weights / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "." in path.name:
            path.write_bytes(b"weights")
        else:
            path.mkdir(exist_ok=True)
    return teacher


def write_yaml(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def merge_seed(raw, seed):
    return raw | {"run": raw["run"] | {"seed": seed}}


def in_step(video, audio):
    """Lag in frames at which the pictures' darkness goes best with the loudness, and the correlation there."""
    dark = -video.astype(np.float32).mean((1, 2, 3))
    loud = np.sqrt((audio.reshape(len(video), -1) ** 2).mean(1))
    curve = {lag: np.corrcoef(dark[3 + lag : len(dark) - 3 + lag], loud[3:-3])[0, 1] for lag in range(-3, 4)}
    best = max(curve, key=lambda lag: curve[lag])
    return best, curve[best]


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
    for folder in ("photos", "sounds"):
        (tmp_path / folder).mkdir()
    from avatar_core.io.images import read_image

    image = read_image(portrait)
    for k in range(3):
        write_png(tmp_path / "photos" / f"{k}.png", image * (1 - 0.1 * k))
        write_wav(tmp_path / "sounds" / f"s{k}.wav", voice(12, k))
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["run"] |= {"shards": [0]}
    raw["identities"] |= {
        "backend": "folder",
        "train": 1,
        "val": 1,
        "test": 1,
        "folder": {"path": str(tmp_path / "photos")},
    }
    raw["speech"] |= {"backend": "folder", "folder": {"path": str(tmp_path / "sounds")}, "face_clips": 2, "waist_up_clips": 0,
                      "full_body_clips": 0, "val_clips": 1, "val_waist_up_clips": 0, "test_clips": 1}  # fmt: skip
    wan, omni = checkout(tmp_path / "wan", WanSpeechToVideo), checkout(tmp_path / "omni", OmniAvatar)
    raw["teacher"] |= {
        "backends": {"wan_s2v": 1.0, "omniavatar": 1.0},
        "wan_s2v": vars(wan),
        "omniavatar": vars(omni),
        "size": 128,
    }
    raw["perception"] |= {"masks": "grabcut"}
    data = tmp_path / "data"
    from stages import identities, speech
    from stages import teacher as stage_teacher

    params = parse_params(raw)
    identities.main(Stage("identities", None, params, data))
    speech.main(Stage("speech", None, params, data))
    planned = read_catalog(data / "speech" / "catalog.parquet")
    seeded = (Stage("teacher", 0, parse_params(merge_seed(raw, seed)), data) for seed in range(50))
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
        "git clone https://github.com/Omni-Avatar/OmniAvatar && git checkout 1536bf31abaec74364fb7d5883470d5b23ffa7f8"
        in lines
    )
    assert "teacher.omniavatar.weights: expected Wan2.1-T2V-14B/models_t5_umt5-xxl-enc-bf16.pth" in lines
    (other,) = replace(teacher, commit="").lacking()
    assert (
        f"expected commit 1536bf31abae, found {teacher.commit[:12]}" in other
        and "git checkout 1536bf31" in other
    )
    assert replace(teacher, commit="any").lacking() == []
    empty = Path(teacher.weights, "OmniAvatar-1.3B", "pytorch_model.pt")
    empty.write_bytes(b"")  # a download that broke off
    (line,) = teacher.lacking()
    assert "expected OmniAvatar-1.3B/pytorch_model.pt" in line


def test_declared_weights_are_read_whole(tmp_path):
    teacher = checkout(tmp_path, WanSpeechToVideo)
    weights = Path(teacher.weights)
    declared = replace(teacher, weights_sha256=folder_digest(weights))
    assert declared.folders() == {weights: declared.weights_sha256} and teacher.folders() == {}


@pytest.mark.parametrize("name", ["hunyuan_video_avatar", "HunyuanVideo-Avatar"])
def test_a_model_whose_licence_forbids_it_is_no_teacher(name):
    raw = yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())
    raw["teacher"]["backends"] = {name: 1.0}
    with pytest.raises(UserError, match=rf"teacher\.backends: .*found {name}: .*clause 5\(b\), forbids"):
        parse_params(raw)


def own_program(tmp_path, code, **values):
    script = tmp_path / "program.py"
    script.write_text(code)
    arguments = [str(script), "{image}", "{audio}", "{out}", "{frames}", "{seed}", "{prompt}"]
    given = {
        "launcher": [sys.executable],
        "arguments": arguments,
        "model": "mine",
        "licence": "MIT",
        "may_train": True,
    }
    return CommandTeacher(**(given | values))


COPY = """
import sys, subprocess, imageio_ffmpeg
image, audio, out, frames, seed, prompt = sys.argv[1:]
assert int(frames) == 20 and int(seed) == 5 and "man" in prompt
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-loop", "1", "-i", image, "-i", audio, "-r", "30",
                "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest", out], check=True)
"""


def test_any_program_can_be_a_teacher(tmp_path, portrait):
    teacher = own_program(tmp_path, COPY, width=96, height=128, revision="r1")
    teacher.videos([request_of(portrait, "c", frames=20)], tmp_path, CPU, lambda: None)
    assert read_video(tmp_path / "c.mp4").shape == (20, 128, 96, 3)
    assert teacher.card.row == {"model": "mine", "revision": "r1", "licence": "MIT"}


def test_a_program_of_ones_own_must_be_declared(tmp_path):
    lines = "\n".join(own_program(tmp_path, "", may_train=False, arguments=["{image}", "{wav}"]).lacking())
    assert "teacher.command.may_train: expected true, after reading that MIT lets" in lines
    assert "expected {name} of image, audio, out, prompt, seed, frames alone" in lines
    (line,) = own_program(tmp_path, "", arguments=["{image}", "{audio}"]).lacking()
    assert "expected {out} in them" in line
    (line,) = own_program(tmp_path, "", model="HunyuanVideo-Avatar").lacking()
    assert "clause 5(b)" in line


@pytest.mark.parametrize(
    "code, line",
    [
        ("import sys; print('CUDA out of memory'); sys.exit(3)", r"found exit code 3: CUDA out of memory; see .*log\.txt"),
        ("", r"made\.mp4: expected a video of c, found none"),
        (COPY.replace('"-i", audio,', '"-f", "lavfi", "-i", "anoisesrc=d=2:a=0.2",'), "expected the sound of c .* found another"),
        (COPY.replace('"-i", audio,', '"-itsoffset", "0.3", "-i", audio,'), r"sound 0\.000 s after .* found it at 0\.3"),
        (COPY.replace('"-shortest",', '"-t", "0.5",'), "expected 20 frames at 25 fps with the sound, found 1[23]"),
        ("import time; time.sleep(60)", "expected an end within 0.02 minutes"),
    ],
)  # fmt: skip
def test_what_a_program_does_wrong_is_one_line(tmp_path, portrait, code, line):
    teacher = own_program(tmp_path, code, minutes=0.02 if "sleep" in code else 5.0)
    with pytest.raises(UserError, match=line):
        teacher.videos([request_of(portrait, "c", frames=20)], tmp_path, CPU, lambda: None)
    assert not (tmp_path / "c.mp4").exists()


def test_a_framing_that_a_model_was_not_made_for_is_refused_before_it_starts(tmp_path, portrait):
    teacher = checkout(tmp_path, EchoMimicV2)
    with pytest.raises(
        UserError, match=r"expected clips of waist_up, found face .*set speech\.face_clips: 0"
    ):
        teacher.videos([request_of(portrait, "c", "face")], tmp_path, CPU, lambda: None)
    with pytest.raises(UserError, match=r"poses: expected a sequence of 97 frames"):
        teacher.videos([request_of(portrait, "c", frames=100)], tmp_path, CPU, lambda: None)


def test_nothing_of_a_program_outlives_it(tmp_path):
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "import time; time.sleep(600)\n"
    )
    with pytest.raises(UserError, match="still running"):
        run_program([sys.executable, "-c", code], tmp_path, tmp_path / "log", "x", 3.0, CPU)
    pid = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the child lives on")


def test_a_program_sees_its_own_packages_and_the_runs_card_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    code = "import os, json; json.dump([os.environ.get('PYTHONPATH'), os.environ.get('CUDA_VISIBLE_DEVICES')], open('seen', 'w'))"
    run_program([sys.executable, "-c", code], tmp_path, tmp_path / "log", "x", 60.0, Compute("cuda:1"))
    assert json.loads((tmp_path / "seen").read_text()) == [None, "6"]


def test_where_a_sound_lies_in_another_is_measured():
    audio = voice(40)
    for lag in (-0.1, 0.0, 0.34, 0.9):
        shift = round(lag * 16000)
        moved = np.concatenate([np.zeros(shift, np.float32), audio]) if shift >= 0 else audio[-shift:]
        found, alike = sound_lag(audio, moved)
        assert found == pytest.approx(lag, abs=1e-4) and alike > 0.9
    assert sound_lag(audio, voice(40, 9))[1] < 0.2
    silent = np.zeros(1600, np.float32)
    assert sound_lag(silent, silent) == (0.0, 1.0) and sound_lag(silent, audio)[1] == 0.0


def test_a_video_of_odd_sides_is_collected(tmp_path):
    audio = voice(10)
    frames = np.random.default_rng(0).integers(0, 255, (14, 66, 98, 3), np.uint8)
    write_mp4(tmp_path / "made.mp4", frames, audio=np.concatenate([np.zeros(1280, np.float32), audio]))
    collect(tmp_path / "made.mp4", tmp_path / "c.mp4", audio, 0.08)
    assert read_video(tmp_path / "c.mp4").shape == (10, 66, 98, 3)
    assert np.corrcoef(read_audio(tmp_path / "c.mp4")[: len(audio)], audio)[0, 1] > 0.7


def test_pictures_are_framed_about_the_face(portrait, tmp_path):
    from avatar_core.perception.holistic.keypoints import HolisticKeypoints
    from avatar_core.template.landmarks import KEYPOINT_INDEX

    heads = {}
    for framing, size in (("face", (256, 256)), ("waist_up", (256, 256)), ("full_body", (200, 360))):
        picture = framed(portrait, framing, *size)
        assert picture.shape == (size[1], size[0], 3) and picture.dtype == np.uint8
        xy, confidence = (v[0] for v in HolisticKeypoints().keypoints(picture[None]))
        crown, chin = (xy[KEYPOINT_INDEX[name]] for name in ("crown", "jaw.chin"))
        assert confidence[KEYPOINT_INDEX["jaw.chin"]] > 0.5 and 0 < crown[1] < chin[1] < size[1]
        heads[framing] = (chin[1] - crown[1]) / size[1]
    assert (
        heads["face"] == pytest.approx(0.6, abs=0.08)
        and heads["face"] > 1.8 * heads["waist_up"] > 1.8 * heads["full_body"]
    )
    write_png(tmp_path / "nobody.png", np.full((300, 300, 3), 0.5, np.float32))
    with pytest.raises(
        UserError, match=r"nobody\.png: expected a face of 24 px or more to animate, found none"
    ):
        framed(tmp_path / "nobody.png", "face", 64, 64)
