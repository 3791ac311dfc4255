"""Image augmentation for the critics' training: crops, colour, softness, noise, JPEG and splat artefacts.

All functions take and give float32 RGB (H,W,3) in [0,1] and a numpy generator; nothing depends on global
state, so a batch is a function of (seed, step). Similarities are 2x3 matrices from source to target pixels
with pixel centres at +0.5.

Legend: H W pixels, K keypoints, S side of a square crop.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32, or uint8 where said
_NOISE = np.random.default_rng(20240).standard_normal(1 << 21).astype(np.float32)
_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])


def as_float(images: NDArray) -> NDArray[np.float32]:
    """Images of uint8 or of floats in [0,1] -> float32 in [0,1]."""
    return images * np.float32(1 / 255) if images.dtype == np.uint8 else images.astype(np.float32)


def crop_matrix(centre: NDArray, side: float, size: int, angle: float = 0.0) -> NDArray[np.float64]:
    """Similarity (2,3) that maps a square of `side` source pixels round `centre` onto size x size pixels.

    `angle` in radians turns the crop window clockwise on screen.
    """
    scale = size / side
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[c, s], [-s, c]])
    return np.concatenate([linear, (size / 2 - linear @ np.asarray(centre, float))[:, None]], 1)


def apply_matrix(matrix: NDArray, points: NDArray) -> NDArray:
    """Points (...,2) through a similarity (2,3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert_matrix(matrix: NDArray) -> NDArray[np.float64]:
    """Inverse of a similarity (2,3)."""
    return np.linalg.inv(np.concatenate([matrix, [[0.0, 0.0, 1.0]]], 0))[:2]


def warp(image: Array, matrix: NDArray, size: int, flat: tuple[float, ...] | None = None) -> Array:
    """Resample image (H,W[,C]) to (size,size[,C]); a blur first where the image shrinks, so nothing aliases."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.67:
        # Blur only what the crop sees: portraits may be large.
        corners = apply_matrix(
            invert_matrix(matrix), np.array([[0, 0], [size, 0], [0, size], [size, size]], float)
        )
        margin = 4 / scale
        x0, y0 = np.maximum(np.floor(corners.min(0) - margin), 0).astype(int)
        x1, y1 = np.ceil(corners.max(0) + margin).astype(int)
        x0, y0 = min(x0, image.shape[1] - 1), min(y0, image.shape[0] - 1)
        image = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        matrix = np.concatenate([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ [x0, y0])[:, None]], 1)
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * (1 / scale - 0.5), borderType=cv2.BORDER_REPLICATE)
    # OpenCV counts pixel centres at integers; we count them at +0.5.
    shifted = (np.linalg.inv(_HALF) @ np.concatenate([matrix, [[0, 0, 1.0]]], 0) @ _HALF)[:2]
    mode = cv2.BORDER_REPLICATE if flat is None else cv2.BORDER_CONSTANT
    return cv2.warpAffine(
        np.ascontiguousarray(image),
        shifted,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=mode,
        borderValue=flat or (0.0, 0.0, 0.0),
    )


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal noise from a fixed bank (drawing it anew would cost more than the net)."""
    count = int(np.prod(shape))
    start = int(rng.integers(0, _NOISE.size - count))
    return _NOISE[start : start + count].reshape(shape)


def background(rng: np.random.Generator, size: int) -> Array:
    """Random backdrop (S,S,3): plain, gradient, blobs, stripes or rectangles."""
    base = rng.uniform(0, 1, 3)
    kind = rng.integers(0, 5)
    if kind == 0:
        return np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
    if kind == 4:
        image = np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
        for _ in range(int(rng.integers(3, 14))):
            x, y = rng.integers(0, size, 2)
            w, h = rng.integers(4, max(5, size // 2), 2)
            colour = tuple(float(v) for v in rng.uniform(0, 1, 3))
            if rng.random() < 0.5:
                cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
            else:
                cv2.ellipse(
                    image,
                    (int(x), int(y)),
                    (int(w // 2), int(h // 2)),
                    float(rng.uniform(0, 180)),
                    0,
                    360,
                    colour,
                    -1,
                )
        return image
    cells = 2 if kind == 1 else int(rng.integers(3, 12))
    grid = np.clip(base + rng.normal(0, 0.25, (cells, cells, 3)), 0, 1).astype(np.float32)
    if kind == 3:
        grid = np.clip(base + rng.normal(0, 0.3, (1, cells, 3)), 0, 1).astype(np.float32).repeat(cells, 0)
    mode = cv2.INTER_NEAREST if kind == 3 and rng.random() < 0.5 else cv2.INTER_CUBIC
    return np.clip(cv2.resize(grid, (size, size), interpolation=mode), 0, 1)


def composite(image: Array, alpha: Array, flat: float, backdrop: Array) -> Array:
    """Swap the flat grey `flat` behind image (S,S,3) with coverage alpha (S,S) for `backdrop`."""
    through = cv2.merge([1 - alpha] * 3)
    return cv2.add(image, cv2.multiply(through, backdrop - np.float32(flat)))


def colour(image: Array, rng: np.random.Generator, strength: float = 1.0) -> Array:
    """Gain, offset, gamma, cast, saturation."""
    gain = np.exp(rng.normal(0, 0.15 * strength)) * np.exp(rng.normal(0, 0.06 * strength, 3))
    offset = rng.normal(0, 0.05 * strength)
    gamma = np.exp(rng.normal(0, 0.15 * strength))
    saturation = np.exp(rng.normal(0, 0.25 * strength))
    # One 3x4 colour matrix: saturation round the grey axis, then gain and offset.
    mix = gain[:, None] * (saturation * np.eye(3) + (1 - saturation) / 3)
    image = cv2.transform(image, np.concatenate([mix, np.full((3, 1), offset)], 1))
    return cv2.pow(np.clip(image, 0, 1, out=image), float(gamma))


def soften(image: Array, rng: np.random.Generator, most: float = 2.0) -> Array:
    """Gaussian blur, or down- and upsampling, as a small face in a frame or a splat render has."""
    size = image.shape[0]
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, most)))
    small = max(8, int(size / rng.uniform(1.2, 1 + most)))
    low = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(low, (size, size), interpolation=cv2.INTER_LINEAR)


def jpeg(image: Array, quality: int) -> Array:
    """JPEG round trip at `quality` 1..100."""
    data = np.clip(image[..., ::-1] * 255 + 0.5, 0, 255).astype(np.uint8)
    _, code = cv2.imencode(".jpg", data, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255


def splats(image: Array, rng: np.random.Generator, count: int, colours: str = "near") -> Array:
    """Blend `count` soft anisotropic blobs over the image, as stray Gaussians do.

    `near`: colour picked from the image elsewhere (floaters); `dark`: holes that show a flat colour.
    """
    size = image.shape[0]
    out = image.copy()
    flat = rng.uniform(0, 1, 3)
    for _ in range(count):
        centre = rng.uniform(0, size, 2)
        radius = np.exp(rng.uniform(np.log(0.008), np.log(0.05), 2)) * size
        angle = rng.uniform(0, np.pi)
        extent = int(np.ceil(3 * radius.max()))
        x0, x1 = max(int(centre[0]) - extent, 0), min(int(centre[0]) + extent + 1, size)
        y0, y1 = max(int(centre[1]) - extent, 0), min(int(centre[1]) + extent + 1, size)
        if x1 <= x0 or y1 <= y0:
            continue
        dx = np.arange(x0, x1)[None] - centre[0]
        dy = np.arange(y0, y1)[:, None] - centre[1]
        u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius[0]
        v = (-np.sin(angle) * dx + np.cos(angle) * dy) / radius[1]
        alpha = (rng.uniform(0.3, 1.0) * np.exp(-0.5 * (u * u + v * v)))[..., None].astype(np.float32)
        if colours == "near":
            at = rng.integers(0, size, 2)
            shade = image[at[1], at[0]] + rng.normal(0, 0.08, 3)
        else:
            shade = flat
        out[y0:y1, x0:x1] = (1 - alpha) * out[y0:y1, x0:x1] + alpha * shade.astype(np.float32)
    return np.clip(out, 0, 1)


def photometric(image: Array, rng: np.random.Generator, hard: float = 1.0) -> Array:
    """The usual mix for the keypoint, identity and sync critics: colour, softness, noise, JPEG, few splats."""
    image = colour(image, rng, hard)
    if rng.random() < 0.5:
        image = soften(image, rng, 1.0 + 1.2 * hard)
    if rng.random() < 0.15:
        image = splats(image, rng, int(rng.integers(1, 25)))
    if rng.random() < 0.5:
        image = cv2.scaleAdd(noise(rng, image.shape), float(rng.uniform(0, 0.05 * hard)), image)
    if rng.random() < 0.2:
        image = jpeg(image, int(rng.integers(25, 95)))
    return np.clip(image, 0, 1).astype(np.float32)
