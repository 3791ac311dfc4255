"""Masks by the ONNX networks that rembg uses: U2-Net, IS-Net, BiRefNet. What they say takes the place of the embedded network's.

Each is fed as rembg feeds it: shrunk to its size, divided by the brightest value, normalised; BiRefNet's logits go through a
sigmoid. rembg stretches each answer to 0..1; here that is so where it is not flat, so that nobody stays nobody.

Legend: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from avatar_core.config import one_of
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.models.weights import DEVICES, checked_file, find_file, load_onnx
from avatar_core.perception.matte import MatteMasks

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYOUTS = {  # mean and standard deviation of RGB in 0..1
    "u2net": IMAGENET,  # u2net, u2netp, u2net_human_seg, silueta
    "isnet": ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),  # isnet-general-use
    "birefnet": IMAGENET,  # birefnet-general, -portrait, -massive, ...
}
FLAT = 0.2  # an answer that varies less than this says nothing


@dataclass(frozen=True)
class OnnxMasks(MatteMasks):
    """path, sha256: the network; layout: of which family it is."""

    where: ClassVar[str] = "perception.rembg"
    path: str = ""
    sha256: str = ""
    layout: str = one_of("u2net", *LAYOUTS)
    device: str = one_of("cpu", *DEVICES)

    @property
    def card(self) -> Card:
        licence = {"u2net": "Apache-2.0", "isnet": "Apache-2.0", "birefnet": "MIT"}[self.layout]
        return Card(
            Path(self.path).name or self.layout, licence, "unknown", "its training sets have terms of their own",
            revision=self.sha256, url="https://github.com/danielgatis/rembg",
        )  # fmt: skip

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {find_file(*self._file): self.sha256}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(lambda: need_packages(self.where, "models", "onnxruntime"), self.folders)

    def person_mask(self, picture: np.ndarray) -> np.ndarray:
        """See `MatteMasks`. UserError: the file is another, or no network of masks."""
        network = load_onnx(checked_file(*self._file), self.sha256, self.device)
        height, width = network.input_size()
        small = np.asarray(
            Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS), np.float64
        )
        mean, std = LAYOUTS[self.layout]
        (found, *_) = network.run((small / max(small.max(), 1e-6) - mean) / std)
        if found.shape != (1, 1, height, width):
            raise UserError(f"{network.file}: expected a mask (1,1,{height},{width}), found {found.shape}")
        mask = found[0, 0].astype(np.float64)
        if self.layout == "birefnet":
            mask = 1 / (1 + np.exp(-mask.clip(-50, 50)))
        if not np.isfinite(mask).all():
            raise UserError(f"{network.file}: expected a mask, found values that are not finite")
        if np.ptp(mask) > FLAT:
            mask = (mask - mask.min()) / np.ptp(mask)
        whole = Image.fromarray(mask.clip(0, 1).astype(np.float32)).resize(
            picture.shape[1::-1], Image.Resampling.BILINEAR
        )
        return np.asarray(whole, np.float32)

    @property
    def _file(self) -> tuple[str, str, str, str]:
        return self.path, self.sha256, f"{self.where}.path", f"a network of masks ({self.layout}) in ONNX"
