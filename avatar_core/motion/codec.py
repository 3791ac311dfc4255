"""Motion codec: E_X from the deformation dG of a frame to a short latent x = [body | face | hand], and back.

Per region a principal basis of the offsets in their local frames (body in the world, face in the head's frame, hands in
the wrists'), whitened, with a small residual network on either side that starts at zero: at these sizes a
linear map is nearly all there is to gain (paper section "Audio-Particle Motion Embedding", E_X and its MLP decoder).
The decoder also predicts the particles' rotations and colours, by ridge regression on the latents.

Clips see different parts of a person. A clip says by `valid` which of body, head, face, hand it shows; a region that
is not shown takes no part in the basis or in any loss. Where only the head of the body is seen (a face view), the body
latents are the most probable ones given the skull's motion, and losses look at the skull alone.

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

REGIONS = ("body", "face", "hand")
VALID_KEYS = ("body", "head", "face", "hand")
FRAMES_OF = {"body": (WORLD,), "face": (HEAD,), "hand": (WRIST_LEFT, WRIST_RIGHT)}
CHANNEL_SIZE = {"rotation": 3, "log_scale": 3, "logit_opacity": 1, "color": 3}


@dataclass(frozen=True)
class CodecConfig:
    body_dims: int = 24
    face_dims: int = 32
    hand_dims: int = 8
    extra_dims: int = 16  # components only the residual decoder reaches
    lips_weight: float = 2.0
    lips_radius: float = 0.03  # m, fall-off of the lip weight
    face_depth_weight: float = 0.5  # one camera sees depth (y) worst
    balance: float = 0.01  # m: body particles that move more count less, so arms do not drown the head
    head_weight: float = 2.0  # the skull carries the face's frame
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

    def __init__(self, n_particles: int, dims: int, extra: int, hidden: int, channels: Sequence[str]):
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
            self.register_buffer(f"map_{name}", torch.zeros(dims + 1, n_particles * CHANNEL_SIZE[name]))
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
    """E_X and the decoder. Latent slices are `slices[region]`; encode and decode never mix regions."""

    carriers: Tensor
    lips_upper: Tensor
    lips_lower: Tensor

    def __init__(
        self, config: CodecConfig, n_particles: int, sizes: Mapping[str, int], lips: int, carriers: int
    ):
        super().__init__()
        self.config, self.n_particles = config, n_particles
        dims = {r: getattr(config, f"{r}_dims") for r in REGIONS}
        self.regions = nn.ModuleDict(
            {
                r: RegionCodec(sizes[r], dims[r], config.extra_dims, config.residual_hidden, config.channels)
                for r in REGIONS
            }
        )
        starts = np.cumsum([0, *dims.values()])
        self.slices = {r: slice(int(a), int(b)) for r, a, b in zip(REGIONS, starts, starts[1:], strict=False)}
        self.dims = int(starts[-1])
        self.register_buffer(
            "carriers", torch.zeros(carriers, dtype=torch.int64)
        )  # skull, rows of the body region
        self.register_buffer("lips_upper", torch.zeros(lips, dtype=torch.int64))  # rows of the face region
        self.register_buffer("lips_lower", torch.zeros(lips, dtype=torch.int64))

    def _scale(self, region: str, stature: float) -> float:
        return stature / 1.7 if self.config.body_per_stature and region != "face" else 1.0

    def encode(
        self, deformation: Deformation, stature: float = 1.7, valid: Mapping[str, bool] | None = None
    ) -> Tensor:
        """E_X: dG of T frames -> x (T,D). Regions that are not valid give zeros, the population mean."""
        valid = valid or dict.fromkeys(VALID_KEYS, True)
        offsets = deformation.torch().mean_offset
        x = offsets.new_zeros(len(offsets), self.dims)
        for region in REGIONS:
            codec = self._region(region)
            part = offsets[:, codec.index] / self._scale(region, stature)
            if valid[region]:
                x[:, self.slices[region]] = codec.encode_coefficients(codec.coefficients(part))
            elif region == "body" and valid["head"]:
                x[:, self.slices[region]] = self._body_from_head(part[:, self.carriers])
        return x

    def decode(self, x: Tensor, stature: float = 1.7) -> Deformation:
        """Latents (T,D) -> dG of T frames, differentiable."""
        parts, size = {}, {"mean_offset": 3} | {c: CHANNEL_SIZE[c] for c in self.config.channels}
        for region in REGIONS:
            codec, part = self._region(region), x[:, self.slices[region]]
            parts[region] = {"mean_offset": codec.decode_offsets(part) * self._scale(region, stature)}
            parts[region] |= {c: codec.decode_channel(c, part) for c in self.config.channels}
        order = torch.cat([self._region(r).index for r in REGIONS])
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        merged = {name: torch.cat([parts[r][name] for r in REGIONS], 1)[:, inverse] for name in size}
        if "rotation" not in merged:
            merged["rotation"] = torch.zeros_like(merged["mean_offset"])
        return Deformation(**merged)

    def aperture(self, x: Tensor) -> Tensor:
        """Change in metres of the vertical lip gap against the identity's rest: x (...,D) -> (...). Linear part."""
        row, bias = self._aperture_row()
        return x[..., self.slices["face"]] @ row + bias

    def neutral(self) -> Tensor:
        """Latents (D,) of the canonical pose (no deformation)."""
        out = torch.zeros(self.dims)
        for region in REGIONS:
            codec = self._region(region)
            zero = torch.zeros(1, len(codec.index), 3, device=codec.mean.device)
            out[self.slices[region]] = codec.encode_coefficients(codec.coefficients(zero))[0].detach()
        return out

    def loss_factor(self, valid: Mapping[str, bool], region_weights: Mapping[str, float]) -> Tensor:
        """(D,D) matrix M such that |M e|^2 is the particle-space error of a latent error e over what is shown.

        A valid region counts its components by variance, relative to its first one; of a body that shows only
        the head, the skull's motion counts. A clip that shows nothing gives zeros.
        """
        factor = torch.zeros(self.dims, self.dims)
        for region in REGIONS:
            codec, part, scale = self._region(region), self.slices[region], region_weights[region] ** 0.5
            std = codec.std[: codec.dims]
            if valid[region]:
                factor[part, part] = torch.diag(std / std[0]) * scale
            elif region == "body" and valid["head"]:
                rows = self._head_rows()
                factor[part, part] = _psd_root(rows.T @ rows) / std[0] * scale
        return factor

    def lips_factor(self) -> Tensor:
        """As loss_factor, of the lip particles only."""
        codec, part = self._region("face"), self.slices["face"]
        lips = torch.cat([self.lips_upper, self.lips_lower])
        rows = _rows(codec, lips)
        share = len(codec.index) / len(lips)  # as if every face particle moved like these
        factor = torch.zeros(self.dims, self.dims)
        factor[part, part] = _psd_root(rows.T @ rows * share**0.5) / codec.std[0]
        return factor

    def _region(self, name: str) -> RegionCodec:
        return self.regions[name]  # type: ignore[return-value]

    def _aperture_row(self) -> tuple[Tensor, Tensor]:
        codec = self._region("face")

        def vertical(table: Tensor) -> Tensor:
            z = (table / codec.weight).unflatten(-1, (-1, 3))[..., 2]
            return z[..., self.lips_upper].mean(-1) - z[..., self.lips_lower].mean(-1)

        return vertical(codec.basis[: codec.dims] * codec.std[: codec.dims, None]), vertical(codec.mean)

    def _head_rows(self) -> Tensor:
        return _rows(self._region("body"), self.carriers)

    def _body_from_head(self, offsets: Tensor, noise: float = 0.002) -> Tensor:
        """Posterior mean of the whitened body latents given skull offsets (T,C,3) with `noise` metres of error."""
        codec, rows = self._region("body"), self._head_rows()
        flat = (self.carriers[:, None] * 3 + torch.arange(3)).flatten()
        seen = offsets.flatten(1) * codec.weight[flat] - codec.mean[flat]
        # The skull is one rigid body: its many points carry about as much evidence as six independent ones.
        variance = (noise * codec.weight[flat].mean()) ** 2 * len(flat) / 6
        normal = rows.T @ rows + variance * torch.eye(codec.dims)
        return torch.linalg.solve(normal, (seen @ rows).T).T

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """State for a safetensors file, and its JSON-able description."""
        sizes = {r: len(self._region(r).index) for r in REGIONS}
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
    index = {r: np.flatnonzero(np.isin(frame, FRAMES_OF[r])) for r in REGIONS}
    lips = {
        k: np.searchsorted(index["face"], np.asarray(getattr(layout, k)))
        for k in ("lips_upper", "lips_lower")
    }
    n_lips = min(len(v) for v in lips.values())
    head = layout.carriers[HEAD] if HEAD in layout.carriers else layout.carriers["head"]
    carriers = np.searchsorted(index["body"], np.sort(np.asarray(head)))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        codec = MotionCodec(config, len(frame), {r: len(index[r]) for r in REGIONS}, n_lips, len(carriers))
    codec.carriers.copy_(torch.from_numpy(carriers))
    codec.lips_upper.copy_(torch.from_numpy(lips["lips_upper"][:n_lips]))
    codec.lips_lower.copy_(torch.from_numpy(lips["lips_lower"][:n_lips]))

    samples = _collect(codec, clips, index, config)
    positions = torch.from_numpy(np.asarray(layout.template_positions)).float()
    for step, region in enumerate(REGIONS):
        if progress:
            progress(step / len(REGIONS), f"basis of {region}")
        part, rows = codec._region(region), samples[region]
        if rows["mean_offset"].numel() == 0:
            raise UserError(
                f"no clip shows the region '{region}' (valid is false everywhere): cannot fit its basis"
            )
        part.index.copy_(torch.from_numpy(index[region]))
        part.weight.copy_(_weights(codec, region, positions[index[region]], rows["mean_offset"]).flatten())
        fit_region(part, rows, config)
    return codec.eval()


def fit_region(part: RegionCodec, rows: Mapping[str, Tensor], config: CodecConfig) -> None:
    """Fill one region's basis and maps from rows: mean_offset (n,P,3), channels (n,P,c), clip (n,), weight (n,)."""
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
        for name in config.channels:
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
                scale = codec._scale(region, clip.stature) if name == "mean_offset" else 1.0
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
        weight[codec.carriers] *= config.head_weight
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
