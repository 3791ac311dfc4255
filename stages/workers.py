"""A pool of processes for clips: spawned, one thread each, nothing lost when one dies.

Results come in the order of the items whatever the number of workers. A `UserError` in a worker is raised here; a worker that was
killed (out of memory, say) takes no results with it: what it had not finished runs once more in a new pool, then it is an error.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from avatar_core.errors import UserError, one_line_warnings

T = TypeVar("T")
R = TypeVar("R")
ATTEMPTS = 2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def process_map(
    fn: Callable[[T], R], items: Sequence[T], workers: int, *, on_done: Callable[[], Any] | None = None
) -> list[R]:
    """`[fn(x) for x in items]` over `workers` spawned processes. `fn` is a module-level function; items and results are small.

    Raises what `fn` raises (a UserError stays one), UserError when workers are killed again and again.
    """
    results: dict[int, R] = {}
    for attempt in range(ATTEMPTS):
        todo = [k for k in range(len(items)) if k not in results]
        if not todo:
            break
        try:
            _run_pool(fn, items, todo, workers, results, on_done)
        except BrokenProcessPool:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"workers: expected {workers} processes to live, found one killed twice (out of memory?); "
                    "lower run.workers"
                ) from None
    return [results[k] for k in range(len(items))]


def _run_pool(
    fn: Callable[[T], R],
    items: Sequence[T],
    todo: Sequence[int],
    workers: int,
    results: dict[int, R],
    on_done: Callable[[], Any] | None,
) -> None:
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(
        dict.fromkeys(THREAD_VARIABLES, "1")
    )  # read by the children when they import their libraries
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        futures = {pool.submit(fn, items[k]): k for k in todo}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if on_done:
                on_done()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(parent: int) -> None:
    one_line_warnings()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import cv2

    cv2.setNumThreads(1)  # reads no variable


def _end_with(parent: int) -> None:
    # A worker whose parent was killed would wait for work for ever.
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
