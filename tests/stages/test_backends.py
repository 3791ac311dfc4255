"""Who makes people, sounds and videos: every `folder` branch through its stage, a backend added as one file and one line, several
teachers by weight, and combinations that are refused before any work."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from avatar_core import teacher
from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.catalog import read_catalog
from avatar_core.io.images import read_image, write_png
from avatar_core.io.store import Store
from avatar_core.io.video import read_video
from avatar_core.speech import Speech
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.folder import FolderTeacher
from stages.common import Stage
from stages.teacher import teacher_of
from tests.stages.recorded import STICK, params, run, write_clip, write_sound


@pytest.fixture
def here(monkeypatch):
    """Work in this process, on one thread as a worker does: the pool itself is tested elsewhere."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    yield
    cv2.setNumThreads(threads)


@pytest.fixture
def files(tmp_path):
    """Three photos and three recordings, one of them with its text and times."""
    rng = np.random.default_rng(0)
    for k in range(3):
        write_png(tmp_path / "photos" / f"person {k}.png", rng.random((260, 280 + k, 3)).astype(np.float32))
    for k in range(3):
        write_sound(tmp_path / "sounds" / f"take{k}.wav", 0.5 + 0.1 * k, 200 + 50 * k)
    (tmp_path / "sounds" / "take0.txt").write_text("Bob  met\na boy.")
    times = [{"start_s": 0, "end_s": 0.2, "ipa": "b"}, {"start_s": 0.2, "end_s": 0.5, "ipa": "o"}]
    (tmp_path / "sounds" / "take0.json").write_text(json.dumps(times))
    (tmp_path / "videos").mkdir()
    return tmp_path


@pytest.fixture
def planned(files, here):
    """People and sounds are made from files; rows of the clips that the teacher is to make."""
    data = files / "data"
    run("identities", params(files), data)
    run("speech", params(files), data)
    return read_catalog(data / "speech" / "catalog.parquet")


def test_photos_become_people(files, here):
    stage = run("identities", params(files), files / "data")
    people = json.loads((stage.out / "identities.json").read_text())
    assert [p["split"] for p in people] == ["train", "val", "test"] and all(
        not p["attributes"] for p in people
    )
    for k, person in enumerate(people):
        photo = read_image(files / "photos" / f"person {k}.png")
        assert np.array_equal(read_image(stage.out / "portraits" / f"{person['id']}.png"), photo)
    assert {r["backend"] for r in read_catalog(stage.out / "catalog.parquet")} == {"folder"}
    details = json.loads((stage.reports / "details.json").read_text())
    assert details["foreground_share"] == "unavailable"
    write_png(files / "photos" / "person 3.png", np.zeros((260, 260, 3), np.float32))
    again = json.loads((run("identities", params(files), files / "b").out / "identities.json").read_text())
    assert again == people  # ids come from the photos, and one more is not asked for


def test_photos_that_cannot_be_used_are_named(files, here):
    photos = files / "photos"
    (photos / "person 2.png").write_bytes((photos / "person 0.png").read_bytes())
    with pytest.raises(
        UserError, match=r"person 2\.png: expected one photo a person, found the picture of .*0\.png"
    ):
        run("identities", params(files), files / "data")
    (photos / "person 2.png").unlink()
    with pytest.raises(UserError, match="expected 3 photos .*, found 2"):
        run("identities", params(files), files / "data")
    write_png(photos / "small.png", np.zeros((100, 100, 3), np.float32))
    with pytest.raises(UserError, match=r"small\.png: expected sides of 256"):
        run("identities", params(files), files / "data")
    with pytest.raises(
        UserError, match=r"identities\.folder\.path: expected a folder of portraits, found none-such"
    ):
        run("identities", params(files, identities={"folder": {"path": "none-such"}}), files / "data")


def test_recordings_become_clips_and_none_serves_two_splits(planned, files):
    takes = {"train": {"take0"}, "val": {"take1"}, "test": {"take2"}}
    assert Counter(r["split"] for r in planned) == {"train": 1, "val": 1, "test": 2}
    for row in planned:
        assert row["backend"] == "folder" and row["voice"] in takes[row["split"]]
        sound = read_audio(files / "sounds" / f"{row['voice']}.wav")
        audio = read_audio(files / "data" / "speech" / "wav" / f"{row['id']}.wav")
        assert len(audio) == row["t_len"] * SAMPLES_PER_FRAME <= 0.52 * SAMPLE_RATE
        kept = round(0.35 * SAMPLE_RATE)
        assert np.array_equal(audio[:kept], sound[:kept])
    (row,) = (r for r in planned if r["voice"] == "take0")
    phonemes = json.loads((files / "data" / "speech" / "phonemes" / f"{row['id']}.json").read_text())
    assert row["text"] == phonemes["text"] == "Bob met a boy."
    assert [p["ipa"] for p in phonemes["phonemes"]] == ["b", "o"] and row["qc"]["closures"] == 1


