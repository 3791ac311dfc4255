"""Published networks behind metrics: TorchScript or ONNX files that the user brings, tried once before work.

A network is fed one kind of input and must give so many numbers a sample; what it gives for zeros says whether it is the one that
the metric wants. TorchScript runs with torch on the device of the run, ONNX with OpenCV's dnn on the CPU. Weights alone
(safetensors) are read where the network is written here (`syncnet`).

Legend: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.models.files import verify_file

if TYPE_CHECKING:
    import torch

    Outputs = torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor]

TORCHSCRIPT, ONNX, SAFETENSORS = (".pt", ".ts", ".jit", ".torchscript"), (".onnx",), (".safetensors",)
CHUNK = 8  # samples at once
# how the published TorchScript files of I3D are asked for features of pictures that are scaled already
I3D_OPTIONS = {"rescale": False, "resize": False, "return_features": True}
Run = Callable[[NDArray], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class NetworkFile:
    """A file the user brings: its path, its SHA-256, and in words what it should be."""

    path: Path
    sha256: str
    wanted: str

    def verified(self, *suffixes: str) -> Path:
        """The path, after checking that it is there, of one of the kinds, with the stated hash. UserError saying what to place."""
        if not self.path.is_file():
            raise UserError(f"{self.path}: expected {self.wanted}, found no such file; place it there")
        if suffixes and self.path.suffix.lower() not in suffixes:
            raise UserError(
                f"{self.path}: expected {self.wanted} in a file {' or '.join(suffixes)}, found {self.path.suffix or 'none'}"
            )
        verify_file(self.path, self.sha256)
        return self.path


@dataclass(frozen=True)
class Signature:
    """What a network takes, (shape of a sample), and how many numbers a sample each of its outputs has."""

    sample: tuple[int, ...]
    outputs: tuple[int, ...]


@lru_cache(maxsize=16)
def load_network(file: NetworkFile, signature: Signature, device: str = "cpu") -> Run:
    """`run(x (B,*sample)) -> [(B,n) for each output]`, read and tried once a process. Raises UserError naming the file: another
    hash, something that is no network, other outputs than the metric needs."""
    path = file.verified(*TORCHSCRIPT, *ONNX)
    run = _onnx(path, signature) if path.suffix.lower() in ONNX else _torchscript(path, device)
    try_network(path, file.wanted, run, signature)
    return run


def try_network(path: Path, wanted: str, run: Run, signature: Signature) -> None:
    """Raises UserError naming the file unless `run` gives what the signature says for a sample of zeros."""
    try:
        found = tuple(out[0].size for out in run(np.zeros((1, *signature.sample), np.float32)))
    except Exception as error:  # whatever a file that somebody else made may throw
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: expected {wanted}, found a network that fails on {signature.sample}: {said[-1][:120]}"
        ) from None
    if found != signature.outputs:
        raise UserError(
            f"{path}: expected {wanted}, found outputs of {_sizes(found)} instead of {_sizes(signature.outputs)} numbers"
        )


def _sizes(sizes: Sequence[int]) -> str:
    return " and ".join(str(n) for n in sizes) or "no"


def _onnx(path: Path, signature: Signature) -> Run:
    import cv2

    try:
        net = cv2.dnn.readNetFromONNX(str(path))
        names = net.getUnconnectedOutLayersNames()
    except cv2.error as error:
        raise UserError(
            f"{path}: expected an ONNX network, found {str(error).splitlines()[-1][:120]}"
        ) from None

    def run(x: NDArray) -> list[NDArray[np.float32]]:
        rows: list[list[NDArray]] = []
        for sample in x:  # files with a fixed batch of one are common
            net.setInput(np.ascontiguousarray(sample[None], np.float32))
            outputs = [np.asarray(out, np.float32).reshape(-1) for out in net.forward(names)]
            # by size, where there are several: dnn does not keep their order
            rows.append(sorted(outputs, key=lambda out: _place(out.size, signature)))
        return [np.stack(column) for column in zip(*rows, strict=True)]

    return run


def _place(size: int, signature: Signature) -> int:
    return signature.outputs.index(size) if size in signature.outputs else len(signature.outputs)


def load_torchscript(path: Path, device: str) -> torch.jit.ScriptModule:
    """A TorchScript module in evaluation. Raises UserError naming the file."""
    import torch

    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a TorchScript network, found {str(error).splitlines()[0][:120]}"
        ) from None


def _torchscript(path: Path, device: str) -> Run:
    module = load_torchscript(path, device)
    names = {a.name for a in module.forward.schema.arguments}  # pyright: ignore[reportFunctionMemberAccess]
    options = {name: value for name, value in I3D_OPTIONS.items() if name in names}
    # the published Inception takes bytes and does (x - 128) / 128 itself
    takes_bytes = "return_features" in names and "rescale" not in names

    def call(x: torch.Tensor) -> Outputs:
        return module((x + 1) * 127.5 if takes_bytes else x, **options)

    return batched(call, device)


def batched(call: Callable[[torch.Tensor], Outputs], device: str) -> Run:
    """A function of a batch on a device -> a Run."""
    import torch

    @torch.inference_mode()
    def run(x: NDArray) -> list[NDArray[np.float32]]:
        parts = []
        for chunk in torch.from_numpy(np.ascontiguousarray(x, np.float32)).split(CHUNK):
            out = call(chunk.to(device))
            outputs = list(out) if isinstance(out, (list, tuple)) else [out]
            parts.append([o.float().reshape(len(chunk), -1).cpu().numpy() for o in outputs])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return run
