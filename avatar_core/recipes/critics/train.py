"""Recipe of the critics: `python -m avatar_core.recipes.critics.train data|labels|body|face|hand|identity|sync|frame|clip`.

Run once by a maintainer, never by the pipeline: it renders procedural people of the namespace "critics", trains
one small net per instrument on one core, measures it on people it did not see, and writes
`avatar_core/assets/critics_<net>.safetensors` with its sidecar. A batch is a function of (seed, step), the
optimiser state is kept beside the data every `--every` steps, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.io.checkpoints import has_checkpoint, load_checkpoint, save_checkpoint
from avatar_core.recipes.critics.dataset import Dataset, label_people, render_people
from avatar_core.recipes.critics.task import Task
from avatar_core.recipes.critics.tasks import make_task

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def _rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 100)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _pack(
    net: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer, step: int
) -> dict[str, Tensor]:
    packed = {f"net.{k}": v for k, v in net.state_dict().items()}
    packed |= {f"ema.{k}": v for k, v in average.items()}
    for index, state in optimiser.state_dict()["state"].items():
        packed |= {f"opt.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    packed["step"] = torch.tensor(step)
    return packed


def _unpack(packed: dict[str, Tensor], net: nn.Module, average: dict[str, Tensor], optimiser: Any) -> int:
    net.load_state_dict({k[4:]: v for k, v in packed.items() if k.startswith("net.")})
    for key in average:
        average[key] = packed[f"ema.{key}"]
    whole = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in packed.items():
        if key.startswith("opt."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    whole["state"] = state
    optimiser.load_state_dict(whole)
    return int(packed["step"])


Cycles = list[tuple[int, int]]  # (last step, length of the cosine that the rate follows until then)


def _length(cycles: Cycles, step: int) -> int:
    return next(length for last, length in cycles if step < last)


def fit(task: Task, *, seed: int, work: Path, cycles: Cycles, stop: int, every: int = 200) -> nn.Module:
    """Train `task` to step `stop`, resuming from `work` if it can -> the averaged net in eval mode."""
    torch.manual_seed(seed)
    net = task.build()
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=task.learning_rate, weight_decay=0.02, betas=(0.9, 0.98)
    )
    average = {k: v.clone() for k, v in net.state_dict().items()}
    saved = work / f"{task.name}_{seed}.safetensors"
    start = _unpack(load_checkpoint(saved)[0], net, average, optimiser) if has_checkpoint(saved) else 0
    logs: dict[str, list[float]] = {}
    began = time.time()
    for step in range(start, stop):
        net.train()
        batch = task.batch(np.random.default_rng([seed, step]), task.batch_size)
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, _length(cycles, step), task.learning_rate)
        loss, numbers = task.loss(net, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        # The average starts fast, so that it forgets the random weights.
        keep = min(0.997, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in net.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - keep)
                else:
                    average[key].copy_(value)
        for key, value in numbers.items():
            logs.setdefault(key, []).append(value)
        if (step + 1) % 50 == 0:
            text = " ".join(f"{k}={np.mean(v):.4f}" for k, v in logs.items())
            left = (time.time() - began) / (step + 1 - start) * (stop - step - 1)
            print(f"{task.name} {step + 1}/{stop} {text} eta {left:.0f}s", flush=True)
            logs.clear()
        if (step + 1) % every == 0 or step + 1 == stop:
            save_checkpoint(saved, _pack(net, average, optimiser, step + 1))
    net.load_state_dict(average)
    return net.eval()


def write_asset(
    task: Task,
    net: nn.Module,
    accuracy: dict[str, float],
    options: argparse.Namespace,
    *,
    steps: int,
    recipe: Any,
) -> Path:
    """Save weights as float16 (batch-norm statistics too) with the sidecar that says where they come from."""
    path = ASSETS / f"critics_{task.name}.safetensors"
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    tensors = {
        k.removeprefix(task.keep): v
        for k, v in tensors.items()
        if k.startswith(task.keep) and not k.endswith("num_batches_tracked")
    }
    config = {
        "script": f"python -m avatar_core.recipes.critics.train {task.name} --data DIR "
        f"--seed {options.seed} --cycles {options.cycles}"
        f" --curriculum {options.curriculum}",
        "net": task.config,
        "data": recipe,
        "training": {"steps": steps, "batch": task.batch_size, "learning_rate": task.learning_rate},
        "held_out": accuracy,
    }
    save_checkpoint(path, tensors, config=config, seed=options.seed)
    return path


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    names = ("data", "labels", "body", "face", "hand", "identity", "sync", "frame", "clip")
    parser.add_argument("what", choices=names)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the rendered people (never in git)"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cycles", default="", help="last step:cosine length,... (empty: the recipe's own)")
    parser.add_argument("--people", default="0:40", help="data: first:last identity to render")
    parser.add_argument(
        "--curriculum", default="0@0", help="people@from-step,...: how many people from which step (0: all)"
    )
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "data":
        first, last = (int(v) for v in options.people.split(":"))
        render_people(options.data, first, last, seed=options.seed)
        return
    if options.what == "labels":
        label_people(options.data)
        return
    stages = [(int(n), int(at)) for n, at in (part.split("@") for part in options.curriculum.split(","))]
    for k, (people, _) in enumerate(stages):
        data = Dataset.open(options.data, people)
        task = make_task(options.what, data)
        options.cycles = options.cycles or f"{task.steps}:{task.steps}"
        cycles = [
            (int(end), int(length)) for end, length in (part.split(":") for part in options.cycles.split(","))
        ]
        last = k + 1 == len(stages)
        stop = cycles[-1][0] if last else stages[k + 1][1]
        net = fit(
            task, seed=options.seed, work=options.data / "work", cycles=cycles, stop=stop, every=options.every
        )
        if last:
            accuracy = task.evaluate(net)
            path = write_asset(task, net, accuracy, options, steps=cycles[-1][0], recipe=data.recipe())
            print(path, accuracy)


if __name__ == "__main__":
    main()
