"""A TensorFlow Lite flatbuffer -> the graph of `perception.holistic.graph`: operations as lines of text, constants as arrays.

Values are renamed t0, t1, ... in the order of their making, images are turned from NHWC to NCHW, padding becomes explicit, and
what only unpacks constants (dequantize, densify) is done here once. Half-precision constants stay so: nothing is rounded.

Source: the TensorFlow Lite schema (version 3); the custom operations are those of MediaPipe 0.10 (face mesh with attention).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from avatar_core.errors import UserError

Record = Any  # an object of the schema's generated code, which has no types
TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 9: np.int8}
ACTIVATIONS = {0: "", 1: "relu", 3: "relu6"}
AXIS = {0: 0, 1: 2, 2: 3, 3: 1}  # of NHWC, in NCHW
SIMPLE = {"RELU": "relu", "RELU6": "relu6", "HARD_SWISH": "hardswish", "LOGISTIC": "sigmoid"}
BINARY = {"ADD": "add", "MUL": "mul", "SUB": "sub", "DIV": "div"}
SAME = 0


def _schema() -> ModuleType:
    try:
        from ai_edge_litert import schema_py_generated  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "ai-edge-litert: expected the schema of TensorFlow Lite, found no such package; "
            "pip install ai-edge-litert flatbuffers"
        ) from None
    return schema_py_generated


def densify(tensor: Record, raw: bytes, dtype: type[np.generic]) -> np.ndarray:
    """A block-sparse constant in the format of the schema's SparsityParameters -> the dense array."""
    shape = [int(n) for n in tensor.shape]
    rank = len(shape)
    sparsity = tensor.sparsity
    order = [int(k) for k in sparsity.traversalOrder]
    blocked = [] if sparsity.blockMap is None else [int(k) for k in sparsity.blockMap]
    levels = sparsity.dimMetadata
    size = {axis: levels[rank + k].denseSize for k, axis in enumerate(blocked)}
    # Positions of all stored values, one level of the traversal after the other.
    parent = np.zeros(1, np.int64)
    index = np.zeros((1, 0), np.int64)
    for level in levels:
        if level.format == 0:
            count = np.full(len(parent), level.denseSize)
            child = np.tile(np.arange(level.denseSize), len(parent))
            position = np.repeat(parent * level.denseSize, count) + child
        else:
            segments = np.asarray(level.arraySegments.values, np.int64)
            count = segments[parent + 1] - segments[parent]
            start = np.repeat(segments[parent], count)
            offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            position = start + offset
            child = np.asarray(level.arrayIndices.values, np.int64)[position]
        index = np.concatenate([np.repeat(index, count, 0), child[:, None]], 1)
        parent = position
    full = np.zeros((len(parent), rank), np.int64)
    for k, axis in enumerate(order):
        if axis < rank:
            full[:, axis] += index[:, k] * size.get(axis, 1)
        else:
            full[:, blocked[axis - rank]] += index[:, k]
    out = np.zeros(shape, dtype)
    out[tuple(full.T)] = np.frombuffer(raw, dtype)[parent]
    return out


