from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.audio.features import log_mel
from avatar_core.audio.mel import CLEAN
from avatar_core.embed.batches import Batches, LatentClip, silence_bank
from avatar_core.errors import UserError
from avatar_core.generator.config import DiTConfig, SampleConfig, TrainConfig
from avatar_core.generator.dit import DiT
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import encode_audio, generate
from avatar_core.generator.train import MotionLoss, latent_speed, train_generator
from avatar_core.geometry.filters import low_pass
from avatar_core.training.loop import mean_losses
from tests.motion.small import MODEL, Heard

TRAIN = TrainConfig(steps=150, batch=8, window=40, learning_rate=4e-3, silence=0.1)


@pytest.fixture(scope="module")
def trained(data, codec):
    return train_generator(data, codec, TRAIN, MODEL)


@torch.no_grad()
def test_learns_lips_from_sound(trained, codec, talk):
    model, curve = trained
    first, last = mean_losses(curve[:20]), mean_losses(curve[-20:])
    assert last["loss"] < 0.75 * first["loss"]
    audio, truth = talk(99)
    gap = codec.aperture(codec.encode(truth)).numpy()
    own = codec.aperture(generate(model, audio, seed=1)).numpy()
    other = codec.aperture(generate(model, talk(77)[0], seed=1)).numpy()
    assert np.corrcoef(gap, own)[0, 1] > 0.8
    assert np.corrcoef(gap, other)[0, 1] < 0.5


@torch.no_grad()
def test_mouth_stays_shut_in_silence_and_faint_noise(trained, codec):
    rng = np.random.default_rng(0)
    for level in (0.0, 1e-3):
        audio = (level * rng.standard_normal(50 * 640)).astype(np.float32)
        assert codec.aperture(generate(trained[0], audio)).abs().max() < 0.002


def test_windows_are_exactly_one_long_pass(trained, talk):
    audio, _ = talk(5, 150)
    whole = generate(trained[0], audio, seed=3, config=SampleConfig(window=1000))
    parts = generate(trained[0], audio, seed=3, config=SampleConfig(window=30))
    assert torch.allclose(whole, parts, atol=2e-4)
    assert not torch.allclose(whole, generate(trained[0], audio, seed=4), atol=1e-2)


def test_receptive_field_is_within_the_context():
    torch.manual_seed(0)
    config = DiTConfig(dims=4)
    model = DiT(config).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.film.weight, std=0.1)
    mel, x = torch.randn(1, 4 * 101, 80), torch.randn(1, 101, 4)
    changed = mel.clone()
    changed[:, 4 * 50 : 4 * 51] += 1
    step = torch.tensor([500])
    difference = model(x, step, model.encode_audio(mel)) - model(x, step, model.encode_audio(changed))
    reached = np.flatnonzero(difference[0].detach().abs().sum(-1).numpy() > 0)
    assert reached.max() - 50 <= config.receptive_field <= 25 and 50 - reached.min() <= config.receptive_field


def test_resumed_training_gives_the_same_weights(data, codec, tmp_path):
    config = TrainConfig(steps=6, batch=2, window=24, checkpoint_every=2)
    straight, _ = train_generator(data, codec, config, MODEL)

    folder = tmp_path / "state"
    seen = []

    def kill_at_four(mel, generator):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return mel

    with pytest.raises(KeyboardInterrupt):
        train_generator(data, codec, config, MODEL, audio=Heard(kill_at_four), checkpoint_dir=folder)
    assert sorted(p.name for p in folder.glob("*.safetensors"))[-1] == "train-00000004.safetensors"
    resumed, curve = train_generator(data, codec, config, MODEL, checkpoint_dir=folder)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert len(curve) == 6


def test_state_of_another_configuration_is_not_resumed(data, codec, tmp_path):
    config = TrainConfig(steps=2, batch=2, window=24, checkpoint_every=1)
    train_generator(data, codec, config, MODEL, checkpoint_dir=tmp_path)
    other = TrainConfig(steps=2, batch=2, window=24, checkpoint_every=1, learning_rate=1e-4)
    resumed, _ = train_generator(data, codec, other, MODEL, checkpoint_dir=tmp_path)
    fresh, _ = train_generator(data, codec, other, MODEL)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in fresh.state_dict().items())


def test_nan_batches_are_skipped_and_endless_nan_is_an_error(data, codec):
    config = TrainConfig(steps=12, batch=2, window=24)
    calls = []

    def sometimes(mel, generator):
        calls.append(1)
        return mel * float("nan") if len(calls) == 3 else mel

    model, _ = train_generator(data, codec, config, MODEL, audio=Heard(sometimes))
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    with pytest.raises(UserError, match="not finite"):
        train_generator(data, codec, config, MODEL, audio=Heard(lambda mel, g: mel * float("nan")))


