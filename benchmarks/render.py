"""Times the renderer: `python -m benchmarks.render [--quick] [--json OUT]`.

Our cpu backend against (a) gsplat's torch path made to run on the CPU and (b) the reference backend, in one process,
alternating, medians over rounds; 20k and 60k splats, 256 and 512 px, single frame and 16-frame batch. With a CUDA device
also gsplat's frames per second. Times include autograd and the tensors' allocation, not the loss. Per case:

cpu_fwd_ms, cpu_fwd_bwd_ms          per frame; best = the fastest round
cpu_one_thread_fwd_bwd_ms, scaling  the same with one thread, and the ratio
peer_fwd_bwd_ms, ratio              gsplat's torch path on one frame, and how many times slower it is per frame
*_processor_ms, ratio_processor     the same in processor time of all threads: on a busy machine the steadier numbers
reference_fwd_bwd_ms                the reference backend on one frame (not with --quick)
phases_ms                           inside the kernel, per frame: processor time when frames run in parallel
roofline                            measured peaks, floating-point work of blending (hand count per lane), bound and share
memory                              bytes kept for backward and gradient rows, per frame
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from avatar_core.io.atomic import write_json
from avatar_core.render import cpu, native, rasterize
from avatar_core.render.batch import Settings, make_batch
from benchmarks import gsplat_cpu
from benchmarks.body_scene import body_scene

ATTRIBUTES = ("means", "quats", "scales", "opacities", "colors")
FORWARD_FLOP, BACKWARD_FLOP = 33, 59  # per pixel of a visited patch, counted by hand in blend.h
FRAMES = 16


def _leaves(scene: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
    """The scene's tensors as leaves; means move from frame to frame, the rest is shared."""
    leaves = {name: scene[name].clone() for name in ATTRIBUTES}
    if frames > 1:
        g = torch.Generator().manual_seed(1)
        leaves["means"] = leaves["means"] + 0.01 * torch.randn(frames, 1, 3, generator=g)
    return {name: tensor.requires_grad_() for name, tensor in leaves.items()}


def _draw(
    leaves: dict[str, Tensor], scene: dict[str, Tensor], size: int, backend: str, threads: int | None = None
) -> Tensor:
    images = rasterize(
        leaves["means"],
        leaves["quats"],
        leaves["scales"],
        leaves["opacities"],
        leaves["colors"],
        scene["viewmats"],
        scene["Ks"],
        size,
        size,
        background=scene["background"],
        backend=backend,
        threads=threads,
    )
    return images[0]


def _draw_peer(leaves: dict[str, Tensor], scene: dict[str, Tensor], size: int) -> Tensor:
    return gsplat_cpu.rasterize(
        leaves["means"],
        leaves["quats"],
        leaves["scales"],
        leaves["opacities"],
        leaves["colors"],
        scene["viewmats"],
        scene["Ks"],
        size,
        size,
        scene["background"],
    )


def _timed(
    draw: Callable[[], Tensor], leaves: dict[str, Tensor], gradient: Tensor
) -> tuple[float, float, float]:
    """Milliseconds of forward, of forward and backward, and of all processors together over both."""
    for leaf in leaves.values():
        leaf.grad = None
    processor = time.process_time()
    start = time.perf_counter()
    image = draw()
    middle = time.perf_counter()
    image.backward(gradient)
    end = time.perf_counter()
    return (middle - start) * 1e3, (end - start) * 1e3, (time.process_time() - processor) * 1e3


def _bandwidth() -> float:
    """Memory bandwidth of a large copy, GB/s, reads and writes counted."""
    source, target = torch.ones(1 << 24), torch.empty(1 << 24)
    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * source.numel() * 4 / (time.perf_counter() - start))
    return best * 1e-9


def run_case(
    count: int, size: int, frames: int, threads: int, rounds: int, peer: bool, reference: bool, peaks: dict
) -> dict:
    """One row of the table."""
    scene = body_scene(count, size)
    leaves, single = _leaves(scene, frames), _leaves(scene, 1)
    lead = (frames,) if frames > 1 else ()
    gradient = torch.randn(*lead, 3, size, size, generator=torch.Generator().manual_seed(2)).movedim(-3, -1)
    one_gradient = gradient[0] if frames > 1 else gradient

    def ours(workers: int) -> Tensor:
        return _draw(leaves, scene, size, "cpu", workers)

    def gsplat_torch() -> Tensor:
        return _draw_peer(single, scene, size)

    def dense() -> Tensor:
        return _draw(single, scene, size, "reference")

    burst = 8 if frames == 1 else 2
    for _ in range(2):
        _timed(lambda: ours(threads), leaves, gradient)
    if peer:
        _timed(gsplat_torch, single, one_gradient)  # compiles the pair walk
    many, one, theirs, slow, phases = [], [], [], [], []
    for _ in range(rounds):
        many += [_timed(lambda: ours(threads), leaves, gradient) for _ in range(burst)]
        one += [_timed(lambda: ours(1), leaves, gradient) for _ in range(burst)]
        if peer:
            theirs.append(_timed(gsplat_torch, single, one_gradient))
        phases.append(_profile(scene, leaves, size, threads, gradient))
    if reference:
        slow.append(_timed(dense, single, one_gradient))

    def median(times: list[tuple[float, float, float]], which: int, per: int) -> float:
        return statistics.median(t[which] for t in times) / per

    profile = {key: statistics.median(p[key] for p in phases) / frames for key in phases[0]}
    total = median(many, 1, frames)
    row = {
        "count": count,
        "size": size,
        "frames": frames,
        "threads": threads,
        "cpu_fwd_ms": median(many, 0, frames),
        "cpu_fwd_bwd_ms": total,
        "cpu_fwd_bwd_best_ms": min(t[1] for t in many) / frames,
        "cpu_one_thread_fwd_bwd_ms": median(one, 1, frames),
        "scaling": median(one, 1, frames) / total,
        "peer_fwd_bwd_ms": median(theirs, 1, 1) if peer else None,
        "ratio": median(theirs, 1, 1) / total if peer else None,
        "cpu_processor_ms": median(many, 2, frames),
        "cpu_one_thread_processor_ms": median(one, 2, frames),
        "peer_processor_ms": median(theirs, 2, 1) if peer else None,
        "ratio_processor": median(theirs, 2, 1) / median(many, 2, frames) if peer else None,
        "reference_fwd_bwd_ms": slow[0][1] if slow else None,
        "phases_ms": {name: profile[name] * 1e3 for name in native.PHASES},
        "visible": profile["visible"],
        "pairs": profile["pairs"],
        "patches": profile["patches"],
        "memory": {"state_bytes": profile["bytes"], "gradient_row_bytes": profile["pairs"] * 64},
    }
    gflop = profile["patches"] * 16 * (FORWARD_FLOP + BACKWARD_FLOP) * 1e-9
    bound = gflop / peaks["gflops"] * 1e3
    traffic = (
        row["memory"]["state_bytes"] + 2 * row["memory"]["gradient_row_bytes"] + size * size * 7 * 4
    ) * 2
    row["roofline"] = {
        "blend_gflop": gflop,
        "flop_bound_ms": bound,
        "bandwidth_bound_ms": traffic / peaks["gbytes_per_s"] * 1e-6,
        "share_of_flop_bound": bound / total,
    }
    return row


