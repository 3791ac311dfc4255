"""Text in pictures that can be read in every script: captions carry people's names and sentences.

Letters come from DejaVu Sans (in matplotlib) and, where it has none, from the font that OpenCV 5 carries (WenQuanYi Micro Hei:
Chinese, Japanese, Korean). A character that neither has is written as its number, "U+0928", never as an empty box.
"""

from __future__ import annotations

import functools
import unicodedata
from itertools import groupby
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.cache
def _dejavu(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(DEJAVU), size)


@functools.cache
def _dejavu_has() -> frozenset[int]:
    return frozenset(FT2Font(str(DEJAVU)).get_charmap())


@functools.cache
def _wenquanyi() -> cv2.FontFace:
    return cv2.FontFace("uni")


@functools.cache
def _wenquanyi_has(character: str) -> bool:
    """Whether the font has it: what it lacks, it draws as a question mark."""
    return not np.array_equal(_draw_wenquanyi(character, 24), _draw_wenquanyi("?", 24))


def _draw_wenquanyi(text: str, size: int) -> np.ndarray:
    width = cv2.putText(np.zeros((1, 1, 3), np.uint8), text, (0, 0), (0, 0, 0), _wenquanyi(), size)[0][0]
    canvas = np.zeros((_height(size), max(1, width) + size, 3), np.uint8)
    cv2.putText(canvas, text, (0, _baseline(size)), (255, 255, 255), _wenquanyi(), size)
    return canvas[:, : max(1, width), 0]


def _draw_dejavu(text: str, size: int) -> np.ndarray:
    font = _dejavu(size)
    canvas = Image.new("L", (max(1, round(font.getlength(text))), _height(size)))
    ImageDraw.Draw(canvas).text((0, _baseline(size)), text, fill=255, font=font, anchor="ls")
    return np.asarray(canvas)


def _height(size: int) -> int:
    return round(1.4 * size)


def _baseline(size: int) -> int:
    return round(1.05 * size)


def number(character: str) -> str:
    """How a character that no font has is written: "U+0928"."""
    return f"U+{ord(character):04X} "


def for_figures(text: str) -> str:
    """`text` for a matplotlib figure, whose font is DejaVu alone: what it lacks as numbers."""
    text = unicodedata.normalize("NFC", text)
    return "".join(c if ord(c) in _dejavu_has() or c.isspace() else number(c) for c in text)


def draw_line(text: str, size: int) -> np.ndarray:
    """One line of text, letters of `size` px -> its ink, (1.4 size, W) uint8: 0 nothing .. 255 full."""
    parts = []
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            continue  # directions, joiners: nothing to see
        if ord(character) in _dejavu_has():
            parts.append((_draw_dejavu, character))
        elif _wenquanyi_has(character):
            parts.append((_draw_wenquanyi, character))
        else:
            parts.append((_draw_dejavu, number(character)))
    runs = [
        draw("".join(piece for _, piece in run), size)
        for draw, run in groupby(parts, key=lambda part: part[0])
    ]
    return np.concatenate(runs or [np.zeros((_height(size), 1), np.uint8)], axis=1)


def fit_line(text: str, size: int, width: int) -> np.ndarray:
    """As `draw_line`; a text wider than `width` px loses its end, and a full stop says so."""
    ink = draw_line(text, size)
    while ink.shape[1] > width and len(text) > 1:
        keep = max(1, min(len(text) - 1, round(len(text) * width / ink.shape[1])))
        text = text[:keep]
        ink = draw_line(text.rstrip() + ".", size)
    return ink[:, :width]
