"""The `cpu` backend: autograd around the native kernel (csrc/), float32.

Source: tile-based splatting of Kerbl et al. 2023 with gsplat's conventions; the design of the kernel is told in
docs of csrc/*.h. Shape letters: F frames, S slices (S <= F, slices may serve several frames), N splats, H, W image.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from avatar_core.render.batch import Batch, Settings, check_values
from avatar_core.render.native import ARGUMENTS, Call, State, default_threads, native

TOO_MANY_PAIRS, OUT_OF_MEMORY = -1, -2


@dataclass
class _Job:
    settings: Settings
    frames: int
    count: int
    index: dict[str, Tensor]
    first: dict[str, Tensor]
    threads: int
    isa: int
    keep_state: bool
    profile: list[State] | None = None

    def call(self, inputs: dict[str, Tensor], colors: Tensor, alphas: Tensor, depths: Tensor | None) -> Call:
        s = self.settings
        call = Call(
            self.frames, self.count, s.width, s.height, self.threads, int(s.return_depth), int(self.keep_state), self.isa,
            s.eps2d, s.alpha_max, s.alpha_min, s.transmittance_min, s.near_plane,
        )  # fmt: skip
        for k, name in enumerate(ARGUMENTS):
            if name in inputs:
                call.inputs[k] = inputs[name].data_ptr()
                call.index[k] = self.index[name].data_ptr()
                call.first[k] = self.first[name].data_ptr()
        call.colors, call.alphas = colors.data_ptr(), alphas.data_ptr()
        call.depths = None if depths is None else depths.data_ptr()
        return call


def _forward(job: _Job, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None, State | None]:
    s = job.settings
    colors = torch.empty(job.frames, 3, s.height, s.width, device="cpu")
    alphas = torch.empty(job.frames, s.height, s.width, device="cpu")
    depths = torch.empty(job.frames, s.height, s.width, device="cpu") if s.return_depth else None
    call = job.call(inputs, colors, alphas, depths)
    handle = ctypes.c_void_p()
    status = native().library.splat_forward(native().pool, ctypes.byref(call), ctypes.byref(handle))
    if status == TOO_MANY_PAIRS:
        raise ValueError("scales: the splats cover more than 2^31 (tile, splat) pairs of one image")
    if status == OUT_OF_MEMORY:
        raise MemoryError("rasterize: out of memory")
    if status:
        check_values(Batch(inputs, job.index, job.first, (job.frames,), s))  # says where
        name = next(name for k, name in enumerate(ARGUMENTS) if status >> k & 1)
        raise ValueError(f"{name}: expected finite numbers in the range of float32")
    state = State(handle.value, job.count, s.width, s.height) if handle.value else None
    if state is not None and job.profile is not None:
        job.profile.append(state)
    return colors, alphas, depths, state


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        inputs = {name: t for name, t in zip(ARGUMENTS, tensors) if t is not None}
        colors, alphas, depths, state = _forward(job, inputs)
        ctx.job, ctx.state = job, state
        ctx.save_for_backward(*tensors, colors, depths)
        ctx.set_materialize_grads(False)
        return colors, alphas, depths

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad_colors, grad_alphas, grad_depths = grad_outputs
        *tensors, colors, depths = ctx.saved_tensors
        job: _Job = ctx.job
        wanted = {name: need for name, need in zip(ARGUMENTS, ctx.needs_input_grad[1:])}
        inputs = {name: t for name, t in zip(ARGUMENTS, tensors) if t is not None}
        grads = {name: torch.empty_like(t) for name, t in inputs.items() if wanted[name]}
        if job.frames == 0:
            grads = {name: g.zero_() for name, g in grads.items()}
        if grad_colors is None and grad_alphas is None and grad_depths is None:
            return (None, *(None for _ in ARGUMENTS))
        grad_colors = torch.zeros_like(colors) if grad_colors is None else grad_colors.contiguous()
        grad_alphas = None if grad_alphas is None else grad_alphas.contiguous()
        grad_depths = None if grad_depths is None else grad_depths.contiguous()
        call = job.call(inputs, colors, colors, depths)  # alphas are not read
        call.grad_colors = grad_colors.data_ptr()
        call.grad_alphas = None if grad_alphas is None else grad_alphas.data_ptr()
        call.grad_depths = None if grad_depths is None else grad_depths.data_ptr()
        for k, name in enumerate(ARGUMENTS):
            call.grad[k] = grads[name].data_ptr() if name in grads else None
        if native().library.splat_backward(ctx.state.handle, ctypes.byref(call)):
            raise MemoryError("rasterize: out of memory in the backward pass")
        return (None, *(grads.get(name) for name in ARGUMENTS))


def rasterize(
    batch: Batch, *, threads: int | None = None, isa: str | None = None, profile: list[State] | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Colours (F, 3, H, W), alphas (F, H, W), depths (F, H, W) or None of a checked batch.

    threads: None = AVATAR_RENDER_THREADS or torch's count; the result does not depend on it. isa: "avx512", "avx2",
    "portable" or None for the best. profile: a list that receives the State of the call, for its timings.
    """
    tensors = [batch.tensors.get(name) for name in ARGUMENTS]
    tensors = [None if t is None else t.to("cpu", torch.float32).contiguous() for t in tensors]
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    threads = default_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads: expected 1 or more, found {threads}")
    count = batch.tensors["means"].shape[-2]
    job = _Job(
        batch.settings,
        batch.frames,
        count,
        batch.index,
        batch.first,
        threads,
        native().isa(isa),
        learns,
        profile,
    )
    if learns:
        return _Rasterize.apply(job, *tensors)
    return _forward(job, {name: t for name, t in zip(ARGUMENTS, tensors) if t is not None})[:3]