def _same(sizes: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> list[int]:
    """TensorFlow's "same" padding of an image (H,W) -> left, right, top, bottom."""
    pads: list[int] = []
    for n, k, s in zip(sizes[::-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return pads


class Reader:
    """Walks a model's first subgraph; `lines` and `constants` are what `perception.holistic.graph.Graph` runs."""

    def __init__(self, data: bytes) -> None:
        schema = _schema()
        self.model = schema.ModelT.InitFromPackedBuf(data, 0)
        self.names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        self.graph = self.model.subgraphs[0]
        self.arrays: dict[int, np.ndarray] = {}
        for i, tensor in enumerate(self.graph.tensors):
            buffer = self.model.buffers[tensor.buffer].data
            if buffer is None or not len(buffer):
                continue
            dtype, raw = TYPES[tensor.type], bytes(bytearray(buffer))
            shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
            sparse = tensor.sparsity is not None
            self.arrays[i] = (
                densify(tensor, raw, dtype) if sparse else np.frombuffer(raw, dtype).reshape(shape)
            )
        self.values: dict[int, str] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.lines: list[str] = []
        self.pads: dict[int, list[int]] = {}  # value -> padding that its reader still has to do
        self.inputs = [self._value(int(i)) for i in self.graph.inputs]
        for op in self.graph.operators:
            self._operation(op)
        self.outputs = [self.values[int(i)] for i in self.graph.outputs]

    def _shape(self, i: int) -> list[int]:
        return [int(n) for n in self.graph.tensors[i].shape]

    def _value(self, i: int) -> str:
        return self.values.setdefault(i, f"t{len(self.values)}")

    def _constant(self, array: np.ndarray, kind: str) -> str:
        name = f"{kind}{len(self.constants)}"
        if array.dtype == np.float32 and np.array_equal(array.astype(np.float16).astype(np.float32), array):
            array = array.astype(np.float16)
        self.constants[name] = array.copy()
        return name

    def _operand(self, i: int, batched: bool = True) -> str:
        """A value, or a constant in the layout of the values."""
        if i not in self.arrays:
            return self.values[i]
        array = self.arrays[i]
        return self._constant(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array, "c")

    def _write(self, out: int, op: str, *arguments: str, **options: object) -> None:
        tail = [
            f"{k}={','.join(map(str, v)) if isinstance(v, (list, tuple)) else v}"
            for k, v in options.items()
            if v != "" and v != [] and v is not None
        ]
        self.lines.append(" ".join([self._value(out), "=", op, *arguments, *tail]))

    def _operation(self, op: Record) -> None:
        code = self.model.operatorCodes[op.opcodeIndex]
        name = self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name == "CUSTOM":
            name = code.customCode.decode()
        ins, out, o = [int(i) for i in op.inputs], int(op.outputs[0]), op.builtinOptions
        if name in ("DEQUANTIZE", "DENSIFY"):
            self.arrays[out] = self.arrays[ins[0]]
            return
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self._convolution(name, ins, out, o)
        elif name == "Convolution2DTransposeBias":
            weight = self.arrays[ins[1]].transpose(3, 0, 1, 2)  # O,H,W,I -> I,O,H,W
            w, b = self._constant(weight, "w"), self._constant(self.arrays[ins[2]], "b")
            self._write(out, "deconv", self.values[ins[0]], w, b, stride=2)
        elif name == "FULLY_CONNECTED":
            w, b = self._constant(self.arrays[ins[1]], "w"), self._constant(self.arrays[ins[2]], "b")
            act = ACTIVATIONS[o.fusedActivationFunction]
            self._write(out, "linear", self.values[ins[0]], w, b, act=act)
        elif name in BINARY:
            act = ACTIVATIONS[o.fusedActivationFunction]
            self._write(out, BINARY[name], self._operand(ins[0]), self._operand(ins[1]), act=act)
        elif name in SIMPLE:
            self._write(out, SIMPLE[name], self.values[ins[0]])
        elif name == "PRELU":
            slope = self.arrays[ins[1]]
            assert slope.size in (1, slope.shape[-1]), slope.shape
            self._write(out, "prelu", self.values[ins[0]], self._constant(slope.reshape(-1), "a"))
        elif name == "PAD":
            self._pad(ins, out)
        elif name in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            kernel, stride = (o.filterHeight, o.filterWidth), (o.strideH, o.strideW)
            sizes = (self._shape(ins[0])[1], self._shape(ins[0])[2])
            pads = _same(sizes, kernel, stride) if o.padding == SAME else []
            assert name == "MAX_POOL_2D" or not any(pads)
            kind = "maxpool" if name == "MAX_POOL_2D" else "avgpool"
            pad = pads if any(pads) else []
            self._write(out, kind, self.values[ins[0]], kernel=kernel, stride=stride, pad=pad)
        elif name == "MEAN":
            axes = [int(a) for a in self.arrays[ins[1]].reshape(-1)]
            assert sorted(axes) == [1, 2], axes
            self._write(out, "mean", self.values[ins[0]], keep=int(o.keepDims))
        elif name == "RESIZE_BILINEAR":
            mode = "corners" if o.alignCorners else "centres" if o.halfPixelCenters else "origin"
            size = [int(n) for n in self.arrays[ins[1]].reshape(-1)]
            self._write(out, "resize", self.values[ins[0]], size=size, mode=mode)
        elif name == "DEPTH_TO_SPACE":
            self._write(out, "depth_to_space", self.values[ins[0]], block=o.blockSize)
        elif name == "RESHAPE":
            self._write(out, "reshape", self.values[ins[0]], shape=self._shape(out)[1:])
        elif name == "CONCATENATION":
            rank = len(self._shape(ins[0]))
            axis = AXIS[o.axis % 4] if rank == 4 else o.axis % rank
            self._write(out, "concat", *[self.values[i] for i in ins], axis=axis)
        elif name == "STRIDED_SLICE":
            begin, end, step = (self.arrays[i].astype(int) for i in ins[1:4])
            assert not o.shrinkAxisMask and (step == 1).all()
            shape = self._shape(ins[0])
            first = [0 if o.beginMask >> k & 1 else int(begin[k]) % (n + 1) for k, n in enumerate(shape)]
            last = [n if o.endMask >> k & 1 else int(end[k]) for k, n in enumerate(shape)]
            assert first[0] == 0 and last[0] == shape[0]
            self._write(out, "slice", self.values[ins[0]], first=first[1:], last=last[1:])
        else:
            self._custom(name, ins, out, op.customOptions)

    def _convolution(self, name: str, ins: list[int], out: int, o: Record) -> None:
        weight = self.arrays[ins[1]]  # O,H,W,I; depthwise 1,H,W,C
        depthwise = name[0] == "D"
        weight = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        assert (o.dilationHFactor, o.dilationWFactor) == (1, 1)
        stride, kernel = (o.strideH, o.strideW), (weight.shape[2], weight.shape[3])
        pads = self.pads.get(ins[0], [0, 0, 0, 0])
        if o.padding == SAME:
            assert not any(pads)
            pads = _same((self._shape(ins[0])[1], self._shape(ins[0])[2]), kernel, stride)
        w, b = self._constant(weight, "w"), self._constant(self.arrays[ins[2]], "b")
        self._write(
            out,
            "conv",
            self.values[ins[0]],
            w,
            b,
            stride=stride[0],
            pad=pads if any(pads) else [],
            groups=weight.shape[0] if depthwise else "",
            act=ACTIVATIONS[o.fusedActivationFunction],
        )
        assert stride[0] == stride[1]

    def _pad(self, ins: list[int], out: int) -> None:
        pads = self.arrays[ins[1]]
        readers = [op for op in self.graph.operators if ins and out in list(op.inputs)]
        codes = [self.model.operatorCodes[op.opcodeIndex] for op in readers]
        kinds = {self.names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in codes}
        spatial = not pads[0].any() and not pads[3].any()
        if spatial and kinds <= {"CONV_2D", "DEPTHWISE_CONV_2D"}:  # the convolution pads by itself
            self.values[out] = self.values[ins[0]]
            self.pads[out] = [int(pads[2][0]), int(pads[2][1]), int(pads[1][0]), int(pads[1][1])]
            return
        assert not pads[0].any() and ins[0] not in self.pads
        flat = [int(n) for axis in (2, 1, 3) for n in pads[axis]]  # W, H, C
        self._write(out, "pad", self.values[ins[0]], pad=flat)

    def _custom(self, name: str, ins: list[int], out: int, packed: list[int] | None) -> None:
        from flatbuffers import flexbuffers  # pyright: ignore[reportMissingImports]

        options = flexbuffers.Loads(bytes(bytearray(packed))) if packed is not None else {}
        arguments = [self._operand(i) for i in ins]
        if name == "Landmarks2TransformMatrix":
            assert (
                options["scale_x"] == options["scale_y"]
                and options["output_width"] == options["output_height"]
            )
            self._write(
                out,
                "window",
                *arguments,
                left=options["left_rotation_idx"],
                right=options["right_rotation_idx"],
                angle=options["target_rotation_radians"],
                scale=options["scale_x"],
                size=options["output_width"],
                points=[int(i) for i in options["subset_idxs"]],
            )
        elif name == "TransformTensorBilinear":
            self._write(out, "sample", *arguments, size=[options["output_height"], options["output_width"]])
        elif name == "TransformLandmarks":
            self._write(out, "move", *arguments)
        else:
            raise UserError(f"{name}: expected an operation that the graph knows, found this one")
