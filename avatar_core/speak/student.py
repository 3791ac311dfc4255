"""The model that speaks: generator and motion codec in one checkpoint, all that `speak` needs besides a portrait.

Tensors are prefixed `generator/` and `codec/`; the sidecar's config has `generator`, `codec`, `personalise` and `perception` (how a
portrait becomes an avatar) and `sample` (steps, guidance).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from avatar_core.config import parse
from avatar_core.embed.codec import MotionCodec
from avatar_core.errors import UserError
from avatar_core.generator.config import SampleConfig
from avatar_core.generator.model import Generator
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.speak.maker import HINT, Maker


@dataclass(frozen=True)
class Student:
    """generator: speech -> latents, codec: latents -> deformation of the particles that `personalise` lays out.

    personalise, perception: how a portrait becomes the avatar that this student can drive.
    """

    generator: Generator
    codec: MotionCodec
    personalise: PersonaliseConfig
    perception: PerceptionConfig
    sample: SampleConfig

    def to(self, device: str) -> Student:
        """Itself, its networks on a device."""
        self.generator.to(device)
        self.codec.to(device)
        return self


def save_student(path: str | os.PathLike, student: Student, seed: int) -> None:
    """Write to `path` (.safetensors) and its sidecar."""
    generator, generator_config = student.generator.tensors()
    codec, codec_config = student.codec.tensors()
    tensors = {f"generator/{k}": v for k, v in generator.items()} | {
        f"codec/{k}": v for k, v in codec.items()
    }
    config = {
        "generator": generator_config,
        "codec": codec_config,
        "personalise": asdict(student.personalise),
        "perception": student.perception.to_dict(),
        "sample": asdict(student.sample),
    }
    save_checkpoint(path, tensors, config=config, seed=seed)


def load_student(path: str | os.PathLike) -> Student:
    """Read what `save_student` wrote. Raises UserError naming the file: missing, damaged, or of another version."""
    tensors, sidecar = load_checkpoint(path, hint=HINT)
    config: Mapping[str, Any] = sidecar["config"]
    try:
        maker = Maker.parse(config, str(path))
        return Student(
            generator=Generator.from_tensors(_part(tensors, "generator/"), config["generator"]),
            codec=MotionCodec.from_tensors(_part(tensors, "codec/"), config["codec"]),
            personalise=maker.personalise,
            perception=maker.perception,
            sample=parse(SampleConfig, config["sample"], str(path), "sample"),
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: expected a student of this version, found {type(error).__name__}: {error}"
        ) from None


def _part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Tensors under a prefix; those kept in half precision as float32."""
    return {
        k.removeprefix(prefix): v.float() if v.dtype == torch.float16 else v
        for k, v in tensors.items()
        if k.startswith(prefix)
    }
