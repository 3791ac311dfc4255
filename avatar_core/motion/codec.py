"""Motion codec: E_X from the deformation dG of a frame to a short latent x = [head, body | face | hand], and back.

Per region a principal basis of the offsets in their local frames (body in the world, face in the head's frame, hands in
the wrists'), whitened, with a small residual network on either side that starts at zero: at these sizes a
linear map is nearly all there is to gain (paper section "Audio-Particle Motion Embedding", E_X and its MLP decoder).
The head's own motion, read from the skull, comes first; the body basis holds what the head does not explain.
The decoder also predicts the particles' rotations and colours, by ridge regression on the latents.

Clips see different parts of a person. A clip says by `valid` which of body, head, face, hand it shows; latents of a
region that is not shown are zero, and `shown` marks those that mean something. A face view still shows the head move.

Shapes: T frames, N particles, P particles of a region, K latents of a region, E extra components that only the
residual decoder uses, D all latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.errors import UserError
from avatar_core.motion.frames import HEAD, WORLD, WRIST_LEFT, WRIST_RIGHT, Deformation
from avatar_core.motion.pca import fit_pca, ridge

REGIONS = ("head", "body", "face", "hand")  # order of the latents
VALID_KEYS = REGIONS
DECODED = ("body", "face", "hand")  # together every particle once; the head's are part of the body's
FRAMES_OF = {"body": (WORLD,), "face": (HEAD,), "hand": (WRIST_LEFT, WRIST_RIGHT)}
CHANNEL_SIZE = {"rotation": 3, "log_scale": 3, "logit_opacity": 1, "color": 3}


@dataclass(frozen=True)
class CodecConfig:
    body_dims: int = 24  # with head_dims of them for the head
    head_dims: int = 8
    face_dims: int = 32
    hand_dims: int = 8
    extra_dims: int = 16  # components only the residual decoder reaches
    lips_weight: float = 2.0
    lips_radius: float = 0.03  # m, fall-off of the lip weight
    face_depth_weight: float = 0.5  # one camera sees depth (y) worst
    balance: float = 0.01  # m: body particles that move more count less, so arms do not drown the trunk
    channels: tuple[str, ...] = ("rotation", "color")
    ridge: float = 0.1
    max_frames: int = 1200  # per region, subsampled evenly
    body_per_stature: bool = True  # body and hand offsets scale with stature / 1.7 m
    residual_hidden: int = 128
    residual_steps: int = 300
    seed: int = 0


@dataclass(frozen=True)
class ClipMotion:
    """One clip's dG with what it shows: valid has VALID_KEYS, confidence (T,) in 0..1 weighs frames, stature in m."""

    deformation: Deformation
    valid: Mapping[str, bool]
    stature: float = 1.7
    confidence: np.ndarray | None = None


class RegionCodec(nn.Module):
    """Linear basis, whitening and residual networks of one region."""

    index: Tensor
    mean: Tensor
    weight: Tensor
    basis: Tensor
    std: Tensor

    def __init__(
        self, n_particles: int, dims: int, extra: int, hidden: int, channels: Sequence[str], channel_dims: int
    ):
        super().__init__()
        self.dims, self.channels = dims, tuple(channels)
        self.register_buffer("index", torch.zeros(n_particles, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(n_particles * 3))  # weighted metres
        self.register_buffer("weight", torch.ones(n_particles * 3))
        self.register_buffer(
            "basis", torch.zeros(dims + extra, n_particles * 3)
        )  # orthonormal, weighted metres
        self.register_buffer("std", torch.ones(dims + extra))
        for name in self.channels:
            self.register_buffer(
                f"map_{name}", torch.zeros(channel_dims + 1, n_particles * CHANNEL_SIZE[name])
            )
        self.encoder_residual = _zero_mlp(dims + extra, hidden, dims)
        self.decoder_residual = _zero_mlp(dims, hidden, dims + extra)

    def coefficients(self, offsets: Tensor) -> Tensor:
        """Offsets (T,P,3) -> whitened coefficients (T,K+E)."""
        return ((offsets.flatten(1) * self.weight - self.mean) @ self.basis.T) / self.std

    def encode_coefficients(self, coefficients: Tensor) -> Tensor:
        return coefficients[..., : self.dims] + self.encoder_residual(coefficients)

    def decode_coefficients(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, len(self.std) - self.dims)) + self.decoder_residual(x)

    def decode_offsets(self, x: Tensor) -> Tensor:
        """Latents (T,K) -> offsets (T,P,3) in metres."""
        flat = (self.decode_coefficients(x) * self.std) @ self.basis + self.mean
        return (flat / self.weight).unflatten(-1, (-1, 3))

    def decode_channel(self, name: str, x: Tensor) -> Tensor:
        table = getattr(self, f"map_{name}")
        flat = x @ table[:-1] + table[-1]
        return flat if CHANNEL_SIZE[name] == 1 else flat.unflatten(-1, (-1, 3))


