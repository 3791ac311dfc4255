"""Recipe of the student that comes with the program: `python -m avatar_core.recipes.student --voice WAV [--voice WAV ...]`.

Run by a maintainer in the folder of a finished run, after `dvc repro`. Writes avatar_core/speak/shipped/student.safetensors: the
run's student with its weights in half precision, half the size. Its sidecar says which run that was (profile's name, SHA-256 of the
student), what stage `evaluate` measured of it, and how far the motion of the given voices moved by halving.

Legend: T frames, N particles.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from avatar_core.generator.sampler import generate
from avatar_core.io.audio import read_audio
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint
from avatar_core.speak.maker import SHIPPED, TRAINED
from avatar_core.speak.student import Student, load_student

STATURE = 1.7  # metres
MEASURED = Path("data/reports/evaluate/metrics.json")


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, float32 as float16."""
    return {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}


@torch.no_grad()
def parity(whole: Student, half: Student, voices: list[Path]) -> dict[str, float]:
    """How far particles (T,N,3) of the two students are from each other, in mm: the greatest of all, and the mean."""
    greatest, means = 0.0, []
    for voice in voices:
        sound = read_audio(voice)
        one, other = (
            student.codec.decode(generate(student.generator, sound, 0, student.sample), STATURE).mean_offset
            for student in (whole, half)
        )
        apart = torch.linalg.vector_norm(one - other, dim=-1) * 1000
        greatest = max(greatest, float(apart.max()))
        means.append(float(apart.mean()))
    return {"greatest_mm": round(greatest, 3), "mean_mm": round(sum(means) / len(means), 4)}


def main() -> None:
    """Read the run's student, halve it, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m avatar_core.recipes.student", description=main.__doc__)
    parser.add_argument(
        "--voice", type=Path, action="append", required=True, help="a recording to compare on"
    )
    parser.add_argument("--profile", default="laptop", help="the profile that the run had")
    given = parser.parse_args()
    tensors, sidecar = load_checkpoint(TRAINED)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "student.safetensors"
        save_checkpoint(trial, halved(tensors), config=sidecar["config"], seed=sidecar["seed"])
        apart = parity(load_student(TRAINED), load_student(trial), given.voice)
    about = {
        "profile": given.profile,
        "sha256": sidecar["sha256"],
        "measured": json.loads(MEASURED.read_text()),
        "parity": apart,
    }
    SHIPPED.parent.mkdir(exist_ok=True)
    save_checkpoint(
        SHIPPED, halved(tensors), config={**sidecar["config"], "run": about}, seed=sidecar["seed"]
    )
    print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB; {apart}")


if __name__ == "__main__":
    main()
