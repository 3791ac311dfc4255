"""The ten metrics of the paper over a set of clips: IQA ASE SyncC SyncD HKC CSIM SSIM PSNR FID FVD.

Definitions: IQA, ASE mean image quality and aesthetics per frame (Q-Align's 1..5 scale; `embedded` are regressors
of known damage); SyncC, SyncD see `sync`; HKC mean confidence of the hand keypoints (CyberHost, Lin et al. 2024);
CSIM mean cosine between the identity embeddings of portrait and frames (ArcFace); SSIM, PSNR see `image`; FID,
FVD see `frechet`. Each value names its backend. What could not run is `unavailable` and says why, never 0.
`embedded` values of critics trained on procedural people must not be set beside published numbers.

Legend: T frames, H W pixels, M mel bands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.metrics.bootstrap import bootstrap
from avatar_core.metrics.frechet import frechet_distance
from avatar_core.metrics.image import psnr, ssim
from avatar_core.metrics.reference import WANTED, OnnxFeatures, ReferenceFile, read_scores
from avatar_core.metrics.sync import sync_scores
from avatar_core.perception import Critics, warp
from avatar_core.perception.boxes import head_box

METRICS = ("IQA", "ASE", "SyncC", "SyncD", "HKC", "CSIM", "SSIM", "PSNR", "FID", "FVD")
FRAME_STEP = 3  # every third frame for IQA, ASE, CSIM, FID: neighbours say the same


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to judge. frames (T,H,W,3), log_mel (4T,M) or None, truth frames of the same shape or None, portrait
    (H,W,3) or None; images float [0,1] or uint8. `mouth_seen`, `hands_seen`: whether the framing shows them."""

    id: str
    frames: NDArray
    log_mel: NDArray | None = None
    truth: NDArray | None = None
    portrait: NDArray | None = None
    mouth_seen: bool = True
    hands_seen: bool = True


