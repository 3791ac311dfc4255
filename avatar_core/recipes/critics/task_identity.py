"""Training of the identity critic: head crops -> unit embedding, ArcFace (Deng et al. 2019) over procedural people.

Legend: B batch, C classes (training people), E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_core.perception import boxes
from avatar_core.perception import warp as A
from avatar_core.perception.layout import LAYOUT
from avatar_core.perception.nets import IdentityNet
from avatar_core.recipes.critics.dataset import FLAT, Dataset
from avatar_core.recipes.critics.scores import verification
from avatar_core.recipes.critics.task import Task

SIZE = 96
SCALE, MARGIN = 20.0, 0.25
EMBEDDING = 64


def head_sample(arrays: dict[str, NDArray], rng: np.random.Generator, size: int = SIZE) -> NDArray:
    """Augmented head crop (size,size,3) from any framing where the face spans 20 px or more."""
    kind = ""
    index = 0
    for _ in range(8):
        kind = str(rng.choice(["talk", "face", "body"], p=[0.3, 0.4, 0.3]))
        index = int(rng.integers(len(arrays[f"{kind}_rgb"])))
        face = arrays[f"{kind}_xy"][index][LAYOUT.face]
        pixels = arrays[f"{kind}_rgb"].shape[1]
        if np.ptp(face[:, 1]) >= 20 and (face > 0).all() and (face < pixels).all():
            break
    xy = arrays[f"{kind}_xy"][index]
    cx, cy, side = boxes.head_box(xy[LAYOUT.face])
    matrix = A.crop_matrix(
        np.array([cx, cy]) + rng.uniform(-0.06, 0.06, 2) * side,
        side * np.exp(rng.uniform(-0.12, 0.12)),
        size,
        rng.normal(0, 0.06),
    )
    stack = np.concatenate([arrays[f"{kind}_rgb"][index], arrays[f"{kind}_alpha"][index][..., None]], -1)
    crop = A.warp(stack.astype(np.float32) / 255, matrix, size)
    if rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
    image = A.composite(crop[..., :3], crop[..., 3], FLAT / 255, A.background(rng, size))
    # Mild colour: skin and hair tone are part of who somebody is.
    return A.photometric(image, rng, hard=0.5)


class Classifier(nn.Module):
    """IdentityNet with the class centres that training needs and the asset leaves out."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.net = IdentityNet(EMBEDDING)
        self.centres = nn.Parameter(torch.randn(people, EMBEDDING))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


def arcface_loss(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Additive angular margin softmax. batch: image (B,3,S,S), label (B,)."""
    embedding = net(batch["image"])
    cosine = embedding @ F.normalize(net.centres, dim=-1).T  # type: ignore[arg-type]
    label = batch["label"]
    angle = torch.acos(cosine.clamp(-1 + 1e-5, 1 - 1e-5))
    target = F.one_hot(label, cosine.shape[1]).bool()
    logits = SCALE * torch.where(target, torch.cos((angle + MARGIN).clamp(max=np.pi)), cosine)
    loss = F.cross_entropy(logits, label)
    right = float((cosine.argmax(-1) == label).float().mean())
    return loss, {"loss": float(loss.detach()), "acc": right}


def _batcher(
    data: Dataset, folders: tuple[Path, ...]
) -> Callable[[np.random.Generator, int], dict[str, Tensor]]:
    def batch(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        labels = rng.integers(0, len(folders), count)
        images = np.stack([head_sample(data.arrays[folders[k]], rng) for k in labels])
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            "label": torch.from_numpy(labels),
        }

    return batch


def make_identity_task(data: Dataset) -> Task:
    """Task of the identity net."""

    def evaluate(net: nn.Module) -> dict[str, float]:
        batch = _batcher(data, data.held_out)(np.random.default_rng(5), 400)
        with torch.no_grad():
            embedding = torch.cat([net(part) for part in batch["image"].split(50)])
        return verification(embedding.numpy(), batch["label"].numpy())

    return Task(
        name="identity",
        build=lambda: Classifier(len(data.train)),
        batch=_batcher(data, data.train),
        loss=arcface_loss,
        evaluate=evaluate,
        steps=3000,
        batch_size=32,
        learning_rate=2e-3,
        config={"kind": "IdentityNet", "size": SIZE, "embedding": EMBEDDING},
        keep="net.",
    )
