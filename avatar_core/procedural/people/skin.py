"""Skin texture painted procedurally on Anny's UV layout: tone, flush, lips, brows, stubble, nails, scalp tint.

Every texel knows its template-space position, so strokes are written as functions of space and follow any identity.
Returns linear RGB plus a gloss multiplier, float32 (1024, 1024, 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from avatar_core.procedural.people.body_model import load_body_model
from avatar_core.procedural.people.noise import bump, linear_rgb, noise_at, smoothstep
from avatar_core.procedural.people.regions import limb_maps, regions, scalp


@lru_cache(maxsize=16)
def _noise_map(fx: float, fy: float, fz: float) -> np.ndarray:
    return noise_at(load_body_model().position_map, fx, fy, fz)


def _brows(thickness: float, arch: float) -> np.ndarray:
    """Brow coverage: an arc above each eye, thinning outwards, broken up by noise that runs along the hairs."""
    model, r = load_body_model(), regions()
    p = model.position_map
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    out = np.zeros(p.shape[:2], np.float32)
    for side, sign in (("l", 1), ("r", -1)):
        eye = r.eye[side]
        u = x * sign - abs(eye[0])
        line = eye[2] + 0.0185 + arch * (0.0045 * np.cos((u - 0.008) * 75) - 0.0045)
        half = thickness * 0.0046 * np.clip(1.05 - 0.70 * smoothstep(0.0, 0.034, u), 0.2, 1)
        distance = np.abs(z - line) + 0.0010 * _noise_map(900, 0, 250)
        inside = 1 - np.clip((distance - half * 0.45) / (half * 0.70), 0, 1)
        out = np.maximum(out, inside * smoothstep(-0.0185, -0.0135, u) * (1 - smoothstep(0.024, 0.033, u)))
    front = (y < r.eye["l"][1] + 0.005) & (model.masks["face"] > 0.02)
    return out * front * (0.80 + 0.20 * np.clip(_noise_map(1400, 300, 500) * 1.5 + 0.5, 0, 1))


def _flush(tone: np.ndarray, blush: float) -> np.ndarray:
    """Redness of cheeks, nose, ears, chin, hands and feet."""
    model, r = load_body_model(), regions()
    p, eye = model.position_map, r.eye["l"]
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    front = y < eye[1]
    red = np.zeros(p.shape[:2], np.float32)
    for side in "lr":
        e = r.eye[side]
        red += 0.85 * bump(x - e[0] * 1.35, 0.020) * bump(z - (e[2] - 0.035), 0.020) * (y < e[1] + 0.02)
    red += 0.8 * bump(x, 0.014) * bump(z - (eye[2] - 0.035), 0.016) * front
    red += 0.55 * model.masks["ears"] + 0.30 * bump(x, 0.03) * bump(z - (r.lips[2] - 0.03), 0.012) * front
    hand, foot = limb_maps()
    red += 0.35 * np.clip(hand + foot, 0, 1)
    red = np.clip(red * (1 + 0.4 * _noise_map(25, 25, 25)), 0, 1.2) * blush
    return red * (0.5 + 0.5 * float(tone.mean()) / 0.35)


def paint_skin(look: Mapping) -> np.ndarray:
    """look: skin, hair_color, lips (sRGB 0..255) and the scalars brow, arch, stubble, freckles, roughness, blush,
    eye_shadow, receding, bald."""
    model, r = load_body_model(), regions()
    p, masks = model.position_map, model.masks
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    eye = r.eye["l"]
    tone, hair = linear_rgb(look["skin"]), linear_rgb(look["hair_color"])
    rough = look["roughness"]
    out = np.empty((*p.shape[:2], 4), np.float32)
    rgb, gloss = out[..., :3], out[..., 3]

    def mix(weight: np.ndarray, color: np.ndarray) -> None:
        rgb[...] += (color - rgb) * weight[..., None]

    mottled = 1 + 0.05 * _noise_map(8, 8, 8) + 0.05 * _noise_map(25, 25, 25)
    mottled = mottled + rough * (0.04 * _noise_map(90, 90, 90) + 0.03 * _noise_map(300, 300, 300))
    rgb[...] = tone * mottled[..., None]
    rgb[...] *= 1 - _flush(tone, look["blush"])[..., None] * np.array([0.02, 0.20, 0.17], np.float32)
    socket = np.zeros(p.shape[:2], np.float32)
    for side in "lr":
        e = r.eye[side]
        socket += bump(x - e[0], 0.020) * bump(z - e[2] + 0.002, 0.013) * (y < e[1] + 0.01)
    rgb[...] *= 1 - socket[..., None] * np.array([0.16, 0.22, 0.20], np.float32)
    if look["eye_shadow"]:
        mix(masks["eyelids"] * look["eye_shadow"], linear_rgb(look["eye_shadow_color"]))
    lip_color = linear_rgb(look["lips"]) * (0.93 + 0.14 * _noise_map(500, 60, 60))[..., None]
    mix(masks["lips"] * 0.92, lip_color)
    gloss[...] = 0.75 + 0.9 * masks["lips"] + 0.35 * bump(x, 0.02) * (y < eye[1]) * (z > r.lips[2] + 0.01)
    nails = np.clip(masks["fingernails"] + masks["toenails"], 0, 1)
    mix(0.7 * nails, np.clip(tone * 1.15 + np.array([0.10, 0.05, 0.05], np.float32), 0, 1))
    gloss[...] += 1.5 * nails
    mouth = masks["inside-mouth"]
    mix(mouth, linear_rgb((120, 45, 45)) * 0.5)
    if look["stubble"]:
        beard = 1 - smoothstep(
            r.lips[2] + 0.006, r.lips[2] + 0.02, z - 0.55 * np.maximum(np.abs(x) - 0.03, 0)
        )
        beard = (
            beard
            * smoothstep(r.lips[2] - 0.075, r.lips[2] - 0.05, z)
            * (y < 0.02 + r.head_y)
            * (1 - masks["lips"])
        )
        grain = np.clip(0.7 + 0.3 * _noise_map(300, 300, 300) + 0.4 * _noise_map(900, 900, 900), 0, 1)
        mix(0.5 * look["stubble"] * beard * grain, 0.6 * hair + 0.12 * tone)
    mix(_brows(look["brow"], look["arch"]) * 0.88, hair * 0.55 + tone * 0.10)
    if look["freckles"]:
        spots = (_noise_map(300, 300, 300) > 0.55) * masks["face"] * bump(z - (eye[2] - 0.035), 0.035)
        rgb[...] *= 1 - 0.25 * look["freckles"] * spots[..., None]
    covered = scalp(p, look["receding"]) * (0.12 if look["bald"] else 0.9)
    mix(covered, hair * 0.5 + tone * 0.08)
    gloss[...] *= 1 - 0.8 * covered
    np.clip(rgb, 0, 1, out=rgb)
    return out
