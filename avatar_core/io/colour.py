"""From what a picture file holds to sRGB display values: bit depths, colour models, ICC profiles.

Decoded pictures are PIL's. A profile says what the numbers mean; without one they are sRGB, as browsers take them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from avatar_core.errors import UserError, warn

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# Adobe RGB (1998), section 4.3: gamma 563 / 256; to linear sRGB (both D65)
ADOBE_GAMMA = 563 / 256
ADOBE_TO_SRGB = np.array([[1.39836, -0.39836, 0.0], [0.0, 1.0, 0.0], [0.0, -0.04293, 1.04293]], np.float32)


def to_rgba(picture: Image.Image, path: Path) -> Image.Image:
    """A decoded picture of any mode -> mode RGBA, sRGB.

    Raises UserError when deep pixels are not finite. A profile that cannot be used is said (a warning) and left out.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode in DEEP_MODES:
        picture = _to_eight_bits(picture, path)
    if picture.mode in ("P", "PA", "1", "La", "RGBa", "LA", "RGBX", "HSV"):
        grey = picture.mode in ("1", "La", "LA")
        has_alpha = picture.mode in ("PA", "La", "RGBa", "LA") or "transparency" in picture.info
        picture = picture.convert(
            "LA" if grey and has_alpha else "L" if grey else "RGBA" if has_alpha else "RGB"
        )
    elif "transparency" in picture.info and picture.mode in ("L", "RGB"):
        picture = picture.convert("RGBA")  # one colour is the transparent one
    opacity = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    if opacity is not None:
        picture = picture.convert(picture.mode[:-1])
    if picture.mode in ("LAB", "CMYK") or profile:
        picture = _by_profile(picture, profile, path)
    elif _is_adobe_rgb(picture):
        picture = _from_adobe_rgb(picture)
    picture = picture.convert("RGB")
    picture.putalpha(opacity if opacity is not None else 255)
    return picture


def _to_eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """Grey of 16 or 32 bits, whole or real numbers, to mode L; the transparent level of a PNG, if it has one, to LA."""
    values = np.asarray(picture).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: expected finite pixels, found NaN or infinity")
    if picture.mode == "F":
        top = 1.0 if values.max(initial=0) <= 1.5 else 255.0 if values.max() <= 255 else 65535.0
    elif picture.mode == "I":
        top = 65535.0 if values.max(initial=0) <= 65535 else 2.0**31 - 1
    else:
        bits = getattr(picture, "tag_v2", {}).get(258, (16,))[0]  # TIFF's BitsPerSample: 12 in some cameras
        top = float(2**bits - 1)
    eight = Image.fromarray((np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8))
    level = picture.info.get("transparency")
    if isinstance(level, int):
        eight.putalpha(Image.fromarray(np.where(values == level, 0, 255).astype(np.uint8)))
    return eight


def _by_profile(picture: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """Mode L, RGB, CMYK or LAB -> RGB through its ICC profile; CMYK without one by Pillow's rule."""
    if picture.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        try:
            if profile is None:
                return picture.convert("RGB")
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(source):
                return picture
            space = profile[16:20].strip()  # the header's colour space
            if space == b"RGB" and picture.mode == "L":
                picture = picture.convert("RGB")  # a grey picture that kept its camera's profile
            elif space == b"GRAY" and picture.mode == "RGB":
                picture = picture.convert("L")
        except (OSError, ImageCms.PyCMSError) as error:
            warn(f"{path}: its colour profile is damaged ({error}); colours are taken as sRGB")
            return picture.convert("RGB")
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(
            picture,
            source,
            target,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError as error:
        warn(f"{path}: its colour profile does not fit its pixels ({error}); colours are taken as sRGB")
        return picture.convert("RGB")
    assert converted is not None
    return converted


def _is_adobe_rgb(picture: Image.Image) -> bool:
    """Cameras set to Adobe RGB embed no profile: they say so by the interoperability index R03 (DCF 2.0)."""
    return picture.mode == "RGB" and picture.getexif().get_ifd(0xA005).get(1) == "R03"


def _from_adobe_rgb(picture: Image.Image) -> Image.Image:
    linear = (np.arange(256, dtype=np.float32) / 255) ** ADOBE_GAMMA
    values = np.clip(linear[np.asarray(picture)] @ ADOBE_TO_SRGB.T, 0, 1)
    encoded = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return Image.fromarray((encoded * 255 + 0.5).astype(np.uint8))
