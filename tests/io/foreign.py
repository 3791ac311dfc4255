"""Files as other programs write them: made with ffmpeg's own sources and muxers."""

import subprocess

from avatar_core.io.ffmpeg import executable


def ffmpeg(*arguments, cwd=None):
    """Run ffmpeg; the last argument is the file to write."""
    command = [executable(), "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, cwd=cwd)


def flash(rate, at=2.0, seconds=3, size="64x64"):
    """Input arguments: a dark video that is white for 0.2 s from `at` on."""
    box = f"drawbox=c=white:t=fill:enable='between(t,{at - 0.001},{at + 0.2})'"
    return "-f", "lavfi", "-i", f"color=c=black:s={size}:r={rate}:d={seconds},{box}"


def beep(at=2.0, seconds=3, rate=48000, hertz=1000):
    """Input arguments: silence, a tone from `at` on."""
    tone = f"aevalsrc='0.5*sin(2*PI*{hertz}*t)*gte(t,{at})':s={rate}:d={seconds}"
    return "-f", "lavfi", "-i", tone


H264 = "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"
