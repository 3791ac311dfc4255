"""What a machine has, and whose turn it is: a stage starts when its cores, its memory and a GPU are free.

Cores and memory are counted within one run. A GPU is held by a lock on a file, so that several runs and workers of one machine
never put two stages on one card; the lock goes with its process, however that ends. Workers count cores in the same way: one that
takes two stages at a time fetches the inputs of the second while the first computes.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.needs import Needs
from flows.processes import STOP

LOCKS = Path(tempfile.gettempdir()) / f"audioavatar-gpu-{os.getuid()}"
GPU_LIMIT = "audioavatar-gpu"  # a limit of Prefect's server over all machines, if the operator has made one
LOOK_AGAIN = 1.0  # seconds between looks at cards that another process holds


@dataclass(frozen=True)
class Machine:
    """gpus: names as CUDA_VISIBLE_DEVICES has them."""

    cores: int
    memory_gb: float
    gpus: tuple[str, ...] = ()


def this_machine() -> Machine:
    """The cores that this process may use, the machine's memory, the GPUs that CUDA_VISIBLE_DEVICES leaves (all, if not set)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(len(os.sched_getaffinity(0)), memory, visible_gpus())


def cpu_kind(about: Path = Path("/proc/cpuinfo")) -> str:
    """What numerical libraries choose their code by, where Linux tells: `x86_64 GenuineIntel avx512f`; else the architecture."""
    said: dict[str, str] = {}
    for line in about.read_text().splitlines() if about.is_file() else ():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    widest = next((f for f in ("avx512f", "avx2", "avx") if f in said.get("flags", "").split()), "")
    return " ".join(x for x in (platform.machine(), said.get("vendor_id", ""), widest) if x)


def visible_gpus() -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES, else the numbers that nvidia-smi lists, else none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        return ()
    return tuple(str(k) for k, _ in enumerate(x for x in listed.splitlines() if x.startswith("GPU ")))


class Slots:
    """`with slots.take(needs, rank) as environment:` waits until the needs fit, higher ranks first.

    A stage that needs more than the machine has gets all of it, alone. At most `most` stages at a time, if given. `shared`: the
    cores of stages that need no GPU are counted over all processes of the machine.
    """

    def __init__(
        self, machine: Machine, most: int | None = None, locks: Path = LOCKS, *, shared: bool = False
    ):
        self.machine, self.most, self.locks, self.shared = machine, most, locks, shared
        self._turn = threading.Condition()
        self._running: list[Needs] = []
        self._waiting: list[tuple[float, Needs]] = []

    @contextmanager
    def take(self, needs: Needs, rank: float = 0.0) -> Iterator[dict[str, str]]:
        """Yields the variables that tell the stage its card. Raises InterruptedError once the run is being stopped."""
        own = (rank, needs)
        with ExitStack() as held:
            with self._turn:
                self._waiting.append(own)
                try:
                    while (card := self._card(own)) is None:
                        if STOP.is_set():
                            raise InterruptedError
                        self._turn.wait(LOOK_AGAIN)
                finally:
                    self._waiting.remove(own)
                    self._turn.notify_all()
                self._running.append(needs)
            held.callback(self._give_back, needs)
            for file in card.values():
                held.enter_context(file)
            # a stage told to take cuda:N counts the cards as they are
            named = needs.gpus and card and needs.card is None
            yield {"CUDA_VISIBLE_DEVICES": ",".join(card)} if named else {}

    def _card(self, own: tuple[float, Needs]) -> dict[str, IO[str]] | None:
        # None: not yet. Empty: it may start without a card.
        needs = own[1]
        rivals = (n for rank, n in self._waiting if rank > own[0] and bool(n.gpus) == bool(needs.gpus))
        if not self._fits(needs) or any(map(self._fits, rivals)):
            return None
        if self.shared and not needs.gpus:
            cores = tuple(f"core-{k}" for k in range(self.machine.cores))
            return lock(cores, min(needs.cores, len(cores)), self.locks)
        gpus = self.machine.gpus
        if needs.gpus and needs.card is not None:
            gpus = gpus[needs.card : needs.card + 1]
        return lock(gpus, min(needs.gpus, len(gpus)), self.locks)  # too few are the stage's to refuse

    def _fits(self, needs: Needs) -> bool:
        if self.most is not None and len(self._running) >= self.most:
            return False
        both = [*self._running, needs]
        if needs.gpus and self._running and sum(n.gpus for n in both) > len(self.machine.gpus) > 0:
            return False
        return not self._running or (
            sum(n.cores for n in both) <= self.machine.cores
            and sum(n.memory_gb for n in both) <= self.machine.memory_gb
        )

    def _give_back(self, needs: Needs) -> None:
        with self._turn:
            self._running.remove(needs)
            self._turn.notify_all()


def lock(names: tuple[str, ...], count: int, folder: Path = LOCKS) -> dict[str, IO[str]] | None:
    """`count` cards (or cores) that nobody on this machine holds, each with the open file whose closing gives it back; None: not
    so many."""
    folder.mkdir(exist_ok=True)
    held: dict[str, IO[str]] = {}
    for name in names:
        if len(held) == count:
            break
        file = open(folder / f"{name.replace('/', '-')}.lock", "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held[name] = file
        except BlockingIOError:
            file.close()
    if len(held) == count:
        return held
    for file in held.values():
        file.close()
    return None
