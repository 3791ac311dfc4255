"""`avatar inspect`: at 80 columns and through a pipe, by person and page, ids whole, all metrics on demand."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from avatar_core.errors import UserError
from avatar_core.io.catalog import write_catalog
from stages.inspect import inspect_all, inspect_stage
from stages.listing import Wanted, catalog_lines, metric_lines

ROOT = Path(__file__).resolve().parents[2]
FRAMINGS = ("face", "waist_up")
PEOPLE, CLIPS = 13, 6
SENTENCE = "A sentence [of any kind] that goes on for much longer than a line of a terminal can be."


def clip(person, k):
    identity = f"identities-{person:03}-ab12"
    return {
        "id": f"{identity}-{FRAMINGS[k % 2]}-{k:03}",
        "identity": identity,
        "split": "train" if person else "test",
        "shard": person % 2,
        "t_len": 37,
        "framing": FRAMINGS[k % 2],
        "language": "en",
        "voice": "lena",
        "text": SENTENCE,
        "status": "rejected" if k == 5 else "ok",
        "reject_reason": "too dark" if k == 5 else None,
        "qc": {"tracks_alive": 63.5},
    }


ROWS = [{"fps": 25.0, **clip(p, k)} for p in range(PEOPLE) for k in range(CLIPS)]


@pytest.fixture
def project(tmp_path):
    """A checkout in which the teacher and evaluate have run."""
    for shard in (0, 1):
        folder = tmp_path / f"data/teacher/shard-{shard}"
        write_catalog(folder / "catalog.parquet", [r for r in ROWS if r["shard"] == shard])
        for row in ROWS:
            if row["shard"] == shard:
                (folder / f"{row['id']}.mp4").write_bytes(bytes(1000))
        reports = tmp_path / f"data/reports/teacher/shard-{shard}"
        reports.mkdir(parents=True)
        (reports / "metrics.json").write_text(json.dumps({"clips": 42 + shard}))
        (reports / "details.json").write_text(json.dumps({"frames": 1000 + shard}))
    reports = tmp_path / "data/reports/evaluate"
    reports.mkdir()
    (reports / "metrics.json").write_text(json.dumps({"ours.lip_correlation": 0.9341}))
    rows = ("ours", "before_distill", "mismatched_audio", "ground_truth")
    details = {
        f"{row}.{m}": k + 0.5
        for row in rows
        for k, m in enumerate(("FID", "CSIM", "a_metric_of_a_rather_long_name"))
    }
    (reports / "details.json").write_text(
        json.dumps(details | {"test_clips": 6, "fit.hands_mm": "unavailable"})
    )
    return tmp_path


def shown(project, stage, name=None, **options):
    out = StringIO()
    options = {"wanted": Wanted(), **options}
    inspect_stage(stage, name, Console(file=out, width=80), root=project, **options)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def ids(lines):
    return [word for line in lines for word in line.split()[:1] if word in {r["id"] for r in ROWS}]


def test_pages_list_every_clip_once_and_whole_under_its_person(project):
    pages = [shown(project, "teacher", page=n) for n in (1, 2, 3)]
    assert [len(ids(p)) for p in pages] == [30, 30, 18]
    assert sorted(i for page in pages for i in ids(page)) == sorted(r["id"] for r in ROWS)
    assert ids(shown(project, "teacher", page=None)) == sorted(r["id"] for r in ROWS)
    assert any("rows 1 to 30 of 78" in line and "--page 2" in line and "--all" in line for line in pages[0])
    assert not any("--page" in line for line in pages[2])
    person = pages[0].index("identities-000-ab12  test, shard 0")
    assert pages[0][person + 1].startswith("  identities-000-ab12-face-000 ")
    assert any("rejected: too dark" in line for line in pages[0])
    with pytest.raises(UserError, match="--page: expected 1 to 3, found 4"):
        shown(project, "teacher", page=4)


def test_filters(project):
    assert ids(shown(project, "teacher", wanted=Wanted(split="test", framing="face"))) == [
        r["id"] for r in ROWS if r["split"] == "test" and r["framing"] == "face"
    ]
    assert len(ids(shown(project, "teacher", wanted=Wanted(status="rejected")))) == PEOPLE
    with pytest.raises(UserError, match="--framing: expected one of face, waist_up, found 'profile'"):
        shown(project, "teacher", wanted=Wanted(framing="profile"))


def test_one_person_and_one_clip(project):
    person = shown(project, "teacher", "identities-003-ab12")
    assert ids(person)[:CLIPS] == sorted(r["id"] for r in ROWS if r["identity"] == "identities-003-ab12")
    out = StringIO()
    inspect_stage("teacher", ROWS[0]["id"], Console(file=out, width=80), Wanted(), root=project)
    assert SENTENCE in out.getvalue() and "tracks_alive  63.5" in out.getvalue()
    with pytest.raises(UserError, match="nobody"):
        shown(project, "teacher", "nobody")


def test_headline_details_and_files(project):
    lines = shown(project, "teacher")
    assert any(line.split() == ["clips", "42", "43"] for line in lines) and "frames" not in "".join(lines)
    assert any("*.mp4" in line and "42 files, 42.0 kB" in line for line in lines)
    assert any(line.split() == ["frames", "1000", "1001"] for line in shown(project, "teacher", details=True))
    table = shown(project, "evaluate", details=True)
    assert any(line.split()[:2] == ["lip_correlation", "0.9341"] for line in table)
    assert sum(line.split()[:1] == ["FID"] for line in table) == 2  # four columns do not fit side by side
    assert any("unavailable" in line for line in table)
    out = StringIO()
    inspect_all(Console(file=out, width=80), project)
    words = "teacher shard-0 shard-1 clips 42 43 evaluate ours.lip_correlation 0.9341"
    assert " ".join(out.getvalue().split()) == words


def test_columns_go_into_blocks_that_fit():
    columns = {f"shard-{k}": {"clips": k, "psnr": 20.0 + k} for k in range(10)}
    lines = metric_lines(columns, 60)
    assert max(map(len, lines)) <= 60
    assert [w for line in lines if "shard" in line for w in line.split()] == list(columns)
    assert [w for line in lines if "clips" in line for w in line.split()[1:]] == [str(k) for k in range(10)]


def test_long_ids_of_the_users_files_stay_whole():
    row = ROWS[0] | {"id": "x" * 90, "identity": "y" * 85}
    person, line = catalog_lines([row], 1)[1:]
    assert (
        person.startswith("y" * 85 + " ")
        and line.startswith("  " + "x" * 90 + " ")
        and "sentence" not in line
    )


def test_through_a_pipe_and_refused_in_one_line(project):
    def inspect(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "stages", "inspect", *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    done = inspect("teacher", "--framing", "waist_up", "--all")
    assert done.returncode == 0, done.stderr
    assert len(ids(done.stdout.splitlines())) == PEOPLE * CLIPS // 2
    assert max(map(len, done.stdout.splitlines())) <= 80 and "\x1b" not in done.stdout
    refused = inspect("teacher", "--split", "tset")
    assert (
        refused.returncode == 2
        and refused.stderr == "error: --split: expected one of test, train, found 'tset'\n"
    )
