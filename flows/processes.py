"""Processes that end with this one: however it ends, kill -9 included, what it has started does not go on without it.

A child of ours reads a pipe that nobody but this process holds. When the pipe closes, it ends all process groups that were under
way: first a request (a training writes its state and leaves), after `GRACE` seconds a kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

GRACE = 30  # seconds between the request to end and the kill
TIMED_OUT = 124  # the code of a command that was ended because its time was over, as timeout(1) has it
STOP = threading.Event()  # set by an interrupt: nothing new starts
_REAPER = f"""
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a machine that is taken away tells all its processes to end
    signal.signal(number, signal.SIG_IGN)
held = set()
for line in sys.stdin:
    (held.add if line[0] == "+" else held.discard)(int(line[1:]))
def alive(wanted):
    for group in list(held):
        try:
            os.killpg(group, wanted)
        except OSError:
            held.discard(group)
    return held
alive(signal.SIGTERM)
end = time.monotonic() + {GRACE}
while alive(0) and time.monotonic() < end:
    time.sleep(.2)
alive(signal.SIGKILL)
"""
_lock = threading.Lock()
_streams: set[int] = set()
_reaper: subprocess.Popen[str] | None = None

# what DVC tells beginners after every stage
_ADVICE = ("To track the changes", "\tgit add", "To enable auto staging", "\tdvc config", "Use `dvc push`")


def start(
    command: list[str], folder: Path, environment: Mapping[str, str], output: int | None = None
) -> subprocess.Popen[str]:
    """Start a command as the leader of a process group that ends with this process; `output`: where both its streams go.

    To be given back by `forget`.
    """
    process: subprocess.Popen[str] = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )
    _tell("+", process.pid)
    return process


def forget(process: subprocess.Popen[str]) -> None:
    """Wait for a process that has ended, or been told to."""
    process.wait()
    _tell("-", process.pid)


def end(process: subprocess.Popen[str], grace: float = GRACE) -> None:
    """Ask a process and its group to end, wait up to `grace` seconds for all of it, then kill what is left."""
    until = time.monotonic() + grace
    try:
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < until:
            time.sleep(0.1)
            process.poll()  # a leader that has ended counts until somebody has asked how
            os.killpg(process.pid, 0)
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def interrupt(number: int, frame: object) -> None:
    """A signal handler: asks all commands that are streamed to end, lets no stage start any more, raises KeyboardInterrupt."""
    STOP.set()
    for group in list(_streams):
        try:
            os.killpg(group, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            pass
    raise KeyboardInterrupt


def stream(
    command: list[str],
    folder: Path,
    say: Callable[[str], None],
    environment: Mapping[str, str],
    seconds: float | None = None,
) -> tuple[int, list[str]]:
    """Run a command in `folder`; each line goes to `say` as it comes, but for DVC's advice. Returns exit code and all lines.

    After `seconds` it is ended, the code is then `TIMED_OUT`. The command and its children end when this call is interrupted.
    """
    process = start(command, folder, environment, subprocess.PIPE)
    assert process.stdout is not None
    _streams.add(process.pid)
    lines: list[str] = []
    late = threading.Event()

    def end_late() -> None:
        late.set()
        end(process)

    timer = threading.Timer(seconds, end_late) if seconds else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if lines[-1] and not lines[-1].startswith(_ADVICE):
                say(lines[-1])
        process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        if timer:
            timer.cancel()
        process.stdout.close()
        _streams.discard(process.pid)
        forget(process)
    if late.is_set():
        return TIMED_OUT, [*lines, f"error: expected an end within {seconds:.0f} s, found none"]
    return process.returncode, lines


def _tell(what: str, group: int) -> None:
    global _reaper
    with _lock:
        if _reaper is None:
            _reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _REAPER],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert _reaper.stdin is not None
        _reaper.stdin.write(f"{what}{group}\n")
        _reaper.stdin.flush()
