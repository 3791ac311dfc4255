"""The critics in use: keypoints, identity, sync, frame and clip features, embedded IQA and ASE.

`load_critics()` reads the versioned assets; nothing is trained or downloaded. All calls take images as
(B,H,W,3) or (T,H,W,3), float in [0,1] or uint8, numpy or torch, and give numpy float32; none gives gradients.

Legend: B batch, T frames, H W pixels, K keypoints of `template.landmarks.KEYPOINTS`, E embedding, M mel bands.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.perception import boxes
from avatar_core.perception import warp as A
from avatar_core.perception.layout import LAYOUT, Layout
from avatar_core.perception.nets import ClipNet, FrameNet, IdentityNet, KeypointNet, SyncNet

ASSETS = Path(__file__).resolve().parent.parent / "assets"
NAMES = ("body", "face", "hand", "identity", "sync", "frame", "clip")
CHUNK = 32
SEEN = 0.3  # mean confidence from which a face or hand counts as present

_Net = TypeVar("_Net", bound=nn.Module)


def _images(images: NDArray | Tensor) -> NDArray:
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"images: expected (B,H,W,3), found {array.shape}")
    return array


def _crops(images: NDArray, matrices: list[NDArray], size: int) -> Tensor:
    out = [A.warp(A.as_float(image), matrix, size) for image, matrix in zip(images, matrices, strict=True)]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()


def _back(xy: Tensor, matrices: list[NDArray]) -> NDArray[np.float64]:
    points = xy.numpy().astype(np.float64)
    return np.stack([A.apply_matrix(A.invert_matrix(m), p) for m, p in zip(matrices, points, strict=True)])


@dataclasses.dataclass(frozen=True)
class Critics:
    """The loaded nets (eval mode) and their sidecars (held-out accuracies, recipes). Absent assets are not in `nets`."""

    nets: dict[str, nn.Module]
    sidecars: dict[str, dict[str, Any]]
    layout: Layout

    def _net(self, name: str, kind: type[_Net]) -> _Net:
        net = self.nets.get(name)
        if net is None:
            raise UserError(
                f"avatar_core/assets/critics_{name}.safetensors: expected a critic's weights, found none"
            )
        assert isinstance(net, kind)
        return net

    @torch.inference_mode()
    def _points(
        self, name: str, images: NDArray, found: NDArray, angle: float = 0.0
    ) -> tuple[NDArray, NDArray]:
        """Run net `name` on square boxes (B,3) of images -> pixels (B,P,2), confidence (B,P)."""
        net = self._net(name, KeypointNet)
        matrices = [A.crop_matrix(b[:2], b[2], net.size, angle) for b in found]
        xy, confidence, _ = net(_crops(images, matrices, net.size))
        return _back(xy, matrices), torch.sigmoid(confidence).numpy()

    def keypoints(self, images: NDArray | Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images of one person -> positions (B,K,2) in pixels, confidence (B,K) in [0,1].

        Whole image first, then each face and hand in its own crop. Confidence is the learnt probability that the
        point lies within 3 to 6% of the crop's side of the truth; about 0 for what is not in the image.
        """
        array = _images(images)
        parts = [self._keypoints(array[k : k + CHUNK]) for k in range(0, len(array), CHUNK)]
        if not parts:
            count = len(self.layout.names)
            return np.zeros((0, count, 2), np.float32), np.zeros((0, count), np.float32)
        return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])

    def _keypoints(self, images: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        layout = self.layout
        count, height, width = images.shape[:3]
        xy = np.zeros((count, len(layout.names), 2))
        confidence = np.zeros((count, len(layout.names)))
        whole = np.tile([width / 2, height / 2, max(width, height)], (count, 1)).astype(float)
        xy[:, layout.body_net], confidence[:, layout.body_net] = self._points("body", images, whole)
        # What the first look does not place is put at the face's centre, with confidence 0, until the second.
        coarse = xy[:, layout.coarse]
        rest = np.setdiff1d(layout.face, layout.coarse)
        xy[:, rest] = coarse.mean(1, keepdims=True)
        face = np.flatnonzero(confidence[:, layout.coarse].mean(1) > SEEN)
        if len(face) and "face" in self.nets:
            # Eyes to chin span about four fifths of what all landmarks span.
            first = boxes.face_box(coarse[face]) * [1.0, 1.0, 1.25]
            points, trust = self.face(images[face], first)
            xy[np.ix_(face, layout.face)], confidence[np.ix_(face, layout.face)] = points, trust
        if "hand" in self.nets:
            for left, hand in ((True, layout.hand_left), (False, layout.hand_right)):
                seen = np.flatnonzero(confidence[:, hand].mean(1) > SEEN)
                if len(seen):
                    points, trust = self.hand(images[seen], boxes.hand_box(xy[np.ix_(seen, hand)]), left=left)
                    xy[np.ix_(seen, hand)], confidence[np.ix_(seen, hand)] = points, trust
        return xy.astype(np.float32), confidence.astype(np.float32)

    def face(self, images: NDArray | Tensor, face_boxes: NDArray, looks: int = 2) -> tuple[NDArray, NDArray]:
        """Face landmarks (B,F,2) px and confidence (B,F) inside square boxes (B,3) = cx, cy, side.

        Each further look crops round the landmarks of the one before: the crop then does not depend on the box.
        """
        array = _images(images)
        found = np.asarray(face_boxes, np.float64)
        xy, confidence = self._points("face", array, found)
        for _ in range(looks - 1):
            xy, confidence = self._points("face", array, boxes.face_box(xy))
        return xy, confidence

    @torch.inference_mode()
    def hand(self, images: NDArray | Tensor, hand_boxes: NDArray, *, left: bool) -> tuple[NDArray, NDArray]:
        """Hand points (B,21,2) px and confidence (B,21) inside boxes (B,3); left hands are mirrored for the net."""
        net = self._net("hand", KeypointNet)
        array = _images(images)
        matrices = [A.crop_matrix(b[:2], b[2], net.size) for b in np.asarray(hand_boxes, np.float64)]
        crops = _crops(array, matrices, net.size)
        xy, confidence, _ = net(crops.flip(-1) if left else crops)
        if left:
            xy = torch.stack([net.size - xy[..., 0], xy[..., 1]], -1)
        return _back(xy, matrices), torch.sigmoid(confidence).numpy()

    @torch.inference_mode()
    def identity(self, images: NDArray | Tensor, keypoints: NDArray | None = None) -> NDArray[np.float32]:
        """Images of one person with a visible face -> unit embeddings (B,E); keypoints (B,K,2) if known."""
        array = _images(images)
        if keypoints is None:
            keypoints, _ = self.keypoints(array)
        found = boxes.head_box(np.asarray(keypoints, np.float64)[:, self.layout.face])
        size = int(self.sidecars["identity"]["config"]["net"]["size"]) if "identity" in self.sidecars else 0
        net = self._net("identity", IdentityNet)
        out = []
        for k in range(0, len(array), CHUNK):
            matrices = [A.crop_matrix(b[:2], b[2], size) for b in found[k : k + CHUNK]]
            out.append(net(_crops(array[k : k + CHUNK], matrices, size)).numpy())
        return np.concatenate(out)

    @torch.inference_mode()
    def sync(
        self, frames: NDArray | Tensor, log_mel: NDArray, keypoints: NDArray | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A talking clip (T,H,W,3) at 25 fps and its log-mel (4T,M) -> embeddings (T-4,E) of mouth and of audio.

        Row k belongs to the window of frames k..k+4. The mouth crop's place is smoothed over a second.
        """
        array = _images(frames)
        net = self._net("sync", SyncNet)
        count = len(array)
        mel = np.asarray(log_mel, np.float32)
        if count < 5 or len(mel) < 4 * count:
            raise ValueError(
                f"sync: expected 5 frames or more and 4 mel frames each, found {count} and {len(mel)}"
            )
        if keypoints is None:
            keypoints, _ = self.keypoints(array)
        points = np.asarray(keypoints, np.float64)
        face, lips = points[:, self.layout.face], points[:, self.layout.lips]
        video = []
        for k in range(count - 4):
            near = slice(max(0, k - 10), k + 15)
            cx, cy, side = boxes.mouth_box(face[near], lips[near])
            matrix = A.crop_matrix(np.array([cx, cy]), side, 64)
            crops = _crops(array[k : k + 5], [matrix] * 5, 64)
            video.append(crops)
        windows = torch.stack(video)
        mels = torch.from_numpy(np.stack([mel[4 * k : 4 * k + 20] for k in range(count - 4)]))
        v = torch.cat([net.embed_video(part) for part in windows.split(CHUNK)])
        return v.numpy(), net.embed_audio(mels).numpy()

    def _squares(self, images: NDArray, size: int) -> Tensor:
        height, width = images.shape[1:3]
        matrix = A.crop_matrix(np.array([width / 2, height / 2]), max(width, height), size)
        return _crops(images, [matrix] * len(images), size)

    @torch.inference_mode()
    def _frame(self, images: NDArray | Tensor) -> dict[str, NDArray]:
        array = _images(images)
        net = self._net("frame", FrameNet)
        parts: dict[str, list[NDArray]] = {}
        for k in range(0, len(array), CHUNK):
            out = net(self._squares(array[k : k + CHUNK], 128))
            for key in ("features", "quality", "aesthetics"):
                parts.setdefault(key, []).append(out[key].numpy())
        return {key: np.concatenate(value) for key, value in parts.items()}

    def frame_features(self, images: NDArray | Tensor) -> NDArray[np.float32]:
        """Images -> features (B,128) for the Frechet distance between frames."""
        return self._frame(images)["features"]

    def aesthetics(self, images: NDArray | Tensor) -> NDArray[np.float32]:
        """Images -> embedded ASE (B,) in [1,5]: falls with bad exposure, contrast, casts, framing and damage."""
        return self._frame(images)["aesthetics"]

    def quality(self, images: NDArray | Tensor) -> NDArray[np.float32]:
        """Images -> embedded IQA (B,) in [1,5]: mean of the whole frame and its four overlapping 60% corners.

        Corners see finer damage than the whole frame, which is read at 128 px.
        """
        array = _images(images)
        height, width = array.shape[1:3]
        h, w = int(np.ceil(0.6 * height)), int(np.ceil(0.6 * width))
        views = [array, array[:, :h, :w], array[:, :h, -w:], array[:, -h:, :w], array[:, -h:, -w:]]
        scores = [self._frame(view)["quality"] for view in views]
        return 0.5 * scores[0] + 0.5 * np.mean(scores[1:], axis=0)

    @torch.inference_mode()
    def clip_features(self, frames: NDArray | Tensor, hop: int = 8) -> NDArray[np.float32]:
        """A clip (T,H,W,3) at 25 fps -> features (N,128) of its 16-frame windows every `hop` frames.

        Raises ValueError when T < 16.
        """
        array = _images(frames)
        net = self._net("clip", ClipNet)
        if len(array) < ClipNet.FRAMES:
            raise ValueError(f"clip_features: expected {ClipNet.FRAMES} frames or more, found {len(array)}")
        small = self._squares(array, 64)
        starts = range(0, len(array) - ClipNet.FRAMES + 1, hop)
        return np.concatenate([net(small[None, s : s + ClipNet.FRAMES])["features"].numpy() for s in starts])


def _build(name: str, config: dict[str, Any]) -> nn.Module:
    if name in ("body", "face", "hand"):
        return KeypointNet(len(config["points"]), config["size"], config["stride"])
    if name == "identity":
        return IdentityNet(config["embedding"])
    if name == "sync":
        return SyncNet()
    if name == "frame":
        return FrameNet(config["people"], config["layout"])
    return ClipNet(len(config["kinds"]), len(config["motions"]))


@functools.cache
def load_critics(folder: Path | None = None) -> Critics:
    """Read the critics' assets once per process. Raises UserError when one is damaged or made for other keypoints."""
    folder = folder or ASSETS
    nets: dict[str, nn.Module] = {}
    sidecars: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        path = folder / f"critics_{name}.safetensors"
        if not path.is_file():
            continue
        tensors, sidecar = load_checkpoint(path, hint="restore the versioned asset")
        config = sidecar["config"]["net"]
        if name in ("body", "face", "hand"):
            expected = [LAYOUT.names[i] for i in LAYOUT.points_of(name)]
            if config["points"] != expected:
                raise UserError(
                    f"{path}: expected the keypoints of template.landmarks, found others; train it anew"
                )
        net = _build(name, config)
        state = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        missing, extra = net.load_state_dict(state, strict=False)
        if extra or any(not k.endswith("num_batches_tracked") for k in missing):
            raise UserError(
                f"{path}: expected this version's tensors, found a mismatch; restore the versioned asset"
            )
        nets[name], sidecars[name] = net.eval().requires_grad_(False), sidecar
    return Critics(nets, sidecars, LAYOUT)
