"""The smoke profile end to end, through real `dvc repro` and through the Prefect flow, in scratch copies of the repository."""

import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from avatar_core.io.audio import read_audio
from avatar_core.io.catalog import read_catalog
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.io.images import read_image
from avatar_core.io.store import Store, Trajectories
from avatar_core.io.video import read_video

pytestmark = pytest.mark.slow
SHARDS = (0, 1)
# one person's fit, which takes longest; the rest is compared by the run over two workers, `make test-cluster`
UNTIL = ("score", "fit@1")


def test_every_stage_leaves_metrics_a_picture_and_its_artifacts(smoke):
    data = smoke.root / "data"
    plain = ("identities", "speech", "score", "embed", "generator", "baseline", "distill", "evaluate")
    folders = [*plain, *(f"{s}/shard-{k}" for s in ("teacher", "fit") for k in SHARDS)]
    for folder in folders:
        metrics, details = (
            json.loads((data / "reports" / folder / f"{name}.json").read_text())
            for name in ("metrics", "details")
        )
        assert 0 < len(metrics) <= 12 and list(metrics) == sorted(metrics), folder
        assert details and not metrics.keys() & details.keys(), folder
        assert read_image(data / "reports" / folder / "contact_sheet.png", max_side=20_000).std() > 0.01, (
            folder
        )
    for name in ("score/score", "embed/codec", "generator/generator", "distill/student"):
        tensors, sidecar = load_checkpoint(data / f"{name}.safetensors")
        assert tensors and sidecar["seed"] is not None


def test_nothing_is_left_over(smoke):
    stray = [p for p in (smoke.root / "data").rglob(".tmp-*")]
    assert stray == [] and not any((smoke.root / "data" / "work").rglob("*.zarr"))


def test_teacher_clips_are_in_step_and_fit_covers_them(smoke):
    data = smoke.root / "data"
    fitted = set()
    for shard in SHARDS:
        rows = read_catalog(data / "teacher" / f"shard-{shard}" / "catalog.parquet")
        for row in rows:
            path = data / "teacher" / f"shard-{shard}" / f"{row['id']}.mp4"
            frames, sound = read_video(path), read_audio(path)
            assert len(frames) == row["t_len"] and abs(len(sound) - 640 * len(frames)) < 320  # half a frame
        store = Trajectories(data / "fit" / f"shard-{shard}" / "trajectories.zarr")
        lengths = {r["id"]: r["t_len"] for r in rows}
        for clip, (_, length) in store.clips.items():
            assert lengths[clip] == length
            assert np.isfinite(store.read_clip(clip)["mean_offset"]).all()
            fitted.add(clip)
    assert fitted


def test_fit_writes_plys_in_the_inria_layout(smoke):
    plys = sorted((smoke.root / "data" / "fit").rglob("*.ply"))
    assert len(plys) >= 2
    header = plys[0].read_bytes()[:2000].split(b"end_header")[0].decode()
    for name in ("x", "f_dc_0", "f_dc_2", "opacity", "scale_0", "rot_3"):
        assert f"property float {name}\n" in header


def test_particles_show_more_of_a_clip_than_bones(smoke):
    done = smoke.run(sys.executable, "-m", "benchmarks.poses", "--split", "train", "--every", "3")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert lines and all(float(whole) > float(bones) for _, _, whole, _, _, _, bones, *_ in lines), (
        done.stdout
    )


def test_metrics_say_unavailable_never_zero(smoke):
    headline, details = (
        json.loads((smoke.root / "data/reports/evaluate" / name).read_text())
        for name in ("metrics.json", "details.json")
    )
    measured = {k for k, v in headline.items() if isinstance(v, (int, float))}
    assert {"ours.lip_correlation", "ours.LVE_mm", "ours.CSIM"} <= measured
    assert set((headline | details).values()) - {"unavailable"} and all(
        v == "unavailable" for v in (headline | details).values() if isinstance(v, str)
    )


def test_the_score_teachers_samples_are_a_row(smoke):
    with open(smoke.root / "data/reports/evaluate/table.csv", newline="") as file:
        table = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    row = {metric: line for (name, metric), line in table.items() if name == "video_diffusion"}
    assert len(row) == 10 and all("mouth window of 32 px" in line["note"] for line in row.values())
    for metric in ("SyncD", "SSIM"):  # a mouth of its own
        assert float(row[metric]["value"]) != float(table["ours", metric]["value"])


def test_the_teacher_says_how_near_its_masks_are(smoke):
    for shard in SHARDS:
        folder = smoke.root / f"data/reports/teacher/shard-{shard}"
        assert 0.8 < json.loads((folder / "metrics.json").read_text())["mask_iou"] <= 1
        truth = Store(smoke.root / f"data/truth/shard-{shard}.zarr")
        for row in read_catalog(smoke.root / f"data/teacher/shard-{shard}/catalog.parquet"):
            assert truth.shape(f"alpha/{row['id']}")[0] == row["t_len"]


def test_report_is_self_contained(smoke):
    page = (smoke.root / "data/reports/index.html").read_text()
    assert page.count("data:image/png;base64,") >= 9 and page.count("data:video/mp4;base64,") >= 2
    assert "src='http" not in page and 'src="http' not in page and "<script" not in page
    assert all(f"id='{s}'" in page for s in ("identities", "teacher", "fit", "evaluate"))


def test_repro_again_runs_nothing(smoke):
    start = time.monotonic()
    again = smoke.run("dvc", "repro")
    seconds = time.monotonic() - start
    assert again.returncode == 0 and "Running stage" not in again.stdout
    assert seconds < 10, f"{seconds:.1f} s (5 s on an idle machine)"


def test_dvc_shows_metrics_and_plots(smoke):
    shown = smoke.run("dvc", "metrics", "show", "--json")
    assert shown.returncode == 0 and "reports" in shown.stdout.replace("\\\\", "/")
    assert "details" not in shown.stdout


def different_files(root: Path, twin: Path, path: str) -> list[str]:
    """Files at or below `path` that differ between two clones; the largest difference of those that hold tensors."""
    files = {
        p.relative_to(r) for r in (root, twin) for p in [r / path, *(r / path).rglob("*")] if p.is_file()
    }
    found = []
    for file in sorted(files):
        a, b = root / file, twin / file
        if not (a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()):
            found.append(str(file))
            if a.suffix == ".safetensors" and a.is_file() and b.is_file():
                ours, theirs = load_checkpoint(a)[0], load_checkpoint(b)[0]
                far = [float((ours[k] - theirs[k]).abs().max()) for k in ours if k in theirs]
                found[-1] += f": {sum(map(bool, far))} of {len(far)} tensors, by at most {max(far):.3g}"
    return found


def test_flow_in_another_clone_makes_the_same_bytes(clone, prefect_home, request):
    other = clone("flow")
    prefect_home(other.root / ".prefect")
    result = other.run(sys.executable, "-m", "flows.pipeline", *UNTIL, "--profile", "smoke", timeout=1500)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    smoke = request.getfixturevalue("smoke")  # made meanwhile by another worker
    first, second = (yaml.safe_load((p.root / "dvc.lock").read_text())["stages"] for p in (smoke, other))
    assert set(second) == {"identities", "speech", "teacher@0", "teacher@1", *UNTIL}
    first = {stage: first[stage] for stage in second}
    different = [
        name
        for stage in second
        for out, twin in zip(first[stage].get("outs", []), second[stage].get("outs", []), strict=True)
        if out["md5"] != twin["md5"]
        for name in different_files(smoke.root, other.root, out["path"])
    ]
    assert different == []
    assert first == second
