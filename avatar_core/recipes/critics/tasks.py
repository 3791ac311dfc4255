"""Name of an instrument -> its training task."""

from __future__ import annotations

from avatar_core.recipes.critics.dataset import Dataset
from avatar_core.recipes.critics.task import Task
from avatar_core.recipes.critics.task_frames import make_clip_task, make_frame_task
from avatar_core.recipes.critics.task_identity import make_identity_task
from avatar_core.recipes.critics.task_keypoints import make_keypoint_task
from avatar_core.recipes.critics.task_sync import make_sync_task


def make_task(name: str, data: Dataset) -> Task:
    """`name`: body, face, hand, identity, sync, frame or clip."""
    if name in ("body", "face", "hand"):
        return make_keypoint_task(name, data)
    return {
        "identity": make_identity_task,
        "sync": make_sync_task,
        "frame": make_frame_task,
        "clip": make_clip_task,
    }[name](data)
