"""One procedural person before the critics' cameras: see `dataset` for what is rendered.

Images are stored with the pose and camera that made them; keypoints are computed from those afterwards
(`label_person`), so that a change of landmarks needs no new images.

Legend: T frames, B bones (104), V base.obj vertices (19,158).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_core.audio.features import log_mel_numpy
from avatar_core.geometry.camera import Camera
from avatar_core.procedural.people import Person, framing_camera
from avatar_core.procedural.performance import ARKIT_NAMES, BONE_INDEX, Performance, perform, sample_style
from avatar_core.recipes.critics.cameras import crop_to, shake_camera
from avatar_core.recipes.critics.poses import random_body, random_expression, random_head
from avatar_core.speech import Line, voice_names
from avatar_core.speech.espeak import synthesize

FLAT = 128  # grey level behind the people
KINDS = {"talk": (75, 192), "face": (28, 192), "body": (30, 256), "scene": (16, 160), "hand": (20, 112)}

Add = Callable[[str, dict[str, NDArray]], None]


def _array(pose: dict[str, NDArray]) -> NDArray[np.float32]:
    out = np.zeros((len(BONE_INDEX), 3), np.float32)
    for name, vector in pose.items():
        if name in BONE_INDEX:
            out[BONE_INDEX[name]] = vector
    return out


class _Studio:
    """A person, and the running record of what is shot."""

    def __init__(self, person: Person, add: Add) -> None:
        self.person, self.add = person, add

    def shoot(
        self,
        kind: str,
        camera: Camera,
        weights: NDArray,
        pose: NDArray,
        move: NDArray,
        flat: bool = True,
        **more: Any,
    ) -> None:
        """Render one frame and record it with all that made it. Off flat grey the coverage is stored as full."""
        grey = np.full(3, FLAT / 255, np.float32) if flat else None
        rgb, alpha = self.person.render(weights, pose, move, camera, supersample=2, background=grey)
        record = {
            "rgb": rgb,
            "alpha": alpha if flat else np.full_like(alpha, 255),
            "weights": weights.astype(np.float32),
            "pose": pose.astype(np.float32),
            "move": np.asarray(move, np.float32),
            "viewmat": camera.viewmat.astype(np.float32),
            "K": camera.K.astype(np.float32),
        }
        self.add(kind, record | {k: np.asarray(v) for k, v in more.items()})


def _speak(
    line: Line, rng: np.random.Generator, sex: str | None, frames: int, style_seed: int
) -> tuple[Any, Performance, int]:
    """A spoken line, its performance, and the first frame of a window of `frames` with speech in it."""
    voices = voice_names(split="critics", sex=sex) or voice_names(split="critics")
    voice = str(rng.choice(list(voices)))
    speech = synthesize(line.text, line.language, voice, rate=int(rng.integers(145, 195)))
    count = max(speech.num_frames, frames)
    acted = perform(speech, count, int(rng.integers(1 << 31)), sample_style(style_seed))
    start = int(rng.integers(0, count - frames + 1))
    return speech, acted, start


def render_person(identity: Any, lines: list[Line], rng: np.random.Generator, add: Add) -> dict[str, Any]:
    """Shoot one identity; `add(kind, record)` for each frame -> arrays and JSON-able facts of the person."""
    person = Person.build(identity)
    studio = _Studio(person, add)
    rest = person.vertices()
    joints = person.joints()
    head = joints["head"] + [0.0, -0.06, 0.08]
    still = np.zeros(3, np.float32)
    gender = str(identity.attributes.get("gender", identity.attributes.get("sex", "")))
    sex = gender if gender in ("male", "female") else None

    # A sentence seen close: lips in motion, with the sound that made them.
    frames, size = KINDS["talk"]
    speech, acted, start = _speak(lines[int(rng.integers(len(lines)))], rng, sex, frames, identity.seed)
    # The middle of the 256 px face view: the head as large as the pipeline shows it, no pixels spent on the rest.
    near = framing_camera(rest, "face", 256).crop(32, 32, size, size)
    camera = shake_camera(near, head, rng, 0.12, 0.06)
    lean = _array(random_head(rng, 0.4))
    for t in range(start, start + frames):
        studio.shoot("talk", camera, acted.face_weights[t], acted.rotvecs[t] + lean, acted.translation[t])
    mel = log_mel_numpy(np.pad(speech.audio, (0, max(0, len(acted.face_weights) * 640 - len(speech.audio)))))
    mel = mel[4 * start : 4 * (start + frames)].astype(np.float32)

    # Stills of the face: any mouth, any look, head turned.
    frames, _ = KINDS["face"]
    for k in range(frames):
        weights = random_expression(rng, ARKIT_NAMES)
        if k % 4 == 0:
            weights = acted.face_weights[int(rng.integers(len(acted.face_weights)))]
        pose = _array(random_head(rng, 1.0)) + acted.rotvecs[0] * 0.5
        camera = shake_camera(near, head, rng, 0.25, 0.08)
        studio.shoot("face", camera, weights, pose, still)

    # The whole person in every framing.
    frames, size = KINDS["body"]
    for k in range(frames):
        framing = ("waist_up", "portrait", "full_body", "waist_up", "portrait")[k % 5]
        if k % 3 == 0:
            t = int(rng.integers(len(acted.face_weights)))
            weights, pose, move = acted.face_weights[t], acted.rotvecs[t], acted.translation[t]
        else:
            weights, pose, move = random_expression(rng, ARKIT_NAMES), _array(random_body(rng, joints)), still
        pivot = np.array([0.0, 0.0, head[2] - 0.35])
        camera = shake_camera(framing_camera(rest, framing, size), pivot, rng, 0.3, 0.08)
        studio.shoot("body", camera, weights, pose, move, flat=k % 4 != 3)

    # A gesture sequence, with the pauses and strokes of the performance.
    frames, size = KINDS["scene"]
    first = int(rng.integers(0, len(acted.face_weights) - frames + 1))
    camera = shake_camera(framing_camera(rest, "waist_up", size), head, rng, 0.1, 0.05)
    for t in range(first, first + frames):
        studio.shoot("scene", camera, acted.face_weights[t], acted.rotvecs[t], acted.translation[t])

    # Hands from near.
    frames, size = KINDS["hand"]
    for k in range(frames):
        side = "L" if k % 2 else "R"
        if k % 5 == 0:
            pose = acted.rotvecs[int(rng.integers(len(acted.rotvecs)))].copy()
        else:
            pose = _array(random_body(rng, joints))
        posed = person.joints(pose, still)
        hand = np.stack(
            [p for n, p in posed.items() if n.endswith("." + side) and n.startswith(("finger", "wrist"))]
        )
        camera = framing_camera(rest, "waist_up", 256)
        camera = shake_camera(camera, hand.mean(0), rng, 0.5, 0.0)
        camera = crop_to(camera, hand, size, float(rng.uniform(1.7, 2.6)))
        studio.shoot("hand", camera, acted.face_weights[0], pose, still, left=side == "L")
    facts = {
        "identity": identity.id,
        "identity_seed": identity.seed,
        "attributes": identity.attributes,
        "voice": speech.voice,
        "language": speech.language,
    }
    return {"talk_mel": mel, **facts}


def label_person(identity: Any, arrays: dict[str, NDArray]) -> dict[str, NDArray[np.float32]]:
    """Records of one person -> `<kind>_xy` (T,K,2) true keypoints in pixels (behind the camera: far outside)."""
    from avatar_core.procedural.people.body_model import load_body_model, skin_transforms
    from avatar_core.procedural.people.identity import body_of
    from avatar_core.procedural.people.raster import add_scaled, skin_points
    from avatar_core.template.landmarks import keypoints_from_vertices

    model, rest = load_body_model(), body_of(identity)
    out = {}
    for kind in KINDS:
        labels = []
        for t in range(len(arrays[f"{kind}_rgb"])):
            transforms = skin_transforms(rest.heads, arrays[f"{kind}_pose"][t], arrays[f"{kind}_move"][t])
            points = rest.vertices.copy()
            add_scaled(points, model.action_vertices, model.actions, np.asarray(arrays[f"{kind}_weights"][t]))
            posed = np.empty_like(points)
            skin_points(points, model.weights_index, model.weights, transforms.astype(np.float32), posed)
            heads = (transforms[:, :, :3] @ rest.heads[:, :, None])[..., 0] + transforms[:, :, 3]
            bones = dict(zip(model.bone_names, heads, strict=True))
            keypoints = keypoints_from_vertices(posed, bones)
            size = arrays[f"{kind}_rgb"].shape[1]
            camera = Camera(arrays[f"{kind}_viewmat"][t], arrays[f"{kind}_K"][t], size, size)
            xy, depth = camera.project(keypoints)
            labels.append(np.where(depth[:, None] > 0.05, xy, -1e4))
        out[f"{kind}_xy"] = np.stack(labels).astype(np.float32)
    return out
