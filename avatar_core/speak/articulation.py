"""How far the mouth opens: wider than learnt from the teacher, nearer to real talkers, without opening what is shut.

On human voices a student opens the mouth of a photograph less far than its person does in a clip (two talkers, measured with one
face mesh: docs/decisions.md). So openings are scaled, along what the face does when this mouth opens; shut lips, and how shut they
are, stay.

Shapes: T frames, D latents, F of the face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands read the default without waiting for torch
    from torch import Tensor

    from avatar_core.embed.codec import MotionCodec

ARTICULATION = 1.5  # measured on talkers of real clips: docs/decisions.md
SHUT = 0.0005  # m above the resting gap: not scaled
OPEN = 0.003  # m: scaled in full
LEAST_VARIANCE = 1e-8  # m^2: less is a mouth that does not speak


def articulate(x: Tensor, codec: MotionCodec, scale: float) -> Tensor:
    """Latents (T,D) whose lips open `scale` times as far, as the linear reading `MotionCodec.aperture` has it.

    The face moves by its regression on the aperture over these frames, so that jaw, cheeks and lips go together. 1 is no change.
    Locked by test_openings_are_scaled_and_shut_lips_stay.
    """
    if scale == 1.0 or len(x) < 2:
        return x
    aperture = codec.aperture(x)
    centred = aperture - aperture.mean()
    variance = centred.square().mean()
    if float(variance) < LEAST_VARIANCE:
        return x
    face = x[:, codec.slices["face"]]
    with_opening = centred @ (face - face.mean(0)) / (len(x) * variance)  # (F,) per metre
    opened = aperture - codec.aperture(codec.neutral()[None])
    share = ((opened - SHUT) / (OPEN - SHUT)).clamp(0, 1)
    wider = (scale - 1) * opened * share.square() * (3 - 2 * share)
    out = x.clone()
    out[:, codec.slices["face"]] = face + wider[:, None] * with_opening
    return out
