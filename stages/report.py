"""Last stage, report: `data/reports/index.html`, one self-contained page with what every stage made."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from avatar_core.io.atomic import write_text
from stages import report_page
from stages.common import STAGES, Stage, run_stage

ABOUT = {
    "identities": "Sampled people, disjoint between training, validation and test, and one portrait of each.",
    "speech": "Spoken sentences in several languages with the times of their phonemes.",
    "teacher": "Talking videos with foreground masks and point tracks. The true surface is kept apart, for evaluation only.",
    "score": "The teacher's score network: a small audio-conditioned video diffusion model, used by VSD.",
    "fit": "A canonical avatar from each portrait alone, then its particles followed through each clip: one camera, no truth.",
    "embed": "The motion code of body, face and hands, its decoder, and how well sound and motion agree (a diagnosis).",
    "generator": "The diffusion transformer from sound to motion, and the refiner of face and hands.",
    "baseline": "The pose-driven way: bones and face actions of the fits, the same generator; a row of the last table.",
    "distill": "End-to-end fine-tuning through decoder and renderer, with video score distillation (VSD).",
    "evaluate": "Unseen people saying unseen sentences. Each number names its backend; what could not run says so. In the row "
    "video_diffusion a small mouth window is sampled and set into our video: the rest of its picture is ours.",
}
VIDEOS = {"teacher": 8, "evaluate": 16, "distill": 6}  # shown at most
VIDEO_BYTES = 4_000_000


def main(stage: Stage) -> None:
    """Put the reports of all stages on one page."""
    sections = [stage_section(stage.data, name) for name in STAGES if name != "report"]
    lead = "From a portrait and a voice to a talking whole-body avatar: what every stage made, in pictures, curves and numbers."
    write_text(stage.data / "reports" / "index.html", report_page.page("AudioAvatar", lead, sections))


def stage_section(data: Path, name: str) -> str:
    """One stage: contact sheets, videos, tables, curves, metrics."""
    reports = data / "reports" / name
    sheets = sorted(reports.rglob("*.png"))
    parts = [report_page.media("pictures", [(p, str(p.relative_to(reports))) for p in sheets], wide=True)]
    if name in VIDEOS:
        parts.append(report_page.media("videos", _videos(data / name, VIDEOS[name])))
    for path in sorted(reports.rglob("*.csv")):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        title = str(path.relative_to(reports))
        plot = report_page.curves(title, rows) if path.stem.startswith("loss") else ""
        parts.append(plot or report_page.table(title, rows))
    for path in [*sorted(reports.rglob("metrics.json")), *sorted(reports.rglob("details.json"))]:
        parts.append(report_page.metrics(str(path.relative_to(reports)), json.loads(path.read_text())))
    return report_page.section(name, ABOUT[name], parts)


def _videos(folder: Path, limit: int) -> list[tuple[Path, str]]:
    """Some of a stage's videos, spread over all of them."""
    found = [p for p in sorted(folder.rglob("*.mp4")) if p.stat().st_size <= VIDEO_BYTES]
    step = max(1, -(-len(found) // limit))
    return [(p, str(p.relative_to(folder))) for p in found[::step]]


if __name__ == "__main__":
    run_stage("report", main)
