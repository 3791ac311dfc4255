import dataclasses

import numpy as np
import pytest
import torch

from avatar_core.generator.calibrate import calibrate_motion, coupling_map
from avatar_core.generator.config import SampleConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import cap_energy, encode_audio, generate, sample
from avatar_core.geometry.filters import slow_velocity
from avatar_core.metrics.motion import acceleration, slow_energy
from tests.motion.small import MODEL

HEAD, FACE = slice(0, 3), slice(8, 14)


@pytest.fixture()
def nervous():
    """A generator that nobody trained: every latent follows the sound in its own way, much too fast and far."""
    torch.manual_seed(4)
    model = Generator(MODEL)
    torch.nn.init.normal_(model.dit.prior.weight, std=2.0)
    return model.eval()


def skull(codec, x):
    """Head particles (T,C,3) in metres."""
    with torch.no_grad():
        return codec.body_from_head(torch.as_tensor(x)[:, HEAD])[:, codec.carriers].numpy()


def geometric(values):
    return float(np.exp(np.mean(np.log(values))))


def test_every_head_particle_gets_the_energy_of_the_fits(clips, data, codec, nervous):
    def ratios():
        made = [skull(codec, generate(nervous, audio, seed=1)) for audio, _ in clips]
        pairs = list(zip(made, [skull(codec, clip.x) for clip in data], strict=True))
        parts = range(made[0].shape[1])
        return np.array(
            [geometric([slow_energy(a[:, p]) / slow_energy(b[:, p]) for a, b in pairs]) for p in parts]
        )

    before = ratios()
    calibrate_motion(nervous, data, [], codec, SampleConfig(), seed=1)
    after = ratios()
    assert (before > 5).all()
    assert (after > 0.67).all() and (after < 1.5).all()
    # One tempo: latents of one movement must not fall out of step.
    assert len(nervous.sigma_frames[HEAD].unique()) == 1


def test_heads_of_voices_that_were_not_learnt_move_as_in_the_fits(data, codec, nervous):
    """Here they move a third as far before; the cap bounds the other side."""
    unheard = [dataclasses.replace(clip, audio=np.asarray(clip.audio, np.float32) / 3) for clip in data]
    calibrate_motion(nervous, data, unheard, codec, SampleConfig(), seed=1)

    def energy(clips):
        made = [
            sample(nervous, encode_audio(nervous, torch.tensor(np.asarray(c.audio))), 1, SampleConfig())
            for c in clips
        ]
        return geometric([slow_energy(skull(codec, x.detach())) for x in made])

    fits = geometric([slow_energy(skull(codec, clip.x)) for clip in data])
    assert 0.67 < energy(unheard) / fits < 1.5


def test_heads_seen_from_afar_do_not_count_where_close_ones_are(data, codec, nervous):
    def far(clip, rng):
        shaken = np.array(clip.x) + 3 * rng.standard_normal(np.shape(clip.x))
        return dataclasses.replace(
            clip, x=shaken.astype(np.float32), visible={**clip.visible, "face": False, "head": True}
        )

    rng = np.random.default_rng(1)
    close = [clip for clip in data if clip.visible["face"]]
    distant = [far(clip, rng) for clip in close]
    found = {}
    for name, clips in (("close", close), ("both", close + distant), ("far", distant)):
        calibrate_motion(nervous, clips, [], codec, SampleConfig(), seed=1)
        found[name] = (nervous.head_energy_cap.item(), nervous.covariance_map[HEAD, HEAD].clone())
    assert found["both"][0] == pytest.approx(found["close"][0])
    assert torch.allclose(found["both"][1], found["close"][1], atol=1e-5)
    assert found["far"][0] > 2 * found["close"][0]


def test_calibrated_head_moves_with_its_latents_coupled(clips, data, codec, nervous):
    # Everybody nods about one pivot: the second latent is always the first one's shadow.
    rng = np.random.default_rng(0)
    coupled = []
    for clip in data:
        nod = np.cumsum(rng.standard_normal(len(clip.x) + 20))
        nod = np.convolve(nod - nod.mean(), np.hanning(21) / 10, mode="valid")[: len(clip.x)] * 0.3
        x = np.array(clip.x)
        x[:, HEAD] = nod[:, None] * [1.0, -0.8, 0.0]
        coupled.append(dataclasses.replace(clip, x=x.astype(np.float32)))

    def velocities():
        return np.concatenate([slow_velocity(generate(nervous, audio, seed=1).numpy()) for audio, _ in clips])

    v = velocities()
    assert abs(np.corrcoef(v[:, 0], v[:, 1])[0, 1]) < 0.6
    calibrate_motion(nervous, coupled, [], codec, SampleConfig(), seed=1)
    v = velocities()
    assert np.corrcoef(v[:, 0], v[:, 1])[0, 1] < -0.75


def test_quiet_clips_make_quiet_motion_and_the_face_keeps_its_size_and_its_tempo(clips, data, codec, nervous):
    audio = clips[0][0]
    raw = generate(nervous, audio, seed=1)
    calibrate_motion(nervous, data, [], codec, SampleConfig(), seed=1)
    before, moves = nervous.sigma_frames.clone(), generate(nervous, audio, seed=1)
    quiet = [dataclasses.replace(c, x=np.asarray(c.x) * np.float32(0.3)) for c in data]
    calibrate_motion(nervous, quiet, [], codec, SampleConfig(), seed=1)
    still = generate(nervous, audio, seed=1)
    assert (nervous.sigma_frames >= before).all()
    assert slow_energy(skull(codec, still)) < 0.15 * slow_energy(skull(codec, moves))
    # Calmer means smaller, not slower: the head keeps its tempo.
    assert acceleration(skull(codec, still)) > 0.2 * acceleration(skull(codec, moves))
    assert torch.equal(raw[:, FACE], still[:, FACE]) and (nervous.sigma_frames[FACE] == 1).all()


