"""Images in and out: reading what users give without trusting it, PNGs with stable bytes, contact sheets in any script.

Pixels are sRGB display values, float32 in [0, 1], (H, W, 3), or uint8.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_file
from avatar_core.io.colour import to_rgba
from avatar_core.io.kinds import check_is_file, describe, kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "JPEG2000")
MAX_SIDE = 16_384  # telephones have 200 megapixels: 16320 x 12240
MAX_PIXELS = 128_000_000  # decoded whole; a JPEG is shrunk while it is decoded and may have more
WORKING_SIDE = 4096
MIN_SIDE = 64
GREY = 0.75
HINTS = {
    "HEIC": "save it as JPEG or PNG first (iPhone: Settings, Camera, Formats, Most Compatible)",
    "video": "save one of its frames as PNG first",
}
BOMB_CHECK = threading.Lock()


def read_image(
    path: str | os.PathLike,
    *,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
    alpha: Literal["composite", "error"] = "composite",
    background: float = GREY,
) -> np.ndarray:
    """Read a picture -> (H, W, 3) float32 in [0, 1]: sRGB by its colour profile, upright by its EXIF tag, the first of several.

    One larger than `WORKING_SIDE` is shrunk to it. A transparent picture is laid over `background` grey, or refused with
    `alpha="error"`; one with nothing opaque is refused. Raises UserError: missing, not a picture, damaged or cut off, a side under
    `min_side` or over `max_side`.
    """
    path = Path(path)
    check_is_file(path, "an image file")
    try:
        with _open(path) as opened:
            # from the header: nothing is decoded before the size is known to be sane
            width, height = opened.size
            whole = opened.format in ("JPEG", "MPO") or width * height <= MAX_PIXELS
            if min(width, height) < min_side or max(width, height) > max_side or not whole:
                limit = "" if whole else f" and {MAX_PIXELS // 1_000_000} megapixels at most"
                raise UserError(
                    f"{path}: expected sides of {min_side} to {max_side} px{limit}, found {width} x {height} px"
                )
            if 50706 in getattr(opened, "tag_v2", {}):  # DNGVersion
                raise UserError(
                    f"{path}: expected a developed picture, found a camera's raw one; export it as JPEG"
                )
            picture = _upright(opened)
            transparent = "A" in picture.getbands() or "a" in picture.mode or "transparency" in picture.info
            rgba = np.asarray(to_rgba(picture, path)).astype(np.float32) / 255.0
    except UnidentifiedImageError:
        raise UserError(f"{path}: expected an image ({', '.join(FORMATS)}), found {_other(path)}") from None
    except MemoryError:
        raise UserError(f"{path}: expected a picture that fits into memory, found a larger one") from None
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, struct.error) as error:
        raise UserError(
            f"{path}: expected a whole image, found a damaged or truncated one ({error})"
        ) from None
    color, opacity = rgba[..., :3], rgba[..., 3:]
    if transparent and opacity.mean() < 0.005:
        raise UserError(f"{path}: expected a visible picture, found a fully transparent one")
    if transparent and alpha == "error" and opacity.min() < 1:
        raise UserError(f"{path}: expected an opaque picture, found transparent pixels")
    return np.ascontiguousarray(color * opacity + background * (1 - opacity), dtype=np.float32)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """A picture whose header is read. Pillow's own limit of pixels is a global; `read_image` has its own."""
    with BOMB_CHECK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that Pillow cannot read
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with opened:
        yield opened


def _upright(opened: Image.Image) -> Image.Image:
    """Decode, shrunk to `WORKING_SIDE` (a JPEG while it is decoded), upright."""
    scale = min(1.0, WORKING_SIDE / max(opened.size))
    size = max(1, round(opened.width * scale)), max(1, round(opened.height * scale))
    if scale < 1:
        opened.draft(None, size)
    opened.load()
    ImageOps.exif_transpose(opened, in_place=True)
    if max(opened.size) <= WORKING_SIDE:
        return opened
    picture, info = opened, opened.info
    if picture.mode in ("P", "1", "PA"):  # colours are mixed, numbers of a palette are not
        picture = picture.convert("RGBA" if "transparency" in info else "RGB")
    scale = WORKING_SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    picture.info = info
    return picture


def _other(path: Path) -> str:
    kind = kind_of(path)
    if kind is None:
        return f"{path.stat().st_size} bytes of something else"
    hint = HINTS.get(kind.name) or HINTS.get(kind.medium)
    return describe(path) + (f": {hint}" if hint else "")


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
    from avatar_core.io.letters import fit_line

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
    ink = (20, 20, 20)
    if title:
        sheet.paste(ink, (6, 4), Image.fromarray(fit_line(title, 16, sheet.width - 12)))
    for k, (image, caption) in enumerate(zip(images, captions)):
        x, y = 6 + (k % columns) * (cell + 6), top + (k // columns) * (cell + caption_height + 6)
        picture = Image.fromarray(to_uint8(image)).convert("RGB")
        picture = ImageOps.contain(picture, (cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        for j, text in enumerate(caption.split("\n")):
            sheet.paste(ink, (x, y + cell + 1 + line * j), Image.fromarray(fit_line(text, 11, cell)))
    write_png(path, np.asarray(sheet))
