"""Stage 2, speech: which person says which sentence in which framing, and the sound of it.

Writes `catalog.parquet` (one row a clip: the plan that all later stages follow), `wav/<clip>.wav` (16 kHz mono) and
`phonemes/<clip>.json`. Test sentences, voices and people appear in no training clip.
Sentences and their sound come from a backend: `avatar_core.speech`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file, write_text
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.catalog import write_catalog
from avatar_core.io.images import write_figure
from avatar_core.io.letters import draw_line
from avatar_core.speech import (
    Line,
    Phoneme,
    RecordedClip,
    RecordedSpeech,
    SentenceSource,
    Speech,
    SpeechBackend,
    VoiceModel,
    phonemes_from_json,
    phonemes_to_json,
)
from stages.artifacts import Artifacts, PersonRecord, Row
from stages.common import Stage, run_stage

TITLE = 11  # px


@dataclass(frozen=True)
class PlannedClip:
    """One clip: who, how framed, what is said and in whose voice."""

    id: str
    person: PersonRecord
    framing: str
    line: Line
    voice: str


def plan_clips(stage: Stage, people: list[PersonRecord]) -> list[PlannedClip]:
    """Deal sentences and framings to people: training people in turn, so that each gets every framing."""
    params = stage.params.speech
    if isinstance(params.source, RecordedSpeech) and (recorded := params.source.recorded()):
        return _recorded_plan(people, recorded)
    framings = {
        "train": {
            "face": params.face_clips,
            "waist_up": params.waist_up_clips,
            "full_body": params.full_body_clips,
        },
        "val": {"face": params.val_clips, "waist_up": params.val_waist_up_clips},
    }
    groups = {split: [p for p in people if p.split == split] for split in ("train", "val", "test")}
    wanted = {split: sum(counts.values()) for split, counts in framings.items()}
    wanted["test"] = params.test_clips * len(groups["test"])
    wanted = {split: count for split, count in wanted.items() if count and groups[split]}
    lines = params.source.lines(wanted)
    plan: list[PlannedClip] = []
    for split, counts in framings.items():
        if split not in wanted:
            continue
        group = groups[split]
        sentences, voices = cycle(_shuffled(stage, lines, split)), _voices(params.source, group, split)
        turn = 0
        for framing, count in counts.items():
            for _ in range(count):
                person = group[turn % len(group)]
                name = f"{person.id}-{framing}-{turn // len(group):03d}"
                plan.append(PlannedClip(name, person, framing, next(sentences), next(voices[person.id])))
                turn += 1
    # Unseen people say the same sentence twice, close and at a distance, so that lips and gestures can both be judged.
    group = groups["test"]
    sentences, voices = cycle(_shuffled(stage, lines, "test")), _voices(params.source, group, "test")
    for k in range(params.test_clips):
        for person in group:
            line, voice = next(sentences), next(voices[person.id])
            for framing in ("face", "waist_up"):
                plan.append(PlannedClip(f"{person.id}-{framing}-{k:03d}", person, framing, line, voice))
    return plan


def _recorded_plan(people: list[PersonRecord], recorded: list[RecordedClip]) -> list[PlannedClip]:
    """What was filmed is what there is: every clip of the run's people, whatever the counts of clips say."""
    of = {person.id: person for person in people}
    plan = [
        PlannedClip(r.clip, of[r.person], r.framing, Line("", of[r.person].split, f"{r.clip}.wav"), "")
        for r in recorded
        if r.person in of
    ]
    for person in people:
        if not any(clip.person is person for clip in plan):
            raise UserError(
                f"speech.folder.path: expected clips of every person, found none of {person.id} "
                "(identities.folder.path and speech.folder.path must come from one `avatar ingest`)"
            )
    return plan


def main(stage: Stage) -> None:
    """Plan the clips and speak them."""
    params = stage.params.speech
    people = Artifacts.of(stage).people()
    out = stage.fresh(stage.out)
    plan = plan_clips(stage, people)
    source = params.source
    if isinstance(source, VoiceModel):
        said = _spoken(stage, source, plan)
        rows: list[Row] = [
            {**_written(clip, s, params.max_seconds, params.backend, out), **source.card.row}
            for clip, s in zip(plan, said, strict=True)
        ]
    else:
        rows = stage.map(_speak, [(clip, params.max_seconds, params.backend, source, out) for clip in plan])
    write_catalog(out / "catalog.parquet", rows)
    _draw(stage, [row["id"] for row in rows][:12])
    frames = {
        split: sum(r["t_len"] for r in rows if r["split"] == split) for split in ("train", "val", "test")
    }
    stage.write_metrics(
        {f"{split}_frames": n for split, n in frames.items()}
        | {
            "clips": len(rows),
            "languages": len({r["language"] for r in rows}),
            "voices": len({r["voice"] for r in rows}),
            "closures": int(sum(r["qc"]["closures"] for r in rows)),
        },
        headline=("clips", "closures", "voices"),
    )


def _speak(item: tuple[PlannedClip, float, str, SpeechBackend, Path]) -> Row:
    clip, max_seconds, backend, source, out = item
    return _written(clip, source.speak(clip.line, clip.voice), max_seconds, backend, out)


