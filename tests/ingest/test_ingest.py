"""A folder of videos becomes clips: what is taken, what is refused and why, and that the pipeline can read the result."""

from __future__ import annotations

import json

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.identities.folder import FolderIdentities
from avatar_core.ingest.config import IngestConfig
from avatar_core.ingest.ingest import ingest
from avatar_core.ingest.pieces import Piece, cut_at_pauses
from avatar_core.io.audio import read_audio
from avatar_core.io.video import read_video
from avatar_core.speech.folder import FolderSpeech
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.folder import FolderTeacher
from tests.ingest.cartoon import Face, Finder, film, syllables, voice, write

SECONDS = 7
TALK = syllables(SECONDS)
VOICE = voice(TALK)
FRAMES = len(TALK)
CONFIG = IngestConfig()


def talker(x=160.0, y=110.0, height=90.0, opening=TALK):
    return Face(x, y, height, opening)


def take(tmp_path, *, config=CONFIG, finder=None, **videos):
    """Ingest videos given as (frames, sound) or (frames, sound, fps); returns {name: FileReport} and the result."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for name, (frames, sound, *fps) in videos.items():
        write(folder / f"{name}.mp4", frames, sound, *fps)
    result = ingest(folder, out, finder or Finder(), config)
    return {f.name.removesuffix(".mp4"): f for f in result.files}, result


def reasons(file):
    return [piece.reason for piece in file.pieces]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One good video at 30 fps (written as such, played as such) and what became of it."""
    tmp = tmp_path_factory.mktemp("good")
    at = np.minimum(np.arange(int(FRAMES * 1.2)) / 1.2, FRAMES - 1).astype(int)
    files, result = take(tmp, talk=(film(FRAMES, talker())[at], VOICE, 30))
    return tmp / "out", files["talk"], result


def test_a_talker_is_taken_whole_in_clips_cut_at_pauses(good):
    _, file, result = good
    assert reasons(file) == [""] * len(file.pieces)
    assert [p.start for p in file.pieces][1:] == [p.stop for p in file.pieces][:-1]
    assert sum(p.seconds for p in file.pieces) == pytest.approx(SECONDS, abs=0.05)
    assert max(p.seconds for p in file.pieces) <= CONFIG.max_seconds
    assert all(TALK[p.start] < 0.02 for p in file.pieces[1:])
    assert file.sync.near > 0.6 and abs(file.sync.near_lag) <= 1
    assert result.clips == len(file.pieces)


def test_pictures_and_sound_of_a_clip_belong_together(good):
    out, _, _ = good
    for video in sorted((out / "videos").iterdir()):
        frames, sound = read_video(video), read_audio(out / "recordings" / f"{video.stem}.wav")
        assert len(sound) == 640 * len(frames)
        red = (frames[..., 0].astype(int) - frames[..., 1] > 60).sum((1, 2))
        loud = np.sqrt(np.square(sound.reshape(-1, 640)).mean(1))
        assert np.corrcoef(red, loud)[0, 1] > 0.6


def test_the_folder_backends_read_what_was_laid_out(good):
    out, _, result = good
    (person,) = FolderIdentities(str(out / "portraits")).people(1, 0)
    clips = FolderSpeech(str(out / "recordings")).recorded()
    assert {c.person for c in clips} == {person.id} == {result.people[0].id}
    portrait, _ = FolderIdentities(str(out / "portraits")).portrait(person, 768)
    assert portrait.shape[0] == 260
    from avatar_core.speech.folder import read_recording

    speech = read_recording(out / "recordings" / f"{clips[0].clip}.wav")
    request = ClipRequest(clips[0].clip, person.id, 0, {}, out, speech, clips[0].framing, 96, 0)
    made = FolderTeacher(str(out / "videos")).make(request)
    assert made.frames.shape == (speech.num_frames, 96, 96, 3)


def test_the_portrait_has_its_mouth_shut(good):
    out, _, _ = good
    from avatar_core.io.images import read_image

    picture = read_image(out / "portraits" / "person-01.png")
    red = ((picture[..., 0] - picture[..., 1]) > 0.25).sum()
    assert red < 0.3 * 90 * 5  # a line, two px high


def test_the_report_says_what_happened(good):
    out, file, result = good
    report = json.loads((out / "report.json").read_text())
    assert [s["clips"] for s in report["files"][0]["shots"]] == [
        file.clips[k] for k in range(len(file.pieces))
    ]
    page = (out / "report.md").read_text()
    assert "talk.mp4" in page and result.people[0].id in page and f"path: {out / 'videos'}" in page
    assert (out / "contact_sheet.png").is_file()


def test_the_same_videos_give_the_same_bytes(good, tmp_path):
    out, _, _ = good
    again = tmp_path / "again"
    ingest(out.parent / "in", again, Finder(), CONFIG)
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        a, b = (out / name).read_bytes(), (again / name).read_bytes()
        assert a.replace(str(out).encode(), b"") == b.replace(str(again).encode(), b""), name


