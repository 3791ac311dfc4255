"""Framings: cameras that show the face, the upper body, the whole body, or a portrait from mid-thigh up."""

from __future__ import annotations

import numpy as np

from avatar_core.geometry.camera import Camera, look_at
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


def framing_camera(vertices: np.ndarray, framing: str, size: int | None = None) -> Camera:
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
    fov = 2 * np.degrees(np.arctan2(view / 2, distance))
    return look_at((x, y - distance, z), (x, y, z), float(fov), size, size)
