"""The student that comes with the program: it fits today's particles, and speaks where no pipeline has run."""

import json

import numpy as np
import torch

from avatar_core.generator.sampler import generate
from avatar_core.particles.layout import make_layout
from avatar_core.recipes.student import halved, parity
from avatar_core.speak.maker import SHIPPED
from avatar_core.speak.sound import read_sound
from avatar_core.speak.student import load_student, save_student


def voice(text="Papa bakes a pie."):
    """eSpeak's, at 16 kHz."""
    return read_sound(None, text, "en", None).samples


def test_it_drives_the_particles_of_today():
    student = load_student(SHIPPED)
    layout = make_layout(student.personalise.particles)
    assert student.codec.n_particles == len(layout), (
        "the layout of particles has changed: make the student anew, python -m avatar_core.recipes.student --help"
    )
    sound = np.concatenate([voice(), np.zeros(16000, "f4")])
    with torch.no_grad():
        moved = student.codec.decode(generate(student.generator, sound), 1.7).mean_offset
    assert torch.isfinite(moved).all()
    lips = moved[:, layout.lips_upper].mean(1) - moved[:, layout.lips_lower].mean(1)
    opened = (lips[:, 2] - lips[-5:, 2].mean()) * 1000
    assert opened[:-25].max() > 5 and opened[-15:].max() < 1, "mm: it opens on a vowel, shuts on silence"


def test_its_file_says_where_it_is_from():
    about = json.loads(SHIPPED.with_suffix(".json").read_text())
    run = about["config"]["run"]
    assert run["profile"] == "studio-lite" and len(run["sha256"]) == 64
    assert run["measured"]["ours.lip_correlation"] > 0.9
    assert run["parity"]["greatest_mm"] < 0.5
    assert {kind for kind, *_ in about["tensors"].values()} <= {"float16", "int64", "bool"}
    assert SHIPPED.stat().st_size < 12e6


def test_halving_moves_nothing_that_can_be_seen(tmp_path):
    """The recipe's own steps on a student in float32: what is written in half precision speaks alike."""
    from safetensors.torch import load_file

    from avatar_core.io.audio import write_wav
    from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint

    whole = load_student(SHIPPED)
    with torch.no_grad():
        for weight in whole.generator.parameters():  # bits that half precision cannot hold
            weight.mul_(1 + 1e-4)
    save_student(tmp_path / "whole.safetensors", whole, 0)
    tensors, sidecar = load_checkpoint(tmp_path / "whole.safetensors")
    save_checkpoint(tmp_path / "half.safetensors", halved(tensors), config=sidecar["config"], seed=0)
    assert torch.float32 not in {t.dtype for t in load_file(tmp_path / "half.safetensors").values()}
    write_wav(tmp_path / "voice.wav", voice())
    apart = parity(whole, load_student(tmp_path / "half.safetensors"), [tmp_path / "voice.wav"])
    assert 0 < apart["mean_mm"] < 0.05 and apart["greatest_mm"] < 0.5
