"""The part of evaluation that splits the table by whose clips it rests on, where several teachers share the test clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avatar_core.metrics.clip import Metric
from avatar_core.metrics.suite import ClipScores, summarise
from stages.artifacts import Row


def by_teacher(
    rows: Sequence[Row], scored: Mapping[str, Sequence[ClipScores]], metrics: Mapping[str, Metric]
) -> list[dict[str, Any]]:
    """Catalogue rows of the test clips and what each table row scored -> a line for each teacher and row with its values.

    Empty where all clips have one teacher. FID and FVD of few clips are biased, so compare rows of one teacher alone.
    """
    teachers = {row["id"]: row["backend"] for row in rows}
    if len(set(teachers.values())) < 2:
        return []
    lines = []
    for teacher in sorted(set(teachers.values())):
        for name, clips in scored.items():
            own = [clip for clip in clips if teachers[clip.id] == teacher]
            values = summarise(own, metrics, draws=1)
            found = {m: "unavailable" if v.value is None else v.value for m, v in values.items()}
            lines.append({"teacher": teacher, "row": name, "clips": len(own), **found})
    return lines
