"""Measures on real people: `python -m benchmarks.real --portraits DIR --voices DIR --clips DIR --out DIR [--student FILE]`.

Any of the three folders; whatever lies in it is tried, and what cannot be used is listed with the reason. Written into `--out`:
real.md and real.json (the tables), portraits.png, voices.png and clips.png (to look at: numbers alone have been wrong before).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from avatar_core.clock import FPS, pad_to_frames
from avatar_core.errors import UserError
from avatar_core.generator.sampler import generate
from avatar_core.io.atomic import check_writable, write_json, write_text
from avatar_core.io.images import contact_sheet, write_figure
from avatar_core.io.letters import for_figures
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.speak.student import load_student
from benchmarks.real.lips import BILABIAL
from benchmarks.real.portraits import PortraitRow, judge_portrait
from benchmarks.real.sounds import (
    LAGS,
    NEAR,
    ClipRow,
    Curves,
    Opening,
    VoiceRow,
    judge_clip,
    judge_voice,
    judge_without_voices,
    look_at_clip,
)

BESIDE = (".txt", ".md", ".json")  # what lies beside files and is none of them
CELL = 320


@dataclass
class Findings:
    """Everything that was measured; a list is empty where its folder was not given."""

    portraits: list[PortraitRow] = field(default_factory=list)
    voices: list[VoiceRow] = field(default_factory=list)
    quiet: list[VoiceRow] = field(default_factory=list)
    clips: list[ClipRow] = field(default_factory=list)


def files_of(folder: Path) -> list[Path]:
    """Files of a folder by name. Raises UserError when it is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder, found none")
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() not in BESIDE)


def portraits(folder: Path, out: Path, perception: PerceptionConfig) -> list[PortraitRow]:
    rows, pictures, captions = [], [], []
    for path in files_of(folder):
        row, shown = judge_portrait(path, perception, PersonaliseConfig())
        print(portrait_line(row), flush=True)
        rows.append(row)
        words = row.refused or f"{row.psnr_db:.1f} dB, {row.outside:.2%} beside, {row.joints} of 8 joints"
        pictures += [*shown, *[np.full((8, 8, 3), 250, np.uint8)] * (4 - len(shown))]
        captions += [f"{row.name}\n{words}", *[""] * 3]
    titled = "found | cut out | in the portrait's pose | at rest"
    contact_sheet(out / "portraits.png", pictures, captions, columns=8, cell=CELL, title=titled)
    return rows


def _figure(rows: int) -> Figure:
    figure = Figure(figsize=(14, 1.6 * max(1, rows)))
    FigureCanvasAgg(figure)
    return figure


def voices(folder: Path, out: Path, opening: Opening) -> list[VoiceRow]:
    rows, drawn = [], []
    for path in files_of(folder):
        row, ours, sounds = judge_voice(path, opening)
        print(voice_line(row), flush=True)
        rows.append(row)
        drawn += [(row.name, ours, sounds)] if len(ours) else []
    figure = _figure(len(drawn))
    for k, (name, ours, sounds) in enumerate(drawn):
        axes = figure.add_subplot(len(drawn), 1, k + 1)
        axes.plot(np.arange(len(ours)) / FPS, ours, linewidth=0.8)
        for start, end, sound in sounds:
            if sound in BILABIAL:
                axes.axvspan(start, end, color="#c33", alpha=0.3)
        axes.set_title(for_figures(f"{name}: opening in mm; red: p, b, m"), fontsize=7)
        axes.tick_params(labelsize=6)
    write_figure(out / "voices.png", figure)
    return rows


def clips(folder: Path, out: Path, opening: Opening) -> list[ClipRow]:
    curves: dict[str, Curves] = {}
    rows, missing = [], (float("nan"),) * len(LAGS)
    for path in files_of(folder):
        try:
            curves[path.name] = look_at_clip(path, opening)
        except UserError as error:
            note = str(error).removeprefix(f"{path}: ")
            rows.append(ClipRow(path.name, 0, missing, missing, float("nan"), note))
            print(clip_line(rows[-1]), flush=True)
    for name in curves:
        rows.append(judge_clip(name, curves))
        print(clip_line(rows[-1]), flush=True)
    figure = _figure(len(curves))
    for k, (name, clip) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, k + 1)
        for curve, label in ((clip.seen, "seen"), (clip.ours, "ours")):
            axes.plot(
                np.arange(len(curve)) / FPS,
                (curve - np.nanmean(curve)) / (np.nanstd(curve) + 1e-9),
                linewidth=0.8,
                label=label,
            )
        axes.set_title(for_figures(f"{name}: lips, in standard deviations"), fontsize=7)
        axes.tick_params(labelsize=6)
        axes.legend(fontsize=6, loc="upper right")
    write_figure(out / "clips.png", figure)
    return rows


PORTRAIT_HEAD = "| portrait | faces | presence | joints of 8 | person dB | face dB | beside the matte | s | |"
VOICE_HEAD = "| sound | s | mean mm | 95% mm | mean 40 dB down | p/b/m closed | AUC | |"
CLIP_HEAD = "| clip | frames | " + " | ".join(f"{k:+d}" for k in LAGS) + " | loudness | another's voice | |"


def portrait_line(r: PortraitRow) -> str:
    return (
        f"| {r.name} | {r.faces} | {r.presence:.2f} | {r.joints} | {r.psnr_db:.1f} | {r.face_db:.1f} | {r.outside:.2%} | "
        f"{r.seconds:.0f} | {r.refused} |"
    )


