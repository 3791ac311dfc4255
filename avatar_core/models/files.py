"""Files of published models: found without the network, and checked before they are loaded.

A model is a hub id at a commit, looked up in the Hugging Face cache, or a local folder with a declared digest. Nothing is
downloaded here: who lacks a file is told the command that fetches it. Weights are safetensors; pickles are never read, nor is a
model's own code run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADER_LIMIT = 100_000_000  # bytes, as the safetensors library has it
_WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def is_local(model: str) -> bool:
    """Is this a path rather than a hub id?"""
    return model.startswith((".", "/", "~")) or not HUB_ID.fullmatch(model) or Path(model).is_dir()


def find_model(model: str, revision: str, sha256: str, where: str) -> Path:
    """The folder of a model. Raises UserError, starting with `where`, saying what to download or declare.

    revision: the commit of a hub id; sha256: `folder_digest` of a local folder (whether it is that is seen by `verify_folder`).
    """
    if is_local(model):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise UserError(f"{where}.model: expected a folder or a hub id, found no folder {folder}")
        need_digest(f"{where}.sha256", sha256, folder, "avatar models verify")
        return folder
    cached = cached_snapshots(model)
    if not COMMIT.fullmatch(revision):
        there = f"; the cache holds {', '.join(sorted(cached))}" if cached else ""
        raise UserError(
            f"{where}.revision: expected the 40 digits of a commit of {model} "
            f"(https://huggingface.co/{model}/commits/main lists them), found {revision or 'none'}{there}"
        )
    if revision not in cached:
        raise UserError(
            f"{where}.model: expected {model} in the Hugging Face cache {hub_cache()}, found none of that revision; "
            f"hf download {model} --revision {revision}"
        )
    return cached[revision]


def need_digest(where: str, sha256: str, path: Path, command: str) -> None:
    """Raises UserError, starting with `where`, unless 64 digits are declared; `command` prints those of the path."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(
            f"{where}: expected the SHA-256 of {path}, found {sha256 or 'none'}; `{command} {path}` prints it"
        )


def hub_cache() -> Path:
    """Where the Hugging Face libraries keep downloads: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def cached_snapshots(model: str) -> dict[str, Path]:
    """The revisions of a hub id that the cache holds, as folders; they may be incomplete."""
    folder = hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots"
    return {p.name: p for p in sorted(folder.iterdir())} if folder.is_dir() else {}


def check_pipeline(folder: Path) -> dict[str, Any]:
    """Is this a whole diffusers pipeline, in safetensors and without code of its own? Its model_index.json.

    Reads names, sizes and headers. Raises UserError naming the file.
    """
    index = _json(folder / "model_index.json", "a diffusers pipeline")
    own = [p for p in model_files(folder) if p.suffix == ".py"]
    if own or not isinstance(index.get("_class_name"), str):
        raise UserError(
            f"{own[0] if own else folder / 'model_index.json'}: expected weights alone, found code of the model's own"
        )
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[:1] == [None]:
            continue
        part = folder / name
        if not part.is_dir():
            raise UserError(f"{part}: expected the pipeline's {name}, found no such folder")
        if (part / "config.json").is_file():
            check_weights(part)
    return index


def check_weights(folder: Path) -> list[Path]:
    """The safetensors of one network, each whole. Raises UserError: a shard is missing, a file is cut, there are only pickles."""
    files = {p.name for p in folder.glob("*.safetensors")}
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        shards = _json(index, "an index of weights").get("weight_map", {})
        for shard in sorted(set(shards.values())):
            if shard not in files:
                raise UserError(
                    f"{folder / shard}: expected the weights that {index.name} names, found no such file"
                )
    if not files:
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt", ".pth"))
        raise UserError(
            f"{folder}: expected weights as .safetensors, found {', '.join(others[:3]) or 'none'}"
        )
    for name in sorted(files):
        check_safetensors(folder / name)
    return [folder / name for name in sorted(files)]


def check_safetensors(path: Path) -> None:
    """Is the file as long as its header says? Raises UserError when it is cut, padded or something else."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise UserError(
                f"{path}: expected safetensors, found {size} bytes of something else; download it again"
            )
        try:
            header = json.loads(file.read(length))
            ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}: expected safetensors, found a damaged header; download it again"
            ) from None
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise UserError(
            f"{path}: expected {wanted} bytes as its header says, found {size}; download it again"
        )


def _end(entry: dict[str, Any]) -> int:
    first, last = entry["data_offsets"]
    count = _WIDTHS.get(entry["dtype"], 0)
    for side in entry["shape"]:
        count *= side
    if count and last - first != count:
        raise ValueError(entry)
    return int(last)


def folder_digest(folder: Path) -> str:
    """One SHA-256 of a model's folder: of the lines `<sha256>  <name>` of all its files (hidden ones left out), sorted by name."""
    lines = [f"{sha256_file(p)}  {p.relative_to(folder).as_posix()}\n" for p in model_files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder, sorted by name; hidden ones and those in hidden folders are not the model's."""
    files = (p for p in folder.rglob("*") if p.is_file())
    visible = [p for p in files if not any(n.startswith(".") for n in p.relative_to(folder).parts)]
    return sorted(visible, key=lambda p: p.relative_to(folder).as_posix())


def verify_folder(folder: Path, sha256: str) -> None:
    """Raises UserError unless a local folder has the declared `folder_digest`. Reads everything."""
    _compare(folder, sha256, folder_digest(folder), "model")


def verify_file(file: Path, sha256: str) -> None:
    """Raises UserError unless a file has the declared hash. Reads everything."""
    _compare(file, sha256, sha256_file(file), "file")


def _compare(path: Path, sha256: str, found: str, kind: str) -> None:
    if found != sha256.lower():
        raise UserError(
            f"{path}: expected SHA-256 {sha256[:12].lower() or '(none given)'}..., found {found[:12]}...; "
            f"it is another {kind}, or damaged"
        )


def verify_snapshot(folder: Path) -> None:
    """Raises UserError for the first large file of a hub snapshot that is not what the hub stored. Reads everything.

    The cache names a large file by its SHA-256, and a small one by its git blob hash.
    """
    for path in model_files(folder):
        name = path.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", name):
            found = sha256_file(path)
        elif COMMIT.fullmatch(name):
            content = path.read_bytes()
            found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        else:
            raise UserError(f"{path}: expected a link to the cache's file, found {name}; download it again")
        if found != name:
            raise UserError(
                f"{path}: expected the hash {name[:12]}..., found {found[:12]}...; download it again"
            )


def _json(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: expected {what}, found no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected JSON of {what}, found something else")
    return content
