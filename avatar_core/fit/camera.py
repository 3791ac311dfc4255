"""The camera of a clip, solved from keypoints and the person's known size; it stands still over the clip.

How strong perspective is, a face hardly shows (its error changes by 3% from a field of view of 5 degrees to one of 20), so that
must be known: rendered clips have about the field of view that is the framing's convention; recorded ones are filmed from
where the person's portrait was taken, a frame of the same video. Either camera may look up or down.

Shapes: T frames, M keypoints.
"""

from __future__ import annotations

import numpy as np

from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera
from avatar_core.particles.framing import FIELD_OF_VIEW
from avatar_core.template.landmarks import KEYPOINTS, indices

STEADY = (
    "pelvis",
    "chest",
    "neck",
    "head",
    "shoulder",
    "hip",
    "crown",
    "eyelids.inner",
    "eyelids.outer",
    "nose",
)
TRUNK = ("shoulder", "hip")  # what shows the camera's pitch beside the face, which may nod
PITCH_SPREAD = np.radians(8.0)  # of cameras
PITCH_BIAS = np.radians(
    3.1
)  # by which 14 rendered clips were taken to be filmed more from above than they were
ERROR_PX = 2.0
FOV_LIMITS = (3.0, 100.0)  # degrees


def clip_camera(
    rest: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray,
    width: int,
    height: int,
    framing: str,
    filmed_from: float | None,
) -> Camera:
    """The camera that best shows canonical keypoints rest (M,3), metres, where xy (T,M,2) px with confidence (T,M) sees them.

    filmed_from: metres between camera and person; None: the framing's conventional field of view.
    Raises UserError when fewer than 4 steady keypoints are seen.
    """
    confidence = usable(confidence, framing)
    fov = FIELD_OF_VIEW[framing]
    camera = solve_camera(rest, xy, confidence, width, height, fov)
    for _ in range(3 if filmed_from else 0):
        assert filmed_from
        middle = float(rest[indices(*STEADY), 1].mean())
        wider = np.tan(np.radians(fov) / 2) * (middle - camera.position[1]) / filmed_from
        fov = float(np.clip(2 * np.degrees(np.arctan(wider)), *FOV_LIMITS))
        camera = solve_camera(rest, xy, confidence, width, height, fov)
    return pitched(camera, rest, xy, confidence, filmed_from)


def usable(confidence: np.ndarray, framing: str) -> np.ndarray:
    """Confidence (T,M) with 0 for what a framing does not show well: in a close-up detectors guess at the body's joints,
    and confidently; the face alone says where the head is."""
    out = np.array(confidence, np.float32)
    if framing == "face":
        face = np.zeros(len(KEYPOINTS), bool)
        face[indices("lips_", "eyelids.", "iris.", "brows.", "nose.", "jaw.")] = True
        out[:, ~face] = 0
    return out


