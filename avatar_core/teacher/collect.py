"""Videos that other programs made of our sounds: brought to 25 fps and into step with the sound, or refused.

Such a program hands back the sound in its video. Where that sound lies in the file says how late the pictures are (some put silence
or the reference picture first), whatever frame rate the model has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar_core.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.video import read_video, write_mp4
from avatar_core.teacher import MAX_FRAMES

ALIKE = 0.5  # correlation of the sound in the video with ours: lossy coding leaves .9, another recording .1
CRF = 10


def collect(made: Path, target: Path, audio: np.ndarray, lead_s: float | None) -> None:
    """The video `made` of the sound audio (S,) -> `target`, S / 640 frames in step with it.

    lead_s: seconds that the program is known to put before the sound; None: it makes no sound, and starts with ours. Raises
    UserError naming `made`: no video, another sound, out of step by more than a frame, or too short by more than a frame.
    """
    if not made.is_file():
        raise UserError(f"{made}: expected a video of {target.stem}, found none")
    frames = read_video(made, MAX_FRAMES)
    lag = 0.0 if lead_s is None else _checked_lag(made, target, audio, lead_s)
    wanted = len(audio) // SAMPLES_PER_FRAME
    frames = frames[max(0, round(lag * FPS)) :][:wanted]
    if len(frames) < wanted - 1:
        raise UserError(
            f"{made}: expected {wanted} frames at {FPS} fps with the sound, found {len(frames)}; the program stopped early"
        )
    frames = np.concatenate([frames, frames[-1:].repeat(wanted - len(frames), 0)])
    height, width = (side // 2 * 2 for side in frames.shape[1:3])  # even: 4:2:0 colour
    write_mp4(target, frames[:, :height, :width], audio=audio, crf=CRF)


def _checked_lag(made: Path, target: Path, audio: np.ndarray, lead_s: float) -> float:
    lag, alike = sound_lag(audio, read_audio(made))
    if alike < ALIKE:
        raise UserError(
            f"{made}: expected the sound of {target.stem} in it, found another (correlation {alike:.2f})"
        )
    if abs(lag - lead_s) > 1.0 / FPS:
        raise UserError(f"{made}: expected the sound {lead_s:.3f} s after the start, found it at {lag:.3f} s")
    return lag


def sound_lag(audio: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Seconds by which a sound (S,) comes later in `other` (S',), within a second, and their correlation there.

    Silence has no place: where `audio` is silent, the lag is 0 and the correlation that of two silences, 1, or 0.
    """
    power = float(audio @ audio)
    if power < 1e-8:
        return 0.0, float(float(other @ other) < 1e-3)
    reach = SAMPLE_RATE
    size = 1 << int(np.ceil(np.log2(len(audio) + len(other) + 2 * reach)))
    cross = np.fft.irfft(np.conj(np.fft.rfft(audio, size)) * np.fft.rfft(other, size), size)
    lags = np.concatenate([np.arange(reach), np.arange(-reach, 0)])
    best = int(lags[np.argmax(cross[lags])])
    shifted = np.zeros(len(audio))
    source = other[max(0, best) : max(0, best + len(audio))]
    shifted[max(0, -best) : max(0, -best) + len(source)] = source[: len(audio) - max(0, -best)]
    size_other = float(np.sqrt(shifted @ shifted))
    return best / SAMPLE_RATE, float(audio @ shifted / (np.sqrt(power) * size_other)) if size_other else 0.0
