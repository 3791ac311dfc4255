"""The sentences to be spoken: one text file a language, one `split | sentence` a line, `#` for comments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatar_core.errors import UserError
from avatar_core.speech.voices import LANGUAGES, SPLITS


@dataclass(frozen=True)
class Line:
    """One sentence; `split` is train, val, test or critics."""

    language: str
    split: str
    text: str


@dataclass(frozen=True)
class RecordedClip:
    """A recording <clip>.wav whose person (an id) and framing are given, since a video of the same name shows them."""

    clip: str
    person: str
    framing: str


def load_scripts(folder: Path | str) -> list[Line]:
    """Read every `<language>.txt` of `folder`, in the order of the languages' names, lines in file order.

    Raises:
        UserError: no folder, no script in it, an unknown language, a line without a split, a sentence listed twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of scripts such as en.txt, found none")
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder}: expected scripts such as en.txt, found no .txt file")
    lines: list[Line] = []
    for path in files:
        if path.stem not in LANGUAGES:
            raise UserError(
                f"{path}: expected the name of a language ({', '.join(LANGUAGES)}), found {path.stem!r}"
            )
        lines += _read_script(path)
    return lines


def _read_script(path: Path) -> list[Line]:
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected UTF-8 text, found something else") from None
    lines: list[Line] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        row = row.strip()
        if not row or row.startswith("#"):
            continue
        split, bar, text = (part.strip() for part in row.partition("|"))
        if not bar or split not in SPLITS or not text:
            raise UserError(f"{path}:{number}: expected '{'|'.join(SPLITS)} | sentence', found {row[:40]!r}")
        if text in seen:
            raise UserError(f"{path}:{number}: expected every sentence once, found again {text[:40]!r}")
        seen.add(text)
        lines.append(Line(path.stem, split, text))
    return lines
