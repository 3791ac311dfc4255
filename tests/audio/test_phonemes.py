"""The phoneme encoder's features: parity, windows, levels, takes."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_core.audio.backends import AudioConfig
from avatar_core.audio.backgrounds import coloured_noise, in_room, music, through_microphone
from avatar_core.audio.config import TakeConfig
from avatar_core.audio.conversion import convert, whispered
from avatar_core.audio.encoder import phoneme_encoder
from avatar_core.audio.level import MOST_GAIN_DB, TARGET_DB, level_gain_db, to_level, voice_level
from avatar_core.audio.takes import make_take
from avatar_core.errors import InputWarning, UserError
from avatar_core.speech.espeak import synthesize

PARITY = Path(__file__).parent / "phoneme_encoder_parity.npz"


@pytest.fixture(scope="module")
def features():
    return AudioConfig().features


@pytest.fixture(scope="module")
def voice():
    return synthesize(
        "Peter bought a small boat, and my mother mopped the floor before supper.", "en", "otto"
    ).audio


@pytest.fixture(scope="module")
def heard(features, voice):
    return features.hear(torch.from_numpy(features.prepare(voice)))


def sweep(samples):
    """A sound that any machine makes alike: a tone that rises and beats, over noise."""
    t = np.arange(samples) / 16000
    tone = 0.2 * np.sin(2 * np.pi * (120 + 900 * t) * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (tone + 0.01 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def test_the_encoder_gives_what_the_net_of_the_package_gives():
    """Stored: every 10th frame's first 6 channels after block 2, of a net built by other code from the package's weights
    that gives its runtime's phonemes (with attention to all of the sound, which within a second is no other)."""
    stored = np.load(PARITY)["hidden"]
    ours = phoneme_encoder()(torch.from_numpy(sweep(16000)))[5:-5:10, :6].numpy()
    np.testing.assert_allclose(ours, stored, atol=1e-3)


