"""The packages that published weights are taken from: name, version, SHA-256 of the whole archive, licence, and how to get one."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file


@dataclass(frozen=True)
class Package:
    """kind: "pypi" or "npm". file: the archive's name as the registry's own client saves it. platform: of a wheel."""

    kind: str
    name: str
    version: str
    file: str
    sha256: str
    licence: str
    platform: str = ""

    @property
    def label(self) -> str:
        return f"{self.kind} {self.name} {self.version}"


MEDIAPIPE = Package(
    "pypi",
    "mediapipe",
    "0.10.21",
    "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    "Apache-2.0",
    "manylinux_2_28_x86_64",
)
FACE_API = Package(
    "npm",
    "@vladmandic/face-api",
    "1.7.15",
    "vladmandic-face-api-1.7.15.tgz",
    "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    "MIT (package); CC0-1.0 (the net, by Davis King)",
)
HAMA = Package(
    "pypi",
    "hama",
    "1.7.0",
    "hama-1.7.0-py3-none-any.whl",
    "be48d6379d288fc588ff9a5f609462b2fb81287dd84afaa2dfb1d283cb280c4d",
    "Apache-2.0 (Seongmin Park)",
    "any",
)


def archive(package: Package, folder: Path | None) -> Path:
    """The package's archive in `folder`, or fetched by the registry's own client; its hash is checked either way.

    Raises UserError when it is not there, cannot be fetched, or is not the one whose hash is known.
    """
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="weights-"))
        if package.kind == "pypi":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
            command += ["--only-binary", ":all:", "--platform", package.platform]
            command += [f"{package.name}=={package.version}"]
        else:
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
            command += [f"{package.name}@{package.version}"]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(
                f"{package.label}: expected `{' '.join(command)}` to succeed, found {error}"
            ) from None
    path = folder / package.file
    if not path.is_file():
        raise UserError(f"{path}: expected the archive of {package.label}, found no such file")
    found = sha256_file(path)
    if found != package.sha256:
        raise UserError(f"{path}: expected SHA-256 {package.sha256} of {package.label}, found {found}")
    return path


def read_members(path: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    """Key -> bytes of the archive's member, for key -> its path within a wheel or an npm tarball."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {key: wheel.read(name) for key, name in names.items()}
    with tarfile.open(path) as tar:
        members = {key: tar.extractfile(name) for key, name in names.items()}
        return {key: member.read() for key, member in members.items() if member is not None}