def solve_camera(
    rest: np.ndarray, xy: np.ndarray, confidence: np.ndarray, width: int, height: int, fov_degrees: float
) -> Camera:
    """Level camera facing +Y that best shows canonical keypoints rest (M,3) where they are seen on average.

    xy (T,M,2) px, confidence (T,M). Unknown: its place (x, y, z). Gauss-Newton on the steady keypoints.
    Raises UserError when fewer than 4 of them are seen.
    """
    steady = indices(*STEADY)
    seen = np.clip(confidence[:, steady], 0, 1) * (confidence[:, steady] > 0.2)
    weight = seen.mean(0)
    if (weight > 0.1).sum() < 4:
        raise UserError(
            f"clip: expected a visible person, found {int((weight > 0.1).sum())} of its keypoints"
        )
    mean = (np.nan_to_num(xy[:, steady]) * seen[..., None]).sum(0) / np.maximum(seen.sum(0), 1e-6)[:, None]
    points = np.asarray(rest, np.float64)[steady]
    focal = height / 2 / np.tan(np.radians(fov_degrees) / 2)
    centre = np.array([width, height]) / 2
    spread = np.sqrt((weight[:, None] * (mean - np.average(mean, 0, weight)) ** 2).sum())
    size = np.sqrt((weight[:, None] * (points - np.average(points, 0, weight))[:, [0, 2]] ** 2).sum())
    middle = np.average(points, 0, weight)
    eye = np.array([middle[0], middle[1] - focal * size / max(spread, 1e-6), middle[2]])
    robust = weight.copy()
    for _ in range(12):
        depth = points[:, 1] - eye[1]
        side, rise = points[:, 0] - eye[0], points[:, 2] - eye[2]
        error = np.stack([focal * side / depth, -focal * rise / depth], 1) + centre - mean
        zero = np.zeros_like(depth)
        jacobian = np.stack(
            [
                np.stack([-focal / depth, focal * side / depth**2, zero], 1),
                np.stack([zero, -focal * rise / depth**2, focal / depth], 1),
            ],
            1,
        )
        robust = weight / np.sqrt(1 + (error**2).sum(1) / 4.0**2)
        normal = np.einsum("m,mci,mcj->ij", robust, jacobian, jacobian)
        eye = eye - np.linalg.solve(normal, np.einsum("m,mci,mc->i", robust, jacobian, error))
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
    K = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return Camera(viewmat.astype(np.float32), K.astype(np.float32), width, height)


def pitched(
    camera: Camera, rest: np.ndarray, xy: np.ndarray, confidence: np.ndarray, filmed_from: float | None
) -> Camera:
    """The level camera turned up or down and moved, as the keypoints say where shoulders and hips are seen; else as it is.

    Its focal length is that with which the person stands `filmed_from` metres away; None: stays.
    """
    steady = indices(*STEADY)
    seen = np.clip(confidence[:, steady], 0, 1) * (confidence[:, steady] > 0.2)
    weight = seen.mean(0)
    trunk = np.isin(steady, indices(*TRUNK))
    if (weight[trunk] > 0.3).sum() < 4:
        return camera
    mean = (np.nan_to_num(xy[:, steady]) * seen[..., None]).sum(0) / np.maximum(seen.sum(0), 1e-6)[:, None]
    points = np.asarray(rest, np.float64)[steady]
    if filmed_from is None:
        c, s = np.cos(PITCH_BIAS), np.sin(PITCH_BIAS)
        middle = points.mean(0)
        points = (points - middle) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T + middle
    level, focal = camera.viewmat[:3, :3].astype(np.float64), float(camera.K[0, 0])

    def view(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, s = np.cos(values[3]), np.sin(values[3])
        rotation = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ level
        return rotation, (points - values[:3]) @ rotation.T

    def errors(values: np.ndarray) -> np.ndarray:
        _, at = view(values)
        off = focal * at[:, :2] / at[:, 2:] + camera.K[:2, 2] - mean
        robust = np.sqrt(weight / np.sqrt(1 + (off**2).sum(1) / 4.0**2))
        return np.append((robust[:, None] * off / ERROR_PX).ravel(), values[3] / PITCH_SPREAD)

    values = np.append(camera.position.astype(np.float64), 0.0)
    for step in range(24):
        if filmed_from and step in (8, 16):
            focal *= filmed_from / float(view(values)[1][:, 2].mean())
        now = errors(values)
        jacobian = np.stack([(errors(values + nudge) - now) / 1e-5 for nudge in 1e-5 * np.eye(4)], 1)
        values = values - np.linalg.solve(jacobian.T @ jacobian + 1e-6 * np.eye(4), jacobian.T @ now)
    rotation, _ = view(values)
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ values[:3]
    K = np.array([[focal, 0, camera.K[0, 2]], [0, focal, camera.K[1, 2]], [0, 0, 1]], np.float32)
    return Camera(viewmat.astype(np.float32), K, camera.width, camera.height)
