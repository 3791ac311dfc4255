"""Motion codec: E_X from the deformation dG of a frame to a short latent x = [head, body | face | hand], and back.

Per region a principal basis of the offsets in their local frames (body in the world, face in the head's frame, hands in
the wrists'), whitened, with a small residual network on either side that starts at zero: at these sizes a
linear map is nearly all there is to gain (paper section "Audio-Particle Motion Embedding", E_X and its MLP decoder).
The head's own motion, read from the skull, comes first; the body basis holds what the head does not explain.
The decoder also predicts the particles' rotations and colours, by ridge regression on the latents.

Clips see different parts of a person. A clip says by `visible` which of body, head, face, hand it shows; latents of a
region that is not shown are zero, and `latent_mask` marks those that mean something. A face view still shows the head move.

Shapes: T frames, N particles, P particles of a region, K latents of a region, E extra components that only the
residual decoder uses, D all latents, C all coefficients (K and E of all regions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.embed.config import CodecConfig
from avatar_core.embed.region import RegionCodec
from avatar_core.errors import UserError
from avatar_core.particles.deformation import HEAD, WORLD, WRIST_LEFT, WRIST_RIGHT, Deformation

REGIONS = ("head", "body", "face", "hand")  # order of the latents
DECODED = ("body", "face", "hand")  # together every particle once; the head's are part of the body's
FRAMES_OF = {"body": (WORLD,), "face": (HEAD,), "hand": (WRIST_LEFT, WRIST_RIGHT)}


@dataclass(frozen=True)
class FittedClip:
    """One clip's dG with what it shows: visible has REGIONS, confidence (T,) in 0..1 weighs frames, stature in m."""

    deformation: Deformation
    visible: Mapping[str, bool]
    stature: float = 1.7
    confidence: np.ndarray | None = None