class MotionCodec(nn.Module):
    """E_X and the decoder. Latent slices are `slices[region]` (body without head; `slices["trunk"]` is both)."""

    carriers: Tensor
    lips_upper: Tensor
    lips_lower: Tensor
    head_to_body: Tensor

    def __init__(
        self, config: CodecConfig, n_particles: int, sizes: Mapping[str, int], lips: int, carriers: int
    ):
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
        self.register_buffer("carriers", torch.zeros(carriers, dtype=torch.int64))  # skull: body region rows
        self.register_buffer("head_to_body", torch.zeros(config.head_dims + 1, sizes["body"] * 3))  # metres
        self.register_buffer("lips_upper", torch.zeros(lips, dtype=torch.int64))  # face region rows
        self.register_buffer("lips_lower", torch.zeros(lips, dtype=torch.int64))

    def scale(self, region: str, stature: float) -> float:
        return stature / 1.7 if self.config.body_per_stature and region != "face" else 1.0

    def encode(
        self, deformation: Deformation, stature: float = 1.7, valid: Mapping[str, bool] | None = None
    ) -> Tensor:
        """E_X: dG of T frames -> x (T,D). Regions that are not valid give zeros, the population mean."""
        valid = valid or dict.fromkeys(VALID_KEYS, True)
        offsets = deformation.torch().mean_offset
        x = offsets.new_zeros(len(offsets), self.dims)
        for region in REGIONS:
            if not valid[region]:
                continue
            codec = self.region(region)
            part = offsets[:, codec.index] / self.scale(region, stature)
            if region == "body":
                part = part - self.body_from_head(x[:, self.slices["head"]])
            x[:, self.slices[region]] = codec.encode_coefficients(codec.coefficients(part))
        return x

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
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
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
        zero = torch.zeros(1, self.n_particles, 3)
        return self.encode(Deformation(zero, zero))[0].detach()

    def shown(self, valid: Mapping[str, bool]) -> Tensor:
        """(D,) bool: the latents that a clip with this `valid` gives."""
        out = torch.zeros(self.dims, dtype=torch.bool)
        for region in REGIONS:
            out[self.slices[region]] = bool(valid[region])
        return out

    def loss_factor(self, valid: Mapping[str, bool], region_weights: Mapping[str, float]) -> Tensor:
        """(D,D) matrix M such that |M e|^2 is the particle-space error of a latent error e over what is shown.

        Relative to the region's own variance: an error as large as the motion itself gives the region's weight.
        """
        factor = torch.zeros(self.dims, self.dims)
        for region in REGIONS:
            if valid[region]:
                codec, part = self.region(region), self.slices[region]
                # The head's small components are its nods: by variance alone its sway would hide them.
                variance = codec.std[: codec.dims] ** (1 if region == "head" else 2)
                factor[part, part] = torch.diag((region_weights[region] * variance / variance.sum()).sqrt())
        return factor

    def lips_factor(self) -> Tensor:
        """As loss_factor, of the lip particles only."""
        codec, part = self.region("face"), self.slices["face"]
        rows = _rows(codec, torch.cat([self.lips_upper, self.lips_lower]))
        lips = rows.T @ rows
        factor = torch.zeros(self.dims, self.dims)
        factor[part, part] = _psd_root(lips / lips.trace().clamp_min(1e-12))
        return factor

    def region(self, name: str) -> RegionCodec:
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
        config = CodecConfig(**{**about["config"], "channels": tuple(about["config"]["channels"])})
        codec = cls(config, about["n_particles"], about["sizes"], about["lips"], about["carriers"])
        codec.load_state_dict(dict(tensors))
        return codec.eval()


