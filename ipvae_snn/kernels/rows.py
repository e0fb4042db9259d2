"""Products of rows with a matrix: some that do not depend on other rows, some of few spikes.

The order in which BLAS sums depends on the shape of the whole product, and the last bit of a
membrane can decide whether a neuron spikes.
"""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels import native
from ipvae_snn.kernels.choices import choices
from ipvae_snn.kernels.native import CodeSums

LOOKED_AT = 256
"""Rows in which the values that are not 0 are counted."""


def row_products(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight``, (..., M) and (M, K) to (..., K): row by row; one product backward.

    >>> rows, weight = torch.randn(5, 40), torch.randn(40, 30)
    >>> bool((row_products(rows, weight)[3:4] == row_products(rows[3:4], weight)).all())
    True
    """
    products: Tensor = _RowProducts.apply(rows, weight)  # type: ignore[no-untyped-call]
    return products


class _RowProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        products = [row @ weight for row in rows.reshape(-1, len(weight)).contiguous()]
        return torch.stack(products).reshape(*rows.shape[:-1], weight.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        rows_grad = grad @ weight.mT if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return rows_grad, None
        return rows_grad, rows.flatten(0, -2).mT @ grad.flatten(0, -2)


def sparse_products(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight``, (..., K) and (K, M) to (..., M), without a graph.

    Of spikes, where compiled kernels are there, a sum over those that are not 0.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    if not (native.supports_tensors(rows, weight.detach()) and _is_sparse(flat[:LOOKED_AT])):
        return rows @ weight
    summed = flat.new_empty(len(flat), weight.shape[1])
    native.sum_rows(flat.contiguous(), native.padded(weight), summed)
    return summed.reshape(*rows.shape[:-1], -1)


def code_sums(codes: Tensor, weight: Tensor, x: Tensor) -> list[CodeSums] | None:
    """Sums over counts (T, B, K) that decode to ``codes @ weight``, of each timestep.

    ``None`` where compiled kernels are not there, or not faster.
    """
    tensors = codes, weight.detach(), x
    if not (native.supports_tensors(*tensors) and _is_sparse(codes[0, :LOOKED_AT])):
        return None
    padded, x = native.padded(weight), x.contiguous()
    return [native.measure(spk, padded, x) for spk in codes.contiguous()]


def _is_sparse(rows: Tensor) -> bool:
    return int(rows.count_nonzero()) < choices(*rows.shape).decoder * rows.numel()
