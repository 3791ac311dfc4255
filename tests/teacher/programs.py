"""What the tests of teachers share: sounds, people, requests, checkouts with stand-ins as scripts, a run up to the teacher."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from avatar_core.clock import SAMPLES_PER_FRAME
from avatar_core.identities.procedural import ProceduralIdentities
from avatar_core.io.audio import write_wav
from avatar_core.io.images import read_image, write_png
from avatar_core.speech import Speech
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.baselines import HunyuanVideoAvatar
from avatar_core.teacher.command import CommandTeacher
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.omniavatar import OmniAvatar
from stages import identities, speech
from stages.common import Stage
from stages.params import parse_params

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "stand_in.py"


def voice(frames, seed=0):
    """Syllables of noise: loud and silent by turns, irregularly."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.choice([0.02, 0.1, 0.3], frames), SAMPLES_PER_FRAME)
    return (loud * rng.normal(size=len(loud)) * 0.8).clip(-1, 1).astype(np.float32)


def save_portrait(folder, size):
    """The picture of a sampled person."""
    source = ProceduralIdentities()
    path = folder / "person.png"
    write_png(path, source.portrait(source.people(1, 3)[0], size)[0])
    return path


def request_of(portrait, name, framing="waist_up", frames=30, seed=5, **more):
    said = Speech(voice(frames, seed), [], "words", "en", "v")
    return ClipRequest(name, "p", 0, {"sex": "male"}, portrait, said, framing, 256, seed, **more)


def checkout(root, preset, script=STAND_IN, **values):
    """A repository with the stand-in where the real script lies, the real configs' keys, and weights by their names."""
    repository, weights = root / "repository", root / "weights"
    place = repository / preset.script
    place.parent.mkdir(parents=True)
    shutil.copyfile(script, place)
    if issubclass(preset, OmniAvatar):
        base, own = "pretrained_models/Wan2.1-T2V-1.3B", "pretrained_models/OmniAvatar-1.3B"
        config = {
            "text_encoder_path": f"{base}/models_t5_umt5-xxl-enc-bf16.pth", "exp_path": own, "vae_path": f"{base}/Wan2.1_VAE.pth",
            "dit_path": f"{base}/diffusion_pytorch_model.safetensors", "wav2vec_path": "pretrained_models/wav2vec2-base-960h",
            "num_persistent_param_in_dit": None, "seed": 42, "overlap_frame": 13, "guidance_scale": 4.5, "num_steps": 50, "fps": 25,
            "silence_duration_s": 0.3,
        }  # fmt: skip
        write_yaml(repository / "configs" / "inference_1.3B.yaml", config)
        values["model"] = "1.3B"
    if issubclass(preset, EchoMimicV2):
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
        values["poses"] = str(root / "poses")
    if issubclass(preset, HunyuanVideoAvatar):
        (repository / "hymm_sp" / "config.py").write_text("# imported from the repository's root\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    places = {"checkout": str(repository), "weights": str(weights), "launcher": [sys.executable]}
    teacher = preset(**places, commit=head, **values)
    for name in teacher.weight_files():
        path = weights / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({"w": np.ones(1, np.float32)}, path)
        elif "." in path.name:
            path.write_bytes(b"weights")
        else:
            path.mkdir(exist_ok=True)
    return teacher


def in_step(video, audio):
    """Lag in frames at which the pictures' darkness goes best with the loudness, and the correlation there."""
    dark = -video.astype(np.float32).mean((1, 2, 3))
    loud = np.sqrt((audio.reshape(len(video), -1) ** 2).mean(1))
    curve = {lag: np.corrcoef(dark[3 + lag : len(dark) - 3 + lag], loud[3:-3])[0, 1] for lag in range(-3, 4)}
    best = max(curve, key=lambda lag: curve[lag])
    return best, curve[best]


def write_yaml(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def own_program(tmp_path, code, cls=CommandTeacher, **values):
    """The teacher `command`, of a python program of one's own."""
    script = tmp_path / "program.py"
    script.write_text(code)
    arguments = [str(script), "{image}", "{audio}", "{out}", "{frames}", "{seed}", "{prompt}"]
    given = {"launcher": [sys.executable], "arguments": arguments, "model": "mine", "licence": "MIT"}
    return cls(**(given | {"may_train": True} | values))


def recorded_run(root, portrait, teacher, *, sounds, clips=1):
    """Three people and sounds of ours, planned as `clips` train and one val and test sentence -> (raw parameters, data folder).

    teacher: the section of params.yaml; sounds: three arrays.
    """
    image = read_image(portrait)
    for k, sound in enumerate(sounds):
        write_png(root / "photos" / f"{k}.png", image * (1 - 0.1 * k))
        write_wav(root / "sounds" / f"s{k}.wav", sound)
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["run"] |= {"shards": [0]}
    raw["identities"] |= {"backend": "folder", "folder": {"path": str(root / "photos")}}
    raw["identities"] |= {"train": 1, "val": 1, "test": 1}
    raw["speech"] |= {"backend": "folder", "folder": {"path": str(root / "sounds")}, "face_clips": clips, "waist_up_clips": 0,
                      "full_body_clips": 0, "val_clips": 1, "val_waist_up_clips": 0, "test_clips": 1}  # fmt: skip
    raw["teacher"] |= teacher | {"size": 128}
    raw["perception"] |= {"masks": "grabcut"}
    params, data = parse_params(raw), root / "data"
    identities.main(Stage("identities", None, params, data))
    speech.main(Stage("speech", None, params, data))
    return raw, data


def seeds_of(raw):
    """The same parameters under one seed after the other, for a deal that gives every teacher something."""
    return (parse_params(raw | {"run": raw["run"] | {"seed": seed}}) for seed in range(200))
