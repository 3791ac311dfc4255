"""Many portraits x many recordings -> one video each, on this machine or on a pool of workers.

    python -m flows.speak_batch --portraits photos/ --audios voices/ --out videos/
    python -m flows.speak_batch --portraits s3://b/photos/ --audios s3://b/voices/ --out s3://b/videos/ --on speak-gpu

What cannot be read is refused before any work, a line each. Started again, it makes only the videos that are not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import flows.quiet  # noqa: F401  isort: skip
import fsspec
from prefect import flow, get_client, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.device import check_device
from avatar_core.errors import UserError
from flows.dispatch import (
    cancel,
    check_deployments,
    dispatch,
    to_its_end,
    watch_for_lost_workers,
    worth_retrying,
)
from flows.errors import StageFailed, StageRefused
from flows.pipeline import WIDTH, interrupts, settle, teller
from flows.server import server_for_a_run
from flows.slots import Slots, this_machine
from flows.speak_job import SPEAKING, Job, Speaking, fetched, make_videos, missing, stem

PORTRAITS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".gif")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".mov", ".webm", ".mkv")
AT_ONCE = 20  # recordings of one portrait in one piece of work at most: its avatar is made once for them


@flow(name="audioavatar-speaker", flow_run_name="{name}", log_prints=True)
def speaker(job: Job, name: str = "speak") -> State[None] | None:
    """A worker's part of a batch. How it ended, where that matters, is the name of a state."""
    needs = dataclasses.replace(SPEAKING, gpus=int(job.how.device != "cpu"))

    def work() -> None:
        with Slots(this_machine(), shared=True).take(needs) as card:
            # looked up now: Prefect puts its own `print` in place while a flow runs
            print(f"{make_videos(job, lambda line: print(line), card)} videos made")

    return to_its_end(work, lambda: None)  # finished videos are kept


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=5.0,
    retry_condition_fn=worth_retrying,
)
def speak_here(name: str, job: Job, slots: Slots) -> int:
    """The videos of one job on this machine; returns how many were made."""
    with slots.take(dataclasses.replace(SPEAKING, gpus=int(job.how.device != "cpu"))) as card:
        return make_videos(job, teller(name), card)


@flow(name="audioavatar-speak-batch", flow_run_name="{name}")
def speak_batch(
    jobs: list[Job], on: str = "", parallel: int | None = None, name: str = "speak batch"
) -> None:
    """All jobs, here or on the workers of the deployment `on`. Raises StageRefused, StageFailed when some were not done."""
    slots, futures = Slots(this_machine(), parallel), {}
    for k, job in enumerate(jobs):
        title = f"{stem(job.portrait)} x {len(job.audios)}" + (f" #{k}" if len(jobs) > 1 else "")
        if on:
            marks = [f"batch:{job.out}", f"portrait:{job.portrait}", *(f"audio:{a}" for a in job.audios)]
            parameters = {"job": dataclasses.asdict(job), "name": title}
            futures[title] = dispatch.submit(title, f"{speaker.name}/{on}", parameters, marks)
        else:
            futures[title] = speak_here.submit(title, job, slots)
    try:
        settle(futures)
    finally:
        rows = [
            {"video": j.video(a), "made": a not in left}
            for j in jobs
            for left in [missing(j)]
            for a in j.audios
        ]
        create_table_artifact(rows, "speak-batch", f"{sum(r['made'] for r in rows)} of {len(rows)} videos")


def jobs_of(portraits: list[str], audios: list[str], out: str, how: Speaking) -> list[Job]:
    """The work of a batch, without what is there already."""
    jobs = (
        Job(portrait, audios[k : k + AT_ONCE], out, how)
        for portrait in portraits
        for k in range(0, len(audios), AT_ONCE)
    )
    return [dataclasses.replace(job, audios=left) for job in jobs if (left := missing(job))]


