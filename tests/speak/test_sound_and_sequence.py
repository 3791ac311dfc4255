"""What `avatar` reads and writes around the model: the user's sound, and a speaking avatar as a folder of .ply files."""

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io.audio import write_wav
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.speak.sequence import write_sequence
from avatar_core.speak.sound import check_sound, read_sound
from avatar_core.speech.espeak import synthesize
from tests.fit.clip_scene import make_canonical


@pytest.fixture(scope="module")
def canonical():
    return make_canonical(make_layout(ParticleBudgets(face=60, hand=20, eyes=20, mouth_interior=20, body=80)))


def test_sound_is_a_recording_or_a_spoken_text_whole_or_its_first_seconds(tmp_path):
    wav = tmp_path / "a.wav"
    write_wav(wav, np.linspace(-0.5, 0.5, 16000))
    whole = read_sound(wav, None, "en", None).samples
    assert len(whole) == 16000
    np.testing.assert_array_equal(read_sound(wav, None, "en", None, preview_s=0.25).samples, whole[:4000])
    spoken = read_sound(None, "Guten Tag.", "de", None).samples
    np.testing.assert_array_equal(spoken, synthesize("Guten Tag.", "de").audio)
    assert not np.array_equal(spoken, read_sound(None, "Guten Tag.", "de", "lena").samples)
    for audio, text, found in ((None, None, "neither"), (wav, "Hello.", "both")):
        with pytest.raises(UserError, match=f"expected one of --audio and --text, found {found}"):
            read_sound(audio, text, "en", None)


@pytest.mark.parametrize("bad", [np.zeros((2, 16000)), np.zeros(639), np.r_[np.zeros(900), np.nan]])
def test_sound_that_cannot_drive_an_avatar_is_refused(bad):
    with pytest.raises(UserError, match="audio: expected"):
        check_sound(bad)


def test_a_sequence_replaces_a_sequence_and_nothing_else(tmp_path, canonical):
    folder = tmp_path / "frames"
    assert write_sequence(folder, iter([canonical] * 3)) == 3
    assert write_sequence(folder, iter([canonical] * 2)) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["frame_000000.ply", "frame_000001.ply"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write_sequence(folder, iter([canonical]))
    assert len(list(folder.iterdir())) == 3


def test_a_sequence_that_fails_half_way_leaves_the_earlier_one(tmp_path, canonical):
    folder = tmp_path / "frames"
    write_sequence(folder, iter([canonical]))

    def broken():
        yield canonical
        yield canonical
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        write_sequence(folder, broken())
    assert [p.name for p in tmp_path.rglob("*.ply")] == ["frame_000000.ply"]
