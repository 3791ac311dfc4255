"""Fitting the motion codec: bases from subsampled frames of many clips, read once and one at a time; only those frames are kept.

Noise of monocular fits is met by least squares over many frames, few components, lower weight on depth and per-frame
confidences. Shapes: n sampled frames, T frames of a clip, P particles of a region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from avatar_core.device import CPU, Compute
from avatar_core.embed.codec import DECODED, FRAMES_OF, REGIONS, FittedClip, MotionCodec
from avatar_core.embed.config import CodecConfig
from avatar_core.embed.pca import ridge
from avatar_core.embed.region import fit_region
from avatar_core.errors import UserError
from avatar_core.particles.layout import ParticleLayout


def fit_codec(
    clips: Sequence[FittedClip],
    layout: ParticleLayout,
    config: CodecConfig | None = None,
    compute: Compute = CPU,
    shown: Sequence[tuple[int, Mapping[str, bool]]] | None = None,
) -> MotionCodec:
    """Basis, whitening and channel maps from clips (read once, one at a time), then the residual networks; on the device, in fp32.

    `clips` may be any sequence that loads a clip when indexed; then give `shown`, how many frames each has and what is visible. A
    region that no clip shows raises UserError.
    """
    config = config or CodecConfig()
    frame = np.asarray(layout.frame)
    index = {r: np.flatnonzero(np.isin(frame, FRAMES_OF[r])) for r in DECODED}
    lips = {
        k: np.searchsorted(index["face"], np.asarray(getattr(layout, k)))
        for k in ("lips_upper", "lips_lower")
    }
    n_lips = min(len(v) for v in lips.values())
    index["head"] = np.sort(layout.carriers["head"]).astype(np.int64)
    with torch.random.fork_rng(), torch.device("cpu"):
        torch.manual_seed(config.seed)
        sizes = {r: len(index[r]) for r in DECODED}
        codec = MotionCodec(config, len(frame), sizes, n_lips, len(index["head"]))
    codec.carriers.copy_(torch.from_numpy(np.searchsorted(index["body"], index["head"])))
    codec.lips_upper.copy_(torch.from_numpy(lips["lips_upper"][:n_lips]))
    codec.lips_lower.copy_(torch.from_numpy(lips["lips_lower"][:n_lips]))

    shown = shown or [(len(clip.deformation), clip.visible) for clip in clips]
    samples = _collect(codec, clips, shown, index, config)
    codec.to(compute.device)
    positions = torch.from_numpy(np.asarray(layout.template_positions)).float().to(compute.device)
    for region in REGIONS:
        part, rows = codec.region(region), samples.pop(region)
        rows = dict(zip(rows, compute.put(*rows.values()), strict=True))
        if rows["mean_offset"].numel() == 0:
            raise UserError(
                f"no clip shows the region '{region}' (visible is false everywhere): cannot fit its basis"
            )
        part.index.copy_(torch.from_numpy(index[region]))
        part.weight.copy_(_weights(codec, region, positions[index[region]], rows["mean_offset"]).flatten())
        reads = None
        if region == "body":
            skull = codec.region("head")
            with torch.no_grad():
                reads = skull.encode_coefficients(skull.coefficients(rows["mean_offset"][:, codec.carriers]))
            table = ridge(reads, rows["mean_offset"].flatten(1), 1e-3, rows["weight"])
            codec.head_to_body.copy_(table)
            rows = {**rows, "mean_offset": rows["mean_offset"] - codec.body_from_head(reads)}
        fit_region(
            part,
            rows,
            ridge_strength=config.ridge,
            residual_steps=config.residual_steps,
            seed=config.seed,
            reads=reads,
        )
    return codec.eval()


def _collect(
    codec: MotionCodec,
    clips: Sequence[FittedClip],
    shown: Sequence[tuple[int, Mapping[str, bool]]],
    index: Mapping,
    config: CodecConfig,
) -> dict[str, dict[str, Tensor]]:
    """Evenly subsampled frames of every region: tensors keyed by channel, plus clip number and weight. A channel that a clip lacks
    is left out. All are made at once and filled: small parts that stay between the clips that go would tear the heap to pieces."""
    chosen = {r: _choose([n if v[r] else 0 for n, v in shown], config.max_frames) for r in REGIONS}
    found: dict[str, dict[str, Tensor]] = {}
    for region, frames in chosen.items():
        n, particles = sum(map(len, frames)), len(index[region])
        channels = ("mean_offset", *codec.region(region).channels)
        found[region] = {name: torch.empty(n, particles, 3, device="cpu") for name in channels}
        found[region]["clip"] = torch.empty(n, dtype=torch.int64, device="cpu")
        found[region]["weight"] = torch.empty(n, device="cpu")
    filled: dict[str, int] = dict.fromkeys(REGIONS, 0)
    for number in range(len(shown)):
        wanted = {region: frames[number] for region, frames in chosen.items() if len(frames[number])}
        if not wanted:
            continue
        clip = clips[number]
        for region, frames in wanted.items():
            values, rows = found[region], slice(filled[region], filled[region] + len(frames))
            filled[region] = rows.stop
            values["clip"][rows] = number
            values["weight"][rows] = (
                1.0 if clip.confidence is None else torch.from_numpy(clip.confidence[frames])
            )
            for name in ("mean_offset", *codec.region(region).channels):
                value = getattr(clip.deformation, name)
                if value is None:
                    values.pop(name, None)
                elif name in values:
                    scale = codec.scale(region, clip.stature) if name == "mean_offset" else 1.0
                    part = value.detach().numpy()[frames][:, index[region]]
                    torch.div(torch.from_numpy(part), scale, out=values[name][rows])
    return found


def _choose(totals: Sequence[int], most: int) -> list[np.ndarray]:
    """Which frames of each clip are used where clips show `totals` frames of a region: evenly spread, `most` in all."""
    quota = max(8, 2 * most // max(1, len(totals)))
    frames = [
        np.unique(np.linspace(0, total - 1, min(total, quota)).round().astype(int))
        if total
        else np.zeros(0, int)
        for total in totals
    ]
    ends = np.cumsum([len(f) for f in frames], dtype=int)
    n = int(ends[-1]) if len(ends) else 0
    keep = torch.linspace(0, max(n - 1, 0), min(n, most), device="cpu").round().long().numpy()
    parts = np.split(keep, np.searchsorted(keep, ends[:-1]))
    return [f[part - (end - len(f))] for f, end, part in zip(frames, ends, parts, strict=True)]


def _weights(codec: MotionCodec, region: str, positions: Tensor, offsets: Tensor) -> Tensor:
    """Weights (P,3) of the offsets in the least-squares basis."""
    config, weight = codec.config, positions.new_ones(len(positions), 3)
    if region == "face":
        mouth = positions[torch.cat([codec.lips_upper, codec.lips_lower])].mean(0)
        near = torch.exp(-((positions - mouth).square().sum(-1)) / config.lips_radius**2)
        weight *= (1 + (config.lips_weight - 1) * near)[:, None]
    elif region == "body":
        rms = offsets.square().sum(-1).mean(0).sqrt()
        weight *= (config.balance / (rms + config.balance)).sqrt()[:, None]
    if region in ("face", "head"):
        weight[:, 1] *= config.depth_weight
    return weight
