"""Framings: cameras that show the face, the upper body, the whole body, or a portrait from mid-thigh up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.geometry.camera import Camera, look_at, rolled
from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.people.body_model import load_body_model
from avatar_core.procedural.people.regions import regions

FRAMINGS = ("face", "waist_up", "full_body", "portrait")
DEFAULT_SIZE = {"face": 256, "waist_up": 256, "full_body": 256, "portrait": 768}
HEAD_SHARE = 0.60  # crown-to-chin height over image height in the face view


def head_span(vertices: np.ndarray) -> tuple[float, float]:
    """Heights (metres) of chin and crown of base.obj vertices (V, 3)."""
    model, r = load_body_model(), regions()
    head = np.nonzero(r.head[:BODY_VERTICES] > 0.5)[0]
    crown = float(vertices[head, 2].max())
    # The chin: lowest head vertex in front of the neck, near the middle.
    n = model.neutral[head]
    front = head[(np.abs(n[:, 0]) < 0.01) & (n[:, 1] < regions().neck_y - 0.03)]
    return float(vertices[front, 2].min()), crown


@dataclass(frozen=True)
class Shot:
    """How a camera differs from the framing's convention: times as far, degrees from above and rolled, shifted by shares of the
    view."""

    distance: float = 1.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)


def sample_shot(rng: np.random.Generator) -> Shot:
    """As people film: from nearer or farther, from a little above or below, not quite level, not quite centred."""
    return Shot(
        distance=float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)))),
        pitch=float(rng.uniform(-7, 7)),
        roll=float(np.clip(rng.normal(0, 1.5), -4, 4)),
        shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.015, 0.015))),
    )


def framing_camera(
    vertices: np.ndarray, framing: str, size: int | None = None, shot: Shot | None = None
) -> Camera:
    """Front camera for a person given as posed or rest base.obj vertices (V, 3).

    "face": the head, about 60 % of the image height; "waist_up": from the waist, room for gestures; "full_body";
    "portrait": mid-thigh up with both hands visible. Square images of `size` pixels.
    """
    if framing not in FRAMINGS:
        raise ValueError(f"framing: expected one of {', '.join(FRAMINGS)}, found {framing!r}")
    size = size or DEFAULT_SIZE[framing]
    chin, crown = head_span(vertices)
    head = crown - chin
    body = vertices[:BODY_VERTICES]
    floor = float(body[:, 2].min())
    stature = crown - floor
    x = float(vertices[np.nonzero(regions().head[:BODY_VERTICES] > 0.5)[0], 0].mean())
    if framing == "face":
        distance, view = 2.4, head / HEAD_SHARE
        z = chin + 0.48 * head
    elif framing == "waist_up":
        distance, view = 3.6, 0.58 * stature
        z = crown + 0.035 * stature - view / 2
    elif framing == "full_body":
        distance, view = 5.4, 1.14 * stature
        z = floor + 0.51 * stature
    else:
        distance, view = 4.2, 0.72 * stature
        z = crown + 0.045 * stature - view / 2
    y = float(np.median(body[:, 1]))
    shot = shot or Shot()
    distance *= shot.distance
    x, z = x + shot.shift[0] * view, z + shot.shift[1] * view
    fov = 2 * np.degrees(np.arctan2(view / 2, distance))
    pitch = np.radians(shot.pitch)
    eye = (x, y - distance * np.cos(pitch), z + distance * np.sin(pitch))
    camera = look_at(eye, (x, y, z), float(fov), size, size)
    return rolled(camera, shot.roll) if shot.roll else camera
