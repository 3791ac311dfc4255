"""What a run of the pipeline leaves for Prefect's pages, read back from a real server."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from flows.artifacts import label, thumbnail

ROOT = Path(__file__).resolve().parents[2]
STAGES = """
stages:
  fit:
    matrix: {shard: [0]}
    cmd: python work.py ${item.shard}
    deps: [work.py]
    outs: ['data/fit-${item.shard}.txt', 'data/reports/fit/shard-${item.shard}/contact_sheet.png']
    metrics: ['data/reports/fit/shard-${item.shard}/metrics.json']
"""
WORK = """
import json, pathlib, stages.progress
stages.progress.LOG_EVERY = 0
with stages.progress.Bar("fit-0", 8, "clip") as bar:
    for k in range(6):
        bar.advance(note=f"psnr {20 + k}")
folder = pathlib.Path("data/reports/fit/shard-0")
folder.mkdir(parents=True, exist_ok=True)
from PIL import Image
Image.new("RGB", (1600, 800), "red").save(folder / "contact_sheet.png")
(folder / "metrics.json").write_text(json.dumps({"psnr": 25.5, "clips": 6}))
pathlib.Path("data/fit-0.txt").write_text("fitted")
"""
RUN = """
import json, sys
from flows.pipeline import pipeline
from flows.server import server_for_a_run
from prefect import get_client
with server_for_a_run():
    print(pipeline(root=sys.argv[1]))
    with get_client(sync_client=True) as client:
        kept = client.request("POST", "/artifacts/filter", json={}).json()
        runs = client.request("POST", "/task_runs/filter", json={}).json()
print(json.dumps([kept, runs]))
"""


def test_a_stage_shows_its_progress_metrics_and_contact_sheet(tmp_path, prefect_home):
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=project, check=True)
    (project / "work.py").write_text(WORK)
    (project / "dvc.yaml").write_text(STAGES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": prefect_home(tmp_path / "prefect")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(project)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept, runs = json.loads(done.stdout.splitlines()[-1])
    assert [(run["name"], set(run["tags"])) for run in runs] == [("fit@0", {"cpu", "stage:fit"})]
    found = {artifact["key"]: artifact for artifact in kept}
    names = ("progress", "metrics", "sheet", "thumbnail", "summary")
    assert set(found) == {f"fit-0-{name}" for name in names}
    assert all(artifact["task_run_id"] == runs[0]["id"] for artifact in kept)
    assert float(found["fit-0-progress"]["data"]) == 75 and "6 of 8" in found["fit-0-progress"]["description"]
    assert "psnr 25" in found["fit-0-progress"]["description"]
    rows = json.loads(found["fit-0-metrics"]["data"])
    assert {"metric": "psnr", "value": 25.5} in rows
    sheet = project / "data/reports/fit/shard-0/contact_sheet.png"
    assert sheet.as_uri() in found["fit-0-sheet"]["data"]
    assert found["fit-0-thumbnail"]["data"] == thumbnail(sheet)
    summary = found["fit-0-summary"]["data"]
    assert "| psnr | 25.5 |" in summary and thumbnail(sheet) in summary and "ran, " in summary


def test_a_thumbnail_is_small_and_keeps_its_shape(tmp_path):
    Image.new("RGBA", (3000, 600), (255, 0, 0, 255)).save(tmp_path / "sheet.png")
    kind, data = thumbnail(tmp_path / "sheet.png").split(",")
    assert kind == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (
        640,
        128,
    )
    assert label("teacher@12") == "teacher-12"