def test_hidden_regions_give_no_loss(data, codec):
    batches = Batches(data, codec, TRAIN)
    loss = MotionLoss(batches, codec, TRAIN)
    face_view = torch.tensor([batches.visibility_ids[0]])
    x = torch.zeros(1, 10, 16)
    hand = torch.zeros_like(x)
    hand[..., codec.slices["hand"]] = torch.randn(2)
    assert loss(hand, x, torch.ones(1, 10), face_view) == 0
    assert loss(hand, x, torch.ones(1, 10), torch.tensor([batches.visibility_ids[1]])) > 0
    assert (
        loss(hand + 1, x, torch.zeros(1, 10), torch.tensor([batches.visibility_ids[1]])) == 0
    )  # frames of no confidence


def test_silence_bank_holds_silence_noise_and_music_and_is_repeatable():
    bank = silence_bank(10, 0, CLEAN)
    assert bank.shape == (60, 40, 80) and torch.equal(bank, silence_bank(10, 0, CLEAN))
    loudest = bank.flatten(1).max(1).values
    assert (loudest[::6] < -16).all()  # digital silence
    assert (loudest[4::6] > loudest[1::6].max()).any()  # music, louder than any faint noise


def test_windows_are_drawn_from_a_clip_and_from_its_takes(data, codec):
    clip = data[0]
    takes = np.stack([np.full_like(clip.audio, 100.0), np.full_like(clip.audio, 200.0)])
    config = TrainConfig(batch=60, window=8, silence=0.0)
    mel, *_ = Batches([replace(clip, takes=takes)], codec, config).draw(torch.Generator().manual_seed(0))
    heard = mel.mean((1, 2))
    for value in (100.0, 200.0):
        assert 10 < int((heard == value).sum()) < 40
    assert 5 < int((heard < 50).sum()) < 30


def test_a_window_knows_its_place_in_its_clip(data, codec):
    """What the refiner is conditioned on: the numbers of the frames that the window holds."""
    numbered = replace(data[0], x=np.repeat(np.arange(len(data[0].x), dtype=np.float32)[:, None], 16, 1))
    config = TrainConfig(batch=40, window=8, silence=0.0)
    _, x, _, _, first = Batches([numbered], codec, config).draw(torch.Generator().manual_seed(0))
    held = (first + torch.arange(8)).clamp(0, len(numbered.x) - 1)
    assert torch.equal(x[..., 0], held.float()) and len(first.unique()) > 10


def test_noise_has_unit_variance_and_the_speed_of_the_motion():
    model = Generator(MODEL)
    model.noise_velocity[:8] = 0.05
    noise = model.noise(8, 2000, torch.Generator().manual_seed(0))
    assert torch.allclose(noise.std((0, 1)), torch.ones(16), atol=0.12)
    speed = noise.diff(dim=1).std((0, 1))
    assert torch.allclose(speed[:8], torch.full((8,), 0.05), rtol=0.1)
    assert torch.allclose(speed[-2:], torch.full((2,), 0.1), rtol=0.1)
    assert (speed[8:14] > 1.3).all()  # the face's is white


def test_speed_of_the_latents_is_read_from_clips_that_show_them(codec):
    t = np.arange(200)[:, None]
    x = np.repeat(np.sin(0.05 * t), 16, 1).astype(np.float32)
    face = {"head": True, "body": False, "face": True, "hand": False}
    speed = latent_speed([LatentClip(np.zeros((800, 80), np.float32), x, face)], codec)
    assert torch.allclose(speed[:3], torch.full((3,), 0.05), rtol=0.1) and (speed[3:8] == 0.1).all()


def test_low_pass_keeps_slow_motion_and_length():
    slow = torch.sin(torch.arange(100) * 0.05)[:, None]
    noise = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    assert (low_pass(slow, 1.0) - slow).abs()[3:-3].max() < 0.01
    assert low_pass(noise, 1.0).diff(dim=0).std() < 0.3 * noise.diff(dim=0).std()
    assert torch.equal(low_pass(noise, 0.0), noise)


def test_generator_survives_saving(trained, talk):
    tensors, config = trained[0].tensors()
    again = Generator.from_tensors(tensors, config)
    assert torch.equal(generate(again, talk(1)[0], seed=2), generate(trained[0], talk(1)[0], seed=2))


def test_short_and_odd_audio(trained):
    assert generate(trained[0], np.zeros(1, np.float32)).shape == (1, 16)
    assert generate(trained[0], np.zeros(1000, np.float32)).shape == (2, 16)
    with pytest.raises(UserError, match="sample"):
        generate(trained[0], np.zeros(0, np.float32))


def test_audio_features_have_one_row_a_frame(trained, talk):
    assert encode_audio(trained[0], log_mel(torch.from_numpy(talk(1)[0]))).shape == (
        75,
        32 + trained[0].config.face_dims + 1,
    )
