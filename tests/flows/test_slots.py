"""What stages need, and who may start when."""

import dataclasses
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

from flows.needs import Needs, longest_way, needs_of
from flows.slots import Machine, Slots, cpu_kind, lock, visible_gpus
from stages.common import RENDERING, STAGES, TRAINING
from stages.params import parse_params
from stages.profiles import profile_values

ROOT = Path(__file__).resolve().parents[2]


def params_of(profile, **run):
    values = profile_values(profile, ROOT)
    values["run"] |= run
    return parse_params(values)


def test_every_stage_has_its_needs():
    cpu, gpu = params_of("laptop"), params_of("cluster")
    assert needs_of("fit@1", cpu) == Needs(2, 4.0, 0, None, 120)
    assert needs_of("fit@1", gpu).cores == 16 and needs_of("report", gpu).cores == 1
    assert {s for s in STAGES if needs_of(s, gpu).gpus} == {*TRAINING, *RENDERING}
    assert not any(needs_of(s, cpu).gpus for s in STAGES)
    assert needs_of("distill", params_of("studio", device="cuda:3")).card == 3
    four = dataclasses.replace(gpu, run=dataclasses.replace(gpu.run, processes=4))
    assert needs_of("distill", four).gpus == 4 and needs_of("fit@0", four).gpus == 1
    assert needs_of("copy@1", None) == Needs()


def test_the_longest_way_goes_first():
    graph = {"identities": set(), "teacher": {"identities"}, "score": {"teacher"}, "report": {"identities"}}
    way = longest_way(graph, params_of("laptop"))
    assert way["teacher"] == way["score"] + 72 and way["identities"] == way["teacher"] + 12
    assert way["report"] < way["score"]


def run_all(slots, jobs):
    """Take a slot for each (name, needs, rank) at once, hold it for .3 s; [(name, cards seen)] by start, most at the same time."""
    started, now, most, lock = [], 0, 0, threading.Lock()

    def one(name, needs, rank):
        nonlocal now, most
        with slots.take(needs, rank) as card:
            with lock:
                now, most = now + 1, max(most, now + 1)
                started.append((name, card.get("CUDA_VISIBLE_DEVICES")))
            time.sleep(0.3)
            with lock:
                now -= 1

    threads = [threading.Thread(target=one, args=job) for job in jobs]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(20)
    return started, most


def test_cores_and_memory_are_shared_out():
    two = Needs(cores=2, memory_gb=1)
    assert run_all(Slots(Machine(4, 8)), [(k, two, 0) for k in "abcd"])[1] == 2
    big = Needs(cores=1, memory_gb=5)
    assert run_all(Slots(Machine(4, 8)), [(k, big, 0) for k in "abc"])[1] == 1
    assert run_all(Slots(Machine(8, 8), most=1), [(k, two, 0) for k in "ab"])[1] == 1
    # what no machine of this size has is run alone rather than never
    assert run_all(Slots(Machine(1, 1)), [("huge", Needs(64, 512), 0)]) == ([("huge", None)], 1)


def test_the_higher_rank_goes_first():
    one = Needs(cores=4)
    order, _ = run_all(Slots(Machine(4, 8)), [("first", one, 0), ("low", one, 1), ("high", one, 9)])
    assert [name for name, _ in order] == ["first", "high", "low"]


def test_each_card_has_one_stage_and_cpu_stages_need_none(tmp_path):
    gpu, cpu = Needs(gpus=1), Needs()
    slots = Slots(Machine(8, 8, ("0", "1")), locks=tmp_path)
    started, most = run_all(slots, [(k, gpu, 5) for k in "abcd"] + [("cpu", cpu, 0)])
    assert most == 3 and dict(started)["cpu"] is None
    assert sorted(card for name, card in started if name != "cpu") == ["0", "0", "1", "1"]
    assert [name for name, _ in started].index("cpu") == 2
    # a training in two processes has two cards, and waits until both are free
    started, most = run_all(slots, [("one", gpu, 5), ("two", Needs(gpus=2), 1), ("next", gpu, 0)])
    assert dict(started)["two"] == "0,1" and most == 2
    # a stage that names its card sees all of them
    assert run_all(slots, [("named", Needs(gpus=1, card=1), 0)])[0] == [("named", None)]


