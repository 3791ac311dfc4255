"""Takes the place of a video model's script: reads what the real one reads, refuses what it would refuse, writes where it writes.

Options, layouts and lead times are those of the projects' own sources at the commits that the presets name. Every picture is the
given one, darkened by how loud the sound is then, so that whoever looks can tell whether the two are in step.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import yaml
from PIL import Image

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def sound(path: str | Path) -> np.ndarray:
    raw = subprocess.run([FFMPEG, "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", "16000", "-"],
                         capture_output=True, check=True).stdout  # fmt: skip
    return np.frombuffer(raw, np.int16) / 32768


def write(
    path: Path,
    image: str | Path,
    audio: np.ndarray,
    fps: float,
    frames: int,
    size: tuple[int, int],
    lead: float = 0.0,
):
    """A video of `frames` pictures, with `lead` seconds of silence before the sound."""
    width, height = size
    picture = np.asarray(Image.open(image).convert("RGB").resize(size), np.float32)
    late = np.concatenate([np.zeros(round(lead * 16000)), audio])
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = path.with_suffix(".raw")
    wav.write_bytes((late * 32767).astype(np.int16).tobytes())
    pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    heard = ["-f", "s16le", "-ar", "16000", "-ac", "1", "-i", str(wav)]
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest"]
    command = [FFMPEG, "-v", "error", "-y", *pictures, *heard, *coded, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin
    for k in range(frames):
        part = late[int(k / fps * 16000) : int((k + 1) / fps * 16000)]
        loud = float(np.sqrt(np.mean(part**2))) if len(part) else 0.0
        process.stdin.write((picture * (1 - min(loud * 2, 0.9))).astype(np.uint8).tobytes())
    process.stdin.close()
    if process.wait():
        sys.exit("ffmpeg failed")
    wav.unlink()


def omniavatar() -> None:
    """OmniAvatar/utils/args_config.py and scripts/inference.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=str, required=True)
    parser.add_argument("--exp_path", type=str)
    parser.add_argument("--input_file", type=str)
    parser.add_argument("--debug", action="store_true", default=None)
    parser.add_argument("--infer", action="store_true")
    parser.add_argument("-hp", "--hparams", type=str, default="")
    args = parser.parse_args()
    values = yaml.safe_load(Path(args.config).read_text())
    for pair in args.hparams.split(","):
        key, value = pair.split("=")
        assert key in values, f"unknown hyper-parameter {key}"
        values[key] = float(value) if "." in value else int(value)
    assert values["overlap_frame"] % 4 == 1
    for key in ("text_encoder_path", "vae_path", "wav2vec_path", "exp_path"):
        assert os.path.exists(values[key]), values[key]
    assert all(os.path.exists(p) for p in values["dit_path"].split(","))
    assert os.path.exists(f"{values['exp_path']}/pytorch_model.pt")
    silence, fps = values["silence_duration_s"], values["fps"]
    name = os.path.splitext(os.path.basename(args.input_file))[0]
    out = Path(
        f"demo_out/{os.path.basename(values['exp_path'])}/res_{name}_seed{values['seed']}_step{values['num_steps']}_x"
    )
    for index, line in enumerate(Path(args.input_file).read_text().splitlines()):
        prompt, image, audio = line.strip().split("@@")
        assert prompt and Path(image).is_file()
        samples = sound(audio)
        frames = int(np.ceil((len(samples) / 16000 + silence) * fps)) + 1
        size = {True: (400, 720), False: (720, 720)}[Image.open(image).height > Image.open(image).width]
        write(out / f"result_{index:03d}_000_wav.mp4", image, samples, fps, frames, size, silence + 1 / fps)