def fit_codec(
    clips: Sequence[ClipMotion],
    layout,
    config: CodecConfig = CodecConfig(),
    progress: Callable[[float, str], None] | None = None,
) -> MotionCodec:
    """Basis, whitening and channel maps from clips (read once, one at a time), then the residual networks.

    `clips` may be any sequence that loads a clip when indexed. A region that no clip shows raises UserError.
    """
    frame = np.asarray(layout.frame)
    index = {r: np.flatnonzero(np.isin(frame, FRAMES_OF[r])) for r in DECODED}
    lips = {
        k: np.searchsorted(index["face"], np.asarray(getattr(layout, k)))
        for k in ("lips_upper", "lips_lower")
    }
    n_lips = min(len(v) for v in lips.values())
    head = layout.carriers[HEAD] if HEAD in layout.carriers else layout.carriers["head"]
    index["head"] = np.sort(np.asarray(head)).astype(np.int64)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        sizes = {r: len(index[r]) for r in DECODED}
        codec = MotionCodec(config, len(frame), sizes, n_lips, len(index["head"]))
    codec.carriers.copy_(torch.from_numpy(np.searchsorted(index["body"], index["head"])))
    codec.lips_upper.copy_(torch.from_numpy(lips["lips_upper"][:n_lips]))
    codec.lips_lower.copy_(torch.from_numpy(lips["lips_lower"][:n_lips]))

    samples = _collect(codec, clips, index, config)
    positions = torch.from_numpy(np.asarray(layout.template_positions)).float()
    for step, region in enumerate(REGIONS):
        if progress:
            progress(step / len(REGIONS), f"basis of {region}")
        part, rows = codec.region(region), samples[region]
        if rows["mean_offset"].numel() == 0:
            raise UserError(
                f"no clip shows the region '{region}' (valid is false everywhere): cannot fit its basis"
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
        fit_region(part, rows, config, reads)
    return codec.eval()


def fit_region(
    part: RegionCodec, rows: Mapping[str, Tensor], config: CodecConfig, reads: Tensor | None = None
) -> None:
    """Fill one region's basis and maps from rows: mean_offset (n,P,3), channels (n,P,c), clip (n,), weight (n,).

    reads (n,K') are latents of another region that the channels may use too.
    """
    flat = rows["mean_offset"].flatten(1) * part.weight
    mean, basis, std = fit_pca(flat, len(part.std), rows["weight"], seed=config.seed)
    part.mean.copy_(mean)
    part.basis.copy_(basis)
    part.std.copy_(std)
    coefficients = ((flat - mean) @ basis.T) / std
    held_out = rows["clip"] % 6 == 5
    if config.residual_steps > 0 and held_out.any() and not held_out.all():
        _train_residual(part, coefficients, held_out, config)
    with torch.no_grad():
        x = part.encode_coefficients(coefficients)
        x = x if reads is None else torch.cat([reads, x], 1)
        for name in part.channels:
            if name in rows:
                getattr(part, f"map_{name}").copy_(
                    ridge(x, rows[name].flatten(1), config.ridge, rows["weight"])
                )


def _collect(codec: MotionCodec, clips: Sequence[ClipMotion], index: Mapping, config: CodecConfig) -> dict:
    """Evenly subsampled frames of every region: tensors keyed by channel, plus clip number and weight."""
    found: dict = {
        r: {"mean_offset": [], "clip": [], "weight": []} | {c: [] for c in config.channels} for r in REGIONS
    }
    for number in range(len(clips)):
        clip = clips[number]
        total = len(clip.deformation)
        confidence = (
            np.ones(total, np.float32) if clip.confidence is None else np.asarray(clip.confidence, np.float32)
        )
        for region in REGIONS:
            if not clip.valid[region]:
                continue
            quota = max(8, 2 * config.max_frames // max(1, len(clips)))
            frames = np.unique(np.linspace(0, total - 1, min(total, quota)).round().astype(int))
            values = found[region]
            for name in ("mean_offset", *config.channels):
                value = getattr(clip.deformation, name)
                if value is None:
                    continue
                if isinstance(value, Tensor):
                    value = value.detach().numpy()
                part = torch.from_numpy(np.asarray(value[frames], np.float32)[:, index[region]])
                scale = codec.scale(region, clip.stature) if name == "mean_offset" else 1.0
                values[name].append(part / scale)
            values["clip"].append(torch.full((len(frames),), number))
            values["weight"].append(torch.from_numpy(confidence[frames]))
    out = {}
    for region, values in found.items():
        n = sum(len(w) for w in values["weight"])
        keep = torch.linspace(0, max(n - 1, 0), min(n, config.max_frames)).round().long()
        full = {k: torch.cat(v) for k, v in values.items() if v and sum(map(len, v)) == n}
        out[region] = {k: v[keep] for k, v in full.items()} or {"mean_offset": torch.zeros(0)}
    return out


def _weights(codec: MotionCodec, region: str, positions: Tensor, offsets: Tensor) -> Tensor:
    """Weights (P,3) of the offsets in the least-squares basis."""
    config, weight = codec.config, torch.ones(len(positions), 3)
    if region == "face":
        mouth = positions[torch.cat([codec.lips_upper, codec.lips_lower])].mean(0)
        near = torch.exp(-((positions - mouth).square().sum(-1)) / config.lips_radius**2)
        weight *= (1 + (config.lips_weight - 1) * near)[:, None]
        weight[:, 1] *= config.face_depth_weight
    elif region == "body":
        rms = offsets.square().sum(-1).mean(0).sqrt()
        weight *= (config.balance / (rms + config.balance)).sqrt()[:, None]
    return weight


def _train_residual(part: RegionCodec, coefficients: Tensor, held_out: Tensor, config: CodecConfig) -> None:
    """Auto-encoder on the coefficients; keeps the networks only where they help on held-out clips."""
    generator = torch.Generator().manual_seed(config.seed)
    modules = nn.ModuleList([part.encoder_residual, part.decoder_residual])
    start = {k: v.clone() for k, v in modules.state_dict().items()}
    energy = part.std.square() / part.std.square().sum()
    train, test = coefficients[~held_out], coefficients[held_out]

    def error(c: Tensor) -> Tensor:
        return ((part.decode_coefficients(part.encode_coefficients(c)) - c).square() * energy).sum(-1).mean()

    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3, weight_decay=0.05)
    before = float(error(test).detach())
    for _ in range(config.residual_steps):
        batch = train[torch.randint(len(train), (256,), generator=generator)]
        optimizer.zero_grad()
        loss = error(batch)
        loss.backward()
        optimizer.step()
    if not float(error(test).detach()) < before:
        modules.load_state_dict(start)


def _rows(codec: RegionCodec, particles: Tensor) -> Tensor:
    """Rows (3n,K) of the weighted offsets of some particles per unit of whitened latent."""
    flat = (particles[:, None] * 3 + torch.arange(3)).flatten()
    return (codec.basis[: codec.dims, flat] * codec.std[: codec.dims, None]).T


def _psd_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return (vectors * values.clamp_min(0).sqrt()).T.float()


def _zero_mlp(dims_in: int, hidden: int, dims_out: int) -> nn.Sequential:
    last = nn.Linear(hidden, dims_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dims_in, hidden), nn.GELU(), last)
