"""Score teachers of tiny published models, and what they are asked in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avatar_core.models.files import folder_digest
from avatar_core.score.clips import ScoreClip, to_signed
from avatar_core.score.flow import window_mel
from avatar_core.score.ltx2 import LTX2Score
from avatar_core.score.wan_s2v import Parts, WanS2VScore
from avatar_core.score.wan_s2v_network import WanS2VNetwork
from tests.models.tiny_ltx2 import save_tiny_ltx2
from tests.models.tiny_wan_s2v import save_tiny_wan_s2v

SIZE = 64
PACKAGES = {
    "ltx2": ("transformers", "accelerate", "av"),
    "wan_s2v": ("transformers", "accelerate", "diffsynth", "einops"),
}


def tiny_backend(kind: str, root: Path, frames: int, size: int = SIZE) -> LTX2Score | WanS2VScore:
    """A backend whose model of random weights is saved under `root`."""
    folder, parts = root / "tiny", root / "parts"
    shape = {"size": size, "frames": frames, "dtype": "fp32"}
    if kind == "ltx2":
        save_tiny_ltx2(folder)
        return LTX2Score(model=str(folder), sha256=folder_digest(folder), **shape)
    save_tiny_wan_s2v(folder, parts)
    parts_of = Parts(str(parts), sha256=folder_digest(parts))
    return WanS2VScore(model=str(folder), sha256=folder_digest(folder), parts=parts_of, **shape)


def noise_clips(backend: LTX2Score | WanS2VScore) -> list[ScoreClip]:
    """Two clips of noise, of 20 and 21 frames, as the backend hears them."""
    rng = np.random.default_rng(0)
    return [
        ScoreClip(
            rng.integers(0, 255, (20 + k, SIZE, SIZE, 3), dtype=np.uint8),
            backend.hear(torch.from_numpy(rng.normal(size=640 * (20 + k)).astype(np.float32))).numpy(),
        )
        for k in range(2)
    ]


def doubled(teacher):
    """In double precision, for differences; not Wan's denoiser, whose table of rotations would then lie where its tokens are."""
    teacher.double()
    if isinstance(teacher, WanS2VNetwork):
        teacher.transformer.float()
    return teacher


def asked(clips, frames, seed=0, timestep=600):
    """x's frames, timesteps, mel and reference of the first clip, and a generator for the noise."""
    pictures = to_signed(torch.from_numpy(clips[0].frames[:frames]))[None].double()
    rng = torch.Generator().manual_seed(seed)
    return pictures, torch.tensor([timestep]), window_mel(clips[0], 0, frames), pictures[:, 0], rng
