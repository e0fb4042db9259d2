"""Buffers that hold the state of a neuron without being part of the model."""

import sys
from typing import Any

from torch import Tensor

from ipvae_snn.kernels.loop import State


class Buffers(dict[str, Tensor | None]):
    """The buffers of a neuron; those that hold its state are found by name, but not listed.

    PyTorch takes every listed buffer for part of the model: DistributedDataParallel overwrites it
    on all ranks but the first, and averages of models mix it. Only torch.export must see states,
    as it follows no tensor elsewhere that changes.
    """

    def items(self) -> Any:
        hidden = () if _is_export_under_way() else State._fields
        return {name: value for name, value in super().items() if name not in hidden}.items()

    def copy(self) -> "Buffers":
        return Buffers(self)

    __copy__ = copy


def _is_export_under_way() -> bool:
    # torch.export also lists buffers before and after it traces, when is_exporting() is False.
    trace = sys.modules.get("torch.export._trace")
    return getattr(trace, "_EXPORT_MODULE_HIERARCHY", None) is not None
