"""Tiny ONNX networks, written byte by byte, with the inputs and outputs of published ones: they find colours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def _field(number: int, value: int | float | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind = INT64 if array.dtype == np.int64 else FLOAT
    dims = b"".join(_field(1, int(n)) for n in array.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, array.tobytes())


def node(op: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    out = b"".join(_field(1, i) for i in inputs) + _field(2, output) + _field(4, op)
    for name, value in attributes.items():
        many = isinstance(value, list)
        body = b"".join(_field(8, v) for v in value) if many else _field(3, value)
        out += _field(5, _field(1, name) + body + _field(20, 7 if many else 2))
    return out


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def write_onnx(
    path: Path,
    size: tuple[int, int],
    nodes: list[bytes],
    constants: dict[str, np.ndarray],
    outputs: dict[str, tuple[int, ...]],
) -> Path:
    """A network of one input x (1,3,H,W)."""
    graph = b"".join(_field(1, n) for n in nodes) + _field(2, "tiny")
    graph += b"".join(_field(5, _tensor(n, a)) for n, a in constants.items())
    graph += _field(11, _value("x", (1, 3, *size))) + b"".join(
        _field(12, _value(n, s)) for n, s in outputs.items()
    )
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return path


def save_pose(path: Path, size: tuple[int, int], points: int = 133) -> Path:
    """As DWPose: x (1,3,H,W) -> where along x (1,points,2W) and y (1,points,2H). Point k finds the colour k % 3, above 0."""
    height, width = size
    weight = np.full((points, 3, 1, 1), -0.1, np.float32)
    weight[np.arange(points), np.arange(points) % 3] = 0.2
    nodes = [node("Conv", ["x", "w"], "h")]
    constants = {"w": weight, "last": np.array([3], np.int64)}
    for axis, name, count in ((2, "simcc_x", width), (3, "simcc_y", height)):
        nodes += [
            node("ReduceMax", ["h"], f"{name}1", axes=[axis], keepdims=0),
            node("Unsqueeze", [f"{name}1", "last"], f"{name}2"),
            node("Concat", [f"{name}2"] * 2, f"{name}3", axis=3),
            node("Reshape", [f"{name}3", f"{name}s"], name),
        ]
        constants[f"{name}s"] = np.array([1, points, 2 * count], np.int64)
    return write_onnx(
        path, size, nodes, constants, {"simcc_x": (1, points, 2 * width), "simcc_y": (1, points, 2 * height)}
    )


def save_mask(path: Path, size: tuple[int, int], gain: float = 1.0) -> Path:
    """As U2-Net and its kind: x (1,3,H,W) -> (1,1,H,W), more where there is more red than blue."""
    weight = gain * np.array([1, 0, -1], np.float32).reshape(1, 3, 1, 1)
    return write_onnx(path, size, [node("Conv", ["x", "w"], "mask")], {"w": weight}, {"mask": (1, 1, *size)})


def save_yolox(path: Path, size: tuple[int, int], cell: int, logs: tuple[float, float], score: float) -> Path:
    """As YOLOX: x (1,3,H,W) -> (1,A,85), always a person in one cell of the grid of stride 8, as large as exp(logs) cells."""
    height, width = size
    count = sum(height // s * (width // s) for s in (8, 16, 32))
    found = np.zeros((1, count, 85), np.float32)
    found[0, cell, 2:6] = (*logs, 1.0, score)
    nodes = [
        node("ReduceMean", ["x"], "m", axes=[1, 2, 3], keepdims=0),
        node("Mul", ["m", "zero"], "z"),
        node("Add", ["z", "found"], "out"),
    ]
    constants = {"zero": np.zeros(1, np.float32), "found": found}
    return write_onnx(path, size, nodes, constants, {"out": (1, count, 85)})


def save_boxes(path: Path, size: tuple[int, int], boxes: np.ndarray) -> Path:
    """As YOLOX with its suppression: x (1,3,H,W) -> boxes (1,N,5) of corners and score, always the same."""
    nodes = [
        node("ReduceMean", ["x"], "m", axes=[1, 2, 3], keepdims=0),
        node("Mul", ["m", "zero"], "z"),
        node("Add", ["z", "found"], "out"),
    ]
    constants = {"zero": np.zeros(1, np.float32), "found": boxes[None].astype(np.float32)}
    return write_onnx(path, size, nodes, constants, {"out": (1, *boxes.shape)})
