"""Shared by all tests: a scratch copy of the repository with the smoke profile run in it, made once when a test asks for it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stages.profiles import change_params

ROOT = Path(__file__).resolve().parents[1]
COMPILE = """
from avatar_core.identities.procedural import ProceduralIdentities
from avatar_core.particles.layout import make_layout
people = ProceduralIdentities()
people.portrait(people.people(1, 0)[0], 64)
make_layout()
"""


MODELS = "{}; `make test-models` runs this"
# packages that the extra `models` does not bring -> what does
BROUGHT_BY = {
    "TTS": MODELS.format("extra `coqui`"),
    "torchaudio": MODELS.format("extra `coqui`"),
    "rtmlib": MODELS.format("requirements-models.lock"),
    "diffsynth": MODELS.format("requirements-models.lock"),
    "einops": MODELS.format("requirements-models.lock"),
    "cotracker": "no index has it, see docs/full.md",
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `models("package", ...)` is skipped where one of them is not installed."""
    for name in (name for mark in item.iter_markers("models") for name in mark.args):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed ({BROUGHT_BY.get(name, MODELS.format('extra `models`'))})")


@dataclass(frozen=True)
class Project:
    """A clone of the repository: `run("dvc", "repro")` -> finished process."""

    root: Path
    seconds: float = 0.0
    output: str = ""

    def run(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment["PREFECT_HOME"] = str(self.root / ".prefect")
        environment["PYTHONPATH"] = str(self.root)  # the clone's own code, not the installed one
        return subprocess.run(
            arguments, cwd=self.root, env=environment, capture_output=True, text=True, timeout=timeout
        )


def clone_repository(target: Path) -> Project:
    """The files that git knows or would add, as they are now, as a fresh repository with DVC's settings and no artifacts.

    What was compiled for them comes along: the renderer's kernel, numba's functions (which look at the files' times).
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [n for n in listed.stdout.decode().split("\0") if n and n != "dvc.lock" and (ROOT / n).is_file()]
    for name in names:
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, destination)
    for compiled in (p for p in (ROOT / "avatar_core").rglob("*") if p.suffix in (".so", ".nbi", ".nbc")):
        destination = target / compiled.relative_to(ROOT)
        destination.parent.mkdir(exist_ok=True)
        shutil.copy2(compiled, destination)
    subprocess.run(["git", "init", "-q", "."], cwd=target, check=True)
    return Project(target)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that parallel workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def once(record: Path) -> Generator[bool, None, None]:
    """Within, no other worker is; True for the first that comes, who leaves the file `record`."""
    with open(record.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not record.exists()


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Callable[[str], Project]:
    """`clone(name)` -> a fresh scratch copy of the repository. Numba's 20 s of compiling are spent once, here."""
    with once(shared / "compiled.txt") as first:
        if first:
            Project(ROOT).run(sys.executable, "-c", COMPILE)
            (shared / "compiled.txt").touch()
    return lambda name: clone_repository(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def prefect_home(shared: Path) -> Callable[[Path], str]:
    """`prefect_home(folder)` -> the new `folder`, for PREFECT_HOME: with a database, which takes Prefect 8 s to make, once."""
    made = shared / "prefect"
    with once(made) as first:
        if first:
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            environment = {**os.environ, "PREFECT_HOME": str(made)}
            subprocess.run(command, env=environment, check=True, capture_output=True)
    return lambda folder: str(shutil.copytree(made, folder))


@pytest.fixture(scope="session")
def smoke(clone: Callable[[str], Project], shared: Path) -> Project:
    """A clone in which `dvc repro` has made everything with the smoke profile. Minutes, so parallel workers share one.

    By one process a stage, since the other core has other tests; how many there are does not change what is made.
    """
    record = shared / "smoke.json"
    with once(record) as first:
        if first:
            project = clone("smoke")
            used = project.run(sys.executable, "-m", "avatar_core.cli", "profile", "use", "smoke")
            assert used.returncode == 0, used.stderr
            change_params({"run.workers": 1}, project.root)
            start = time.monotonic()
            result = project.run("dvc", "repro", timeout=1500)
            assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
            about = [str(project.root), time.monotonic() - start, result.stdout + result.stderr]
            record.write_text(json.dumps(about))
        root, seconds, output = json.loads(record.read_text())
    return Project(Path(root), seconds, output)


SMOKE_USERS = ("::TestWithStudent::", "stages/test_smoke.py::", "stages/test_evaluate_published.py::")
TWIN = "test_flow_in_another_clone_makes_the_same_bytes"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first: another worker has the smoke run to make meanwhile."""
    items.sort(key=lambda item: item.name != TWIN)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker takes all tests that use the shared smoke run, since they wait for each other; the rest go to whoever is free.

    By names: the marks of xdist's loadgroup are lost with this pytest.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shares = any(name in nodeid for name in SMOKE_USERS) and TWIN not in nodeid
            return "smoke" if shares else nodeid

    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests that use the shared smoke run take turns: some damage its files for a moment, others ask whether all is well."""
    if "smoke" not in getattr(item, "fixturenames", ()):
        return (yield)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with open(Path(tempfile.gettempdir()) / f"audioavatar-tests-{run}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)
