"""Video in and out, frame by frame: H.264 + AAC in MP4, 25 fps, the same bytes every time; memory does not grow with length.

T frames of H x W pixels, uint8 RGB. One encoder thread and ffmpeg's bit-exact flags make the bytes a function of the pixels.
What is read comes as a player shows it: upright, square pixels, progressive, sRGB display values (HDR is mapped), 25 fps by time.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import ffmpeg as ffmpeg_python
import numpy as np

from avatar_core.clock import FPS, SAMPLE_RATE
from avatar_core.errors import UserError, warn
from avatar_core.io import audio as audio_io
from avatar_core.io import ffmpeg
from avatar_core.io.atomic import atomic_file
from avatar_core.io.audio import Soundtrack
from avatar_core.io.images import to_uint8

MAX_SIDE = 4096
MAX_FRAMES = 4 * 3600 * FPS
WHAT = "a video file"
SOUND_RATE, SOUND_BITRATE = 48_000, "192k"
# decoded with rounding and full chroma: without, RGB comes back up to two levels off
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# ending -> container, codec, pixels, sound, more options
TRANSPARENT: dict[str, tuple[str, str, str, str, dict[str, object]]] = {
    ".webm": (
        "webm",
        "libvpx-vp9",
        "yuva420p",
        "libopus",
        {"video_bitrate": 0, "deadline": "good", "cpu-used": 5},
    ),
    ".mov": ("mov", "prores_ks", "yuva444p10le", "pcm_s16le", {"profile:v": 4}),
}
TAGS = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"


class VideoWriter:
    """`with VideoWriter(path, width, height, audio=samples) as w: w.write(frames)`; the file appears when the block ends well.

    audio: (S,) mono samples at 16 kHz; or the sound of a file as it came; or None. It is written at 48 kHz.
    Sides must be even (4:2:0 colour). crf: 0 best .. 51 worst. transparent: frames have a fourth channel, colours not multiplied by
    it; the name then ends in .webm (VP9 and Opus) or .mov (ProRes 4444 and PCM).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        *,
        audio: np.ndarray | Soundtrack | None = None,
        fps: int = FPS,
        crf: int = 16,
        preset: str = "medium",
        transparent: bool = False,
    ) -> None:
        if width % 2 or height % 2 or not (2 <= width <= MAX_SIDE and 2 <= height <= MAX_SIDE):
            raise UserError(f"{path}: expected even sides of 2 to {MAX_SIDE} px, found {width} x {height}")
        self.path, self.width, self.height, self.frames = Path(path), width, height, 0
        self._audio, self._fps, self._channels = audio, fps, 4 if transparent else 3
        self._options = _transparent(self.path, crf) if transparent else _h264(crf, preset)

    def __enter__(self) -> VideoWriter:
        self._file = atomic_file(self.path)
        self._temporary = self._file.__enter__()
        self._folder = tempfile.TemporaryDirectory()
        size = f"{self.width}x{self.height}"
        pixels = "rgba" if self._channels == 4 else "rgb24"
        inputs = [ffmpeg_python.input("pipe:", format="rawvideo", pix_fmt=pixels, s=size, r=self._fps)]
        options = {"threads": 1, **self._options, **ffmpeg.BITEXACT}
        if self._audio is not None:
            track = self._audio
            if not isinstance(track, Soundtrack):
                wav = Path(self._folder.name, "audio.wav")
                audio_io.write_wav(wav, track)
                track = Soundtrack(wav, None, len(track) / SAMPLE_RATE)
            source = ffmpeg.probe(track.path, audio_io.WHAT)
            inputs.append(source.open()[str(source.audios[0].index)])
            options |= {
                "audio_bitrate": SOUND_BITRATE,
                "af": f"{audio_io.filters(source, SOUND_RATE, track.channel)},"
                f"apad=whole_dur={track.seconds:.6f},atrim=end={track.seconds:.6f}",
                "copyts": None,
            }
        self._process = ffmpeg.Process(
            ffmpeg_python.output(*inputs, ffmpeg.url(self._temporary), **options), feeds=True
        )
        return self

    def write(self, frames: np.ndarray) -> None:
        """Add one frame (H, W, 3) or several (T, H, W, 3), uint8 or float in [0, 1]."""
        frames = to_uint8(frames)
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.shape[1:] != (self.height, self.width, self._channels):
            raise ValueError(
                f"{self.path}: frames of {self.height} x {self.width} x {self._channels} expected, got {frames.shape[1:]}"
            )
        assert self._process.process.stdin is not None
        try:
            for frame in frames:
                self._process.process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._process.process.wait()
            raise UserError(f"{self.path}: cannot write the video: {self._process.message()}") from None
        self.frames += len(frames)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failure: BaseException | None = error
        try:
            if error is None:
                code = self._process.wait()
                if code or self.frames == 0:
                    reason = self._process.message() if code else "no frames"
                    failure = UserError(f"{self.path}: cannot write the video: {reason}")
        finally:
            self._process.stop()
            self._folder.cleanup()
            # with an error, the temporary file goes; without, it becomes the video
            self._file.__exit__(type(failure) if failure else None, failure, None)
        if failure is not None and failure is not error:
            raise failure


