import numpy as np
import pytest
import torch

from avatar_core.embed.codec import REGIONS, FittedClip, MotionCodec
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.config import CodecConfig
from avatar_core.embed.pca import fit_pca, ridge
from avatar_core.errors import UserError
from avatar_core.particles.deformation import Deformation

SMALL = CodecConfig(body_dims=8, head_dims=3, face_dims=6, hand_dims=2, extra_dims=2, residual_steps=60)


@pytest.fixture(scope="module")
def codec(clips, person):
    return fit_codec([c for _, c in clips], person[1], SMALL)


def test_round_trip_on_an_unseen_clip(codec, talk):
    _, truth = talk(99)
    back = codec.decode(codec.encode(truth))
    for rows, limit in ((slice(0, 200), 1e-3), (slice(200, 350), 2e-4), (slice(350, 430), 5e-4)):
        error = (back.mean_offset[:, rows] - truth.mean_offset[:, rows]).norm(dim=-1).mean()
        moved = truth.mean_offset[:, rows].norm(dim=-1).mean()
        assert error < max(limit, 0.05 * float(moved))
    skull = (back.rotation[:, :40] - truth.rotation[:, :40]).norm(dim=-1).mean()
    assert skull < 0.2 * truth.rotation[:, :40].norm(dim=-1).mean()  # predicted from the latents alone


def test_latents_are_white_and_aperture_is_read_from_them(codec, clips, talk):
    x = torch.cat([codec.encode(c.deformation) for _, c in clips])
    assert 0.7 < x[:, codec.slices["face"]][:, 0].std().item() < 1.3
    _, truth = talk(99)
    gap = truth.mean_offset[:, 200:210, 2].mean(1) - truth.mean_offset[:, 210:220, 2].mean(1)
    assert torch.allclose(codec.aperture(codec.encode(truth)), gap, atol=4e-4)


def test_face_view_gives_head_motion_without_a_body(codec, talk):
    """The body of a face view is whatever the fit left there: latents must come from the skull alone."""
    _, truth = talk(98)
    wrong = truth.mean_offset.clone()
    wrong[:, 40:200] = 0.3
    visible = {"body": False, "head": True, "face": True, "hand": False}
    x = codec.encode(Deformation(wrong, truth.rotation), visible=visible)
    skull = codec.decode(x).mean_offset[:, :40]
    assert (skull - truth.mean_offset[:, :40]).norm(dim=-1).mean() < 0.25 * truth.mean_offset[:, :40].norm(
        dim=-1
    ).mean()
    assert (x[:, codec.slices["hand"]] == 0).all()


def test_hidden_regions_do_not_enter_the_basis(clips, person):
    def spoiled(clip):
        offset = clip.deformation.mean_offset.clone()
        if not clip.visible["body"]:
            offset[:, 40:200] = 7.0
            offset[:, 350:] = -7.0
        return FittedClip(Deformation(offset, clip.deformation.rotation), clip.visible)

    good = fit_codec([c for _, c in clips], person[1], SMALL)
    same = fit_codec([spoiled(c) for _, c in clips], person[1], SMALL)
    for name, value in good.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_loss_metric_and_latent_mask_cover_what_the_clip_shows(codec):
    weights = {"head": 0.5, "body": 1.0, "face": 2.0, "hand": 1.0}
    view = {"head": True, "body": False, "face": True, "hand": False}
    factor, shown = codec.loss_metric(view, weights), codec.latent_mask(view)
    assert shown.tolist() == [True] * 3 + [False] * 5 + [True] * 6 + [False] * 2
    assert (factor[:, ~shown] == 0).all() and (factor.diagonal()[shown] > 0).all()
    # an error as large as the motion gives the region's weight
    assert torch.isclose((factor @ shown.float()).square().sum(), torch.tensor(2.5), rtol=1e-4)
    nothing = dict.fromkeys(REGIONS, False)
    assert (codec.loss_metric(nothing, weights) == 0).all() and not codec.latent_mask(nothing).any()


def test_head_latents_alone_move_the_skull(codec, talk):
    _, truth = talk(95)
    x = codec.encode(truth)
    x[:, codec.slices["body"]] = 0
    skull = codec.decode(x).mean_offset[:, :40]
    assert (skull - truth.mean_offset[:, :40]).norm(dim=-1).mean() < 0.05 * truth.mean_offset[:, :40].norm(
        dim=-1
    ).mean()


def test_stature_scales_the_body_but_not_the_face(codec, talk):
    _, truth = talk(97)
    x = codec.encode(truth)
    tall, plain = codec.decode(x, stature=1.7 * 1.1), codec.decode(x)
    assert torch.allclose(tall.mean_offset[:, :200], 1.1 * plain.mean_offset[:, :200])
    assert torch.equal(tall.mean_offset[:, 200:350], plain.mean_offset[:, 200:350])


def test_saved_codec_is_the_same(codec, talk):
    tensors, about = codec.tensors()
    again = MotionCodec.from_tensors(tensors, about)
    _, truth = talk(96)
    assert torch.equal(codec.encode(truth), again.encode(truth))


def test_missing_region_is_a_user_error(clips, person):
    nothing = [FittedClip(c.deformation, {**c.visible, "hand": False}) for _, c in clips]
    with pytest.raises(UserError, match="hand"):
        fit_codec(nothing, person[1], SMALL)


def test_pca_finds_the_plane_and_ignores_frames_of_no_weight():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 30))
    rows = torch.from_numpy(plane).float()
    rows[::10] = 50.0
    weight = torch.ones(200)
    weight[::10] = 0
    mean, basis, std = fit_pca(rows, 4, weight)
    left = (rows[1] - mean) - ((rows[1] - mean) @ basis.T) @ basis
    assert left.abs().max() < 1e-3 and std[2] < 1e-2 * std[0]
    assert torch.allclose(basis[:2] @ basis[:2].T, torch.eye(2), atol=1e-4)


def test_ridge_recovers_a_linear_map_with_its_constant():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    table = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
    found = ridge(x, x @ table + 4.0, 1e-4, torch.ones(500))
    assert torch.allclose(found[:-1], table, atol=1e-2) and torch.allclose(
        found[-1], torch.full((2,), 4.0), atol=1e-2
    )
