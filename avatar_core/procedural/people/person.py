"""A procedural person: built once from an `Identity`, then posed and rendered frame by frame.

Build: rest body, skin texture, clothes, eyes, teeth, lashes, hair, baked occlusion (about 2 s).
Render: skinning, visibility, shadow map, deferred shading; bit-identical for the same inputs on the same kind of CPU.

Legend: M mesh vertices (skin, parts, clothes), R hair ribbon vertices, V = 19,158 base.obj vertices, B bones.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from avatar_core.geometry.camera import Camera
from avatar_core.procedural.people.backdrop import backdrop_image
from avatar_core.procedural.people.body_model import (
    Pose,
    RestShape,
    load_body_model,
    pose_array,
    skin_transforms,
)
from avatar_core.procedural.people.drawable import Drawable, make_drawable
from avatar_core.procedural.people.hair import Hair, grow_hair, ribbons
from avatar_core.procedural.people.identity import Identity, body_of
from avatar_core.procedural.people.lighting import KEY, lights
from avatar_core.procedural.people.mesh import Mesh, build_mesh
from avatar_core.procedural.people.raster import (
    add_scaled,
    affine_points,
    project_points,
    rasterize_triangles,
    skin_points,
)
from avatar_core.procedural.people.secondary import (
    Late,
    Points,
    base_points,
    follow,
    given,
    late_frames,
    loose_hair,
    mesh_points,
)
from avatar_core.procedural.people.shading import shade
from avatar_core.procedural.people.skin import paint_skin

TEXEL = 0.00057  # metres of skin per texel of the full-size texture (face)


class Person:
    """Use `Person.build(identity)`."""

    def __init__(
        self, identity: Identity, rest: RestShape, mesh: Mesh, hair: Hair | None, texture: np.ndarray
    ) -> None:
        self.identity = identity
        self.rest = rest
        self.mesh = mesh
        self.hair = hair
        self._textures = [texture]
        for _ in range(3):
            t = self._textures[-1]
            self._textures.append(
                (t[::2, ::2] + t[1::2, ::2] + t[::2, 1::2] + t[1::2, 1::2]) * np.float32(0.25)
            )
        self._drawables: dict[int, Drawable] = {}
        self._shadow_frames: dict[bytes, np.ndarray] = {}

    @staticmethod
    def build(identity: Identity) -> Person:
        """Body, clothes, skin and hair of an identity (about 2 s; the first ever call also exports the body model)."""
        rest = body_of(identity)
        look = identity.attributes
        return Person(
            identity, rest, build_mesh(look, rest), grow_hair(look, rest, identity.seed), paint_skin(look)
        )

    # ---- geometry -------------------------------------------------------------------------------------------------

    def _transforms(self, rotvecs: Pose, translation: np.ndarray | None) -> np.ndarray:
        return skin_transforms(self.rest.heads, rotvecs, translation).astype(np.float32)

    def vertices(
        self,
        face_weights: np.ndarray | None = None,
        rotvecs: Pose = None,
        translation: np.ndarray | None = None,
        late: Late | None = None,
    ) -> np.ndarray:
        """Posed base.obj vertices (19158, 3) float32, metres (helper vertices included)."""
        model = load_body_model()
        points = self.rest.vertices.copy()
        if face_weights is not None:
            add_scaled(points, model.action_vertices, model.actions, np.asarray(face_weights, np.float32))
        out = np.empty_like(points)
        if late is not None:
            points = given(points, self.rest.vertices, self._base_points, late)
        skin_points(points, model.weights_index, model.weights, self._transforms(rotvecs, translation), out)
        if late is not None:
            follow(out, points, model.weights_index, model.weights, self._base_points.soft, late.soft)
        return out

    def joints(self, rotvecs: Pose = None, translation: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Posed bone heads, bone name -> (3,) float32 metres."""
        model = load_body_model()
        transforms = skin_transforms(self.rest.heads, rotvecs, translation)
        posed = (transforms[:, :, :3] @ self.rest.heads[:, :, None].astype(np.float64))[..., 0] + transforms[
            :, :, 3
        ]
        return {name: posed[b].astype(np.float32) for b, name in enumerate(model.bone_names)}

    def late_frames(
        self,
        rotvecs: np.ndarray,
        translation: np.ndarray,
        breath: np.ndarray,
        closed_until: np.ndarray,
        stick: float,
    ) -> list[Late]:
        """Secondary motion of a clip's poses, rotvecs (T, 104, 3) and translation (T, 3); the rest see `secondary.late_frames`."""
        transforms = [self._transforms(r, t) for r, t in zip(rotvecs, translation, strict=True)]
        return late_frames(np.stack(transforms), breath, closed_until, stick)

    # ---- rendering ------------------------------------------------------------------------------------------------

    def _drawable(self, lod: int) -> Drawable:
        if lod not in self._drawables:
            self._drawables[lod] = make_drawable(self.mesh, self.hair, self._loose_hair, lod)
        return self._drawables[lod]

    def _pose(
        self,
        d: Drawable,
        face_weights: np.ndarray | None,
        rotvecs: Pose,
        translation: np.ndarray | None,
        eye: np.ndarray,
        late: Late | None = None,
    ) -> None:
        """Fill d.points, d.unit and the hair tangents for one frame."""
        m = self.mesh
        transforms = self._transforms(rotvecs, translation)
        points = m.points.copy()
        if face_weights is not None:
            weights = np.asarray(face_weights, np.float32)
            add_scaled(points, m.action_vertices, m.actions, weights)
        n = len(points)
        if late is not None:
            points = given(points, m.points, self._mesh_points, late)
        skin_points(points, m.weights_index, m.weights, transforms, d.points[:n])
        if late is not None:
            follow(d.points[:n], points, m.weights_index, m.weights, self._mesh_points.soft, late.soft)
        m.normals(d.points[:n], d.unit[:n])
        if not len(d.strands):
            return
        flat = d.strands.reshape(-1, 3)
        posed = np.empty_like(flat)
        skin_points(flat, d.weights_index, d.weights, transforms, posed)
        if late is not None:
            follow(posed, flat, d.weights_index, d.weights, d.loose, late.hair)
        ribbons(posed.reshape(d.strands.shape), eye, d.width, d.points[n:], d.template[n:])
        head = transforms[load_body_model().bone_names.index("head"), :, :3]
        for axis in range(3):
            column = (
                d.normals[:, 0] * head[axis, 0]
                + d.normals[:, 1] * head[axis, 1]
                + d.normals[:, 2] * head[axis, 2]
            )
            d.unit[n::2, axis] = column
            d.unit[n + 1 :: 2, axis] = column

    @cached_property
    def _mesh_points(self) -> Points:
        return mesh_points(self.mesh, self.rest)

    @cached_property
    def _base_points(self) -> Points:
        return base_points()

    @cached_property
    def _loose_hair(self) -> np.ndarray:
        if self.hair is None:
            return np.zeros((0, 2), np.float32)
        return loose_hair(self.identity.attributes, self.hair, self.rest)

    @cached_property
    def _rest_cloud(self) -> np.ndarray:
        return self.mesh.points[::7]

    def _to_shadow(self, camera: Camera, size: int) -> np.ndarray:
        """(3, 4) map from world to shadow texels and light height, covering what the camera sees of the person."""
        key = (
            camera.viewmat.tobytes()
            + camera.K.tobytes()
            + bytes(str((camera.width, camera.height, size)), "ascii")
        )
        if key not in self._shadow_frames:
            xy, depth = camera.project(self._rest_cloud)
            margin = 0.08
            inside = (xy > -margin * camera.width) & (
                xy < np.array([camera.width, camera.height]) * (1 + margin)
            )
            seen = self._rest_cloud[inside.all(1) & (depth > 0)]
            if not len(seen):
                seen = self._rest_cloud
            across = np.cross([0, 0, 1.0], KEY)
            across /= np.linalg.norm(across)
            along = np.cross(KEY, across)
            uv = np.stack([seen @ across, -(seen @ along)], 1)
            low, high = uv.min(0), uv.max(0)
            k = size / (np.max(high - low) * 1.08 + 0.02)
            middle = (low + high) / 2
            rows = [
                np.append(across * k, size / 2 - k * middle[0]),
                np.append(-along * k, size / 2 - k * middle[1]),
                np.append(KEY, 10.0),
            ]
            self._shadow_frames[key] = np.stack(rows).astype(np.float32)
        return self._shadow_frames[key]

    def _pixel_metres(self, camera: Camera) -> float:
        """Metres per pixel at the person's distance."""
        return float(np.linalg.norm(camera.position - self.rest.heads[0])) / float(camera.K[1, 1])

    def render(
        self,
        face_weights: np.ndarray | None,
        rotvecs: Pose,
        translation: np.ndarray | None,
        camera: Camera,
        supersample: int = 2,
        background: np.ndarray | None = None,
        late: Late | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One frame: rgb (H, W, 3) uint8 sRGB and alpha (H, W) uint8 (coverage of the person).

        face_weights (52,); rotvecs (104, 3) or bone -> (3,); translation (3,) metres; background: None for the identity's
        own plain backdrop, a colour (3,) or an image (H, W, 3), float sRGB in [0, 1]; late: the frame's secondary motion.
        """
        rotvecs = pose_array(rotvecs)
        height, width, s = camera.height, camera.width, supersample
        eye = camera.position.astype(np.float32)
        pixel = self._pixel_metres(camera)
        depth, owner, d = draw_owners(self, face_weights, rotvecs, translation, camera, s, late)
        screen = d.screen
        size = 256 if max(height, width) <= 384 else 640
        to_shadow = self._to_shadow(camera, size)
        shadow, unused = np.zeros((size, size), np.float32), np.empty((size, size), np.int32)
        rasterize_triangles(
            affine_points(d.points, to_shadow),
            d.shadow_triangles,
            d.cut,
            shadow,
            unused,
            len(self.mesh.triangles),
        )

        if background is None:
            background = backdrop_image(self.identity.attributes["backdrop"], width, height)
        background = np.ascontiguousarray(
            np.broadcast_to(np.asarray(background, np.float32), (height, width, 3))
        )
        rgb, alpha = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
        level = int(np.clip(np.floor(np.log2(max(pixel, 1e-6) / TEXEL)), 0, 3))
        shade(
            depth, owner, screen, d.triangles, d.material, d.points, d.unit, d.uv, d.template, d.cut, d.ao, d.color,
            self._textures[level], self.mesh.table, eye, lights(), shadow, to_shadow, s, pixel, background, rgb, alpha,
        )  # fmt: skip
        return rgb, alpha


def draw_owners(
    person: Person,
    face_weights: np.ndarray | None,
    rotvecs: Pose,
    translation: np.ndarray | None,
    camera: Camera,
    samples: int,
    late: Late | None = None,
) -> tuple[np.ndarray, np.ndarray, Drawable]:
    """Visibility of one frame: depth (H S, W S) of 1/metres, owner triangle ids (-1 none), and the posed drawable."""
    lod = int(np.clip(round(person._pixel_metres(camera) / samples / 0.0005), 1, 6))
    d = person._drawable(lod)
    person._pose(d, face_weights, rotvecs, translation, camera.position.astype(np.float32), late)
    project_points(d.points, camera, samples, d.screen)
    depth = np.zeros((camera.height * samples, camera.width * samples), np.float32)
    owner = np.full(depth.shape, -1, np.int32)
    rasterize_triangles(d.screen, d.triangles, d.cut, depth, owner, len(person.mesh.triangles))
    return depth, owner, d
