import numpy as np
import pytest
import torch

from avatar_core.audio.mel import CLEAN
from avatar_core.distill.config import DistillConfig, DistillWeights
from avatar_core.distill.train import (
    Student,
    _fake_score,
    _learn_fake_score,
    decoder_parameters,
    rendered_terms,
    train_student,
)
from avatar_core.particles.deformation import LocalFrames
from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from tests.distill.material import SIMPLE, copy_of


def _teacher():
    torch.manual_seed(0)
    return ScoreNetwork(ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2)).eval()


def test_pictures_and_tracks_teach_the_generator_through_the_renderer(material):
    """The same frames at the same diffusion step, again and again: gradients must bring the pictures together."""
    canonical, layout, codec, generator, clips = material
    codec, generator = copy_of(codec, generator)
    student, frames = Student(generator, codec).eval(), LocalFrames(canonical, layout)
    config = DistillConfig(weights=DistillWeights(vsd=0.0), simple=SIMPLE)
    optimizer = torch.optim.Adam([*generator.parameters(), *decoder_parameters(codec)], lr=1e-3)
    history = []
    for _ in range(20):
        rng = torch.Generator().manual_seed(3)
        terms = rendered_terms(clips[0], frames, student, _teacher(), None, config, rng)
        optimizer.zero_grad()
        (terms["l1"] + 10 * terms["trajectory"]).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    assert history[-1]["l1"] < 0.7 * history[0]["l1"]
    assert history[-1]["trajectory"] < 0.7 * history[0]["trajectory"]


@pytest.mark.parametrize("variational", [False, True])
def test_all_terms_run_and_everything_moves(material, variational):
    canonical, layout, codec, generator, clips = material
    codec, generator = copy_of(codec, generator)
    before = {k: v.clone() for k, v in {**generator.state_dict(), **codec.state_dict()}.items()}
    config = DistillConfig(steps=3, simple=SIMPLE, variational=variational, ema=0.5)
    generator, codec, history = train_student(
        clips, {"A": canonical}, layout, generator, codec, _teacher(), config
    )
    assert history[-1].keys() == {"loss", "simple", "arap", "trajectory", "l1", "vsd"}
    assert all(np.isfinite(list(h.values())).all() for h in history)
    after = {**generator.state_dict(), **codec.state_dict()}
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert "dit.trunk.stem.weight" in moved and "refiner.head.weight" in moved
    assert "regions.face.decoder_residual.2.weight" in moved and "regions.face.basis" not in moved


def test_fake_score_learns_the_rendered_clips():
    """A score network that starts as the teacher must come to denoise what it is shown better than the teacher does."""
    teacher, rng = _teacher(), torch.Generator().manual_seed(2)
    fake = _fake_score(teacher, DistillConfig(variational_rate=3e-3))
    reference = torch.rand(1, 3, 32, 32, generator=rng)
    rendered = (reference[:, None] + torch.linspace(0, 0.6, 4).view(1, 4, 1, 1, 1)).clamp(-1, 1)
    mel = torch.randn(1, 4 * (4 + 2 * AUDIO_CONTEXT), 80, generator=rng)
    for _ in range(60):
        _learn_fake_score(fake, rendered, mel, reference, rng)
    steps, noise = torch.tensor([600]), torch.randn(rendered.shape, generator=rng)
    alpha, sigma = teacher.alpha_sigma(steps)
    with torch.no_grad():
        errors = [
            float(
                (m(alpha * rendered + sigma * noise, steps, m.encode_audio(mel), reference) - rendered)
                .square()
                .mean()
            )
            for m in (teacher, fake[0])
        ]
    assert errors[1] < 0.6 * errors[0]


def test_distillation_resumes_exactly(material, tmp_path):
    canonical, layout, codec, generator, clips = material
    config = DistillConfig(steps=4, simple=SIMPLE, checkpoint_every=2)

    def run(folder=None, stop=None):
        c, g = copy_of(codec, generator)

        def progress(step, steps, what):
            if step == stop:
                raise KeyboardInterrupt

        return train_student(
            clips, {"A": canonical}, layout, g, c, _teacher(), config, CLEAN, folder, progress
        )

    straight = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=3)
    resumed = run(tmp_path)
    assert len(resumed[2]) == 4
    for name, value in straight[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name


def test_a_weight_of_zero_changes_its_own_term_alone(material):
    canonical, layout, codec, generator, clips = material

    def terms(**weights):
        config = DistillConfig(weights=DistillWeights(**weights), simple=SIMPLE)
        student = Student(*reversed(copy_of(codec, generator))).eval()
        rng = torch.Generator().manual_seed(5)
        found = rendered_terms(
            clips[0], LocalFrames(canonical, layout), student, _teacher(), None, config, rng
        )
        return {k: v.item() for k, v in found.items()}, torch.randint(9999, (1,), generator=rng)

    everything, after = terms()
    for name in ("vsd", "trajectory", "arap"):
        found, draw = terms(**{name: 0.0})
        assert found == {k: v for k, v in everything.items() if k != name}
        assert draw == after  # the next step draws the same
