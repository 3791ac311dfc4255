"""One region of the motion codec: a whitened linear basis with residual networks, and the maps to other channels.

Shapes: n sampled frames, T frames, P particles of the region, K latents, E extra components that only the residual
decoder uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from avatar_core.embed.pca import fit_pca, ridge

CHANNEL_SIZE = {"rotation": 3, "color": 3}


class RegionCodec(nn.Module):
    """Linear basis, whitening and residual networks of one region."""

    index: Tensor
    mean: Tensor
    weight: Tensor
    basis: Tensor
    std: Tensor

    def __init__(
        self, n_particles: int, dims: int, extra: int, hidden: int, channels: Sequence[str], channel_dims: int
    ) -> None:
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
        """Whitened coefficients (...,K+E) -> latents (...,K)."""
        return coefficients[..., : self.dims] + self.encoder_residual(coefficients)

    def decode_coefficients(self, x: Tensor) -> Tensor:
        """Latents (...,K) -> whitened coefficients (...,K+E)."""
        return nn.functional.pad(x, (0, len(self.std) - self.dims)) + self.decoder_residual(x)

    def decode_offsets(self, x: Tensor) -> Tensor:
        """Latents (T,K) -> offsets (T,P,3) in metres."""
        flat = (self.decode_coefficients(x) * self.std) @ self.basis + self.mean
        return (flat / self.weight).unflatten(-1, (-1, 3))

    def decode_channel(self, name: str, x: Tensor) -> Tensor:
        """Latents (T,K) -> values (T,P,3) of the channel `name`."""
        table = getattr(self, f"map_{name}")
        flat = x @ table[:-1] + table[-1]
        return flat if CHANNEL_SIZE[name] == 1 else flat.unflatten(-1, (-1, 3))


def fit_region(
    part: RegionCodec,
    rows: Mapping[str, Tensor],
    *,
    ridge_strength: float,
    residual_steps: int,
    seed: int,
    reads: Tensor | None = None,
) -> None:
    """Fill one region's basis and maps from rows: mean_offset (n,P,3), channels (n,P,c), clip (n,), weight (n,).

    reads (n,K') are latents of another region that the channels may use too.
    """
    flat = rows["mean_offset"].flatten(1) * part.weight
    mean, basis, std = fit_pca(flat, len(part.std), rows["weight"], seed=seed)
    part.mean.copy_(mean)
    part.basis.copy_(basis)
    part.std.copy_(std)
    coefficients = ((flat - mean) @ basis.T) / std
    held_out = rows["clip"] % 6 == 5
    if residual_steps > 0 and held_out.any() and not held_out.all():
        _train_residual(part, coefficients, held_out, residual_steps, seed)
    with torch.no_grad():
        x = part.encode_coefficients(coefficients)
        x = x if reads is None else torch.cat([reads, x], 1)
        for name in part.channels:
            if name in rows:
                getattr(part, f"map_{name}").copy_(
                    ridge(x, rows[name].flatten(1), ridge_strength, rows["weight"])
                )


def _train_residual(part: RegionCodec, coefficients: Tensor, held_out: Tensor, steps: int, seed: int) -> None:
    """Auto-encoder on the coefficients; keeps the networks only where they help on held-out clips."""
    generator = torch.Generator().manual_seed(seed)
    device = coefficients.device
    modules = nn.ModuleList([part.encoder_residual, part.decoder_residual])
    start = {k: v.clone() for k, v in modules.state_dict().items()}
    energy = part.std.square() / part.std.square().sum()
    train, test = coefficients[~held_out], coefficients[held_out]

    def error(c: Tensor) -> Tensor:
        return ((part.decode_coefficients(part.encode_coefficients(c)) - c).square() * energy).sum(-1).mean()

    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3, weight_decay=0.05)
    before = float(error(test).detach())
    for _ in range(steps):
        batch = train[torch.randint(len(train), (256,), generator=generator, device="cpu").to(device)]
        optimizer.zero_grad()
        loss = error(batch)
        loss.backward()
        optimizer.step()
    if not float(error(test).detach()) < before:
        modules.load_state_dict(start)


def _zero_mlp(dims_in: int, hidden: int, dims_out: int) -> nn.Sequential:
    last = nn.Linear(hidden, dims_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dims_in, hidden), nn.GELU(), last)