def _profile(
    scene: dict[str, Tensor], leaves: dict[str, Tensor], size: int, threads: int, gradient: Tensor
) -> dict:
    batch = make_batch(
        {**leaves, "viewmats": scene["viewmats"], "Ks": scene["Ks"]},
        scene["background"],
        Settings(size, size, 0.3, 0.999, 1 / 255, 1e-4, 0.01, return_depth=False),
    )
    states: list[native.State] = []
    images = cpu.rasterize(batch, threads=threads, profile=states)[0]
    images.backward(gradient.movedim(-1, -3).reshape(images.shape))
    return states[0].profile()


def run_cuda(rounds: int) -> dict:
    """gsplat's frames per second on this machine's GPU, forward and backward, or why not."""
    if not torch.cuda.is_available():
        return {"skipped": "torch sees no CUDA device"}
    try:
        import gsplat  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return {"skipped": f"gsplat cannot be imported: {error}"}
    rows = []
    for count in (20_000, 60_000):
        for size in (512, 1080):
            for frames in (1, FRAMES):
                scene = {name: tensor.cuda() for name, tensor in body_scene(count, size).items()}
                leaves = {
                    name: leaf.detach().cuda().requires_grad_()
                    for name, leaf in _leaves(body_scene(count, size), frames).items()
                }
                times = []
                for k in range(rounds + 3):
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    image = _draw(leaves, scene, size, "cuda")
                    image.sum().backward()
                    torch.cuda.synchronize()
                    if k >= 3:
                        times.append(time.perf_counter() - start)
                rows.append(
                    {
                        "count": count,
                        "size": size,
                        "frames": frames,
                        "frames_per_s": frames / statistics.median(times),
                    }
                )
    return {"device": torch.cuda.get_device_name(), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the renderer.")
    parser.add_argument(
        "--quick", action="store_true", help="20k splats at 256 px only, few rounds, no reference"
    )
    parser.add_argument("--json", metavar="OUT", help="write the results to this file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, help="rounds per case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = native.native()
    name = {number: name for name, number in native.ISAS.items()}[library.best_isa]
    peaks = {
        "gflops": max(
            library.library.splat_peak_gflops(library.best_isa, 60.0, options.threads) for _ in range(5)
        ),
        "gbytes_per_s": _bandwidth(),
    }
    why_no_peer = gsplat_cpu.missing()
    print(
        f"{name}, {options.threads} threads; peak {peaks['gflops']:.0f} GFLOP/s, {peaks['gbytes_per_s']:.1f} GB/s"
    )
    if why_no_peer:
        print(f"peer skipped: {why_no_peer}")
    cases = [(20_000, 256)] if options.quick else [(n, s) for n in (20_000, 60_000) for s in (256, 512)]
    rounds = options.rounds or (3 if options.quick else 7)
    rows = []
    for count, size in cases:
        for frames in (1, FRAMES):
            reference = not options.quick and frames == 1
            row = run_case(
                count, size, frames, options.threads, rounds, why_no_peer is None, reference, peaks
            )
            rows.append(row)
            peer = "peer -"
            if row["ratio"]:
                peer = f"peer {row['peer_fwd_bwd_ms']:.0f} ms = {row['ratio']:.0f}x ({row['ratio_processor']:.0f}x processor time)"
            ours = f"fwd {row['cpu_fwd_ms']:.2f} ms, fwd+bwd {row['cpu_fwd_bwd_ms']:.2f} ms a frame"
            more = f"best {row['cpu_fwd_bwd_best_ms']:.2f}, processor {row['cpu_processor_ms']:.2f}"
            bound = f"flop bound {row['roofline']['flop_bound_ms']:.2f} ms"
            scaling = f"{row['scaling']:.2f}x over one thread"
            print(
                f"{count // 1000}k {size} px x{frames}: {ours} ({more}), {scaling}, {peer}, {bound}",
                flush=True,
            )
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "isa": name,
            "threads": options.threads,
            **peaks,
        },
        "torch": torch.__version__,
        "peer_skipped": why_no_peer,
        "cases": rows,
        "cuda": run_cuda(20),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
