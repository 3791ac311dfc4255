"""Which device a name stands for, and what is said where it cannot be had: one line, before any work."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from avatar_core.device import CPU, Compute, resolve
from avatar_core.errors import UserError
from stages.common import RENDERING, TRAINING, run_stage
from stages.params import parse_params
from stages.profiles import profile_values

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def two_cards(monkeypatch):
    """As if there were two cards, the second an old one. -> the indices that were made current."""
    current = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0) if index == 0 else (7, 5))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_the_cpu_is_always_there():
    assert resolve("cpu") == CPU == Compute("cpu", False)
    assert resolve("cpu", "bf16").bf16


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "meta"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=r"^--device: expected auto, cpu, cuda or cuda:N, found"):
        resolve(name)


@NO_GPU
def test_without_a_gpu_cuda_is_refused_and_auto_says_why_it_is_the_cpu():
    said = []
    assert resolve("auto", say=said.append) == CPU
    assert len(said) == 1 and said[0].startswith("--device auto: cpu, because of ")
    with pytest.raises(UserError, match=r"^run.device: expected what cuda needs, found .*docs/gpu.md"):
        resolve("cuda", where="run.device")


def test_an_index_must_exist_and_is_made_the_current_one(two_cards):
    said = []
    assert resolve("cuda") == Compute("cuda:0") and resolve("cuda:1") == Compute("cuda:1")
    assert resolve("auto", "bf16", say=said.append) == Compute("cuda:0", True)
    assert two_cards == [0, 1, 0] and said == ["--device auto: cuda:0, card 0"]
    with pytest.raises(UserError, match=r"expected cuda:N with N below 2, found cuda:2"):
        resolve("cuda:2")


def test_a_card_without_bfloat16_and_a_missing_gsplat_are_said(two_cards, monkeypatch):
    with pytest.raises(UserError, match=r"computes in bf16, found card 1; give fp32"):
        resolve("cuda:1", "bf16")
    monkeypatch.setattr("avatar_core.device.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no gsplat \(pip install 'audioavatar\[gpu\]'\)"):
        resolve("cuda", renders=True)
    assert resolve("auto", renders=True) == CPU and resolve("cuda") == Compute("cuda:0")


@NO_GPU
def test_a_stage_ends_before_work_with_one_line_and_code_2(tmp_path):
    values = profile_values("studio", ROOT)
    assert (values["run"]["device"], values["run"]["precision"]) == ("cuda", "bf16")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for stage in ("embed", "evaluate"):
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}", "--params", str(tmp_path / "params.yaml")],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and not (tmp_path / "data").exists()
        assert done.stderr.startswith(f"error: {stage}: run.device: expected what cuda needs, found ")
        assert done.stderr.count("\n") == 1


def test_a_card_that_is_full_is_one_line_and_code_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(profile_values("smoke", ROOT)))
    monkeypatch.chdir(tmp_path)

    def fail(error):
        def main(stage):
            raise error

        run_stage("embed", main, argv=[])

    with pytest.raises(SystemExit) as ended:
        fail(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total of ...")
        )
    assert ended.value.code == 2
    found = "GPU: expected more memory, found CUDA out of memory. Tried to allocate 3.00 GiB; see docs/gpu.md"
    assert capsys.readouterr().err == f"error: embed: {found}\n"
    with pytest.raises(RuntimeError, match="something else"):
        fail(RuntimeError("something else"))


def test_parameters_name_devices_and_precisions():
    values = profile_values("laptop", ROOT)
    assert (values["run"]["device"], values["run"]["precision"]) == ("cpu", "fp32")
    for key, wrong in (("device", "gpu"), ("precision", "fp16")):
        with pytest.raises(UserError, match=rf"run.{key}: expected .*found {wrong!r}"):
            parse_params({**values, "run": {**values["run"], key: wrong}})


def test_the_lock_says_what_made_the_bytes():
    """Device and precision are dependencies of exactly the stages that ask for them."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    training = {n for n in stages if "stage.train(" in _code_of(n)}
    asking = {n for n in stages if "stage.compute" in _code_of(n)} | training
    on_device = {n for n, s in stages.items() if "run.device" in s["params"]}
    trained = {n for n, s in stages.items() if "run.precision" in s["params"]}
    shared = {n for n, s in stages.items() if "run.processes" in s["params"]}
    assert shared == training == set(TRAINING)
    assert on_device == asking == {*TRAINING, *RENDERING, "identities", "speech", "teacher"}
    assert trained == {*TRAINING}


def _code_of(stage: str) -> str:
    files = sorted((ROOT / "stages").glob(f"{stage}*.py"))
    return "".join(file.read_text() for file in files)
