"""Images in and out: reading what users give without trusting it, PNGs with stable bytes, contact sheets.

Pixels are sRGB display values, float32 in [0, 1], (H, W, 3), or uint8.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_SIDE = 8192
MIN_SIDE = 64
GREY = 0.75


def read_image(
    path: str | os.PathLike,
    *,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
    alpha: Literal["composite", "error"] = "composite",
    background: float = GREY,
) -> np.ndarray:
    """Read a picture -> (H, W, 3) float32 in [0, 1], upright by its EXIF tag.

    A transparent picture is laid over `background` grey, or refused with `alpha="error"`; one with nothing opaque is refused.
    Raises UserError: missing, not a picture, damaged or cut off, a side under `min_side` or over `max_side`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: expected an image file, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                width, height = (
                    opened.size
                )  # from the header: nothing is decoded before the size is known to be sane
                if min(width, height) < min_side or max(width, height) > max_side:
                    raise UserError(
                        f"{path}: expected sides of {min_side} to {max_side} px, found {width} x {height} px"
                    )
                opened.load()
                picture = ImageOps.exif_transpose(opened)
                transparent = "A" in picture.getbands() or "transparency" in picture.info
                rgba = _to_float(picture.convert("RGBA"))
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise UserError(
            f"{path}: expected an image ({', '.join(FORMATS)}), found {size} bytes of something else"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: expected sides of {min_side} to {max_side} px, found far more pixels"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: expected a whole image, found a damaged or truncated one ({error})"
        ) from None
    color, opacity = rgba[..., :3], rgba[..., 3:]
    if transparent and opacity.mean() < 0.005:
        raise UserError(f"{path}: expected a visible picture, found a fully transparent one")
    if transparent and alpha == "error" and opacity.min() < 1:
        raise UserError(f"{path}: expected an opaque picture, found transparent pixels")
    return np.ascontiguousarray(color * opacity + background * (1 - opacity), dtype=np.float32)


def _to_float(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.uint8).astype(np.float32) / 255.0


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float [0, 1] -> uint8, rounded and clipped; uint8 passes through."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return (np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5).astype(np.uint8)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W, 3 or 4) or (H, W), float or uint8, atomically; equal pixels give equal bytes."""
    with atomic_file(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary, format="PNG", compress_level=6)


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a matplotlib figure that was drawn with the agg backend as a PNG, and close it."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(figure.canvas, FigureCanvasAgg), 'call matplotlib.use("agg") first'
    figure.tight_layout()
    figure.canvas.draw()
    write_png(path, np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)


def contact_sheet(
    path: str | os.PathLike,
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 6,
    cell: int = 192,
    title: str = "",
) -> None:
    """Write a grid of pictures (each fitted into `cell` px) with captions to a PNG.

    images: (H, W, 3) or (H, W), float or uint8, sizes may differ. Long captions are cut to the cell.
    """
    captions = list(captions) if captions is not None else [""] * len(images)
    assert len(captions) == len(images), "one caption a picture"
    line = 16
    caption_height = line * max([1 + c.count("\n") for c in captions if c], default=0)
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    top = 28 if title else 6
    sheet = Image.new(
        "RGB", (columns * (cell + 6) + 6, top + rows * (cell + caption_height + 6)), (250, 250, 250)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    if title:
        draw.text((6, 6), title, fill=(20, 20, 20), font=ImageFont.load_default(size=16))
    for k, (image, caption) in enumerate(zip(images, captions)):
        x, y = 6 + (k % columns) * (cell + 6), top + (k // columns) * (cell + caption_height + 6)
        picture = Image.fromarray(to_uint8(image)).convert("RGB")
        picture = ImageOps.contain(picture, (cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        for j, text in enumerate(caption.split("\n")):
            while text and draw.textlength(text, font=font) > cell:
                text = text[:-2] + "." if len(text) > 2 else ""
            draw.text((x, y + cell + 1 + line * j), text, fill=(20, 20, 20), font=font)
    write_png(path, np.asarray(sheet))
