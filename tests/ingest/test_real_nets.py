"""`avatar ingest` with the pretrained nets, on a procedural person who talks: found, in sync, taken; shifted, found out."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_core.ingest.config import IngestConfig
from avatar_core.ingest.ingest import ingest
from avatar_core.io.images import read_image
from avatar_core.io.video import read_video, write_mp4
from avatar_core.perception.backends import clip_masks
from avatar_core.perception.holistic.video import HolisticFaces
from avatar_core.perception.matte import MatteMasks
from avatar_core.procedural.people import sample_identities
from avatar_core.speech.espeak_source import EspeakSpeech
from avatar_core.speech.scripts import Line
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.procedural import ProceduralTeacher


@pytest.mark.slow
def test_a_procedural_talker_goes_in_and_comes_out(tmp_path):
    pytest.importorskip("espeakng_loader", reason="espeakng_loader is not installed (extra `espeak`)")
    person = sample_identities(2, 3, "identities")[1]
    speech = EspeakSpeech().speak(
        Line("en", "train", "My mother moved a pebble from the pool by the barn."), "otto"
    )
    request = ClipRequest(
        person.id, person.id, person.seed, person.attributes, tmp_path, speech, "face", 320, 5
    )
    made = ProceduralTeacher(supersample=1).make(request)
    n = speech.num_frames
    pad = (
        np.random.default_rng(0).integers(60, 200, (20, 28), np.uint8).repeat(16, 0).repeat(16, 1)[..., None]
    )
    wide = np.broadcast_to(pad, (n, 320, 448, 3)).copy()
    alpha = clip_masks(MatteMasks(), made.frames)[..., None] / 255
    wide[:, :, 64:384] = made.frames * alpha + wide[:, :, 64:384] * (1 - alpha)
    at = np.minimum(np.arange(int(n * 1.2)) / 1.2, n - 1).astype(int)  # the same at 30 fps
    write_mp4(tmp_path / "in" / "talk.mp4", wide[at], audio=speech.audio, fps=30)
    write_mp4(
        tmp_path / "in" / "empty.mp4", np.broadcast_to(pad, (50, 320, 448, 3)), audio=speech.audio[:32000]
    )
    config = IngestConfig()
    result = ingest(tmp_path / "in", tmp_path / "out", HolisticFaces(), config)
    empty, talk = result.files
    assert [p.reason for p in empty.pieces] == ["no face"]
    assert [p.reason for p in talk.pieces] == [""] * len(talk.pieces)
    assert talk.sync.near_sure > 2.5 and abs(talk.sync.near_lag) <= 3
    assert len(result.people) == 1 and result.clips == len(talk.pieces)
    assert read_image(tmp_path / "out" / "portraits" / "person-01.png").shape[0] == 320
    frames = read_video(sorted((tmp_path / "out" / "videos").iterdir())[0])
    assert frames.shape[1] == frames.shape[2]
