"""What a photograph's file tells about its lens."""

from __future__ import annotations

import math
import os

from PIL import Image

EXIF_IFD, FOCAL_35MM = 0x8769, 0xA405
FILM_DIAGONAL_MM = 43.27
LEAST_DEG, MOST_DEG = 4.0, 110.0


def field_of_view(path: str | os.PathLike) -> float | None:
    """Degrees across the picture's longer side by EXIF FocalLengthIn35mmFilm; None where the file does not tell a usable one."""
    try:
        with Image.open(path) as picture:
            focal = float(picture.getexif().get_ifd(EXIF_IFD).get(FOCAL_35MM, 0))
            width, height = picture.size
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None  # whoever reads the pixels says what is wrong with the file
    if not focal > 0:
        return None
    longer = FILM_DIAGONAL_MM * max(width, height) / math.hypot(width, height)
    degrees = math.degrees(2 * math.atan(longer / 2 / focal))
    return degrees if LEAST_DEG < degrees < MOST_DEG else None
