"""Canonical Gaussians: a person in the shared relaxed pose, as files of ours and as a PLY for any splat viewer.

The first N particles are the shared layout (same index = same place on every person); S shell particles for hair and
clothes that stand off the body follow, each rigid with the base particle it is anchored to.

Legend: N base particles, S shell particles, K neighbours.
Source: AudioAvatar section "Particle-based Gaussian Deformation Field"; PLY layout of Kerbl et al., "3D Gaussian Splatting
for Real-Time Radiance Field Rendering" (SIGGRAPH 2023).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import numpy as np

from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera
from avatar_core.io.atomic import write_bytes
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint
from avatar_core.particles.background import Backdrop, Background, Room
from avatar_core.particles.splats import PORTRAIT_BLUR, Splats

SH_DEGREE_0 = 0.28209479177387814  # the constant spherical harmonic: rgb = 0.5 + SH_DEGREE_0 * f_dc


@dataclass(frozen=True)
class Canonical:
    """means (N+S,3) m, quats (N+S,4) wxyz, log_scales (N+S,3) log m, logit_opacities (N+S,), colors (N+S,3) sRGB;
    region (N+S,) uint8 as in the layout; anchor (N+S,) int32 base particle that it follows (base particles: themselves);
    knn (N+S,K) int32 neighbours in the canonical pose; shape (B,) template shape coefficients; stature in metres; pixel:
    metres of the person that one pixel of the fitted portrait covers. stance (B,3): rotation vectors of the template's bones in
    the portrait, see `stance`; freedom (2,): how far the left and the right arm may gesture from there, 0 to 1.
    """

    means: np.ndarray
    quats: np.ndarray
    log_scales: np.ndarray
    logit_opacities: np.ndarray
    colors: np.ndarray
    region: np.ndarray
    anchor: np.ndarray
    knn: np.ndarray
    shape: np.ndarray
    n_base: int
    stature: float
    pixel: float
    background: Backdrop
    stance: np.ndarray
    freedom: np.ndarray

    def __len__(self) -> int:
        return len(self.means)

    def eps2d(self, camera: Camera) -> float:
        """The renderer's eps2d (px^2) for a view of this avatar; of the first frame where K is one for each."""
        viewmat = camera.viewmat
        depth = float(np.mean(self.means[: self.n_base] @ viewmat[2, :3] + viewmat[2, 3]))
        return view_blur(float(camera.K[..., 0, 0].flat[0]) * self.pixel / depth)

    def splats(self) -> Splats:
        """The avatar at rest."""
        return Splats.activated(self.means, self.quats, self.log_scales, self.logit_opacities, self.colors)


def view_blur(scale: float) -> float:
    """eps2d (px^2) of a view whose pixels are 1 / scale of the portrait's, for particles fitted under PORTRAIT_BLUR.

    The fitted particles assume PORTRAIT_BLUR, so it scales with the avatar's size in the picture; a constant blur would take
    detail from views from further away. A coarser view adds the width of its own pixels, a box of variance 1/12 each way.
    After the 3D smoothing filter of Mip-Splatting (Yu et al., CVPR 2024).
    Locked by test_blur_is_the_portraits_at_the_portraits_distance.
    """
    return PORTRAIT_BLUR * scale**2 + max(0.0, 1 - scale**2) / 12


_NUMBERS = ("n_base", "stature", "pixel")
_ARRAYS = tuple(f.name for f in fields(Canonical) if f.name not in (*_NUMBERS, "background"))


def save_canonical(path: str | os.PathLike, canonical: Canonical) -> None:
    """Write `path` (.safetensors) and its JSON sidecar."""
    tensors = {name: np.ascontiguousarray(getattr(canonical, name)) for name in _ARRAYS}
    behind = canonical.background
    stored = behind.pixels if isinstance(behind, Room) else behind.coefficients
    tensors["background"] = np.ascontiguousarray(stored)
    numbers = {
        "n_base": int(canonical.n_base),
        "stature": float(canonical.stature),
        "pixel": float(canonical.pixel),
    }
    save_checkpoint(path, tensors, config=numbers)


def load_canonical(path: str | os.PathLike) -> Canonical:
    """Read what `save_canonical` wrote. Raises UserError naming the file."""
    tensors, sidecar = load_checkpoint(path, hint="run `dvc repro fit` or `avatar personalise`")
    try:
        arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        numbers = {name: sidecar["config"][name] for name in _NUMBERS}
        behind = tensors["background"].numpy()
        background = Room(behind) if behind.ndim == 3 else Background(behind)
        return Canonical(**arrays, **numbers, background=background)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a canonical avatar of this version, found none of {error}"
        ) from None


def write_ply(path: str | os.PathLike, canonical: Canonical) -> None:
    """Write the avatar in the layout of the original 3D Gaussian splatting code.

    Splat viewers take y as down (the camera's convention of that code's data), so the world (Z up, facing -Y) is turned
    to x right, y down, z away from the viewer: the avatar stands upright and faces the viewer.
    """
    # x stays, y_ply = -z (down), z_ply = y (the person faces -Y, that is towards the viewer at negative z).
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)
    quat_turn = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])  # +90 degrees about x
    means = canonical.means @ turn.T
    w, x, y, z = canonical.quats.T
    a, b = quat_turn[:2]
    quats = np.stack([a * w - b * x, a * x + b * w, a * y - b * z, a * z + b * y], 1)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True) + 1e-12
    columns = {
        **dict(zip("xyz", means.T, strict=True)),
        **{n: np.zeros(len(means)) for n in ("nx", "ny", "nz")},
        **{f"f_dc_{k}": (canonical.colors[:, k] - 0.5) / SH_DEGREE_0 for k in range(3)},
        "opacity": canonical.logit_opacities,
        **{f"scale_{k}": canonical.log_scales[:, k] for k in range(3)},
        **{f"rot_{k}": quats[:, k] for k in range(4)},
    }
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(means)}"]
    header += [f"property float {name}" for name in columns] + ["end_header", ""]
    body = np.stack([np.asarray(v, "<f4") for v in columns.values()], 1).tobytes()
    write_bytes(path, "\n".join(header).encode("ascii") + body)