def test_recordings_that_cannot_be_used_are_named(planned, files):
    with pytest.raises(
        UserError, match=r"take1\.json: expected phoneme times as speech\.folder\.phonemes says"
    ):
        run("speech", params(files, speech={"folder": {"phonemes": True}}), files / "data")
    (files / "sounds" / "take0.wav").unlink()
    with pytest.raises(UserError, match="more recordings than the 1 val and 1 test sentences, found 2"):
        run("speech", params(files), files / "data")


def test_recorded_videos_get_masks_and_tracks_and_have_no_truth(planned, files):
    discs = {}
    for k, row in enumerate(planned):  # one frame more is fine
        discs[row["id"]] = write_clip(files / "videos" / f"{row['id']}.mp4", row["t_len"] + k % 2, k)
    values = params(files, teacher={"size": 128}, perception={"masks": "grabcut"})  # a disc is no person
    stage = run("teacher", values, files / "data")
    store = Store(stage.out / "aux.zarr")
    for row in read_catalog(stage.out / "catalog.parquet"):
        disc = discs[row["id"]][: row["t_len"]]
        assert row["backend"] == "folder"
        assert read_video(stage.out / f"{row['id']}.mp4").shape == (*disc.shape, 3)
        masks, tracks = store.read(f"masks/{row['id']}") > 127, store.read(f"tracks/{row['id']}")
        assert (masks & disc).sum() / (masks | disc).sum() > 0.9
        steps = np.diff(tracks, axis=0)[1:]
        assert abs(np.nanmedian(steps[..., 0]) - 1) < 0.1 and abs(np.nanmedian(steps[..., 1])) < 0.1
    truth = Store(files / "data" / "truth" / "shard-0.zarr")
    assert not any(row["id"] in truth for row in planned)


def test_a_plan_says_whose_recordings_they_are(files, here):
    run("identities", params(files), files / "data")
    people = json.loads((files / "data" / "identities" / "identities.json").read_text())
    rows = [{"clip": f"take{k}", "person": people[k]["id"], "framing": "face"} for k in range(3)]
    plan = files / "sounds" / "clips.json"
    plan.write_text(json.dumps([*rows, {"clip": "take0", "person": "somebody else", "framing": "face"}]))
    stage = run("speech", params(files), files / "data")
    found = {row["id"]: row for row in read_catalog(stage.out / "catalog.parquet")}
    assert {n: (r["identity"], r["split"]) for n, r in found.items()} == {
        f"take{k}": (people[k]["id"], people[k]["split"]) for k in range(3)
    }
    plan.write_text(json.dumps(rows[:2]))
    with pytest.raises(UserError, match=f"expected clips of every person, found none of {people[2]['id']}"):
        run("speech", params(files), files / "data")
    plan.write_text(json.dumps([{"clip": "gone", "person": "a", "framing": "face"}]))
    with pytest.raises(UserError, match="gone"):
        run("speech", params(files), files / "data")


def test_a_larger_video_is_brought_to_the_teachers_size(planned, files):
    row = planned[0]
    write_clip(files / "videos" / f"{row['id']}.mp4", row["t_len"] + 40, 0)  # its sound was cut
    speech = Speech(np.zeros(row["t_len"] * 640, np.float32), [], "", "", "")
    request = ClipRequest(row["id"], row["identity"], 0, {}, files, speech, "face", 64, 0)
    assert FolderTeacher(str(files / "videos")).make(request).frames.shape == (row["t_len"], 48, 64, 3)


def test_videos_that_cannot_be_used_are_named(planned, files):
    first = files / "videos" / f"{planned[0]['id']}.mp4"
    for k, row in enumerate(planned[1:]):  # the workers may come to any of them first
        write_clip(files / "videos" / f"{row['id']}.mp4", row["t_len"], k)
    with pytest.raises(
        UserError, match=rf"{first.name}: expected the video of clip {first.stem}, found no such file"
    ):
        run("teacher", params(files), files / "data")
    write_clip(first, planned[0]["t_len"] - 3, 0)
    with pytest.raises(UserError, match=rf"{first.name}: expected {planned[0]['t_len']} frames at 25 fps"):
        run("teacher", params(files), files / "data")


