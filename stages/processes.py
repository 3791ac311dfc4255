"""A training in several processes, each with a GPU of its own where there are any: what torchrun does, from within a stage.

The stage's process waits; what the first process returns is what it gets. An error of any of them, the user's or not, ends all.
What goes there and back is pickled by us and for us.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from avatar_core.device import Compute
from avatar_core.errors import Interrupted, UserError, one_line_warnings
from avatar_core.progress import silent
from stages.progress import Bar

R = TypeVar("R")
PATIENCE = timedelta(days=1)  # for another process, which may read or write


def train_in_processes(
    count: int,
    label: str,
    steps: int,
    train: Callable[..., R],
    arguments: Sequence[Any],
    named: Mapping[str, Any],
    compute: Compute,
) -> R:
    """`train(*arguments, **named, progress=..., compute=...)` in `count` processes; all of it can be pickled.

    Raises UserError as `train` does, Interrupted when a SIGTERM came.
    """
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a failure is told below
    config = LaunchConfig(
        1, 1, count, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    heard = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # as bytes: tensors as such would be one and the same memory in all processes
        given = pickle.dumps((train, arguments, named))
        results = elastic_launch(config, _run)(label, steps, given, compute, torch.get_num_threads())
    except SignalException as end:
        if end.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise Interrupted(f"{label}: ended") from None
    except ChildFailedError as error:
        found: Any = error.get_first_failure()[1].message
        message = str(found["message"] if isinstance(found, dict) else found)
        kind, _, said = message.partition(": ")
        if kind in ("UserError", "OutOfMemoryError"):
            raise UserError(said) from None
        raise RuntimeError(f"{label}: a process of the training failed: {message}") from error
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    result = pickle.loads(results[0])  # noqa: S301
    if isinstance(result, Interrupted):
        raise result
    return result


def _run(label: str, steps: int, given: bytes, compute: Compute, threads: int) -> bytes:
    """One of the processes; torchrun's variables say which."""
    train, arguments, named = pickle.loads(given)  # noqa: S301
    one_line_warnings()
    torch.set_num_threads(threads)
    first, place = os.environ["RANK"] == "0", int(os.environ["LOCAL_RANK"])
    if compute.on_card:
        torch.cuda.set_device(place)
        compute = replace(compute, device=f"cuda:{place}")
    dist.init_process_group("cpu:gloo,cuda:nccl" if compute.on_card else "gloo", timeout=PATIENCE)
    try:
        with Bar(label, steps) if first else nullcontext() as bar:
            result = train(*arguments, **named, progress=bar.reach if bar else silent, compute=compute)
    except Interrupted as end:  # all of them at the same step
        result = end
    finally:
        dist.destroy_process_group()
    return pickle.dumps(result if first or isinstance(result, Interrupted) else None)
