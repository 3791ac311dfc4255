import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.score.clips import AUDIO_CONTEXT, ScoreClip, pad_mel, to_signed
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.score.train import evaluate_score, train_score
from avatar_core.score.whole import sample_whole, starts_of, sum_windows
from avatar_core.training.loop import mean_losses

CONFIG = ScoreConfig(
    size=16, frames=4, channels=[16, 16], audio_channels=16, heads=2, batch=6, steps=90, learning_rate=4e-3
)


def make_clip(seed: int, frames: int = 30) -> ScoreClip:
    """A grey face whose mouth is white while it is loud."""
    rng = np.random.default_rng(seed)
    loud = rng.random(frames) < 0.5
    pictures = np.full((frames, 16, 16, 3), 100 + 10 * (seed % 5), np.uint8)
    pictures[:, 9:14, 4:12] = np.where(loud, 250, 20)[:, None, None, None]
    mel = np.repeat(np.where(loud, -3.0, -14.0), 4)[:, None] + rng.standard_normal((4 * frames, 80)) * 0.3
    return ScoreClip(pictures, mel.astype(np.float32))


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return train_score([make_clip(s) for s in range(12)], CONFIG)


def test_score_uses_the_sound(trained):
    model, losses = trained
    assert mean_losses(losses[-20:])["loss"] < 0.75 * mean_losses(losses[:10])["loss"]
    scores = evaluate_score(model, [make_clip(s) for s in range(100, 106)])
    assert scores["denoise_matched"] < min(0.8, 0.8 * scores["denoise_mismatched"])
    assert scores["denoise_matched"] < scores["denoise_no_audio"]


def test_sampled_mouth_follows_the_sound(trained):
    clip = make_clip(200)
    mel = pad_mel(clip.log_mel)[: 4 * (4 + 2 * AUDIO_CONTEXT)][None]
    reference = to_signed(torch.from_numpy(clip.frames[10]))[None]
    out = trained[0].sample(mel, reference, steps=8)[0, :, :, 9:14, 4:12].mean((1, 2, 3))
    truth = to_signed(torch.from_numpy(clip.frames[:4]))[:, :, 9:14, 4:12].mean((1, 2, 3))
    assert (out - truth).abs().max() < 0.5


def test_a_whole_clip_is_sampled_from_windows_that_overlap(trained):
    """All of it follows the sound, also where no window of the clip's grid ends; the same for the same seed."""
    clip = make_clip(200)
    mel = torch.from_numpy(clip.log_mel)[: 4 * 27]
    reference = to_signed(torch.from_numpy(clip.frames[10]))
    out = sample_whole(trained[0], mel, reference, seed=3)
    assert out.shape == (27, 3, 16, 16)
    mouth = out[:, :, 9:14, 4:12].mean((1, 2, 3))
    truth = to_signed(torch.from_numpy(clip.frames[:27]))[:, :, 9:14, 4:12].mean((1, 2, 3))
    assert torch.corrcoef(torch.stack([mouth, truth]))[0, 1] > 0.9
    assert torch.equal(out, sample_whole(trained[0], mel, reference, seed=3))
    assert not torch.equal(out, sample_whole(trained[0], mel, reference, seed=4))
    short = sample_whole(trained[0], mel[:8], reference, seed=3)  # less than a window
    assert short.shape == (2, 3, 16, 16)


def test_windows_cover_a_clip_to_its_end():
    for total in (3, 8, 9, 12, 27):
        starts = starts_of(total, 8, 4)
        assert starts[0] == 0 and max(starts) + 8 == max(total, 8) and sorted(set(starts)) == starts
        assert max(np.diff(starts), default=0) <= 4
    windows = torch.arange(6.0).reshape(2, 3)
    assert sum_windows(windows, torch.tensor([0, 2]), 5).tolist() == [0, 1, 2 + 3, 4, 5]


def test_noise_and_prediction_agree():
    model = ScoreNetwork(CONFIG).eval()
    clean = torch.randn(2, 4, 3, 16, 16)
    noise = torch.randn_like(clean)
    steps = torch.tensor([100, 900])
    noisy = model.add_noise(clean, noise, steps)
    alpha, sigma = model.alpha_sigma(steps)
    assert torch.allclose((noisy - sigma * noise) / alpha, clean, atol=1e-4)
    mel = torch.randn(2, 4 * (4 + 2 * AUDIO_CONTEXT), 80)
    eps = model.predict(noisy, steps, mel, clean[:, 0])
    linear = model.linear(noisy, steps, clean[:, 0])
    assert torch.allclose(
        noisy - sigma * eps, alpha * linear, atol=1e-4
    )  # untrained: the best linear denoiser
    assert torch.allclose(model.predict(noisy, steps, mel, clean[:, 0], guidance=3.0), eps, atol=1e-5)


def test_score_resumes_exactly(tmp_path):
    clips = [make_clip(s) for s in range(3)]
    config = ScoreConfig(**{**vars(CONFIG), "steps": 4, "checkpoint_every": 2, "batch": 2})
    straight, _ = train_score(clips, config)
    calls = []

    def kill(step, steps, scores):
        calls.append(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_score(clips, config, tmp_path, kill)
    (tmp_path / "train-00000004.safetensors").unlink(missing_ok=True)
    train_score(clips, ScoreConfig(**{**vars(config), "steps": 2}), tmp_path / "half")
    resumed, losses = train_score(clips, config, tmp_path)
    assert len(losses) == 4
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in straight.state_dict().items())


def test_score_survives_saving(trained):
    tensors, config = trained[0].tensors()
    again = ScoreNetwork.from_tensors(tensors, config)
    x, mel = torch.randn(1, 4, 3, 16, 16), torch.randn(1, 4 * (4 + 2 * AUDIO_CONTEXT), 80)
    step = torch.tensor([500])
    assert torch.equal(again.predict(x, step, mel, x[:, 0]), trained[0].predict(x, step, mel, x[:, 0]))


def test_wrong_crops_are_user_errors():
    with pytest.raises(UserError, match="16 px"):
        train_score([ScoreClip(np.zeros((9, 8, 8, 3), np.uint8), np.zeros((36, 80), np.float32))], CONFIG)
    with pytest.raises(UserError, match="4 frames"):
        train_score([ScoreClip(np.zeros((3, 16, 16, 3), np.uint8), np.zeros((12, 80), np.float32))], CONFIG)
