"""The time loop in Python, for everything that does not run in compiled code.

A :class:`Timestep` defines one timestep; :func:`timesteps` repeats it without end; :func:`record`
runs a number of timesteps and returns the fields asked for.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SUBSAMPLED = ("spk", "mem")
"""Fields that ``every`` applies to; of the others, one number per sample, all timesteps stay."""


class State(NamedTuple):
    """The state between two timesteps: ``spk`` and ``mem``, (..., K) each."""

    spk: Tensor
    mem: Tensor


class Moment(NamedTuple):
    """A network after a timestep.

    Attributes:
        spk, mem: its state.
        mem_before: the membrane of the previous timestep.
        sent: what the spikes send to the next timestep, such as zG.
    """

    spk: Tensor
    mem: Tensor
    mem_before: Tensor
    sent: Any


class Timestep(ABC):
    """How a network goes from one timestep to the next; all states (B, K).

    Timestep t: ``mem = integrate(now, t)``, where ``now`` is the moment before and ``now.sent``
    what its ``send`` returned; ``spk = emit(mem)``; ``sent = send(spk, t)``. Before the first
    timestep ``send`` is called with the spikes of the initial state and t = 0. Whoever overrides
    ``advance`` needs neither ``integrate`` nor ``emit``, and ``send`` for the initial state only.

    :func:`record` calls ``measure`` after timestep t, with the moment that it led to, for each
    field other than ``spk`` and ``mem``.
    """

    @abstractmethod
    def send(self, spk: Tensor, t: int) -> Any:
        """What the spikes of timestep t send; t is 0 also for the spikes of the initial state."""

    @abstractmethod
    def integrate(self, now: Moment, t: int) -> Tensor:
        """The membrane of timestep t, from the moment before it."""

    @abstractmethod
    def emit(self, mem: Tensor) -> Tensor:
        """Spikes for a membrane."""

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        """The field ``name``, other than ``spk`` and ``mem``, at timestep t; shape (B,)."""
        raise NotImplementedError

    def advance(self, now: Moment, t: int) -> Moment:
        """The moment after timestep t, from the one before it."""
        mem = self.integrate(now, t)
        spk = self.emit(mem)
        return Moment(spk, mem, now.mem, self.send(spk, t))


def timesteps(timestep: Timestep, state: State) -> Iterator[Moment]:
    """The moments after timesteps 0, 1, 2, ... without end."""
    now = Moment(*state, mem_before=state.mem, sent=timestep.send(state.spk, 0))
    for t in itertools.count():
        now = timestep.advance(now, t)
        yield now


def record(
    timestep: Timestep,
    state: State,
    steps: int,
    fields: Sequence[str] = (),
    every: int = 1,
    *,
    in_place: bool = False,
) -> tuple[dict[str, Tensor], State]:
    """Run a number of timesteps.

    Args:
        timestep: the network.
        state: initial state.
        steps: number of timesteps.
        fields: what to record: ``spk``, ``mem``, and names that ``timestep`` can measure.
        every: record each n-th timestep of ``spk`` and ``mem``.
        in_place: write into preallocated buffers instead of stacking a list at the end; not for
            autograd and transforms, which cannot follow it.

    Returns:
        The fields by name, time first, and the last state.
    """
    outputs = {
        name: _Output(steps // (every if name in SUBSAMPLED else 1), in_place) for name in fields
    }
    now: Any = state
    for t, now in enumerate(itertools.islice(timesteps(timestep, state), steps)):
        for name, output in outputs.items():
            if name not in SUBSAMPLED:
                output.append(timestep.measure(name, now, t))
            elif (t + 1) % every == 0:
                output.append(getattr(now, name))
    last = State(now.spk, now.mem)
    empty = last.mem.new_empty(0, *last.mem.shape)  # if there are fewer than ``every`` timesteps
    return {name: output.stacked(empty) for name, output in outputs.items()}, last


class _Output:
    """The timesteps of one field: rows of a buffer, or a list."""

    def __init__(self, length: int, in_place: bool) -> None:
        self.length, self.in_place = length, in_place
        self.rows: list[Tensor] = []
        self.buffer: Tensor | None = None
        self.count = 0

    def append(self, value: Tensor) -> None:
        if not self.in_place:
            self.rows.append(value)
            return
        if self.buffer is None:
            self.buffer = value.new_empty(self.length, *value.shape)
        self.buffer[self.count] = value
        self.count += 1

    def stacked(self, empty: Tensor) -> Tensor:
        if self.rows:
            return torch.stack(self.rows)
        return empty if self.buffer is None else self.buffer
