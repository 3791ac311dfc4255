"""Wan's speech-to-video by diffsynth: our program with a stand-in of the package, whose names are those of its source."""

import ast
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.io.video import read_video
from avatar_core.models.files import folder_digest
from avatar_core.teacher.diffsynth_s2v import NETWORKS
from avatar_core.teacher.wan_s2v_diffsynth import WanByDiffSynth
from tests.teacher.programs import in_step, request_of, save_portrait

STAND_IN = Path(__file__).parent / "diffsynth_stand_in.py"


@pytest.fixture
def teacher(tmp_path):
    package, weights = tmp_path / "site" / "diffsynth", tmp_path / "weights"
    for name in ("pipelines/wan_video.py", "utils/data.py"):
        (package / name).parent.mkdir(parents=True)
        shutil.copyfile(STAND_IN, package / name)
    (package / "version.py").write_text(f"__version__ = '{WanByDiffSynth.tested}'\n")
    for name in ("google/umt5-xxl", "wav2vec2-large-xlsr-53-english"):
        (weights / name).mkdir(parents=True)
    shards = {f"w{k}": f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)}
    for name in (*shards.values(), NETWORKS[1]):
        save_file({"w": np.ones(3, np.float32)}, weights / name)
    for name in NETWORKS[2:]:
        (weights / name).write_bytes(b"weights")
    index = str({"weight_map": shards}).replace("'", '"')
    (weights / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    launcher = ["env", f"PYTHONPATH={package.parent}", sys.executable]
    return WanByDiffSynth(launcher, weights=str(weights), side=256, offload=False)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    return save_portrait(tmp_path_factory.mktemp("portrait"), 256)


def test_clips_of_one_start_follow_the_sound_over_every_run(tmp_path, portrait, teacher):
    assert teacher.lacking() == []
    requests = [request_of(portrait, f"clip{k}", frames=n, seed=k) for k, n in enumerate((40, 150))]
    done = []
    teacher.videos(requests, tmp_path, CPU, lambda: done.append(1))
    assert len(done) == 2
    for request in requests:
        video = read_video(tmp_path / f"{request.name}.mp4")
        assert video.shape == (request.num_frames, 256, 256, 3)
        for part in range(0, request.num_frames, 70):  # the second run of 80 pictures starts at 125
            heard = request.speech.audio[640 * part : 640 * min(part + 70, request.num_frames)]
            lag, alike = in_step(video[part : part + 70], heard)
            assert lag == 0 and alike > 0.6, (part, lag, alike)
    assert teacher.card.row["revision"] == "diffsynth 2.1.12"


def test_what_is_wrong_is_one_line(tmp_path, portrait, teacher):
    request = request_of(portrait, "c", frames=20)
    package = tmp_path / "site" / "diffsynth"
    (package / "version.py").write_text("__version__ = '1.0'\n")
    with pytest.raises(
        UserError, match=r"exit code 1: expected diffsynth 2\.1\.12, found 1\.0; .* see .*log\.txt"
    ):
        teacher.videos([request], tmp_path, CPU, lambda: None)
    weights = Path(teacher.weights)
    (weights / "diffusion_pytorch_model-00002-of-00002.safetensors").write_bytes(b"cut")
    (line,) = teacher.lacking()
    assert "00002-of-00002.safetensors: expected safetensors, found 3 bytes of something else" in line
    digest = folder_digest(weights)
    (weights / "Wan2.1_VAE.pth").unlink()
    (line,) = teacher.lacking()
    assert line.startswith("teacher.wan_s2v_diffsynth.weights: expected Wan2.1_VAE.pth in") and digest


def functions(source):
    """Name, or class and name, of every function of a module -> the names of its arguments; of a dataclass, its fields."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        if isinstance(node, ast.ClassDef):
            found[node.name] = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            found |= {f"{node.name}.{n.name}": arguments(n) for n in methods}
    return found


def arguments(node):
    return {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}


@pytest.mark.models("diffsynth")
def test_the_stand_in_has_the_names_of_the_package():
    package = Path(find_spec("diffsynth").origin).parent
    version = (package / "version.py").read_text()
    assert f"__version__ = '{WanByDiffSynth.tested}'" in version
    real = {}
    for name in (
        "pipelines/wan_video.py",
        "core/loader/config.py",
        "diffusion/base_pipeline.py",
        "utils/data/__init__.py",
    ):
        real |= functions((package / name).read_text())
    real["WanVideoPipeline.vae_output_to_video"] = real["BasePipeline.vae_output_to_video"]
    for name, own in functions(STAND_IN.read_text()).items():
        assert own <= real[name], (name, own - real[name])
    assert "from ..core import ModelConfig" in (package / "pipelines" / "wan_video.py").read_text()