def test_videos_that_show_no_talker_are_refused_with_their_reasons(tmp_path):
    n, talk = 60, TALK[:60]
    near, sound = film(n, talker(opening=talk)), VOICE[: 640 * 60]
    files, result = take(
        tmp_path,
        nobody=(film(n), sound),
        silent=(near, np.zeros(len(sound), np.float32)),
        mute=(near, None),
        far=(film(n, talker(height=40, opening=talk)), sound),
        frozen=(near[:1].repeat(n, 0), sound),
        few=(near[::5].repeat(5, 0), sound),
        pan=(film(n, talker(opening=talk), pan=1.0), sound),
        nearer=(film(n, talker(y=125.0, height=np.linspace(70, 110, n), opening=talk)), sound),
        walks=(film(n, talker(x=np.linspace(80, 320, n), height=80.0, opening=talk)), sound),
        leaves=(film(n, talker(x=np.linspace(100, -60, n), opening=talk)), sound),
        closed=(film(n, talker(opening=np.zeros(n))), sound),
        short=(near[:20], sound[: 640 * 20]),
        crowd=(film(n, talker(opening=talk), talker(x=270, height=84, opening=0 * talk)), sound),
    )
    assert reasons(files["nobody"]) == ["no face"]
    assert reasons(files["silent"]) == ["no voice"]
    assert "sound" in files["mute"].refused
    assert "too small" in reasons(files["far"])[0]
    assert "stands still" in reasons(files["frozen"])[0]
    assert "different pictures" in reasons(files["few"])[0]
    assert "camera moves" in reasons(files["pan"])[0]
    assert "nearer" in reasons(files["nearer"])[0]
    assert "moves about" in reasons(files["walks"])[0]
    assert any("edge" in r or "too short" in r or "moves" in r for r in reasons(files["leaves"])), reasons(
        files["leaves"]
    )
    assert "lips stand still" in reasons(files["closed"])[0]
    assert "too short" in reasons(files["short"])[0]
    assert reasons(files["crowd"]) == ["another person is too near"]
    assert result.clips == 0 and result.people == []
    assert (tmp_path / "out" / "report.md").is_file()
    assert not (tmp_path / "out" / "videos").exists()


def test_a_bad_shot_costs_itself_alone_and_files_that_are_no_videos_are_named(tmp_path):
    frames = np.concatenate([film(FRAMES, talker()), 255 - film(50)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("not a video")
    write(tmp_path / "in" / "mixed.mp4", frames, np.concatenate([VOICE, VOICE[:32000]]))
    write(tmp_path / "in" / "twice.mp4", frames[:FRAMES], VOICE)
    (tmp_path / "in" / "twin.mp4").write_bytes((tmp_path / "in" / "twice.mp4").read_bytes())
    files, result = take(tmp_path)
    assert set(reasons(files["mixed"])[:-1]) == {""}
    assert reasons(files["mixed"])[-1] == "no face"
    assert "expected" in files["notes.txt"].refused
    assert files["twin"].refused == "the same bytes as twice.mp4"
    assert len(result.people) == 1  # one face, two files


def test_of_two_people_apart_the_one_who_talks_is_taken(tmp_path):
    listens, talks = (
        talker(x=80.0, height=86, opening=0.1 * syllables(SECONDS, 9)),
        talker(x=310.0, height=80),
    )
    files, result = take(tmp_path, both=(film(FRAMES, listens, talks), VOICE))
    assert {p.reason for p in files["both"].pieces} == {""}
    left, _, side = files["both"].pieces[0].window
    assert left + side / 2 > 260
    assert len(result.people) == 1


def test_a_sound_that_is_far_off_is_moved_and_anothers_is_refused(tmp_path):
    long = syllables(16)
    late = np.concatenate([np.zeros(8 * 640, np.float32), voice(long)])[: 640 * len(long)]
    files, _ = take(
        tmp_path,
        late=(film(len(long), talker(opening=long)), late),
        dubbed=(film(len(long), talker(opening=long)), voice(syllables(16, seed=77))),
    )
    assert files["late"].shift == pytest.approx(-8, abs=1)
    assert {p.reason for p in files["late"].pieces} == {""}
    assert "moved by" in files["late"].pieces[0].note
    assert all("do not go together" in r for r in reasons(files["dubbed"]))


def test_a_killed_run_leaves_nothing_and_the_next_goes_on(tmp_path):
    class Dies(Finder):
        def joints(self, image, middle):
            raise KeyboardInterrupt

        def describe(self, image, mesh):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(tmp_path, finder=Dies(), talk=(film(FRAMES, talker()), VOICE))
    assert not (tmp_path / "out").exists()
    finder = Finder()
    _, result = take(tmp_path, finder=finder)
    assert result.clips > 1
    assert finder.looks < FRAMES / 2  # it had been watched
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_folder_of_the_users_is_not_replaced(tmp_path):
    write(tmp_path / "in" / "a.mp4", film(20), None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        ingest(tmp_path / "in", tmp_path / "out", Finder(), CONFIG)
    with pytest.raises(UserError, match="outside"):
        ingest(tmp_path / "in", tmp_path / "in" / "out", Finder(), CONFIG)
    with pytest.raises(UserError, match="no such folder"):
        ingest(tmp_path / "nothing", tmp_path / "o", Finder(), CONFIG)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_cuts_lie_in_pauses_and_no_piece_is_too_short():
    loudness = np.full(1000, 60.0)
    loudness[[70, 171, 260]] = 0
    pieces = cut_at_pauses(0, 300, loudness, 0, CONFIG)
    assert pieces[0] == (0, 70)
    assert pieces[-1][1] == 300
    for a, b in (*pieces, *cut_at_pauses(0, 101, loudness, 0, CONFIG)):
        assert CONFIG.min_seconds * 25 <= b - a <= CONFIG.max_seconds * 25
    assert Piece(0, 50, 0).seconds == 2
