"""The measures on human speech: what closes where a person said p, b or m, and the tables that come of them."""

import json

import numpy as np
import pytest
from PIL import Image

from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.video import write_mp4
from benchmarks.real.__main__ import Findings, main, markdown, summary
from benchmarks.real.lips import aligned, at_lag, judge_closures
from benchmarks.real.sounds import LAGS, ClipRow, Curves, VoiceRow, judge_clip, judge_voice
from tests.real.packages import shipped

WORDS = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."


def test_closures_of_a_person_who_speaks():
    pytest.importorskip(
        "pocketsphinx", reason="pocketsphinx is not installed: pip install 'audioavatar[real]'"
    )
    audio = read_audio(shipped("moonshine_voice", "assets/beckett.wav"))
    sounds = aligned(audio, WORDS)
    bilabial = [(start, end) for start, end, name in sounds if name in ("P", "B", "M")]
    assert len(bilabial) == 2  # matter, better
    assert bilabial[0][0] == pytest.approx(3.7, abs=0.1) and bilabial[1][0] == pytest.approx(8.44, abs=0.1)
    time = (np.arange(len(audio) // 640) + 0.5) / 25
    mouth = np.where((time < 0.25) | (time > 9.2), 0.0, 8.0)  # open from the first word to the last
    for start, end in bilabial:
        mouth[(time > start - 0.03) & (time < end + 0.03)] = 0.1
    good, late = judge_closures(mouth, sounds), judge_closures(np.roll(mouth, 8), sounds)
    assert (good.closed, good.sounds) == (2, 2) and good.auc == 1
    assert late.closed == 0 and late.auc < 0.7
    with pytest.raises(UserError, match="closures: expected a text"):
        aligned(audio, "zzyzx qwrtk")


def test_lips_that_come_late_correlate_best_when_moved_earlier():
    rng = np.random.default_rng(0)
    seen = np.convolve(rng.normal(size=300), np.ones(4) / 4, "same")
    ours = np.roll(seen, 2)  # two frames late
    row = judge_clip(
        "a", {"a": Curves(ours, seen, rng.normal(size=300)), "b": Curves(rng.normal(size=280), seen, seen)}
    )
    assert LAGS[int(np.argmax(row.own))] == 2 and max(row.own) > 0.95 > 0.6 > row.own[3]
    assert abs(row.other) < 0.2 and max(map(abs, row.loudness)) < 0.2
    seen[40:60] = np.nan  # no face there
    assert at_lag(ours, seen, 2) > 0.95


def test_a_recording_without_a_text_says_why_it_has_no_closures(tmp_path):
    from avatar_core.io.audio import write_wav

    write_wav(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16000)))
    row, ours, sounds = judge_voice(
        tmp_path / "a.wav", lambda audio: np.full(len(audio) // 640, np.abs(audio).max())
    )
    assert row.note == "no text beside it" and not sounds and len(ours) == 25
    assert row.mean_mm == pytest.approx(0.1, abs=0.01) and row.quiet_mm == pytest.approx(0.001, abs=1e-4)
    (tmp_path / "b.wav").write_bytes(b"nothing of the sort")
    assert "something else" in judge_voice(tmp_path / "b.wav", lambda audio: audio)[0].note


def test_the_table_of_a_folder(tmp_path, capsys):
    folder = tmp_path / "portraits"
    folder.mkdir()
    Image.new("RGB", (256, 320), (128, 140, 150)).save(folder / "wall.png")
    write_mp4(folder / "video.mp4", np.zeros((3, 64, 64, 3), np.uint8))
    main(["--portraits", str(folder), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "real.json").read_text())
    assert [r["name"] for r in found["portraits"]] == ["video.mp4", "wall.png"]
    assert all(r["refused"] and r["psnr_db"] is None for r in found["portraits"])
    assert found["summary"] == {"portraits": 2, "portraits with a face": 0, "avatars made": 0}
    page = (tmp_path / "out" / "real.md").read_text()
    assert "| wall.png | 0 |" in page and "nan" not in page and page in capsys.readouterr().out
    assert (tmp_path / "out" / "portraits.png").is_file()
    for wrong in (["--out", str(tmp_path / "x")], ["--portraits", str(folder)]):
        with pytest.raises(SystemExit):
            main(wrong)
    with pytest.raises(UserError, match="expected a folder"):
        main(["--voices", str(tmp_path / "absent"), "--out", str(tmp_path / "x")])


def test_the_summary_is_by_hand():
    nan = float("nan")
    own = (0.1, 0.2, 0.5, 0.3, 0.2, 0.1, 0.9)
    clip = ClipRow("a.mp4", 100, own, (0.0,) * 7, 0.05, "")
    refused = ClipRow("b.mp4", 0, (nan,) * 7, (nan,) * 7, nan, "no sound")
    voices = [
        VoiceRow("a.wav", 1, 2, 3, 1, 3, 4, 0.9, ""),
        VoiceRow("b.wav", 1, 2, 3, 1, 0, 0, nan, "no text"),
    ]
    head = summary(Findings(voices=voices, clips=[clip, clip, refused]))
    assert head["p/b/m closed, share"] == 0.75 and head["clips"] == 2
    assert head["lip correlation at no lag"] == pytest.approx(0.3)
    assert head["lip correlation, best of +-2"] == pytest.approx(0.5)  # not the .9 at three frames
    assert "| b.mp4 | 0 |" in markdown(Findings(clips=[refused]))