def test_one_row_each_hundredth_of_a_second(features):
    for samples in (160, 800, 16000, 16100, 640 * 7):
        assert features.hear(torch.zeros(samples)).shape == (samples // 160, features.bands)
    assert features.hear(torch.zeros(0)).shape == (0, features.bands)


def test_a_piece_with_its_context_is_heard_as_in_the_whole(features, voice):
    context = features.context
    a, b = context + 20, context + 50
    whole = np.tile(features.prepare(voice), 20)[: 640 * (b + context + 20)]
    piece = features.hear(torch.from_numpy(whole[640 * (a - context) : 640 * (b + context)]))
    expected = features.hear(torch.from_numpy(whole))[4 * a : 4 * b]
    assert torch.allclose(piece[4 * context : -4 * context], expected, atol=1e-4)
    assert not torch.allclose(
        piece[:40], features.hear(torch.from_numpy(whole))[4 * (a - context) :][:40], atol=1e-2
    )


def test_long_sound_is_worked_on_in_pieces_that_do_not_show(monkeypatch, voice):
    from avatar_core.audio import encoder

    sound = torch.from_numpy(np.tile(voice, 2)[: 16000 * 9])
    near = encoder.PhonemeEncoder(radius=20)
    near.load_state_dict(phoneme_encoder().state_dict())
    whole = near.eval()(sound)
    monkeypatch.setattr(encoder, "_BLOCK", 100)
    monkeypatch.setattr(encoder, "_QUERIES", 33)
    assert torch.allclose(near(sound), whole, atol=1e-4)
    assert not torch.allclose(phoneme_encoder()(sound), whole, atol=0.1)


@pytest.mark.filterwarnings("ignore:sound")
@pytest.mark.parametrize("decibels", [-40, 40])
def test_loudness_changes_nothing(features, voice, heard, decibels):
    other = features.hear(torch.from_numpy(features.prepare(voice * np.float32(10 ** (decibels / 20)))))
    assert torch.allclose(other, heard, atol=0.02)


def test_a_quiet_recording_is_said_to_be_raised(features, voice):
    with pytest.warns(InputWarning, match="quiet"):
        features.prepare(voice * np.float32(0.005))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features.prepare(voice)
        features.prepare(np.zeros(16000, np.float32))


def test_level_is_that_of_the_voice_not_of_the_pauses(voice):
    assert voice_level(to_level(voice)) == pytest.approx(TARGET_DB, abs=0.1)
    with_pause = np.concatenate([voice, np.zeros(16000 * 20, np.float32)])
    assert voice_level(with_pause) == pytest.approx(voice_level(voice), abs=0.5)
    rumble = voice + 0.2 * np.sin(2 * np.pi * 20 * np.arange(len(voice)) / 16000).astype(np.float32)
    assert voice_level(rumble) == pytest.approx(voice_level(voice), abs=1.5)


def test_silence_is_not_raised_and_faint_noise_not_beyond_bounds():
    assert level_gain_db(np.zeros(16000, np.float32)) == 0
    assert level_gain_db(np.zeros(0, np.float32)) == 0
    faint = (10 ** (-82 / 20) * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    assert level_gain_db(faint) == MOST_GAIN_DB
    assert voice_level(to_level(faint)) < TARGET_DB - 1


def test_takes_are_repeatable_and_differ(features, voice):
    def take(seed):
        return make_take(voice, [voice], TakeConfig(), np.random.default_rng(seed))

    assert np.array_equal(take(1), take(1)) and not np.array_equal(take(1), take(2))
    takes = replace(features, takes=TakeConfig(count=2)).hear_takes(voice, [], np.random.default_rng(0))
    assert takes.shape == (2, len(voice) // 160, features.bands)
    assert bool(torch.isfinite(takes).all())


def syllables(sound):
    """Smoothed loudness in 20 ms steps, decibels."""
    power = (sound[: len(sound) // 320 * 320].reshape(-1, 320) ** 2).mean(1)
    return 10 * np.log10(np.convolve(power, np.ones(5) / 5, "same") + 1e-6)


@pytest.mark.parametrize(("pitch", "formants"), [(1.3, 1.0), (0.8, 0.9), (1.0, 1.15)])
def test_another_voice_says_the_same_at_the_same_times(voice, pitch, formants):
    other = convert(voice.astype(np.float64), pitch, formants)
    assert len(other) == len(voice)
    ours, theirs = syllables(voice), syllables(other)
    best = max(range(-3, 4), key=lambda k: np.corrcoef(ours[10 + k : -10 + k], theirs[10:-10])[0, 1])
    assert best == 0 and np.corrcoef(ours, theirs)[0, 1] > 0.9


def test_pitch_is_converted():
    t = np.arange(16000) / 16000
    hum = np.sum([np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 12)], axis=0)
    spectrum = np.abs(np.fft.rfft(convert(hum, 1.25, 1.0)[2000:14000]))
    low = spectrum[: int(400 * 12000 / 16000)]
    assert np.argmax(low) * 16000 / 12000 == pytest.approx(150, abs=4)


def test_a_whisper_has_no_pitch(voice):
    def periodic(sound):
        piece = sound[8000:24000]
        correlation = np.fft.irfft(np.abs(np.fft.rfft(piece, 32000)) ** 2)
        return correlation[50:200].max() / correlation[0]

    quiet = whispered(np.random.default_rng(0), voice.astype(np.float64))
    assert periodic(quiet) < 0.6 * periodic(voice)


def test_rooms_keep_the_time_of_the_direct_sound():
    click = np.zeros(8000)
    click[1000] = 1.0
    wet = in_room(np.random.default_rng(0), click)
    assert (
        wet[1000] == pytest.approx(1.0)
        and np.abs(wet[:1000]).max() < 1e-9
        and np.abs(wet[1300:]).max() > 1e-4
    )


def test_backgrounds_are_repeatable_and_finite():
    for make in (coloured_noise, music):
        a = make(np.random.default_rng(3), 20000)
        assert a.shape == (20000,) and np.array_equal(a, make(np.random.default_rng(3), 20000))
        assert np.isfinite(a).all() and a.std() == pytest.approx(1, rel=0.01)
    assert np.isfinite(through_microphone(np.random.default_rng(1), np.zeros(16000))).all()


def test_choice_and_parameters_are_checked():
    chosen = AudioConfig.parse({"backend": "phonemes", "phonemes": {"takes": {"count": 2}}}, "p", "audio")
    assert chosen.features.takes.count == 2  # pyright: ignore
    assert AudioConfig.parse(chosen.to_dict(), "p", "audio") == chosen
    with pytest.raises(UserError, match="count"):
        AudioConfig.parse({"backend": "phonemes", "phonemes": {"takes": {"count": -1}}}, "p", "audio")
