"""A folder of talking videos in, clips that the pipeline learns from out: watched, cut, checked, laid out, reported.

    portraits/person-01.png      identities: folder
    recordings/<clip>.wav, clips.json   speech: folder
    videos/<clip>.mp4            teacher: folder
    report.md, report.json, contact_sheet.png

The folder appears when it is whole. What a killed run had watched lies beside it and is used by the next one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.identities.folder import photo_id
from avatar_core.ingest.clips import Portrait, Shown, cut
from avatar_core.ingest.config import IngestConfig
from avatar_core.ingest.faces import FaceFinder
from avatar_core.ingest.people import group
from avatar_core.ingest.pieces import Piece, find_pieces
from avatar_core.ingest.report import FileReport, PersonReport, write_report
from avatar_core.ingest.sound import Sound, listen
from avatar_core.ingest.watch import Watched, watch
from avatar_core.io.atomic import atomic_directory, clean_leftovers, sha256_file, write_json
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.images import write_png
from avatar_core.io.store import Store, write_arrays
from avatar_core.io.video import iterate_video, write_mp4
from avatar_core.progress import Progress, silent
from avatar_core.speech.folder import PLAN, RecordedClip

CRF = 12
MADE = ("portraits", "recordings", "videos", "report.md", "report.json", "contact_sheet.png")


@dataclass(frozen=True)
class Ingested:
    """files and people as reported; params: the lines of params.yaml that use the clips."""

    files: list[FileReport]
    people: list[PersonReport]
    params: str

    @property
    def clips(self) -> int:
        return sum(p.clips for p in self.people)


@dataclass(frozen=True)
class _Clip:
    """A clip on its way: video and sound lie under `name` in the folder until its person is known."""

    name: str
    framing: str
    file: int
    piece: int
    track: int


def ingest(
    folder: Path,
    out: Path,
    finder: FaceFinder,
    config: IngestConfig,
    progress: Progress = silent,
) -> Ingested:
    """Take the videos of `folder` and below it into `out`, replacing what an earlier run made there.

    Raises UserError: no folder, no files, `out` holds something else. That no clip is found is in the result.
    """
    videos = list_files(folder)
    check_out(out, folder)
    work = out.with_name(f".{out.name}.watched")
    clean_leftovers(out.parent) if out.parent.is_dir() else None
    files: list[FileReport] = []
    known: dict[str, str] = {}
    with atomic_directory(out) as made:
        clips: list[_Clip] = []
        portraits: list[Portrait] = []
        for k, path in enumerate(videos):
            report = FileReport(str(path.relative_to(folder)))
            files.append(report)
            progress(k, len(videos), "files")
            digest = sha256_file(path)
            if digest in known:
                report.refused = f"the same bytes as {known[digest]}"
                continue
            known[digest] = report.name
            try:
                _ingest_file(path, digest, k, report, made, work, finder, config, clips, portraits, progress)
            except UserError as error:
                report.refused = str(error).removeprefix(f"{path}: ")
        people = _lay_out(made, files, clips, portraits, config)
        params = params_lines(out, people, config) if people else ""
        write_report(made, files, people, params)
    shutil.rmtree(work, ignore_errors=True)
    return Ingested(files, people, params)


def list_files(folder: Path) -> list[Path]:
    """Files of `folder` and below, hidden ones left out, sorted. Raises UserError when there is none."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder of videos, found {'a file' if folder.exists() else 'no such folder'}"
        )
    found = sorted(
        p for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )  # fmt: skip
    if not found:
        raise UserError(f"{folder}: expected videos, found an empty folder")
    return found