def test_a_card_is_held_over_processes_and_freed_by_a_kill(tmp_path):
    folder = tmp_path / "locks"
    hold = f"from flows.slots import *; held = lock(('0',), 1, Path({str(folder)!r})); print(*held, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"0\n"
    assert lock(("0",), 1, folder) is None and list(lock(("0", "1"), 1, folder)) == ["1"]
    assert lock(("0", "1"), 2, folder) is None
    other.kill()
    other.wait()
    assert list(lock(("0", "1"), 2, folder)) == ["0", "1"]


def test_workers_of_a_machine_share_its_cores(tmp_path):
    """One prepares while the other computes: two processes, two cores, stages of two cores: never two at the same time."""
    code = f"""
import time
from pathlib import Path
from flows.needs import Needs
from flows.slots import Machine, Slots
slots = Slots(Machine(2, 8), locks=Path({str(tmp_path)!r}), shared=True)
for _ in range(2):
    with slots.take(Needs(cores=2)) as card:
        assert card == {{}}
        start = time.time(); time.sleep(1); print(start, time.time(), flush=True)
"""
    command = [sys.executable, "-c", code]
    two = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    spans = sorted(tuple(map(float, x.split())) for p in two for x in p.communicate()[0].splitlines())
    assert len(spans) == 4 and all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
    # small ones run beside each other, and a card needs no core's lock
    held = lock(("core-0",), 1, tmp_path)
    slots = Slots(Machine(2, 8, ("0",)), locks=tmp_path, shared=True)
    with slots.take(Needs(cores=1)):
        assert lock(("core-1",), 1, tmp_path) is None
        with slots.take(Needs(cores=0, gpus=1)) as card:
            assert card == {"CUDA_VISIBLE_DEVICES": "0"}
    assert held


def test_cards_are_those_that_are_visible(monkeypatch):
    for value, cards in (("2,3", ("2", "3")), ("", ()), ("-1", ()), ("GPU-5a, 1", ("GPU-5a", "1"))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == cards


def test_the_operators_limit_on_cards_counts_over_runs(tmp_path, monkeypatch, prefect_home):
    monkeypatch.setenv("PREFECT_HOME", prefect_home(tmp_path / "prefect"))
    code = """
import threading, time
from flows.server import server_for_a_run
from flows.slots import GPU_LIMIT
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
times = []
def hold():
    with concurrency(GPU_LIMIT):
        times.append(("in", time.time())); time.sleep(2); times.append(("out", time.time()))
with server_for_a_run():
    hold()  # no limit was made: nobody waits
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))
    two = [threading.Thread(target=hold) for _ in range(2)]
    for t in two: t.start()
    for t in two: t.join()
print(*[what for what, _ in sorted(times, key=lambda x: x[1])])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["in", "out"] * 3, done.stdout + done.stderr


def test_kinds_of_cpu_are_told_apart(tmp_path):
    about = tmp_path / "cpuinfo"
    kinds = set()
    for vendor, flags in (
        ("GenuineIntel", "sse avx avx2 avx512f"),
        ("GenuineIntel", "sse avx avx2"),
        ("AuthenticAMD", "avx2"),
    ):
        about.write_text(
            f"processor : 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor : 1\nflags: none\n"
        )
        kinds.add(cpu_kind(about))
    machine = platform.machine()
    assert kinds == {
        f"{machine} {kind}" for kind in ("GenuineIntel avx512f", "GenuineIntel avx2", "AuthenticAMD avx2")
    }
    assert cpu_kind(tmp_path / "none") == machine and cpu_kind().startswith(machine)
