"""What particles show of a clip that bones do not: `python -m benchmarks.poses`, in the folder of a finished run.

For fitted clips of a split, PSNR on the person (the teacher's mask) of three renderings through the fit's camera: the fit itself,
the fit without its change of colours, and its bones and 52 face weights alone (`fit.pose`): the best that a pose-driven avatar
could show. Means over clips by framing, and in how many clips particles are ahead (of the same colours).

    python -m benchmarks.poses --split val --every 2
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from avatar_core.fit.pictures import clip_background, frame_psnr
from avatar_core.fit.pose import Pose, pose_deformation
from avatar_core.fit.rig import make_rig
from avatar_core.geometry.camera import Camera
from avatar_core.particles.canonical import load_canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.template import load_template
from stages.artifacts import Artifacts, Row
from stages.common import Stage
from stages.params import load_params

ROWS = ("particles", "without colours", "bones and face weights")
FRAMES_APART = 4


def of_clip(data: Artifacts, row: Row, layout: ParticleLayout) -> list[float]:
    """PSNR on the person, dB, of each of `ROWS`, mean over every fourth frame."""
    canonical = load_canonical(data.canonical_file(row))
    frames, masks = data.frames(row), data.masks(row)
    background = torch.from_numpy(clip_background(frames, masks))
    shown = slice(None, None, FRAMES_APART)
    target = torch.from_numpy(frames[shown]).float() / 255
    person = torch.from_numpy(masks[shown] > 127)
    camera = Camera(*data.camera(row), frames.shape[2], frames.shape[1])
    whole = Deformation.of(data.trajectory(row))
    rig = make_rig(canonical, layout, load_template(), row["framing"])
    posed = pose_deformation(Pose.of(data.pose(row)), rig, layout)
    plain = Deformation(whole.mean_offset, whole.rotation)
    found = []
    for deformation in (whole, plain, posed):
        splats = LocalFrames(canonical, layout).compose(deformation[shown])
        picture, *_ = rasterize_splats(splats, camera, background=background, eps2d=canonical.eps2d(camera))
        found.append(float(np.nanmean(frame_psnr((picture - target).square().mean(-1), person))))
    return found


def clips(data: Artifacts, split: str, every: int) -> Iterator[Row]:
    """Every so manieth fitted clip of a split, by framing."""
    rows = sorted(data.fitted_clips(split), key=lambda r: (r["framing"], r["id"]))
    yield from rows[::every]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.poses", description="PSNR of fits, by particles and by bones"
    )
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--every", type=int, default=1, help="every so manieth clip")
    given = parser.parse_args()
    data = Artifacts.of(Stage("fit", None, load_params()))
    layout = make_layout(load_params().particles)
    found: dict[str, list[list[float]]] = {}
    for row in clips(data, given.split, given.every):
        found.setdefault(row["framing"], []).append(of_clip(data, row, layout))
    print(f"{'framing':10} {'clips':>5} " + " ".join(f"{name:>24}" for name in (*ROWS, "particles ahead")))
    for framing, values in found.items():
        mean = np.mean(values, 0)
        ahead = sum(v[1] > v[2] for v in values)
        print(
            f"{framing:10} {len(values):5} "
            + " ".join(f"{v:21.2f} dB" for v in mean)
            + f" {ahead:15} of {len(values)}"
        )


if __name__ == "__main__":
    main()