def check_out(out: Path, folder: Path) -> None:
    """Refuse to replace anything but what an earlier run made."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected the name of a folder, found a file")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise UserError(f"{out}: expected a folder outside {folder}, found one within")
    for entry in sorted(out.iterdir()) if out.is_dir() else ():
        if entry.name not in MADE:
            raise UserError(
                f"{out}: expected a new or empty folder or one made by `avatar ingest`, found {entry.name} in it; "
                "nothing was changed"
            )


def _ingest_file(
    path: Path,
    digest: str,
    number: int,
    report: FileReport,
    made: Path,
    work: Path,
    finder: FaceFinder,
    config: IngestConfig,
    clips: list[_Clip],
    portraits: list[Portrait],
    progress: Progress,
) -> None:
    """Watch one file and write its clips."""
    sound = listen(read_audio(path))
    first = next(iterate_video(path))
    height, width = first.shape[:2]
    report.size = (width, height)
    if min(width, height) < config.min_side:
        raise UserError(
            f"a picture of {width} x {height} px: sides of {config.min_side} px or more are needed"
        )
    watched = _watched(path, digest, work, finder, progress)
    report.seconds = len(watched) / 25
    report.pieces, report.sync, report.shift = find_pieces(watched, sound, config)
    heard = _moved(sound.voiced, report.shift)
    for seen in cut(iterate_video(path), watched, report.pieces, heard, number, finder, config):
        if isinstance(seen, Portrait):
            portraits.append(seen)
        elif isinstance(seen, Shown):
            piece = report.pieces[seen.piece]
            name = f"{number:04d}-{seen.piece:04d}-{seen.framing}"
            _write_clip(made, name, seen.frames, sound, piece, report.shift)
            clips.append(_Clip(name, seen.framing, number, seen.piece, piece.track))
            report.pictures.setdefault(seen.piece, seen.frames[len(seen.frames) // 2])
        else:
            report.pictures[seen[0]] = seen[1]


def _watched(path: Path, digest: str, work: Path, finder: FaceFinder, progress: Progress) -> Watched:
    """What was seen in a file, from the store of a killed run where there is one."""
    store = work / f"{digest[:24]}.zarr"
    if not store.is_dir():
        write_arrays(store, watch(iterate_video(path), finder, progress).arrays())
    opened = Store(store)
    return Watched.from_arrays({name: opened.read(name) for name in opened.names()})


def _moved(voiced: np.ndarray, shift: int) -> np.ndarray:
    return np.concatenate([np.zeros(max(shift, 0), bool), voiced[max(-shift, 0) :]])


def _write_clip(made: Path, name: str, frames: np.ndarray, sound: Sound, piece: Piece, shift: int) -> None:
    audio = sound.cut(piece.start, piece.stop, shift)
    write_wav(made / "recordings" / f"{name}.wav", audio)
    write_mp4(made / "videos" / f"{name}.mp4", frames, audio=audio, crf=CRF)


def _lay_out(
    made: Path, files: list[FileReport], clips: list[_Clip], portraits: list[Portrait], config: IngestConfig
) -> list[PersonReport]:
    """Portraits by person, the most talkative first; clips under their names in the catalogue."""
    numbers = group([p.seen for p in portraits], config.same_person)
    owner = {(p.seen.file, p.seen.track): n for p, n in zip(portraits, numbers, strict=True)}
    talk: dict[int, float] = dict.fromkeys(numbers, 0.0)
    for clip in clips:
        if clip.framing == "face":
            talk[owner[clip.file, clip.track]] += files[clip.file].pieces[clip.piece].seconds
    people, plan = [], []
    for place, person in enumerate(sorted(talk, key=lambda n: (-talk[n], n)), start=1):
        own = [p for p, n in zip(portraits, numbers, strict=True) if n == person]
        best = min(own, key=lambda p: p.seen.cost)
        path = made / "portraits" / f"person-{place:02d}.png"
        write_png(path, best.picture)
        identity, count = photo_id(path), Counter[str]()
        mine = [c for c in clips if owner[c.file, c.track] == person]
        for clip in mine:
            name = f"{identity}-{clip.framing}-{count[clip.framing]:03d}"
            count[clip.framing] += 1
            (made / "recordings" / f"{clip.name}.wav").rename(made / "recordings" / f"{name}.wav")
            (made / "videos" / f"{clip.name}.mp4").rename(made / "videos" / f"{name}.mp4")
            files[clip.file].clips.setdefault(clip.piece, []).append(name)
            plan.append(RecordedClip(name, identity, clip.framing))
        people.append(
            PersonReport(
                identity, path.name, sorted({files[c.file].name for c in mine}), len(mine), talk[person]
            )
        )
    if plan:
        write_json(made / "recordings" / PLAN, [asdict(clip) for clip in plan])
    return people


def params_lines(out: Path, people: list[PersonReport], config: IngestConfig) -> str:
    """The keys of params.yaml that make the pipeline learn from `out`."""
    count = len(people)
    test = 0 if count == 1 else max(1, count // 6)
    val = 1 if count >= 5 else 0
    shards = "[0]" if count == 1 else "[0, 1]"
    return f"""\
run:
  shards: {shards}
identities:
  backend: folder
  train: {count - val - test}
  val: {val}
  test: {test}
  folder:
    path: {out / "portraits"}
speech:
  backend: folder
  max_seconds: {config.max_seconds}
  folder:
    path: {out / "recordings"}
teacher:
  backends:
    folder: 1.0
  folder:
    path: {out / "videos"}
"""
