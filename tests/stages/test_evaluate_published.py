"""Stage evaluate with published networks behind its metrics, published systems as rows and two teachers' clips, to its artifacts.

Networks are small ones of the same inputs and outputs, systems are stand-ins; the student is that of the smoke run.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.io.catalog import read_catalog, write_catalog
from avatar_core.teacher.baselines import HunyuanVideoAvatar
from stages import evaluate, report
from stages.common import Stage
from stages.params import parse_params
from tests.metrics.tiny_networks import (
    One,
    PublishedI3D,
    PublishedInception,
    save_onnx,
    save_script,
    save_syncnet,
)
from tests.teacher.programs import checkout

pytestmark = pytest.mark.slow
BASELINES = ["lhm", "persona", "omniavatar", "hunyuan_video_avatar"]
COPY = """
import subprocess, sys, imageio_ffmpeg
image, video, out = sys.argv[1:]
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", video, "-an", "-c:v", "copy", out], check=True)
"""


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """`evaluate` of params.yaml: a file behind every metric that can have one, four baselines of which one is not set up."""
    folder = tmp_path_factory.mktemp("published")
    files = {
        "IQA": save_script(folder / "quality.pt", One(5)),
        "ASE": save_onnx(folder / "aesthetics.onnx", (3, 448, 448), (5,)),
        "SyncC": save_syncnet(folder / "syncnet.safetensors"),
        "HKC": save_onnx(folder / "dwpose.onnx", (3, 384, 288), (133, 576), (133, 768), scale=0.1),
        "CSIM": save_onnx(folder / "arcface.onnx", (3, 112, 112), (512,)),
        "FID": save_script(folder / "inception.pt", PublishedInception(2048)),
        "FVD": save_script(folder / "i3d.pt", PublishedI3D(400)),
    }
    files["SyncD"] = files["SyncC"]
    script = folder / "lhm.py"
    script.write_text(COPY)
    hunyuan = vars(checkout(folder, HunyuanVideoAvatar))
    return {
        "bootstrap": 10,
        "baselines": BASELINES,
        "lhm": {"launcher": [sys.executable], "arguments": [str(script), "{image}", "{video}", "{out}"]},
        "hunyuan_video_avatar": hunyuan,
        **{name: {"path": str(path), "sha256": sha256_file(path)} for name, path in files.items()},
    }


@pytest.fixture
def run(smoke, sections, tmp_path, monkeypatch):
    """The smoke run's artifacts, but that the waist-up test clip is said to be another teacher's -> (raw parameters, data)."""
    monkeypatch.chdir(smoke.root)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    data, videos = tmp_path / "data", tmp_path / "videos"
    videos.mkdir()
    data.mkdir()
    for source in (smoke.root / "data").iterdir():
        # "baseline" is left out too: the pose-driven row is judged in the smoke run itself
        if source.is_dir() and source.name not in (
            "teacher",
            "baseline",
            "evaluate",
            "work",
            "logs",
            "reports",
        ):
            (data / source.name).symlink_to(source)
    for source in (smoke.root / "data" / "teacher").iterdir():
        shutil.copytree(source, data / "teacher" / source.name)
        catalog = data / "teacher" / source.name / "catalog.parquet"
        rows = read_catalog(catalog)
        for row in (r for r in rows if r["split"] == "test"):
            row["backend"] = "folder" if row["framing"] == "waist_up" else row["backend"]
            shutil.copyfile(catalog.parent / f"{row['id']}.mp4", videos / f"{row['id']}.mp4")
        write_catalog(catalog, rows)
    raw = yaml.safe_load((smoke.root / "params.yaml").read_text())
    raw["evaluate"] |= sections | {"omniavatar": {"path": str(videos)}}
    return raw, data


def read(path: Path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_published_metrics_and_systems_and_splits_by_teacher(run):
    raw, data = run
    stage = Stage("evaluate", None, parse_params(raw), data)
    evaluate.main(stage)
    table = {(line["row"], line["metric"]): line for line in read(stage.reports / "table.csv")}
    for metric in ("IQA", "ASE", "SyncC", "SyncD", "HKC", "CSIM", "FID", "FVD"):
        for row in ("ours", "ground_truth", "lhm", "omniavatar", "hunyuan_video_avatar"):
            line = table[row, metric]
            few = "ground-truth frames" in line["note"] or "2 samples" in line["note"]
            assert line["backend"] == "reference" and (line["value"] != "unavailable" or few), line
    assert table["ours", "PSNR"]["backend"] == "formula"
    assert table["ours", "HKC"]["note"].startswith("hkc-2 dwpose.onnx")
    for line in (line for (row, _), line in table.items() if row == "persona"):
        assert line["value"] == "unavailable"
        assert line["note"].startswith("not run: evaluate.persona: give `path`, a folder with <clip>.mp4")
    # LHM's stand-in and OmniAvatar's folder show the teacher's own video, Hunyuan's the portrait
    for name in ("lhm", "omniavatar"):
        assert float(table[name, "PSNR"]["value"]) > 30 > float(table["ours", "PSNR"]["value"])
    assert table["omniavatar", "PSNR"]["samples"] == "2"
    details = json.loads((stage.reports / "details.json").read_text())
    assert details["omniavatar.PSNR"] > 30 and details["persona.FID"] == "unavailable"
    split = {(line["teacher"], line["row"]): line for line in read(stage.reports / "by_teacher.csv")}
    assert {teacher for teacher, _ in split} == {"procedural", "folder"}
    assert split["procedural", "ours"]["clips"] == split["folder", "ours"]["clips"] == "1"
    assert split["procedural", "ours"]["SyncC"] != "unavailable" == split["folder", "ours"]["SyncC"]
    assert split["folder", "ours"]["HKC"] == table["ours", "HKC"]["value"]
    report.main(Stage("report", None, stage.params, data))
    page = (data / "reports" / "index.html").read_text()
    assert "by_teacher.csv" in page and "not run: evaluate.persona" in page and "hunyuan_video_avatar" in page


def test_what_is_wrong_is_one_line_before_any_clip_is_judged(run, monkeypatch):
    raw, data = run
    monkeypatch.setattr(evaluate, "_judge_clip", lambda job: pytest.fail("judged"))
    video = next(Path(raw["evaluate"]["omniavatar"]["path"]).glob("*.mp4"))
    wrong = [
        ({"FID": raw["evaluate"]["FID"] | {"sha256": "0" * 64}}, r"inception\.pt: expected SHA-256 0{12}"),
        ({"CSIM": raw["evaluate"]["IQA"]}, r"quality\.pt: expected ArcFace.* found outputs of 5 instead of 512"),
        ({"omniavatar": {"path": "none-such"}}, r"evaluate\.omniavatar\.path: expected a folder of videos"),
        ({"omniavatar": {"checkout": "none-such"}}, r"evaluate\.omniavatar\.launcher|evaluate\.omniavatar\.checkout"),
        ({"lhm": {"arguments": ["{image}", "{out}"]}}, r"evaluate\.lhm\.arguments: expected \{video\} in them"),
    ]  # fmt: skip
    for change, line in wrong:
        with pytest.raises(UserError, match=line):
            evaluate.main(
                Stage("evaluate", None, parse_params(raw | {"evaluate": raw["evaluate"] | change}), data)
            )
    video.unlink()
    with pytest.raises(
        UserError, match=rf"{video.name}: expected OmniAvatar-14B's video of this test clip, found none"
    ):
        evaluate.main(Stage("evaluate", None, parse_params(raw), data))
