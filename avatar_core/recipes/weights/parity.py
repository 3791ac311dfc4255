"""Recipe of the stored outputs of the original runtimes, against which tests hold ours.

`python -m avatar_core.recipes.weights.parity --from FOLDER_OF_ARCHIVES --mesh astronaut.npz` writes
tests/data/holistic/parity.safetensors: for each net some outputs of LiteRT (ai-edge-litert) for an input of seeded noise, and what
MediaPipe 0.10.21 itself (in an environment of its own: it needs numpy 1) finds on scikit-image's astronaut. The latter is
astronaut.npz: `face` (478,2) px of mp.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True), `pose` (33,3) px
and visibility of mp.solutions.pose.Pose(static_image_mode=True, model_complexity=1). The face net has operations that LiteRT lacks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from avatar_core.recipes.weights.__main__ import HOLISTIC
from avatar_core.recipes.weights.packages import MEDIAPIPE, archive, read_members

OUT = Path(__file__).resolve().parents[3] / "tests" / "data" / "holistic" / "parity.safetensors"
KEPT = 64  # values of each output, evenly spaced


def noise(size: int) -> np.ndarray:
    """The input (1,size,size,3) of every net: uniform in [0,1]."""
    return np.random.default_rng(size).random((1, size, size, 3), np.float32)


def kept(output: np.ndarray) -> np.ndarray:
    """KEPT values of an output, evenly spaced, and its largest magnitude last."""
    flat = np.asarray(output, np.float32).reshape(-1)
    return np.append(
        flat[np.linspace(0, len(flat) - 1, min(KEPT, len(flat))).astype(int)], np.abs(flat).max()
    )


def main() -> None:
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    parser = argparse.ArgumentParser(description="Store outputs of the original runtimes for the tests.")
    parser.add_argument("--from", dest="folder", type=Path)
    parser.add_argument("--mesh", type=Path, required=True)
    given = parser.parse_args()
    members = {name: f"mediapipe/modules/{path}" for name, path in HOLISTIC.items() if name != "face"}
    arrays: dict[str, np.ndarray] = {}
    for name, data in read_members(archive(MEDIAPIPE, given.folder), members).items():
        net = Interpreter(model_content=data, num_threads=1)
        net.allocate_tensors()
        entry = net.get_input_details()[0]
        net.set_tensor(entry["index"], noise(int(entry["shape"][1])))
        net.invoke()
        arrays[f"{name}.size"] = np.array([entry["shape"][1]], np.int32)
        for k, output in enumerate(net.get_output_details()):
            arrays[f"{name}.{k}"] = kept(net.get_tensor(output["index"]))
    astronaut = np.load(given.mesh)
    arrays["astronaut.face"] = astronaut["face"][:, :2].astype(np.float32)
    arrays["astronaut.pose"] = astronaut["pose"].astype(np.float32)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(OUT))


if __name__ == "__main__":
    main()
