"""Peak memory of the training stages with a run's own clips and with many times as many: `python -m benchmarks.memory --out DIR`.

The clips of a finished run are linked under new names, catalogues and stores among them, so that nothing but their number changes.
Trainings are cut to a few steps: what a step holds does not depend on how many there are. Clips have no takes, which are made one
after the other and take most of the time; what a worker prepares of a clip is prepared once for all of its names.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from avatar_core.io.atomic import write_json, write_text
from avatar_core.io.catalog import read_catalog, write_catalog
from avatar_core.io.store import MANIFEST
from stages.common import Stage, run_stage

STAGES = ("score", "embed", "generator", "distill")
MAP = Stage.map
CUT = {
    "score.embedded.steps": 20,
    "embed.contrastive.steps": 20,
    "generator.train.steps": 20,
    "distill.steps": 6,
    "audio.phonemes.takes.count": 0,
}
RUN = "import sys; from benchmarks.memory import run; run(sys.argv[1])"


def repeat_run(run: Path, out: Path, times: int) -> None:
    """A run folder whose training clips are those of `run`, each `times` times, as links; its params.yaml is cut."""
    source, data = run.resolve() / "data", out / "data"
    clips = [
        row["id"] for row in read_catalog(source / "speech" / "catalog.parquet") if row["split"] == "train"
    ]
    names = {clip: [clip, *(f"{clip}+{k}" for k in range(1, times))] for clip in clips}
    for path in sorted(source.rglob("*")):
        place = data / path.relative_to(source)
        inside = [p for p in path.relative_to(source).parents if p.suffix == ".zarr"]
        if inside or path.relative_to(source).parts[0] in ("work", "logs", "reports"):
            continue
        if path.name == "catalog.parquet":
            place.parent.mkdir(parents=True, exist_ok=True)
            write_catalog(
                place,
                ({**row, "id": n} for row in read_catalog(path) for n in names.get(row["id"], [row["id"]])),
            )
        elif path.suffix == ".zarr":
            repeat_store(path, place, lambda clip: names.get(clip, [clip]))
        elif path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            for name in names.get(path.stem, [path.stem]):
                os.symlink(path, place.with_name(name + path.suffix))
    params = yaml.safe_load((run / "params.yaml").read_text())
    for key, value in CUT.items():
        *path, name = key.split(".")
        section = params
        for part in path:
            section = section[part]
        section[name] = value
    write_text(out / "params.yaml", yaml.safe_dump(params, sort_keys=False))


def repeat_store(source: Path, place: Path, names: Callable[[str], Iterable[str]]) -> None:
    """A store with every array of `source` whose last name is a clip's under all of its `names`."""
    files = json.loads((source / MANIFEST).read_text())["files"]
    arrays = {p.parent for p in map(Path, files) if p.name == "zarr.json" and _is_array(source / p)}
    found: dict[str, int] = {}
    place.mkdir(parents=True)
    for array in sorted(arrays):
        own = {f: size for f, size in files.items() if Path(f).is_relative_to(array)}
        for name in names(array.name):
            other = array.with_name(name)
            (place / other).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(source / array, place / other)
            found |= {str(other / Path(f).relative_to(array)): size for f, size in own.items()}
    for file in (f for f in map(Path, files) if f.name == "zarr.json" and f.parent not in arrays):
        group = json.loads((source / file).read_text())
        if clips := group["attributes"].get("clips"):
            group["attributes"]["clips"] = {n: where for clip, where in clips.items() for n in names(clip)}
        write_text(place / file, json.dumps(group))
        found[str(file)] = (place / file).stat().st_size
    write_json(place / MANIFEST, {"schema": 1, "files": found})


def _is_array(file: Path) -> bool:
    return json.loads(file.read_text())["node_type"] == "array"


def run(name: str) -> None:
    """Run a stage here; print the peak resident KB of this process and of its largest worker."""
    Stage.map = map_once  # type: ignore[method-assign]
    run_stage(name, import_module(f"stages.{name}").main, argv=[])
    print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def map_once(stage: Stage, fn: Callable[..., Any], items: Sequence[Any], unit: str = "clip") -> list[Any]:
    """As `Stage.map` for clips; one under another name gets what was made of it under its own, a store in the scratch folder."""
    own = [item for item in items if item.row["id"] == _own(item)]
    done = dict(zip(map(_own, own), MAP(stage, fn, own, unit), strict=True))
    for item in (item for item in items if item.row["id"] != _own(item)):
        os.symlink(f"{_own(item)}.zarr", item.scratch / f"{item.row['id']}.zarr")
    return [done[_own(item)] for item in items]


def _own(item: Any) -> str:
    return item.row["id"].split("+")[0]


def measure(folder: Path, stage: str) -> tuple[int, int]:
    """Peak resident MB of a stage's own process and of its largest worker."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, stage],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    own, worker = done.stdout.split()[-2:]
    return int(own) // 1024, int(worker) // 1024


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(), help="a finished run: params.yaml and data/")
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for the repeated runs and memory.json"
    )
    parser.add_argument("--times", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    print("| stage | " + " | ".join(f"{n} x clips, MB (a worker)" for n in arguments.times) + " | growth |")
    print("|---" * (len(arguments.times) + 2) + "|")
    table = {stage: _row(arguments.run, arguments.out, stage, arguments.times) for stage in arguments.stages}
    write_json(arguments.out / "memory.json", table)


def _row(run: Path, out: Path, stage: str, times: Sequence[int]) -> dict[str, tuple[int, int]]:
    found = {}
    for count in times:
        folder = out / f"{stage}-x{count}"
        shutil.rmtree(folder, ignore_errors=True)
        repeat_run(run, folder, count)
        found[str(count)] = measure(folder, stage)
        shutil.rmtree(folder)
    (first, *_), (last, *_) = found[str(times[0])], found[str(times[-1])]
    cells = [f"{own} ({worker})" for own, worker in found.values()]
    print(f"| {stage} | {' | '.join(cells)} | {100 * (last / first - 1):+.0f} % |", flush=True)
    return found


if __name__ == "__main__":
    main()