def listed(places: list[str], endings: tuple[str, ...], what: str) -> list[str]:
    """The files named, and those of the folders named, sorted. Raises UserError where nothing is, or two have one name."""
    found: list[str] = []
    for place in places:
        files, path = fsspec.core.url_to_fs(place)
        if files.isdir(path):
            inside = sorted(p for p in files.ls(path, detail=False) if p.lower().endswith(endings))
            found += [files.unstrip_protocol(p) if "://" in place else p for p in inside]
        elif files.exists(path):
            found.append(place if "://" in place else path)
        else:
            raise UserError(f"{place}: expected a file or folder of {what}, found nothing there")
    if not found:
        raise UserError(f"{', '.join(places)}: expected {what} ({', '.join(endings)}), found none")
    twice = [name for name, count in Counter(map(stem, found)).items() if count > 1]
    if twice:
        raise UserError(
            f"{what}: expected names that differ, found {twice[0]} twice: videos are named after them"
        )
    return found


def refusals(portraits: list[str], audios: list[str]) -> list[str]:
    """One line for each file that cannot be read as what it is given for."""
    from avatar_core.io.images import read_image
    from avatar_core.speak.sound import check_sound, read_sound

    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for address in [*portraits, *audios]:
            here = fetched(address, Path(scratch))
            try:
                if address in portraits:
                    read_image(here)
                else:
                    check_sound(read_sound(here, None, "en", None).samples)
            except UserError as error:
                lines.append(f"{address}: {str(error).removeprefix(f'{here}: ')}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.speak_batch", description=speak_batch.__doc__)
    for name, what in (("portraits", "pictures of people"), ("audios", "recordings")):
        parser.add_argument(
            f"--{name}", nargs="+", required=True, help=f"{what}: files or folders, or addresses"
        )
    parser.add_argument("--out", required=True, help="the folder of the videos, <portrait>--<audio>.mp4")
    kinds = get_type_hints(Speaking)
    for field in dataclasses.fields(Speaking):
        choices = get_args(kinds[field.name]) or None
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            choices=choices,
            help="as of avatar speak",
        )
    parser.add_argument(
        "--on", default="", help="a deployment of deploy/prefect.yaml, speak-cpu or speak-gpu (default: here)"
    )
    parser.add_argument("--parallel", type=int, help="portraits at the same time at most")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what is refused, and do the rest")
    arguments = parser.parse_args(argv)
    how = Speaking(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Speaking)})
    try:
        check_device(how.device, "--device")
        listed([how.model], (".safetensors",), "a trained student")
        portraits = listed(arguments.portraits, PORTRAITS, "portraits")
        audios = listed(arguments.audios, SOUNDS, "recordings")
        if bad := refusals(portraits, audios):
            print("\n".join(f"error: {line}" for line in bad), file=sys.stderr)
            if not arguments.skip_bad:
                return 2
            refused = {line.split(": ")[0] for line in bad}
            portraits, audios = ([x for x in xs if x not in refused] for xs in (portraits, audios))
        if arguments.on:  # workers are elsewhere
            how = dataclasses.replace(how, model=_whole(how.model))
            arguments.out = _whole(arguments.out)
        jobs = jobs_of(portraits, audios, arguments.out, how)
        todo, total = sum(len(job.audios) for job in jobs), len(portraits) * len(audios)
        print(f"{total - todo} of {total} videos are there, {todo} to make", flush=True)
        if jobs:
            _run(
                jobs,
                arguments.on,
                arguments.parallel,
                f"{len(portraits)} portraits x {len(audios)} recordings",
            )
    except (UserError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, StageRefused)) else 1
    except KeyboardInterrupt:
        print("error: interrupted; what was under way was ended", file=sys.stderr)
        return 130
    return 0


def _whole(address: str) -> str:
    return address if "://" in address else str(Path(address).resolve())


def _run(jobs: list[Job], on: str, parallel: int | None, name: str) -> None:
    runner: Any = ThreadPoolTaskRunner(max_workers=WIDTH)
    with interrupts(), server_for_a_run(), tags("speak-batch"):
        if on:
            check_deployments([f"{speaker.name}/{on}"])
            watch_for_lost_workers(speaker.name)
        try:
            speak_batch.with_options(task_runner=runner)(jobs, on, parallel, name)
        except KeyboardInterrupt:
            if on:
                with get_client(sync_client=True) as client:
                    cancel(client, f"{speaker.name}/{on}", f"batch:{jobs[0].out}")
            raise


if __name__ == "__main__":
    sys.exit(main())
