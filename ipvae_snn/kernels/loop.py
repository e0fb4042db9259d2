"""The time loop in Python: whatever does not run in compiled code runs here.

A :class:`Timestep` says how one timestep goes; :func:`timesteps` repeats it without end, and
:func:`record` keeps what is asked for of a number of them.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SPARSE = ("spk", "mem")
"""Fields of which only each n-th timestep is kept; the others are one number per sample."""


class State(NamedTuple):
    """What a network carries from one timestep to the next: ``spk`` and ``mem``, (..., K) each."""

    spk: Tensor
    mem: Tensor


class Moment(NamedTuple):
    """A network after a timestep.

    Attributes:
        spk, mem: its state.
        before: the membrane of the timestep before.
        sent: what the spikes send out and the next timestep receives, such as zG.
    """

    spk: Tensor
    mem: Tensor
    before: Tensor
    sent: Any


class Timestep(ABC):
    """How a network goes from one timestep to the next: receive, integrate, emit, send."""

    @abstractmethod
    def send(self, spk: Tensor, t: int) -> Any:
        """What the spikes of timestep t send out; of those before the first, t is 0."""

    @abstractmethod
    def integrate(self, now: Moment, t: int) -> Tensor:
        """The membrane of timestep t, from the moment before it."""

    @abstractmethod
    def emit(self, mem: Tensor) -> Tensor:
        """Spikes for a membrane."""

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        """The value of a field other than ``spk`` and ``mem`` at timestep t, shape (B,)."""
        raise NotImplementedError

    def advance(self, now: Moment, t: int) -> Moment:
        """The moment after timestep t, from the one before it."""
        mem = self.integrate(now, t)
        spk = self.emit(mem)
        return Moment(spk, mem, now.mem, self.send(spk, t))


def timesteps(step: Timestep, state: State) -> Iterator[Moment]:
    """The moments after timesteps 0, 1, 2, ... without end."""
    now = Moment(*state, before=state.mem, sent=step.send(state.spk, 0))
    for t in itertools.count():
        now = step.advance(now, t)
        yield now


def record(
    step: Timestep,
    state: State,
    steps: int,
    fields: Sequence[str] = (),
    every: int = 1,
    *,
    in_place: bool = False,
) -> tuple[dict[str, Tensor], State]:
    """Run a number of timesteps.

    Args:
        step: the network.
        state: to start from.
        steps: how many.
        fields: what to keep, time first: ``spk``, ``mem``, and names that ``step`` can measure.
        every: keep each n-th timestep of ``spk`` and ``mem``.
        in_place: write into buffers that are made at once, which autograd and transforms cannot
            follow, instead of stacking a list at the end.

    Returns:
        The fields by name, and the last state.
    """
    outputs = {
        name: _Output(steps // (every if name in SPARSE else 1), in_place) for name in fields
    }
    now: Any = state
    for t, now in enumerate(itertools.islice(timesteps(step, state), steps)):
        for name, output in outputs.items():
            if name not in SPARSE:
                output.put(step.measure(name, now, t))
            elif (t + 1) % every == 0:
                output.put(getattr(now, name))
    last = State(now.spk, now.mem)
    empty = last.mem.new_empty(0, *last.mem.shape)  # where no n-th timestep was reached
    return {name: output.stacked(empty) for name, output in outputs.items()}, last


class _Output:
    """The timesteps of one field: rows of a buffer, or a list."""

    def __init__(self, length: int, in_place: bool) -> None:
        self.length, self.in_place = length, in_place
        self.rows: list[Tensor] = []
        self.buffer: Tensor | None = None
        self.count = 0

    def put(self, value: Tensor) -> None:
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
