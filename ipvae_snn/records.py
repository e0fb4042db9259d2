"""What a run returns: a named tuple with the fields that were asked for, time first."""

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any

from ipvae_snn.base import State

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