@pytest.fixture
def stick(tmp_path, monkeypatch):
    """A teacher of one's own: one file, one line."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stick_teacher.py").write_text(STICK)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setitem(teacher.BACKENDS, "stick", "stick_teacher:StickTeacher")


def test_a_backend_is_one_file_and_one_line_and_shares_the_clips(planned, files, stick, monkeypatch):
    monkeypatch.undo()  # in real worker processes, which know of no registry that a test changed
    monkeypatch.syspath_prepend(str(files / "code"))
    monkeypatch.setitem(teacher.BACKENDS, "stick", "stick_teacher:StickTeacher")
    for k, row in enumerate(planned):
        write_clip(files / "videos" / f"{row['id']}.mp4", row["t_len"], k)
    choice = {"backends": {"folder": 1, "stick": 1}, "stick": {"width": 12}}
    tries = (params(files, teacher=choice, run={"seed": seed}) for seed in range(50))
    both = next(p for p in tries if len({teacher_of(Stage("teacher", 0, p), row) for row in planned}) == 2)
    stage = run("teacher", both, files / "data")
    rows = {r["id"]: r for r in read_catalog(stage.out / "catalog.parquet")}
    assert Counter(r["backend"] for r in rows.values()).keys() == {"folder", "stick"}
    store, truth = Store(stage.out / "aux.zarr"), Store(files / "data" / "truth" / "shard-0.zarr")
    for name, row in rows.items():
        by_stick = row["backend"] == "stick"
        assert (name in truth) == by_stick
        if by_stick:
            assert ((store.read(f"masks/{name}") > 0).sum((1, 2)) == 12 * 96).all()
            true = truth.read(f"alpha/{name}")
            assert (true == np.roll(store.read(f"masks/{name}"), 1, 2)).all()
        assert "mask_iou" not in row["qc"] and f"alpha/{name}" not in store  # nobody but the report is told
    report = json.loads((stage.reports / "metrics.json").read_text())
    assert report["mask_iou"] == pytest.approx(11 / 13, abs=1e-5)
    for name in (n for n, r in rows.items() if r["split"] == "test" and r["framing"] == "face"):
        assert rows[name]["backend"] == rows[name.replace("-face-", "-waist_up-")]["backend"]


def test_a_backend_that_gives_less_than_it_declares_is_a_programmers_error(planned, files, stick):
    lazy = params(files, teacher={"backends": {"stick": 1}, "stick": {"lazy": True}})
    with pytest.raises(
        ValueError, match=r"teacher stick: .*'masks', 'truth'\] as declared, found .*\['masks'\]"
    ):
        run("teacher", lazy, files / "data")


def test_teachers_are_dealt_by_weight():
    deal = teacher.deal_teacher
    weights = {"procedural": 3.0, "folder": 1.0, "never": 0.0}
    dealt = [deal(weights, seed) for seed in range(4000)]
    assert abs(dealt.count("folder") / 4000 - 0.25) < 0.03 and "never" not in dealt
    assert dealt == [deal({"folder": 0.5, "procedural": 1.5}, seed) for seed in range(4000)]
    assert {deal({"folder": 0.2}, seed) for seed in range(100)} == {"folder"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"teacher": {"backends": {"procedural": 1}}},
            "teacher.backends: expected a backend that does without attributes (identities.backend folder gives none), "
            "found procedural",
        ),
        (
            {
                "identities": {"backend": "procedural"},
                "teacher": {"backends": {"folder": 1, "procedural": 1}},
            },
            "teacher.backends: expected a backend that does without phonemes (speech.backend folder gives none), "
            "found procedural",
        ),
        (
            {"identities": {"backend": "magic"}},
            "identities.backend: expected one of procedural, folder, diffusers; found 'magic'",
        ),
        (
            {"teacher": {"backends": {"magic": 1}}},
            "teacher.backends: expected one of procedural, keyed, folder, omniavatar, echomimic_v2, wan_s2v, "
            "wan_s2v_diffsynth, ltx2, command; found 'magic'",
        ),
        ({"teacher": {"backends": {"folder": 0}}}, "teacher.backends: expected a weight above 0, found none"),
        (
            {"teacher": {"backends": {"folder": float("nan")}}},
            "teacher.backends.folder: expected a weight of 0 or more, found nan",
        ),
        (
            {"speech": {"folder": {"path": ""}}},
            "speech.folder.path: expected a folder of recordings, found an empty name",
        ),
        (
            {"speech": {"folder": {"phoneme": True}}},
            "speech.folder.phoneme: expected one of path, phonemes; found an unknown key",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_work_starts(tmp_path, change, line):
    with pytest.raises(UserError) as caught:
        params(tmp_path, **change)
    assert str(caught.value) == f"params.yaml: {line}"


def test_what_can_work_is_not_refused(tmp_path):
    timed = params(
        tmp_path,
        identities={
            "backend": "procedural",
            "folder": {"path": 3, "nonsense": True},
        },  # not chosen, so not looked at
        speech={"folder": {"phonemes": True}},
        teacher={"backends": {"procedural": 1}},
    )
    assert timed.speech.source.provides == {"phonemes"}
    assert list(timed.teacher.sources) == ["procedural"]