def voice_line(r: VoiceRow) -> str:
    closed = f"{r.closed} of {r.sounds}" if r.sounds else ""
    cells = (
        r.name,
        f"{r.seconds:.1f}",
        f"{r.mean_mm:.2f}",
        f"{r.wide_mm:.2f}",
        f"{r.quiet_mm:.2f}",
        closed,
        f"{r.auc:.2f}",
        r.note,
    )
    return f"| {' | '.join(cells)} |"


def clip_line(r: ClipRow) -> str:
    own = " | ".join(f"{v:.2f}" for v in r.own)
    return f"| {r.name} | {r.frames} | {own} | {r.loudness[3]:.2f} | {r.other:.2f} | {r.note} |"


def summary(found: Findings) -> dict[str, float]:
    """The headline of each table; NaN-free."""
    out: dict[str, float] = {}
    made = [r for r in found.portraits if not r.refused]
    if found.portraits:
        out["portraits"] = len(found.portraits)
        out["portraits with a face"] = sum(r.faces > 0 for r in found.portraits)
        out["avatars made"] = len(made)
    if made:
        out["joints trusted of 8, mean"] = float(np.mean([r.joints for r in made]))
        out["person dB, mean"] = float(np.mean([r.psnr_db for r in made]))
        out["beside the matte, most"] = max(r.outside for r in made)
        out["beside the matte, mean"] = float(np.mean([r.outside for r in made]))
        out["personalise s, mean"] = float(np.mean([r.seconds for r in made]))
    if sounds := sum(r.sounds for r in found.voices):
        out["p/b/m closed, share"] = sum(r.closed for r in found.voices) / sounds
        out["p/b/m AUC, mean"] = float(np.mean([r.auc for r in found.voices if r.sounds]))
    if found.quiet:
        out["widest opening without a voice, mm"] = max(r.wide_mm for r in found.quiet)
    if seen := [r for r in found.clips if not r.note]:
        out["clips"] = len(seen)
        out["lip correlation at no lag"] = float(np.mean([r.own[3] for r in seen]))
        out["lip correlation, best of +-2"] = float(np.mean([max(r.own[NEAR]) for r in seen]))
        out["loudness alone at no lag"] = float(np.mean([r.loudness[3] for r in seen]))
        out["loudness alone, best of +-2"] = float(np.mean([max(r.loudness[NEAR]) for r in seen]))
        if len(seen) > 1:
            out["another's voice at no lag"] = float(np.mean([r.other for r in seen]))
    return out


def markdown(found: Findings) -> str:
    """The tables as one page."""
    parts = ["# Real people", "", *(f"* {name}: {value:.3g}" for name, value in summary(found).items())]
    tables: list[tuple[str, str, list[str]]] = [
        ("Portraits", PORTRAIT_HEAD, [portrait_line(r) for r in found.portraits]),
        ("Voices", VOICE_HEAD, [voice_line(r) for r in found.voices]),
        ("Without a voice", VOICE_HEAD, [voice_line(r) for r in found.quiet]),
        (
            "Clips: correlation with the lips seen, ours so many frames earlier",
            CLIP_HEAD,
            [clip_line(r) for r in found.clips],
        ),
    ]
    for title, head, lines in tables:
        if lines:
            rule = "|" + "---|" * (head.count("|") - 1)
            parts += ["", f"## {title}", "", head, rule, *lines]
    return "\n".join(parts).replace("| nan |", "| |").replace(" nan ", " ").replace("nan%", "") + "\n"


def as_json(found: Findings) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if np.isnan(value) else round(float(value), 5)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return plain({"summary": summary(found), **asdict(found)})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description="Measures on real people.")
    parser.add_argument("--portraits", type=Path, help="a folder of photographs")
    parser.add_argument(
        "--voices",
        type=Path,
        help="a folder of recordings, with NAME.txt beside NAME.wav where what is said is known",
    )
    parser.add_argument("--clips", type=Path, help="a folder of talking videos")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--student", type=Path, default=Path("data/distill/student.safetensors"))
    parser.add_argument("--keypoints", default="holistic", help="the detector that personalise uses")
    given = parser.parse_args(arguments)
    if not (given.portraits or given.voices or given.clips):
        parser.error("expected one or more of --portraits, --voices, --clips")
    for folder in (given.portraits, given.voices, given.clips):
        if folder:
            files_of(folder)
    check_writable(given.out / "real.md", [])
    found = Findings()
    if given.voices or given.clips:
        student = load_student(given.student)

        def opening(audio: np.ndarray) -> np.ndarray:
            x = generate(student.generator, pad_to_frames(audio), 0, student.sample)
            return 1000 * student.codec.aperture(x).detach().numpy()

        found.quiet = judge_without_voices(opening)
        if given.voices:
            found.voices = voices(given.voices, given.out, opening)
        if given.clips:
            found.clips = clips(given.clips, given.out, opening)
    if given.portraits:
        perception = PerceptionConfig.parse({"keypoints": given.keypoints}, "--keypoints", "")
        found.portraits = portraits(given.portraits, given.out, perception)
    write_text(given.out / "real.md", markdown(found))
    write_json(given.out / "real.json", as_json(found))
    print(f"\n{markdown(found)}\n{given.out}: real.md, real.json and the sheets")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