def _spoken(stage: Stage, source: VoiceModel, plan: list[PlannedClip]) -> list[Speech]:
    """What a published model says; what a killed run has spoken is not spoken again."""
    scratch = stage.scratch(stage.data / "identities")
    todo = [clip for clip in plan if not (scratch / f"{clip.id}.json").is_file()]
    with stage.progress(len(todo), "sentence") as bar:
        said = source.spoken([(clip.line, clip.voice) for clip in todo], stage.compute) if todo else ()
        for clip, speech in zip(todo, said, strict=True):
            write_wav(scratch / f"{clip.id}.wav", speech.audio)
            write_text(scratch / f"{clip.id}.json", phonemes_to_json(speech))
            bar.advance()
    files = [(scratch / f"{clip.id}.json", scratch / f"{clip.id}.wav") for clip in plan]
    return [phonemes_from_json(text, read_audio(wav)) for text, wav in files]


def _written(clip: PlannedClip, speech: Speech, max_seconds: float, backend: str, out: Path) -> Row:
    speech = _cut(speech, max_seconds)
    wav = out / "wav" / f"{clip.id}.wav"
    write_wav(wav, speech.audio)
    write_text(out / "phonemes" / f"{clip.id}.json", phonemes_to_json(speech))
    return {
        "id": clip.id,
        "identity": clip.person.id,
        "split": clip.person.split,
        "shard": clip.person.shard,
        "t_start": 0,
        "t_len": speech.num_frames,
        "framing": clip.framing,
        "text": speech.text,
        "language": speech.language,
        "voice": speech.voice,
        "backend": backend,
        "sha256": sha256_file(wav),
        "qc": {
            "peak": float(np.abs(speech.audio).max(initial=0)),
            "rms": float(np.sqrt(np.mean(np.square(speech.audio)))),
            "closures": float(sum(p.ipa[:1] in ("p", "b", "m") for p in speech.phonemes)),
        },
    }


def _cut(speech: Speech, max_seconds: float) -> Speech:
    """At most `max_seconds`, ended at the last sound that fits, faded out over 20 ms, with a moment of silence behind."""
    limit = int(max_seconds * 25) * SAMPLES_PER_FRAME
    if len(speech.audio) <= limit:
        return speech
    seconds = limit / SAMPLE_RATE - 0.12
    kept = [p for p in speech.phonemes if p.end_s <= seconds]
    end = kept[-1].end_s if kept else seconds
    audio = speech.audio[:limit].copy()
    stop = int(end * SAMPLE_RATE)
    fade = min(320, stop)
    audio[stop - fade : stop] *= np.linspace(1, 0, fade, dtype=np.float32)
    audio[stop:] = 0
    return replace(speech, audio=audio, phonemes=[*kept, Phoneme(end, limit / SAMPLE_RATE, "", False)])


def _shuffled(stage: Stage, lines: list[Line], split: str) -> list[Line]:
    group = [line for line in lines if line.split == split]
    return [group[k] for k in stage.rng("sentences", split).permutation(len(group))]


def _voices(source: SentenceSource, group: list[PersonRecord], split: str) -> dict[str, Iterator[str]]:
    """For each person the voices of its sex in turn, started at another one each."""
    voices = {}
    for k, person in enumerate(group):
        names = source.voices(split, person.attributes.get("sex"))
        start = k % len(names)
        voices[person.id] = cycle(names[start:] + names[:start])
    return voices


def _draw(stage: Stage, clips: list[str]) -> None:
    """Waveforms with the sounds written over them; closures of the lips in red."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        -(-len(clips) // 2), 2, figsize=(15, 1.4 * -(-len(clips) // 2) + 0.4), squeeze=False
    )
    for name, axes in zip(clips, grid.flat, strict=False):
        speech = phonemes_from_json(
            stage.out / "phonemes" / f"{name}.json", read_audio(stage.out / "wav" / f"{name}.wav")
        )
        axes.plot(np.arange(len(speech.audio)) / SAMPLE_RATE, speech.audio, linewidth=0.3, color="#335")
        for phoneme in speech.phonemes:
            closure = phoneme.ipa[:1] in ("p", "b", "m")
            axes.axvline(phoneme.start_s, color="#c33" if closure else "#ccc", linewidth=0.6)
            axes.text(phoneme.start_s, 0.8, phoneme.ipa, fontsize=6)
        axes.set(ylim=(-1, 1), yticks=[])
        ink = OffsetImage(
            255 - draw_line(f"{name} [{speech.language}] {speech.text}", TITLE), zoom=72 / figure.dpi
        )
        ink.image.set(cmap="gray", clim=(0, 255))
        axes.add_artist(
            AnnotationBbox(
                ink, (0.5, 1), xycoords="axes fraction", box_alignment=(0.5, 0), frameon=False, pad=0.1
            )
        )
        axes.tick_params(labelsize=6)
    write_figure(stage.reports / "contact_sheet.png", figure)


if __name__ == "__main__":
    run_stage("speech", main)
