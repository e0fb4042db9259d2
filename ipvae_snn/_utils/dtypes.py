"""Dtypes that sums are exact enough in."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32: in half precision, sums of squares overflow."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
