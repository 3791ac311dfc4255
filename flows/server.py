"""A Prefect server for the length of one run, where PREFECT_API_URL names none."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import flows.quiet  # noqa: F401  isort: skip
import prefect
from prefect.context import refresh_global_settings_context
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
)

from flows.errors import StageLost
from flows.processes import end, forget, start


@contextmanager
def server_for_a_run() -> Iterator[None]:
    """Within, Prefect talks to a server that ends with this process, however that ends; or to the user's.

    Not the temporary server that Prefect starts by itself: a killed run leaves that behind, and importing it here takes seconds.
    """
    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent)]
    command += [
        "--factory",
        "prefect.server.api.server:create_app",
        "--lifespan",
        "on",
        "--log-level",
        "error",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    process = start(command, Path.cwd(), {**os.environ, **settings, **own})
    here = {"PREFECT_API_URL": url, "PREFECT_LOGGING_TO_API_ENABLED": "false"}  # the terminal has the lines
    before = {name: os.environ.get(name) for name in here}
    try:
        until = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > until:
                raise StageLost("Prefect: expected its temporary server to start, found that it did not")
            time.sleep(0.1)
        os.environ.update(here)
        refresh_global_settings_context()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        refresh_global_settings_context()
        end(process, grace=5)
        forget(process)


def _healthy(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
    except OSError:
        return False