class MotionCodec(nn.Module):
    """E_X and the decoder. Latent slices are `slices[region]` (body without head; `slices["trunk"]` is both)."""

    carriers: Tensor
    lips_upper: Tensor
    lips_lower: Tensor
    head_to_body: Tensor

    def __init__(
        self, config: CodecConfig, n_particles: int, sizes: Mapping[str, int], lips: int, carriers: int
    ) -> None:
        super().__init__()
        self.config, self.n_particles = config, n_particles
        if not 0 < config.head_dims < config.body_dims:
            raise UserError(
                f"codec: expected 0 < head_dims < body_dims, found {config.head_dims}, {config.body_dims}"
            )
        dims = {"head": config.head_dims, "body": config.body_dims - config.head_dims}
        dims |= {"face": config.face_dims, "hand": config.hand_dims}
        codecs = {}
        for r in REGIONS:
            channels = config.channels if r in DECODED else ()
            extra = 0 if r == "head" else config.extra_dims
            codecs[r] = RegionCodec(
                carriers if r == "head" else sizes[r], dims[r], extra, config.residual_hidden, channels,
                config.body_dims if r == "body" else dims[r],
            )  # fmt: skip
        self.regions = nn.ModuleDict(codecs)
        starts = np.cumsum([0, *dims.values()])
        self.slices = {r: slice(int(a), int(b)) for r, a, b in zip(REGIONS, starts, starts[1:], strict=False)}
        self.slices["trunk"] = slice(0, config.body_dims)
        self.dims = int(starts[-1])
        starts = np.cumsum([0, *(len(self.region(r).std) for r in REGIONS)])
        self.bases = {r: slice(int(a), int(b)) for r, a, b in zip(REGIONS, starts, starts[1:], strict=False)}
        self.register_buffer("carriers", torch.zeros(carriers, dtype=torch.int64))  # skull: body region rows
        self.register_buffer("head_to_body", torch.zeros(config.head_dims + 1, sizes["body"] * 3))  # metres
        self.register_buffer("lips_upper", torch.zeros(lips, dtype=torch.int64))  # face region rows
        self.register_buffer("lips_lower", torch.zeros(lips, dtype=torch.int64))

    def scale(self, region: str, stature: float) -> float:
        """What offsets of a region are divided by before encoding: the person's stature over 1.7 m; 1 for the face."""
        return stature / 1.7 if self.config.body_per_stature and region != "face" else 1.0

    def encode(
        self, deformation: Deformation, stature: float = 1.7, visible: Mapping[str, bool] | None = None
    ) -> Tensor:
        """E_X: dG of T frames -> x (T,D). Regions that are not visible give zeros, the population mean."""
        visible = visible or dict.fromkeys(REGIONS, True)
        x = self.from_coefficients(self.coefficients(deformation, stature, visible))
        return torch.where(self.latent_mask(visible), x, 0.0)

    def coefficients(
        self, deformation: Deformation, stature: float = 1.7, visible: Mapping[str, bool] | None = None
    ) -> Tensor:
        """dG of T frames -> whitened coefficients (T,C) of all regions' bases, `bases[region]`; 0 of a region not visible."""
        visible = visible or dict.fromkeys(REGIONS, True)
        offsets = deformation.mean_offset
        out = offsets.new_zeros(len(offsets), self.bases["hand"].stop)
        for region in REGIONS:
            if not visible[region]:
                continue
            codec = self.region(region)
            part = offsets[:, codec.index] / self.scale(region, stature)
            if region == "body":
                head = self.region("head").encode_coefficients(out[:, self.bases["head"]])
                part = part - self.body_from_head(head if visible["head"] else torch.zeros_like(head))
            out[:, self.bases[region]] = codec.coefficients(part)
        return out

    def from_coefficients(self, coefficients: Tensor) -> Tensor:
        """The networks of E_X: coefficients (...,C) -> x (...,D), as if all regions were visible."""
        return torch.cat(
            [self.region(r).encode_coefficients(coefficients[..., self.bases[r]]) for r in REGIONS], -1
        )

    def decode(self, x: Tensor, stature: float = 1.7) -> Deformation:
        """Latents (T,D) -> dG of T frames, differentiable."""
        parts, channels = {}, self.config.channels
        for region in DECODED:
            codec = self.region(region)
            offsets = codec.decode_offsets(x[:, self.slices[region]])
            if region == "body":
                offsets = offsets + self.body_from_head(x[:, self.slices["head"]])
            parts[region] = {"mean_offset": offsets * self.scale(region, stature)}
            reads = x[:, self.slices["trunk" if region == "body" else region]]
            parts[region] |= {c: codec.decode_channel(c, reads) for c in channels}
        order = torch.cat([self.region(r).index for r in DECODED])
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        names = ("mean_offset", *channels)
        merged = {name: torch.cat([parts[r][name] for r in DECODED], 1)[:, inverse] for name in names}
        if "rotation" not in merged:
            merged["rotation"] = torch.zeros_like(merged["mean_offset"])
        return Deformation(**merged)

    def aperture(self, x: Tensor) -> Tensor:
        """Change in metres of the vertical lip gap against the identity's rest: x (...,D) -> (...). Linear part."""
        row, bias = self.aperture_row()
        return x[..., self.slices["face"]] @ row + bias

    def aperture_row(self) -> tuple[Tensor, Tensor]:
        """The linear functional behind aperture: weights (K_face,) and constant, metres."""
        codec = self.region("face")

        def vertical(table: Tensor) -> Tensor:
            z = (table / codec.weight).unflatten(-1, (-1, 3))[..., 2]
            return z[..., self.lips_upper].mean(-1) - z[..., self.lips_lower].mean(-1)

        return vertical(codec.basis[: codec.dims] * codec.std[: codec.dims, None]), vertical(codec.mean)

    def neutral(self) -> Tensor:
        """Latents (D,) of the canonical pose (no deformation)."""
        zero = self.head_to_body.new_zeros(1, self.n_particles, 3)
        return self.encode(Deformation(zero, zero))[0].detach()

    def latent_mask(self, visible: Mapping[str, bool]) -> Tensor:
        """(D,) bool: the latents that a clip with this `visible` gives."""
        out = torch.zeros(self.dims, dtype=torch.bool, device=self.head_to_body.device)
        for region in REGIONS:
            out[self.slices[region]] = bool(visible[region])
        return out

    def loss_metric(self, visible: Mapping[str, bool], region_weights: Mapping[str, float]) -> Tensor:
        """(D,D) matrix M such that |M e|^2 is the particle-space error of a latent error e over what is shown.

        Relative to the region's own variance: an error as large as the motion itself gives the region's weight.
        """
        metric = self.head_to_body.new_zeros(self.dims, self.dims)
        for region in REGIONS:
            if visible[region]:
                codec, part = self.region(region), self.slices[region]
                # The head's small components are its nods: by variance alone its sway would hide them.
                variance = codec.std[: codec.dims] ** (1 if region == "head" else 2)
                metric[part, part] = torch.diag((region_weights[region] * variance / variance.sum()).sqrt())
        return metric

    def lips_metric(self) -> Tensor:
        """As loss_metric, of the lip particles only."""
        codec, part = self.region("face"), self.slices["face"]
        rows = _rows(codec, torch.cat([self.lips_upper, self.lips_lower]))
        lips = rows.T @ rows
        metric = self.head_to_body.new_zeros(self.dims, self.dims)
        metric[part, part] = _psd_root(lips / lips.trace().clamp_min(1e-12))
        return metric

    def region(self, name: str) -> RegionCodec:
        """The codec of one of REGIONS."""
        return self.regions[name]  # type: ignore[return-value]

    def body_from_head(self, head: Tensor) -> Tensor:
        """What the head's latents (T,K_head) say of the body particles' offsets, (T,P,3) metres."""
        return (head @ self.head_to_body[:-1] + self.head_to_body[-1]).unflatten(-1, (-1, 3))

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """State for a safetensors file, and its JSON-able description."""
        sizes = {r: len(self.region(r).index) for r in DECODED}
        config = asdict(self.config)
        about = {
            "config": config,
            "n_particles": self.n_particles,
            "sizes": sizes,
            "lips": len(self.lips_upper),
            "carriers": len(self.carriers),
        }
        return {k: v.contiguous() for k, v in self.state_dict().items()}, about

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], about: Mapping) -> MotionCodec:
        """The inverse of `tensors`, in eval mode."""
        config = CodecConfig(**about["config"])
        with torch.device("cpu"):
            codec = cls(config, about["n_particles"], about["sizes"], about["lips"], about["carriers"])
        codec.load_state_dict(dict(tensors))
        return codec.eval()


def _rows(codec: RegionCodec, particles: Tensor) -> Tensor:
    """Rows (3n,K) of the weighted offsets of some particles per unit of whitened latent."""
    flat = (particles[:, None] * 3 + torch.arange(3, device=particles.device)).flatten()
    return (codec.basis[: codec.dims, flat] * codec.std[: codec.dims, None]).T


def _psd_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return (vectors * values.clamp_min(0).sqrt()).T.float()