def test_a_mouth_that_opens_too_little_opens_as_in_the_fits(data, codec, nervous):
    nervous.dit.prior.weight.data[FACE] *= 0.02

    def opening(gain):
        nervous.face_gain.fill_(gain)
        return np.median(
            [codec.aperture(sample(nervous, encode_audio(nervous, _t(c.audio)))).std() for c in data]
        )

    wanted = np.median([codec.aperture(_t(c.x)).std() for c in data])
    nervous.dit.prior.weight.data[FACE] *= 0.8 * wanted / opening(1.0)
    assert opening(1.0) == pytest.approx(0.8 * wanted, rel=0.1)
    calibrate_motion(nervous, data, [], codec, SampleConfig(), seed=0)
    assert opening(float(nervous.face_gain)) == pytest.approx(wanted, rel=0.1)
    # Unheard clips count, where there are some: their lips open by a tenth more.
    wider = [dataclasses.replace(c, x=_wider(c.x, 1.1)) for c in data]
    hidden = dataclasses.replace(
        wider[0], x=_wider(data[0].x, 9.0), visible={**data[0].visible, "face": False}
    )
    before = float(nervous.face_gain)
    calibrate_motion(nervous, data, [*wider, hidden, hidden], codec, SampleConfig(), seed=0)
    assert float(nervous.face_gain) == pytest.approx(1.1 * before, rel=1e-3)


def test_the_closure_does_not_change_the_gain(data, codec, nervous):
    nervous.dit.prior.weight.data[FACE] *= 0.005
    calibrate_motion(nervous, data, [], codec, SampleConfig(), seed=0)
    gain, features = float(nervous.face_gain), encode_audio(nervous, _t(data[0].audio))
    free = codec.aperture(sample(nervous, features))
    row, _ = codec.aperture_row()
    nervous.closure.row.copy_(row)
    nervous.closure.along.copy_(row / row.square().sum())
    nervous.closure.rest.fill_(
        -1.0
    )  # all lips are open by a metre, and half shut by a sound at probability .335
    nervous.closure.reading.bias.fill_(float(torch.logit(torch.tensor(0.335))))
    features = encode_audio(nervous, _t(data[0].audio))
    assert codec.aperture(sample(nervous, features)).std() < 0.6 * free.std()
    calibrate_motion(nervous, data, [], codec, SampleConfig(), seed=0)
    assert 1 < gain == float(nervous.face_gain) and nervous.closure is not None


def _wider(x, gain):
    """Face latents stretched about zero."""
    out = np.array(x)
    out[:, FACE] *= np.float32(gain)
    return out


def _t(values):
    return torch.from_numpy(np.asarray(values, np.float32))


def test_regions_that_no_clip_shows_are_left_alone(data, codec, nervous):
    hidden = [dataclasses.replace(c, visible={**c.visible, "hand": False, "head": False}) for c in data]
    calibrate_motion(nervous, hidden, [], codec, SampleConfig(), seed=1)
    assert torch.equal(nervous.covariance_map, torch.eye(16))
    assert (nervous.sigma_frames[HEAD] == 1).all() and (nervous.sigma_frames[14:] == 1).all()


def test_coupling_map_gives_the_wanted_covariance_and_is_no_change_where_none_is_needed():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 200, 4)) @ rng.standard_normal((2, 4, 4))
    made, wanted = a.T @ a / 200 + np.eye(4), b.T @ b / 200
    turn = coupling_map(made, wanted)
    assert np.allclose(turn, turn.T)
    assert np.trace(turn @ made @ turn) == pytest.approx(np.trace(wanted))
    assert np.allclose(turn @ made @ turn, wanted, atol=0.05 * np.trace(wanted))
    assert np.allclose(coupling_map(made, made), np.eye(4), atol=1e-6)
    # What hardly moves is not blown up.
    assert np.abs(coupling_map(np.diag([1.0, 1e-9]), np.eye(2))).max() < 50


def test_the_cap_bounds_the_head_and_nothing_else():
    rng = np.random.default_rng(5)
    x = torch.from_numpy(np.cumsum(rng.standard_normal((80, 6)), 0).astype(np.float32))
    unit = torch.tensor([0.5, 2.0, 0, 0, 0, 0])
    energy = slow_energy((x * unit).numpy()[:, None])
    half = cap_energy(x, unit, 0.5 * energy)
    assert slow_energy((half * unit).numpy()[:, None]) == pytest.approx(0.5 * energy, rel=1e-4)
    torch.testing.assert_close(half[:, :2].mean(0), x[:, :2].mean(0))
    assert torch.equal(half[:, 2:], x[:, 2:])
    # It never livens up: silence must stay still.
    torch.testing.assert_close(cap_energy(x, unit, 2 * energy), x)
    assert torch.equal(cap_energy(x[:2], unit, 0.0), x[:2])
