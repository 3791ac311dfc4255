"""Single files of weights that a user brings, by path and SHA-256: ONNX, TorchScript, safetensors. Nothing is downloaded.

An ONNX network runs in onnxruntime on one thread, so that worker processes do not fight and a run is repeatable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.models.card import need_packages
from avatar_core.models.files import need_digest, verify_file

DEVICES = ("cpu", "cuda")


def find_file(path: str, sha256: str, where: str, what: str) -> Path:
    """A file that was declared; what it holds is seen by `checked_file`. Raises UserError, starting with `where`."""
    if not path:
        raise UserError(f"{where}: expected the path of {what}, found none")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{where}: expected {what}, found no file {file}")
    need_digest(where, sha256, file, "sha256sum")
    return file


def checked_file(path: str, sha256: str, where: str, what: str) -> Path:
    """A file with the declared hash, read whole, once a process. Raises UserError naming the file."""
    file = find_file(path, sha256, where, what)
    status = file.stat()
    _verified(file, sha256, status.st_size, status.st_mtime_ns)
    return file


@lru_cache(maxsize=16)
def _verified(file: Path, sha256: str, size: int, changed: int) -> None:
    verify_file(file, sha256)


@dataclass(frozen=True)
class OnnxNetwork:
    """session: onnxruntime's, of a file."""

    file: Path
    session: Any

    def input_size(self) -> tuple[int, int]:
        """Height and width of its only input (B,3,H,W). Raises UserError where it is another."""
        shapes = [i.shape for i in self.session.get_inputs()]
        given = len(shapes) == 1 and len(shapes[0]) == 4 and all(isinstance(n, int) for n in shapes[0][1:])
        if not given or shapes[0][1] != 3:
            raise UserError(f"{self.file}: expected one input (B,3,H,W) with H and W given, found {shapes}")
        return shapes[0][2], shapes[0][3]

    def run(self, picture: NDArray) -> list[NDArray]:
        """Its outputs for a picture (H,W,3). Raises UserError where it cannot."""
        blob = np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1)[None])
        try:
            return self.session.run(None, {self.session.get_inputs()[0].name: blob})
        except Exception as error:  # its own exceptions have no common class that it exports
            raise UserError(f"{self.file}: expected a network that runs, found: {_line(error)}") from None


@lru_cache(maxsize=4)
def load_onnx(file: Path, sha256: str, device: str) -> OnnxNetwork:
    """A `checked_file` with that hash, on `cpu` or `cuda`. Raises UserError: no package, not a network, no such device."""
    need_packages(str(file), "models", "onnxruntime")
    import onnxruntime  # pyright: ignore[reportMissingImports]

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise UserError(
            f"{file}: expected onnxruntime with {provider}, found none; pip install onnxruntime-gpu, or give cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:
        raise UserError(f"{file}: expected an ONNX network, found: {_line(error)}") from None
    if session.get_providers()[0] != provider:  # it goes on without a word
        raise UserError(f"{file}: expected {provider} to start, found that its CUDA libraries do not load")
    return OnnxNetwork(file, session)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
