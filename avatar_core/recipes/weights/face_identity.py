"""dlib's face descriptor as the package of face-api has it (one byte a weight) -> arrays in torch's layout, one byte a weight.

Source: Davis King's dlib_face_recognition_resnet_model_v1 (CC0-1.0), quantised by face-api.js.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def convert_face_identity(
    raw: bytes, manifest: bytes
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Weights and manifest of TensorFlow.js -> arrays by name, and (scale, least) of those that are bytes.

    Convolutions become O,I,H,W. A byte q stands for q * scale + least.
    """
    tensors: dict[str, np.ndarray] = {}
    scales: dict[str, list[float]] = {}
    offset = 0
    entries: list[dict[str, Any]] = [w for group in json.loads(manifest) for w in group["weights"]]
    for entry in entries:
        shape, coded = entry["shape"], entry.get("quantization")
        dtype = np.dtype(np.uint8 if coded else np.float32)
        assert not coded or coded["dtype"] == "uint8", coded
        array = np.frombuffer(raw, dtype, int(np.prod(shape)), offset).reshape(shape)
        offset += array.nbytes
        tensors[entry["name"]] = (array.transpose(3, 2, 0, 1) if len(shape) == 4 else array).copy()
        if coded:
            scales[entry["name"]] = [coded["scale"], coded["min"]]
    assert offset == len(raw), (offset, len(raw))
    return tensors, scales
