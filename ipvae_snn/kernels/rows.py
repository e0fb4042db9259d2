"""Products of rows with a matrix that do not depend, to the last bit, on the other rows.

The order in which BLAS sums depends on the shape of the whole product, and the last bit of a
membrane can decide whether a neuron spikes.
"""

from typing import Any

import torch
from torch import Tensor


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
