"""Constant sparse matrices that blend the motion of control nodes onto points, differentiable, one or several at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import block_diag, csr_matrix
from torch import Tensor


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        return matrix @ dense

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.transpose = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transpose @ grads[0].contiguous()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        """Of a batch of dense ones: its blends lie on the diagonal of one matrix."""
        matrix, transpose, dense = args
        below = dense.movedim(in_dims[2] or 0, 0).flatten(0, 1)
        return _Multiply.apply(matrix, transpose, below).unflatten(0, (info.batch_size, -1)), 0


class SparseBlend:
    """A constant sparse matrix times dense ones, with a gradient (torch's own keeps none for CSR on the right)."""

    def __init__(self, matrix: csr_matrix, device: torch.device | str = "cpu") -> None:
        self.matrix = matrix
        self.forward_matrix, self.transpose = _csr(matrix, device), _csr(matrix.T.tocsr(), device)

    def to(self, device: torch.device | str) -> SparseBlend:
        same = self.transpose.device == torch.device(device)
        return self if same else SparseBlend(self.matrix, device)

    def rows(self, index: np.ndarray) -> SparseBlend:
        """Some of its rows."""
        return SparseBlend(self.matrix[index], self.transpose.device)

    def beside(self, others: Sequence[SparseBlend]) -> SparseBlend:
        """This one and others of its shape, for a batch under `torch.vmap`: each blends its own."""
        blocks = block_diag([blend.matrix for blend in (self, *others)])
        return SparseBlend(csr_matrix(blocks), self.transpose.device)

    def __call__(self, dense: Tensor) -> Tensor:
        return cast(Tensor, _Multiply.apply(self.forward_matrix, self.transpose, dense))


def _csr(matrix: csr_matrix, device: torch.device | str) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch calls its CSR support beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)).to(device),
            torch.from_numpy(matrix.indices.astype(np.int64)).to(device),
            torch.from_numpy(matrix.data.astype(np.float32)).to(device),
            size=matrix.shape,
            check_invariants=False,
            device=device,
        )