def _h264(crf: int, preset: str) -> dict[str, object]:
    return {
        "format": "mp4",
        "vcodec": "libx264",
        "pix_fmt": "yuv420p",
        "crf": crf,
        "preset": preset,
        "movflags": "+faststart",
        "vf": f"scale=out_color_matrix=bt709:out_range=tv:{SCALING},format=yuv420p,{TAGS}",
        "acodec": "aac",
    }


def _transparent(path: Path, crf: int) -> dict[str, object]:
    """Options of the container that the name asks for. Raises UserError."""
    suffix = path.suffix.lower()
    if suffix not in TRANSPARENT:
        raise UserError(
            f"{path}: expected a name ending in {' or '.join(TRANSPARENT)}, which can be transparent, found {suffix or 'no ending'}"
        )
    format, codec, pixels, sound, more = TRANSPARENT[suffix]
    filters = f"scale=out_color_matrix=bt709:out_range=tv:{SCALING},format={pixels},{TAGS}"
    more = more | ({"crf": crf} if codec == "libvpx-vp9" else {})
    return {"format": format, "vcodec": codec, "pix_fmt": pixels, "acodec": sound, "vf": filters, **more}


def write_mp4(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray] | np.ndarray,
    *,
    audio: np.ndarray | Soundtrack | None = None,
    fps: int = FPS,
    crf: int = 16,
    preset: str = "medium",
) -> int:
    """Write frames (an array (T, H, W, 3), or any iterator of (H, W, 3)) with sound (S,) at 16 kHz; returns the frame count."""
    iterator = iter(frames)
    try:
        first = np.asarray(next(iterator))
    except StopIteration:
        raise UserError(f"{path}: cannot write the video: no frames") from None
    height, width = first.shape[:2]
    with VideoWriter(path, width, height, audio=audio, fps=fps, crf=crf, preset=preset) as writer:
        writer.write(first)
        for frame in iterator:
            writer.write(np.asarray(frame))
    return writer.frames


def _pictures(source: ffmpeg.Source) -> ffmpeg.Stream:
    """The stream that is the video: no cover picture, thumbnail or still; the first of several."""
    moving = [s for s in source.videos if "(attached pic)" not in s.about and "thumbnail" not in s.about]
    if not moving:
        found = "a recording with a cover picture" if source.videos else "a recording without pictures"
        raise UserError(f"{source.path}: expected {WHAT}, found {found}")
    if len(moving) > 1:  # a cover that is not marked as one: a single picture
        counts = [_packets(source, stream) for stream in moving]
        moving = [stream for stream, count in zip(moving, counts) if count > 1] or moving
    return moving[0]


def _packets(source: ffmpeg.Source, stream: ffmpeg.Stream, at_most: int = 2) -> int:
    process = source.decode(stream, format="framecrc", vcodec="copy", frames=at_most)
    try:
        assert process.process.stdout is not None
        return sum(not line.startswith(b"#") for line in process.process.stdout)
    finally:
        process.stop()


