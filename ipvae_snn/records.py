"""What a run returns: a named tuple with the fields that were asked for, time first."""

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.base import State

RECORDABLE = ("spk", "mem", "nll", "kl")


def check_fields(record: Sequence[str]) -> tuple[str, ...]:
    """The names in ``record`` as a tuple; ``ValueError`` if one is unknown or comes twice."""
    fields = (record,) if isinstance(record, str) else tuple(record)
    unknown = [name for name in fields if name not in RECORDABLE]
    if unknown or len(set(fields)) < len(fields):
        raise ValueError(f"record takes each of {RECORDABLE} at most once, got {fields}")
    return fields


def make_run(fields: tuple[str, ...], kept: list[list[Tensor]], state: State) -> Any:
    """Stack the kept steps of each field, shape (T, B, K) or (T, B), and add the last state."""
    like = {name: state.mem if name in ("spk", "mem") else state.mem[:, 0] for name in fields}
    stacked = (
        torch.stack(steps) if steps else like[name].new_empty((0, *like[name].shape))
        for name, steps in zip(fields, kept, strict=True)
    )
    return _run_type(fields)(*stacked, state)


@cache
def _run_type(fields: tuple[str, ...]) -> Any:
    make: Any = namedtuple  # its fields are known at run time only
    run_type = make("Run", (*fields, "state"))
    # A type made here cannot be found by name when unpickling: rebuild it from its fields.
    run_type.__reduce__ = lambda self: (_rebuild_run, (fields, tuple(self)))
    return run_type


def _rebuild_run(fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _run_type(fields)(*values)
