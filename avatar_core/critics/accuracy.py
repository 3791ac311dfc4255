"""Held-out accuracy of the critics, on people no net was trained on; written into each asset's sidecar.

Legend: B batch, K keypoints, N samples, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avatar_core.critics.layout import LAYOUT
from avatar_core.critics.nets import SyncNet


def roc_area(same: NDArray, other: NDArray) -> float:
    """Probability that a random `same` score exceeds a random `other` score (area under the ROC curve)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([same, other]))
    return float((ranks[: len(same)].sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(other)))


def _correlation(a: NDArray, b: NDArray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _rank_correlation(a: NDArray, b: NDArray) -> float:
    from scipy.stats import rankdata

    return _correlation(rankdata(a), rankdata(b))


@torch.no_grad()
def keypoint_accuracy(
    name: str, net: nn.Module, batch: Callable[[Any, int], dict], rounds: int = 20
) -> dict[str, float]:
    """Errors in % of the face's height (face), the hand's extent (hand) or the crop's side (body), over augmented crops.

    `found` is the share of points inside the image within the training radius; `confidence_auc` says how well the
    confidence tells found points from lost ones; for the face also the lips' error and the aperture's correlation
    and slope over all crops.
    """
    from avatar_core.critics.task_keypoints import RADIUS

    errors, insides, trusts, scales, ours, truths = [], [], [], [], [], []
    points = LAYOUT.points_of(name)
    pairs = (
        [[int(np.flatnonzero(points == k)[0]) for k in pair] for pair in LAYOUT.lip_pairs]
        if name == "face"
        else []
    )
    for k in range(rounds):
        data = batch(np.random.default_rng([91, k]), 32)
        xy, confidence, _ = net(data["image"])
        truth = data["xy"]
        shown = (
            (truth > -5000).any(-1).any(-1)
        )  # crops of backdrop alone count for the confidence, not for errors
        inside = ((truth > 0) & (truth < data["image"].shape[-1])).all(-1)
        errors.append((xy - truth).norm(dim=-1).numpy())
        insides.append(inside.numpy())
        trusts.append(torch.sigmoid(confidence).numpy())
        if name == "body":
            scales.append(np.full(len(truth), float(data["image"].shape[-1])))
        else:
            scales.append((truth.amax(1) - truth.amin(1)).amax(-1).clamp_min(1).numpy())
        if pairs:
            where = torch.tensor(pairs)
            extent = (truth.amax(1) - truth.amin(1)).amax(-1)
            gap = [(p[:, where[:, 0]] - p[:, where[:, 1]]).norm(dim=-1).mean(1) / extent for p in (xy, truth)]
            ours.append(gap[0][shown].numpy())
            truths.append(gap[1][shown].numpy())
    error, inside, trust = np.concatenate(errors), np.concatenate(insides), np.concatenate(trusts)
    scale = np.concatenate(scales)[:, None]
    percent = 100 * error / scale
    found = inside & (error < RADIUS[name])
    out = {
        "mean_error_percent": float(percent[inside].mean()),
        "median_error_percent": float(np.median(percent[inside])),
        "found": float(found[inside].mean()),
        "confidence_auc": roc_area(trust[found], trust[~found]),
        "mean_confidence": float(trust[inside].mean()),
        "samples": float(len(error)),
    }
    if pairs:
        lips = [int(np.flatnonzero(points == k)[0]) for k in LAYOUT.lips]
        out["lips_error_percent"] = float(percent[:, lips][inside[:, lips]].mean())
        a, b = np.concatenate(ours), np.concatenate(truths)
        out["aperture_correlation"] = _correlation(a, b)
        out["aperture_slope"] = float(np.polyfit(b, a, 1)[0])
    return {k: round(v, 4) for k, v in out.items()}


def verification(embedding: NDArray, label: NDArray) -> dict[str, float]:
    """Unit embeddings (N,E) and person labels (N,) -> how well cosine tells same from other people."""
    cosine = embedding @ embedding.T
    upper = np.triu(np.ones_like(cosine, bool), 1)
    same = label[:, None] == label[None]
    a, b = cosine[upper & same], cosine[upper & ~same]
    grid = np.linspace(-1, 1, 400)
    accept, reject = (a[:, None] >= grid).mean(0), (b[:, None] < grid).mean(0)
    equal = int(np.abs(accept - reject).argmin())
    np.fill_diagonal(cosine, -2)
    return {
        "auc": round(roc_area(a, b), 4),
        "equal_error_rate": round(1 - float(accept[equal] + reject[equal]) / 2, 4),
        "cosine_same": round(float(a.mean()), 4),
        "cosine_other": round(float(b.mean()), 4),
        "nearest_is_same": round(float((label[cosine.argmax(1)] == label).mean()), 4),
        "people": float(len(np.unique(label))),
    }


@torch.no_grad()
def sync_accuracy(net: SyncNet, data: Any) -> dict[str, float]:
    """Clips of held-out people: is the right offset found, and how far apart are own and foreign audio."""
    from avatar_core.critics.task_sync import talk_windows
    from avatar_core.metrics.sync import sync_scores

    videos, audios = [], []
    for folder in data.held_out:
        mouths, mel = talk_windows(data.arrays[folder])
        videos.append(net.embed_video(mouths).numpy())
        audios.append(net.embed_audio(mel).numpy())
    own = [sync_scores(v, a) for v, a in zip(videos, audios, strict=True)]
    foreign = [sync_scores(v, a) for i, v in enumerate(videos) for j, a in enumerate(audios) if i != j]
    late = [sync_scores(v[6:], a[:-6]) for v, a in zip(videos, audios, strict=True)]
    return {
        "offset_within_1": round(float(np.mean([abs(s.offset) <= 1 for s in own])), 4),
        "shift_of_6_found_within_1": round(float(np.mean([abs(abs(s.offset) - 6) <= 1 for s in late])), 4),
        "sync_c_own": round(float(np.mean([s.confidence for s in own])), 4),
        "sync_c_foreign": round(float(np.mean([s.confidence for s in foreign])), 4),
        "sync_d_own": round(float(np.mean([s.distance for s in own])), 4),
        "sync_d_foreign": round(float(np.mean([s.distance for s in foreign])), 4),
        "auc_sync_c": round(
            roc_area(np.array([s.confidence for s in own]), np.array([s.confidence for s in foreign])), 4
        ),
        "clips": float(len(own)),
    }


@torch.no_grad()
def frame_accuracy(net: nn.Module, batch: Callable[[Any, int], dict], rounds: int = 16) -> dict[str, float]:
    """Rank and linear correlation of the embedded IQA and ASE with the severity of the damage done."""
    rows = []
    for k in range(rounds):
        data = batch(np.random.default_rng([92, k]), 32)
        out = net(data["image"])
        rows.append(
            torch.stack([out["quality"], data["quality"], out["aesthetics"], data["aesthetics"]], 1).numpy()
        )
    table = np.concatenate(rows)
    return {
        "iqa_rank_correlation": round(_rank_correlation(table[:, 0], table[:, 1]), 4),
        "iqa_mean_error": round(float(np.abs(table[:, 0] - table[:, 1]).mean()), 4),
        "ase_rank_correlation": round(_rank_correlation(table[:, 2], table[:, 3]), 4),
        "ase_mean_error": round(float(np.abs(table[:, 2] - table[:, 3]).mean()), 4),
        "samples": float(len(table)),
    }


@torch.no_grad()
def clip_accuracy(net: nn.Module, batch: Callable[[Any, int], dict], rounds: int = 20) -> dict[str, float]:
    """Share of faults named right, and correlation of the told speeds with the true ones."""
    right, ours, truth = [], [], []
    for k in range(rounds):
        data = batch(np.random.default_rng([93, k]), 16)
        out = net(data["clip"])
        right.append((out["kind"].argmax(-1) == data["kind"]).float().mean().item())
        ours.append(out["motion"].numpy())
        truth.append(data["motion"].numpy())
    a, b = np.concatenate(ours), np.concatenate(truth)
    return {
        "fault_named": round(float(np.mean(right)), 4),
        **{
            f"speed_correlation_{n}": round(_correlation(a[:, i], b[:, i]), 4)
            for i, n in enumerate(("face", "lips", "hands"))
        },
        "samples": float(len(a)),
    }
