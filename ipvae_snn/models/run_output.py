"""What a run returns: a named tuple with the fields that were asked for, time first."""

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_fitting, require_float
from ipvae_snn.kernels.loop import SUBSAMPLED
from ipvae_snn.neurons.base import State

RECORDABLE = ("spk", "mem", "nll", "kl")


def check_fields(record: Sequence[str]) -> tuple[str, ...]:
    """The names in ``record`` as a tuple; ``ValueError`` if one is unknown or comes twice."""
    fields = (record,) if isinstance(record, str) else tuple(record)
    unknown = [name for name in fields if name not in RECORDABLE]
    if unknown or len(set(fields)) < len(fields):
        raise ValueError(f"record takes each of {RECORDABLE} at most once, got {fields}")
    return fields


def make_run(kept: dict[str, Any], state: State) -> Any:
    """A run of the kept fields, in their order, and the last state."""
    return _run_type(tuple(kept))(*kept.values(), state)


@cache
def _run_type(fields: tuple[str, ...]) -> Any:
    make: Any = namedtuple  # its fields are known at run time only
    run_type = make("Run", (*fields, "state"))
    # A type made here cannot be found by name when unpickling: rebuild it from its fields.
    run_type.__reduce__ = lambda self: (_rebuild_run, (fields, tuple(self)))
    return run_type


def _rebuild_run(fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _run_type(fields)(*values)


def thinned(
    values: dict[str, Tensor], fields: tuple[str, ...], every: int, whole: bool
) -> dict[str, Tensor]:
    """The fields of a run, each n-th timestep of them.

    Args:
        values: by name; ``nll`` and ``kl`` of all timesteps.
        fields: asked for.
        every: n.
        whole: whether ``spk`` and ``mem`` are of all timesteps, too.
    """
    rows = slice(every - 1, None, every)
    return {
        name: values[name][rows] if whole or name not in SUBSAMPLED else values[name]
        for name in fields
    }


def require_state(state: Any, shape: tuple[int, ...], like: Tensor) -> State:
    """A pair (spk, mem) to go on from, in the dtype of ``like``.

    Raises:
        TypeError, ValueError: no pair, or another shape, dtype or device; NaN or infinity in it.
    """
    require_pair(state, like)
    for name, part in zip(("state.spk", "state.mem"), state, strict=True):
        if part.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(part.shape)}")
    return State(*(part.to(like.dtype) for part in state))


def require_pair(state: Any, like: Tensor) -> None:
    """Raise unless ``state`` is a pair (spk, mem) of finite tensors that fit ``like``."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise TypeError(f"state must be a pair (spk, mem), got {type(state).__name__}")
    for name, part in zip(("state.spk", "state.mem"), state, strict=True):
        require_float(part, name)
        require_fitting(part, name, like=like)
        require_finite(part, name)


def require_sample_seeds(sample_seeds: Any, batch: int) -> Tensor:
    """Seeds of samples as int64 on the CPU; raises unless they are ``batch`` whole numbers."""
    if not isinstance(sample_seeds, Tensor) or sample_seeds.dtype != torch.int64:
        kind = getattr(sample_seeds, "dtype", type(sample_seeds).__name__)
        raise TypeError(f"sample_seeds must be an int64 tensor, got {kind}")
    if sample_seeds.shape != (batch,):
        raise ValueError(
            f"sample_seeds must have shape ({batch},), a seed per sample, got "
            f"{tuple(sample_seeds.shape)}"
        )
    return sample_seeds.cpu().contiguous()