def _by_time(source: ffmpeg.Source, fps: int) -> str:
    """Filters: frame k is the picture whose time is nearest to k / fps, or, after a longer pause, the one still shown then.

    Each picture is dated back by half the distance to the one before it, half a frame of ours at most; the `fps` filter then holds
    the latest one. (ffmpeg's `-r` delivers pictures of 30 or 60 fps up to two frames late.)
    """
    back = f"min((PTS-PREV_INPTS)/2,{0.5 / fps}/TB)"
    # microseconds first: half a frame cannot be said in the clock of an AVI, which counts frames
    steps = [f"settb=AVTB,setpts='PTS-{source.start_s:.6f}/TB'", f"setpts='if(eq(N,0),PTS,PTS-{back})'"]
    return ",".join([*steps, f"fps={fps}:round=up:start_time=0"])


def _as_shown(about: str) -> list[str]:
    """Filters from decoded pictures to what a player shows, by the stream's description."""
    steps = ["bwdif=mode=send_frame:deint=interlaced"] if "progressive" not in about else []
    if "smpte2084" in about or "arib-std-b67" in about:  # HDR (PQ, HLG): white is 203 nits (BT.2408)
        steps += [
            "zscale=transfer=linear:npl=203,format=gbrpf32le,zscale=primaries=bt709",
            "tonemap=mobius:param=0.7:desat=0,zscale=transfer=bt709:matrix=bt709:range=tv,format=yuv444p",
        ]
    size = re.search(r", (\d+)x(\d+)", about)
    untagged = not re.search(r"bt709|bt470|smpte|bt2020|fcc|ycgco|gbr|rgb", about)
    # untagged pictures of HD size are BT.709, smaller ones BT.601: so do players
    matrix = ":in_color_matrix=bt709" if untagged and size and min(int(size[1]), int(size[2])) >= 720 else ""
    return [*steps, f"scale=w='max(1,iw*if(sar,sar,1))':h=ih:{SCALING}{matrix}", "setsar=1"]


def iterate_video(
    path: str | os.PathLike, *, fps: int = FPS, max_side: int = MAX_SIDE, max_frames: int = MAX_FRAMES
) -> Iterator[np.ndarray]:
    """Yield the frames of a video as (H, W, 3) uint8, as a player shows them at the times k / fps of the file's own clock.

    Raises UserError: missing, not a video, damaged, sides over `max_side`, more than `max_frames` frames. A video that breaks off
    is read as far as it goes, with a warning.
    """
    path = Path(path)
    source = ffmpeg.probe(path, WHAT)
    stream = _pictures(source)
    # PPM frames say their own size.
    process = source.decode(
        stream,
        format="image2pipe",
        vcodec="ppm",
        vf=",".join([_by_time(source, fps), *_as_shown(stream.about)]),
        fps_mode="passthrough",
        pix_fmt="rgb24",
        frames=max_frames + 1,
        threads=1,
    )
    try:
        assert process.process.stdout is not None
        count = 0
        while header := process.process.stdout.readline():
            width, height = (int(v) for v in process.process.stdout.readline().split())
            process.process.stdout.readline()
            if header.strip() != b"P6" or max(width, height) > max_side:
                raise UserError(f"{path}: expected frames of at most {max_side} px, found {width} x {height}")
            data = process.process.stdout.read(width * height * 3)
            if len(data) < width * height * 3:
                break
            count += 1
            if count > max_frames:
                raise UserError(f"{path}: expected at most {max_frames} frames, found more")
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        if process.wait() != 0 or count == 0:
            raise UserError(
                f"{path}: expected a whole video, found a damaged or empty one ({process.message()})"
            )
        if complaints := process.messages():
            warn(
                f"{path}: cut off or damaged ({complaints[-1]}); going on with the {count / fps:.2f} s that can be read"
            )
    finally:
        process.stop()


def read_video(
    path: str | os.PathLike, max_frames: int = 60 * FPS, *, max_side: int = MAX_SIDE
) -> np.ndarray:
    """All frames of a short video, (T, H, W, 3) uint8 at 25 fps; errors as `iterate_video`."""
    return np.stack(list(iterate_video(path, max_frames=max_frames, max_side=max_side)))