@dataclasses.dataclass(frozen=True)
class Value:
    """A metric's value with its 95% interval over clips; `value` is None when `status` is "unavailable"."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    samples: int
    backend: str
    status: str
    note: str = ""


def unavailable(metric: str, backend: str, why: str) -> Value:
    """A value that says that it could not be had."""
    return Value(metric, None, None, None, 0, backend, "unavailable", why)


@dataclasses.dataclass
class Judged:
    """What `judge` keeps of a clip: scores by metric, and features for the Frechet distances."""

    id: str
    scores: dict[str, float]
    missing: dict[str, str]
    frames: NDArray | None = None
    clips: NDArray | None = None
    truth_frames: NDArray | None = None
    truth_clips: NDArray | None = None


def head_crops(critics: Critics, images: NDArray, keypoints: NDArray, size: int = 112) -> NDArray[np.float32]:
    """Square head crops (B,size,size,3) of images (B,H,W,3) for a reference identity network."""
    found = head_box(keypoints[:, critics.layout.face].astype(float))
    crops = [
        warp.warp(warp.as_float(image), warp.crop_matrix(box[:2], box[2], size), size)
        for image, box in zip(images, found, strict=True)
    ]
    return np.stack(crops)


def judge(clip: Clip, critics: Critics, references: Mapping[str, ReferenceFile] | None = None) -> Judged:
    """Run every per-clip part of the ten metrics on one clip. Frechet features are kept for `summarise`."""
    references = references or {}
    out = Judged(clip.id, {}, {})

    def run(names: Sequence[str], compute: Callable[[], Sequence[float]], missing: str = "") -> None:
        names = [n for n in names if n not in references]
        if not names:
            return
        if missing:
            out.missing.update(dict.fromkeys(names, missing))
            return
        try:
            out.scores.update(zip(names, compute(), strict=True))
        except (ValueError, UserError) as error:
            out.missing.update(dict.fromkeys(names, str(error)))

    sparse = clip.frames[::FRAME_STEP]
    xy, confidence = critics.keypoints(clip.frames)
    run(["IQA"], lambda: [float(np.mean(critics.quality(sparse)))])
    run(["ASE"], lambda: [float(np.mean(critics.aesthetics(sparse)))])
    hands = np.concatenate([critics.layout.hand_left, critics.layout.hand_right])
    run(
        ["HKC"],
        lambda: [float(confidence[:, hands].mean())],
        "" if clip.hands_seen else "hands are not in the framing",
    )

    def sync() -> list[float]:
        assert clip.log_mel is not None
        scores = sync_scores(*critics.sync(clip.frames, clip.log_mel, xy))
        return [scores.confidence, scores.distance]

    why = (
        "no audio"
        if clip.log_mel is None
        else ""
        if clip.mouth_seen
        else "the mouth is too small in the framing"
    )
    run(["SyncC", "SyncD"], sync, why)

    def similarity() -> list[float]:
        assert clip.portrait is not None
        if "CSIM_network" in networks:
            there, _ = critics.keypoints(clip.portrait)
            own = networks["CSIM_network"](head_crops(critics, clip.portrait[None], there))
            seen = networks["CSIM_network"](head_crops(critics, sparse, xy[::FRAME_STEP]))
            own /= np.linalg.norm(own, axis=-1, keepdims=True)
            seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
        else:
            own = critics.identity(clip.portrait)
            seen = critics.identity(sparse, xy[::FRAME_STEP])
        return [float((seen @ own[0]).mean())]

    networks: dict[str, Callable[[NDArray], NDArray]] = {}
    if clip.portrait is not None and "CSIM" in references:
        networks["CSIM_network"] = OnnxFeatures(references["CSIM"])
        out.scores["CSIM"] = similarity()[0]
    else:
        run(["CSIM"], similarity, "" if clip.portrait is not None else "no portrait")
    same = clip.truth is not None and clip.truth.shape == clip.frames.shape
    why = "" if same else "no ground-truth frames of the same size and length"

    def paired() -> list[float]:
        assert clip.truth is not None
        pairs = [(warp.as_float(a), warp.as_float(b)) for a, b in zip(clip.frames, clip.truth, strict=True)]
        return [float(np.mean([metric(a, b) for a, b in pairs])) for metric in (ssim, psnr)]

    run(["SSIM", "PSNR"], paired, why)
    if "FID" in references or "frame" in critics.nets:
        frame_net = OnnxFeatures(references["FID"]) if "FID" in references else critics.frame_features
        out.frames = np.asarray(frame_net(warp.as_float(sparse)))
        if clip.truth is not None:
            out.truth_frames = np.asarray(frame_net(warp.as_float(clip.truth[::FRAME_STEP])))
    else:
        out.missing["FID"] = "the frame critic's weights are missing"
    if "FVD" in references or "clip" in critics.nets:
        out.clips = _clip_features(clip.frames, critics, references)
        out.truth_clips = None if clip.truth is None else _clip_features(clip.truth, critics, references)
    else:
        out.missing["FVD"] = "the clip critic's weights are missing"
    return out


def _clip_features(
    frames: NDArray, critics: Critics, references: Mapping[str, ReferenceFile]
) -> NDArray | None:
    if len(frames) < 16:
        return None
    if "FVD" in references:
        windows = np.stack([warp.as_float(frames[s : s + 16]) for s in range(0, len(frames) - 15, 8)])
        return OnnxFeatures(references["FVD"])(windows)
    return critics.clip_features(frames)


def _stack(parts: Sequence[NDArray | None]) -> NDArray:
    have = [p for p in parts if p is not None]
    return np.concatenate(have) if have else np.zeros((0, 0))


def summarise(
    judged: Sequence[Judged],
    references: Mapping[str, ReferenceFile] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Value]:
    """Clips of one row (ours, ground truth, mismatched audio...) -> metric -> Value, in the paper's order."""
    references = references or {}
    values: dict[str, Value] = {}
    for metric in METRICS:
        backend = "reference" if metric in references else "embedded"
        if metric in ("SSIM", "PSNR"):
            backend = "formula"
        if metric in ("FID", "FVD"):
            key = "frames" if metric == "FID" else "clips"
            ours = _stack([getattr(j, key) for j in judged])
            truth = _stack([getattr(j, f"truth_{key}") for j in judged])
            if min(len(ours), len(truth)) < 2:
                whys = sorted({j.missing[metric] for j in judged if metric in j.missing})
                whys = whys or ["no ground-truth frames, or clips under 16 frames"]
                values[metric] = unavailable(metric, backend, "; ".join(whys))
                continue
            result = frechet_distance(ours, truth)
            values[metric] = Value(
                metric, result.value, None, None, min(result.samples), backend, "ok", result.warning
            )
            continue
        if metric in references and WANTED[metric].kind == "scores":
            scores = read_scores(references[metric], [j.id for j in judged])
        else:
            scores = [j.scores[metric] for j in judged if metric in j.scores]
        if not scores:
            whys = sorted({j.missing.get(metric, "not computed") for j in judged}) or ["no clips"]
            values[metric] = unavailable(metric, backend, "; ".join(whys))
            continue
        interval = bootstrap(scores, draws=draws, seed=seed)
        values[metric] = Value(
            metric, interval.value, interval.low, interval.high, interval.samples, backend, "ok"
        )
    return values
