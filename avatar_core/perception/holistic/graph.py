"""A net as a list of operations, run by torch on a batch.

The committed assets hold, beside the weights, one line of text for each operation, such as
`t7 = conv t6 w12 b13 stride=2 pad=0,1,0,1 act=relu`. Images are NCHW in torch's channels-last memory, which is twice as fast for
these nets; a value of any other rank is as TensorFlow has it, batch first.

Legend: B batch, C channels, H W pixels, P landmarks.
Source: the last three operations are those of the face mesh with attention (Grishchenko et al. 2020), rebuilt from their behaviour.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint

ASSETS = Path(__file__).resolve().parents[2] / "assets"
Options = dict[str, Any]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6}


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


def _conv(x: Tensor, weight: Tensor, bias: Tensor, o: Options) -> Tensor:
    left, right, top, bottom = o.get("pad", (0, 0, 0, 0))
    inside = (top, left)
    if left != right or top != bottom:
        x, inside = F.pad(x, (left, right, top, bottom)), (0, 0)
    return F.conv2d(x, weight, bias, o["stride"], inside, 1, o.get("groups", 1))


def _resize(x: Tensor, o: Options) -> Tensor:
    if o["mode"] != "origin":
        return F.interpolate(x, size=o["size"], mode="bilinear", align_corners=o["mode"] == "corners")
    for axis, size in zip((2, 3), o["size"], strict=True):  # source coordinate = target coordinate * ratio
        n = x.shape[axis]
        at = torch.arange(size, device=x.device) * (n / size)
        low = at.floor().long().clamp(max=n - 1)
        share = (at - low).view(-1, 1) if axis == 2 else at - low
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=n - 1)), share)
    return x


def _depth_to_space(x: Tensor, o: Options) -> Tensor:
    batch, channels, height, width = x.shape
    b = o["block"]
    x = x.reshape(batch, b, b, channels // (b * b), height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // (b * b), height * b, width * b)


def _slice(x: Tensor, o: Options) -> Tensor:
    x = _nhwc(x)
    return _nchw(x[(slice(None), *(slice(a, b) for a, b in zip(o["first"], o["last"], strict=True)))])


def _window(points: Tensor, o: Options) -> Tensor:
    """Landmarks (B,P,3) -> (B,4,4), pixels of a size x size crop round a part of them -> landmark coordinates.

    The crop is turned so that the line from `left` to `right` has the direction `angle`, and is `scale` times as large as the part.
    """
    xy = points[..., :2]
    line = xy[:, o["right"]] - xy[:, o["left"]]
    turn = o["angle"] - torch.atan2(line[:, 1], line[:, 0])
    c, s = torch.cos(turn), torch.sin(turn)
    rotation = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)  # (B,2,2)
    part = xy[:, o["points"]] @ rotation.transpose(1, 2)
    high, low = part.amax(1), part.amin(1)
    centre = torch.einsum("bji,bj->bi", rotation, (high + low) / 2)
    linear = rotation.transpose(1, 2) * ((high - low) * (o["scale"] / o["size"]))[:, None]
    out = torch.eye(4, dtype=points.dtype, device=points.device).repeat(len(points), 1, 1)
    out[:, :2, :2] = linear
    out[:, :2, 3] = centre - (linear * (o["size"] / 2)).sum(2)
    return out


def _sample(x: Tensor, matrix: Tensor, o: Options) -> Tensor:
    """Feature map (B,C,H,W), map (B,4,4) of crop pixels to its pixels -> bilinear crop, zero where it leaves the map."""
    height, width = x.shape[2:]
    rows, columns = o["size"]
    ys, xs = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    at = torch.stack([xs, ys], -1).to(x) @ matrix[:, None, :2, :2].transpose(2, 3)
    at = at + matrix[:, None, None, :2, 3] - 0.5
    inside = ((at >= 0) & (at <= at.new_tensor([width - 1, height - 1]))).all(-1)
    grid = 2 * at / at.new_tensor([width - 1, height - 1]) - 1
    return F.grid_sample(x, grid, mode="bilinear", align_corners=True) * inside[:, None]


def _move(points: Tensor, matrix: Tensor) -> Tensor:
    """Landmarks (B,P,2 or 3) through the plane part of maps (B,4,4)."""
    xy = points[..., :2] @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 3]
    return torch.cat([xy, points[..., 2:]], -1)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "deconv": lambda x, w, b, o: F.conv_transpose2d(x, w, b, stride=o["stride"]),
    "linear": lambda x, w, b, o: F.linear(_nhwc(x).reshape(len(x), -1), w, b),
    "add": lambda x, y, o: x + y,
    "sub": lambda x, y, o: x - y,
    "mul": lambda x, y, o: x * y,
    "div": lambda x, y, o: x / y,
    "relu": lambda x, o: F.relu(x),
    "relu6": lambda x, o: F.relu6(x),
    "hardswish": lambda x, o: F.hardswish(x),
    "sigmoid": lambda x, o: torch.sigmoid(x),
    "prelu": lambda x, a, o: F.prelu(x, a),
    "pad": lambda x, o: F.pad(x, o["pad"]),
    "maxpool": lambda x, o: F.max_pool2d(
        F.pad(x, o["pad"], value=float("-inf")) if "pad" in o else x, o["kernel"], o["stride"]
    ),
    "avgpool": lambda x, o: F.avg_pool2d(x, o["kernel"], o["stride"]),
    "mean": lambda x, o: x.mean((2, 3), keepdim=bool(o["keep"])),
    "resize": _resize,
    "depth_to_space": _depth_to_space,
    "reshape": lambda x, o: _nchw(_nhwc(x).reshape(len(x), *o["shape"])),
    "concat": lambda *xs: torch.cat(xs[:-1], xs[-1]["axis"]),
    "slice": _slice,
    "window": lambda x, o: _window(x, o),
    "sample": _sample,
    "move": lambda x, m, o: _move(x, m),
}
LISTS = {
    "pad",
    "shape",
    "size",
    "kernel",
    "first",
    "last",
    "points",
}  # options that are lists, if of one number


def _option(name: str, text: str) -> str | float | list[float]:
    if name in ("act", "mode"):
        return text
    values = [float(v) if "." in v or "e" in v else int(v) for v in text.split(",")]
    return values if name in LISTS and not (name == "size" and len(values) == 1) else values[0]


class Graph:
    """A net that runs: images (B,H,W,3) float in the range the net expects -> its outputs, batch first."""

    def __init__(self, lines: list[str], outputs: list[str], tensors: dict[str, Tensor]) -> None:
        self.constants = {
            k: v.float().contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v.float()
            for k, v in tensors.items()
        }
        self.outputs = outputs
        self.steps: list[
            tuple[str, Callable[..., Tensor], list[str], Options, Callable[[Tensor], Tensor]]
        ] = []
        last: dict[str, int] = {}
        for k, line in enumerate(lines):
            out, _, op, *rest = line.split()
            arguments = [a for a in rest if "=" not in a]
            options: Options = {a.split("=")[0]: _option(*a.split("=")) for a in rest if "=" in a}
            last |= dict.fromkeys(arguments, k)
            self.steps.append((out, OPERATIONS[op], arguments, options, ACTIVATIONS[options.get("act", "")]))
        self.dead = [
            [a for a in set(arguments) if last[a] == k and a not in self.constants and a not in outputs]
            for k, (_, _, arguments, _, _) in enumerate(self.steps)
        ]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        values = {"t0": _nchw(images)}
        for (out, run, arguments, options, activation), dead in zip(self.steps, self.dead, strict=True):
            read = [self.constants[a] if a in self.constants else values[a] for a in arguments]
            values[out] = activation(run(*read, options))
            for name in dead:
                del values[name]
        return [_nhwc(values[name]) for name in self.outputs]


@functools.cache
def load_graph(name: str) -> Graph:
    """The committed net `holistic_<name>`, read once per process. Raises UserError when it is damaged."""
    path = ASSETS / f"holistic_{name}.safetensors"
    tensors, sidecar = load_checkpoint(path, hint="restore the versioned asset")
    config = sidecar["config"]
    try:
        return Graph(config["operations"], config["outputs"], tensors)
    except (KeyError, ValueError):
        raise UserError(f"{path}: expected a net of this version, found another; restore the asset") from None
