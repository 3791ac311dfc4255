"""The report's HTML: one page, everything inside it, no scripts and nothing fetched."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

# (stage, column, row, what it makes): where the boxes of the drawing stand
BOXES = (
    ("identities", 0, 0, "people, portraits"),
    ("speech", 1, 0, "sentences, timing"),
    ("teacher", 2, 0, "talking videos"),
    ("score", 3, 1, "score network"),
    ("fit", 3, 0, "particles over time"),
    ("embed", 4, 0, "motion code"),
    ("generator", 5, 0, "sound to motion"),
    ("baseline", 5, 2, "pose-driven row"),
    ("distill", 6, 0, "end to end, VSD"),
    ("evaluate", 7, 0, "unseen people"),
)
ARROWS = (
    ("identities", "speech"),
    ("speech", "teacher"),
    ("teacher", "fit"),
    ("teacher", "score"),
    ("fit", "embed"),
    ("embed", "generator"),
    ("generator", "distill"),
    ("embed", "baseline"),
    ("baseline", "evaluate"),
    ("score", "distill"),
    ("score", "evaluate"),
    ("distill", "evaluate"),
)
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4", ".svg": "image/svg+xml"}

STYLE = """
:root { --ink: #1d2330; --soft: #5c667a; --line: #d9dee7; --paper: #ffffff; --back: #f4f6f9; --mark: #2f6fdb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaf0; --soft: #9aa5b8; --line: #343c4b; --paper: #1c212b; --back: #12161d; --mark: #6ea2ff; } }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
header, section { max-width: 1180px; margin: 0 auto; padding: 20px 24px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; margin: 18px auto; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 0 0 2px; font-size: 20px; } p { margin: 2px 0 12px; color: var(--soft); }
h3 { margin: 18px 0 6px; font-size: 14px; color: var(--soft); font-weight: 600; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
.media { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; max-width: 300px; } figure.wide { max-width: 100%; }
figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
video { width: 260px; border-radius: 6px; background: #000; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 3px 12px 3px 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number { text-align: right; }
.columns { columns: 3 300px; column-gap: 28px; } .columns table { width: 100%; break-inside: avoid; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); } svg .small { font-size: 11px; fill: var(--soft); }
svg rect { fill: var(--paper); stroke: var(--line); } svg a:hover rect { stroke: var(--mark); }
svg .arrow { stroke: var(--soft); fill: none; marker-end: url(#head); }
svg .curve { fill: none; stroke: var(--mark); stroke-width: 1.6; } svg .axis { stroke: var(--line); }
"""


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """The whole document."""
    body = "\n".join(sections)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head>\n"
        f"<body><header><h1>{_text(title)}</h1><p>{_text(lead)}</p>{drawing()}</header>\n{body}\n</body></html>\n"
    )


def section(name: str, description: str, parts: Sequence[str]) -> str:
    """One stage's part of the page."""
    return f"<section id='{name}'><h2>{name}</h2><p>{_text(description)}</p>{''.join(p for p in parts if p)}</section>"


def drawing() -> str:
    """The pipeline as an SVG whose boxes lead to their sections."""
    width, height, dx, dy = 122, 50, 143, 88
    place = {name: (8 + dx * column, 12 + dy * row) for name, column, row, _ in BOXES}
    parts = [
        "<defs><marker id='head' markerWidth='8' markerHeight='8' refX='6' refY='3' orient='auto'>"
        "<path d='M0,0 L6,3 L0,6 z' fill='currentColor'/></marker></defs>"
    ]
    for source, target in ARROWS:
        (x0, y0), (x1, y1) = place[source], place[target]
        start = (x0 + width, y0 + height / 2)
        end = (x1 - 2, y1 + height / 2) if y1 >= y0 else (x1 + width / 2, y1 + height + 2)
        if source == "teacher" and target == "score":
            start, end = (x0 + width / 2, y0 + height), (x1 - 2, y1 + height / 2)
        middle = f"{start[0]:.0f},{end[1]:.0f}" if y1 > y0 else f"{end[0]:.0f},{start[1]:.0f}"
        bend = f" L{middle}" if y0 != y1 else ""
        parts.append(
            f"<path class='arrow' d='M{start[0]:.0f},{start[1]:.0f}{bend} L{end[0]:.0f},{end[1]:.0f}'/>"
        )
    for name, _, _, note in BOXES:
        x, y = place[name]
        parts.append(
            f"<a href='#{name}'><rect x='{x}' y='{y}' width='{width}' height='{height}' rx='7'/>"
            f"<text x='{x + 10}' y='{y + 21}'>{name}</text><text class='small' x='{x + 10}' y='{y + 38}'>{note}</text></a>"
        )
    return f"<div class='scroll'><svg viewBox='0 0 {8 + dx * 8} {3 * dy - 11}' width='1130' role='img'>{''.join(parts)}</svg></div>"


def media(title: str, files: Sequence[tuple[Path, str]], *, wide: bool = False) -> str:
    """Pictures and videos with captions, embedded."""
    if not files:
        return ""
    figures = []
    for path, caption in files:
        data = f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        tag = (
            f"<video controls loop preload='auto' src='{data}'></video>"
            if path.suffix == ".mp4"
            else f"<img alt='{_text(caption)}' src='{data}'>"
        )
        figures.append(
            f"<figure{' class=wide' if wide else ''}>{tag}<figcaption>{_text(caption)}</figcaption></figure>"
        )
    return f"<h3>{_text(title)}</h3><div class='media'>{''.join(figures)}</div>"


def metrics(title: str, values: Mapping[str, object]) -> str:
    """Names and values in columns."""
    if not values:
        return ""
    rows = "".join(
        f"<tr><td>{_text(k)}</td><td class='number'>{_number(v)}</td></tr>" for k, v in values.items()
    )
    return f"<h3>{_text(title)}</h3><div class='columns'><table>{rows}</table></div>"


def table(title: str, rows: Sequence[Mapping[str, str]], limit: int = 200) -> str:
    """A CSV table, its first `limit` rows."""
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{_text(n)}</th>" for n in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row[n])}</td>" for n in names) + "</tr>" for row in rows[:limit]
    )
    more = f"<p>{len(rows) - limit} more rows in the file</p>" if len(rows) > limit else ""
    return f"<h3>{_text(title)}</h3><div class='scroll'><table><tr>{head}</tr>{body}</table></div>{more}"


def curves(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A CSV's numeric columns over its first one, a small plot each."""
    if len(rows) < 3:
        return ""
    names = list(rows[0])
    x = _floats(rows, names[0])
    plots = [_plot(name, x, y) for name in names[1:] if (y := _floats(rows, name)) and x]
    return f"<h3>{_text(title)}</h3><div class='media'>{''.join(plots)}</div>" if plots else ""


def _plot(name: str, x: Sequence[float], y: Sequence[float], width: int = 270, height: int = 130) -> str:
    low, high = min(y), max(y)
    left, right = min(x), max(x)
    across, down = (right - left) or 1.0, (high - low) or 1.0
    points = " ".join(
        f"{6 + (width - 12) * (a - left) / across:.1f},{20 + (height - 40) * (1 - (b - low) / down):.1f}"
        for a, b in zip(x, y)
    )
    return (
        f"<svg width='{width}' height='{height}'><line class='axis' x1='6' x2='{width - 6}' y1='{height - 18}' y2='{height - 18}'/>"
        f"<polyline class='curve' points='{points}'/><text class='small' x='6' y='12'>{_text(name)}: last {y[-1]:.4g}, "
        f"{low:.4g} to {high:.4g}</text><text class='small' x='6' y='{height - 4}'>{left:g}</text>"
        f"<text class='small' x='{width - 6}' y='{height - 4}' text-anchor='end'>{right:g}</text></svg>"
    )


def _floats(rows: Sequence[Mapping[str, str]], name: str) -> list[float]:
    try:
        return [float(row[name]) for row in rows]
    except (TypeError, ValueError):
        return []


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else _text(str(value))


def _cell(value: str) -> str:
    return "" if value == "nan" else _text(value)


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
