"""What a file is, by its first bytes: users' names and endings are not trusted, and a refusal says what was found instead.

The signatures are those of the formats' own documents.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from avatar_core.errors import UserError

HEAD = 400
# (offset, bytes, name, medium, ffmpeg's demuxer); a container of both counts as video
SIGNATURES: tuple[tuple[int, bytes, str, str, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG", "picture", ""),
    (0, b"\xff\xd8\xff", "JPEG", "picture", ""),
    (0, b"GIF8", "GIF", "picture", ""),
    (0, b"BM", "BMP", "picture", ""),
    (0, b"II*\0", "TIFF", "picture", ""),
    (0, b"MM\0*", "TIFF", "picture", ""),
    (0, b"8BPS", "Photoshop", "picture", ""),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000", "picture", ""),
    (0, b"\xff\x0a", "JPEG XL", "picture", ""),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", "picture", ""),
    (8, b"WEBP", "WebP", "picture", ""),
    (8, b"WAVE", "WAV", "sound", "wav"),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64", "sound", "w64"),
    (0, b"fLaC", "FLAC", "sound", "flac"),
    (0, b"OggS", "Ogg", "sound", "ogg"),
    (8, b"AIFF", "AIFF", "sound", "aiff"),
    (8, b"AIFC", "AIFF", "sound", "aiff"),
    (0, b"caff", "Core Audio", "sound", "caf"),
    (0, b".snd", "AU", "sound", "au"),
    (0, b"#!AMR", "AMR", "sound", "amr"),
    (8, b"AVI ", "AVI", "video", "avi"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM", "video", "matroska"),
    (0, b"FLV\x01", "FLV", "video", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV or WMA", "video", "asf"),
    (0, b"\0\0\x01\xba", "MPEG", "video", "mpeg"),
    (0, b"%PDF", "PDF", "document", ""),
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True)
class Kind:
    """A file format. medium: "picture", "sound", "video" (sound included) or "document"; demuxer: ffmpeg's name, or ""."""

    name: str
    medium: str
    demuxer: str


def kind_of(path: Path) -> Kind | None:
    """The kind of an existing file, None when its first bytes are of no known one."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        if head[:3] == b"ID3" and len(head) >= 10:
            # a tag before MP3, AAC or FLAC: its length has seven bits a byte
            length = sum((head[6 + i] & 0x7F) << (21 - 7 * i) for i in range(4))
            file.seek(10 + length)
            return _by_bytes(file.read(HEAD)) or Kind("MP3", "sound", "mp3")
    return _by_bytes(head)


def _by_bytes(head: bytes) -> Kind | None:
    for offset, signature, name, medium, demuxer in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return Kind(name, medium, demuxer)
    if head[4:8] == b"ftyp":
        size = struct.unpack(">I", head[:4])[0]
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
        if brands & {b"avif", b"avis"}:
            return Kind("AVIF", "picture", "")
        if head[8:12] in HEIC_BRANDS:
            return Kind("HEIC", "picture", "")
        if head[8:12] in (b"M4A ", b"M4B "):
            return Kind("M4A", "sound", "mov")
        return Kind("MP4 or MOV", "video", "mov")
    if head[4:8] in (b"moov", b"mdat", b"free", b"wide", b"skip"):
        return Kind("MP4 or MOV", "video", "mov")
    if any(head[i : i + 1] == head[i + 188 : i + 189] == b"\x47" for i in (0, 4)):  # M2TS: a time stamp first
        return Kind("MPEG-TS", "video", "mpegts")
    if len(head) > 1 and head[0] == 0xFF:
        if head[1] & 0xE6 in (0xE2, 0xE4):
            return Kind("MP3", "sound", "mp3")
        if head[1] & 0xF6 == 0xF0:
            return Kind("AAC", "sound", "aac")
    return None


def check_is_file(path: Path, what: str) -> None:
    """Raises UserError unless `path` is a file with something in it; `what` was expected."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        if path.exists() and not path.is_dir():
            found = "a pipe or device: save what comes from it into a file first"
        raise UserError(f"{path}: expected {what}, found {found}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: expected {what}, found an empty file")


def describe(path: Path) -> str:
    """What an existing file is, in the words of a refusal: "a picture (PNG)", or its first bytes when they are unknown."""
    kind = kind_of(path)
    if kind is None:
        with open(path, "rb") as file:
            return f"something else (first bytes {file.read(8)!r})"
    name = "a recording" if kind.medium == "sound" else f"a {kind.medium}"
    return f"{name} ({kind.name})"
