"""How a student's avatars are made: what making one needs of its file. Without the networks, whose import takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avatar_core.config import parse
from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig

TRAINED = Path("data/distill/student.safetensors")  # of the run in the working folder
SHIPPED = Path(__file__).resolve().parent / "shipped" / "student.safetensors"  # made by recipes/student.py
HINT = "run `dvc repro distill`, or name another file with --model"


@dataclass(frozen=True)
class Maker:
    """personalise, perception: how a portrait becomes an avatar that the student can drive."""

    personalise: PersonaliseConfig
    perception: PerceptionConfig

    @staticmethod
    def parse(config: Mapping[str, Any], file: str) -> Maker:
        """From the config of a student's sidecar."""
        parts = dict(config["personalise"])
        particles = parse(ParticleBudgets, parts.pop("particles"), file, "personalise.particles")
        own = parse(PersonaliseConfig, parts, file, "personalise")
        return Maker(
            replace(own, particles=particles),
            PerceptionConfig.parse(config["perception"], file, "perception"),
        )


def load_maker(path: str | os.PathLike) -> Maker:
    """Of a student's file. Raises UserError naming the file: missing, damaged, or of another version."""
    _, sidecar = load_checkpoint(path, hint=HINT)
    try:
        return Maker.parse(sidecar["config"], str(path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a student of this version, found {type(error).__name__}: {error}"
        ) from None