def echomimic() -> None:
    """infer.py of EchoMimicV2."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=str, default="./configs/prompts/infer.yaml")
    for name, default in (("-W", 768), ("-H", 768), ("-L", 240), ("--seed", 3407), ("--context_frames", 12),
                          ("--context_overlap", 3), ("--steps", 30), ("--sample_rate", 16000), ("--fps", 24)):  # fmt: skip
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--cfg", type=float, default=2.5)
    for name in (
        "device",
        "ref_images_dir",
        "audio_dir",
        "pose_dir",
        "refimg_name",
        "audio_name",
        "pose_name",
    ):
        parser.add_argument(f"--{name}", type=str, required=name != "device")
    args = parser.parse_args()
    config = yaml.safe_load(Path(args.config).read_text())
    for key, path in config.items():
        assert "path" not in key or os.path.exists(path), f"{key}: {path}"
    assert os.path.exists(config["inference_config"])
    flag = (
        config["motion_module_path"].split("/")[-2]
        + "-iter"
        + config["motion_module_path"].split("/")[-1].split("-")[-1][:-4]
    )
    poses, samples = f"{args.pose_dir}/{args.pose_name}", sound(f"{args.audio_dir}/{args.audio_name}")
    reference = ".".join([args.refimg_name.split("/")[-2], args.refimg_name.split("/")[-1]])
    frames = min(args.L, int(len(samples) / 16000 * args.fps), len(os.listdir(poses)))
    for index in range(frames):
        np.load(os.path.join(poses, f"{index}.npy"))
    stem = args.refimg_name.split("/")[-1].split(".")[0]
    out = Path(
        f"outputs/{flag}-seed{args.seed}/{reference}/{args.pose_name}/{stem}-a-{args.audio_name}-i0_sig.mp4"
    )
    cut = samples[: int(frames / args.fps * 16000)]
    write(out, f"{args.ref_images_dir}/{args.refimg_name}", cut, args.fps, frames, (args.W, args.H))


def wan() -> None:
    """generate.py of Wan2.2."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--task", type=str, choices=["t2v-A14B", "i2v-A14B", "ti2v-5B", "animate-14B", "s2v-14B"]
    )
    sizes = ["720*1280", "1280*720", "480*832", "832*480", "704*1280", "1280*704", "1024*704", "704*1024"]
    parser.add_argument("--size", type=str, choices=sizes)
    for name in ("ckpt_dir", "save_file", "prompt", "image", "audio", "pose_video"):
        parser.add_argument(f"--{name}", type=str)
    parser.add_argument("--offload_model", type=lambda text: {"true": True, "false": False}[text.lower()])
    parser.add_argument("--convert_model_dtype", action="store_true")
    for name, kind in (("base_seed", int), ("sample_steps", int), ("sample_guide_scale", float), ("sample_shift", float),
                       ("num_clip", int), ("infer_frames", int)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind)
    args = parser.parse_args()
    assert args.task == "s2v-14B" and args.base_seed >= 0 and args.prompt
    assert Path(args.ckpt_dir, "Wan2.1_VAE.pth").is_file()
    samples = sound(args.audio)
    image = Image.open(args.image)
    across, down = (int(v) for v in args.size.split("*"))
    scale = (across * down / (image.width * image.height)) ** 0.5
    size = tuple(round(side * scale / 16) * 16 for side in image.size)
    frames = int(len(samples) / 16000 * 16)
    write(Path(args.save_file), args.image, samples, 16, frames, (size[0], size[1]))


def hunyuan() -> None:
    """hymm_sp/sample_gpu_poor.py, config.py and data_kits/audio_dataset.py of HunyuanVideo-Avatar."""
    import csv

    import hymm_sp.config  # found because PYTHONPATH is the repository

    assert hymm_sp.config.__file__
    base = os.environ["MODEL_BASE"]
    assert os.environ.get("DISABLE_SP") == "1" or os.environ.get("CPU_OFFLOAD") == "1"
    parser = argparse.ArgumentParser()
    kinds = {
        str: ("input", "ckpt", "save-path"),
        int: ("sample-n-frames", "seed", "image-size", "infer-steps", "use-deepcache"),
        float: ("cfg-scale", "flow-shift-eval-video"),
    }
    for kind, names in kinds.items():
        for name in names:
            parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("use-fp8", "infer-min", "cpu-offload"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    for path in (args.ckpt, f"{base}/ckpts/whisper-tiny", f"{base}/ckpts/det_align/detface.pt", f"{base}/ckpts/llava_llama_image",
                 f"{base}/ckpts/text_encoder_2", f"{base}/ckpts/hunyuan-video-t2v-720p/vae"):  # fmt: skip
        assert os.path.exists(path), path
    os.makedirs(args.save_path, exist_ok=True)
    with open(args.input, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert set(row) == {"videoid", "image", "audio", "prompt", "fps"} and row["prompt"]
        samples, image = sound(row["audio"]), Image.open(row["image"])
        scale = args.image_size / min(image.size)
        size = tuple(round(side * scale / 64) * 64 for side in image.size)
        wanted = 129 if args.infer_min else len(samples) // 640
        frames = min(wanted, int(len(samples) / 640))  # ffmpeg -shortest
        out = Path(args.save_path, f"{row['videoid']}_audio.mp4")
        write(out, row["image"], samples, float(row["fps"]), frames, (size[0], size[1]))


SCRIPTS = {
    "inference.py": omniavatar,
    "infer.py": echomimic,
    "generate.py": wan,
    "sample_gpu_poor.py": hunyuan,
}
SCRIPTS[Path(sys.argv[0]).name]()
