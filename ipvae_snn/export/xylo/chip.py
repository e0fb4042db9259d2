"""Integer arithmetic of the Xylo chip, vectorised over samples."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]

MAX_HIDDEN, MAX_OUTPUTS = 1000, 8
MAX_INPUT_SPIKES, MAX_SPIKES, MAX_OUTPUT_SPIKES = 15, 31, 1
"""Per timestep, of an input channel, a hidden neuron and an output neuron."""
LOW, HIGH = -(2**15), 2**15 - 1
"""Bounds of a state."""
RANGES = {
    "weights": (np.int8, -128, 127),
    "weight_shift": (np.int8, 0, 8),  # a weight shifted by more would not fit 16 bits
    "threshold": (np.int16, 1, HIGH),
    "bias": (np.int16, LOW, HIGH),
    "dash": (np.uint8, 1, 15),  # 0 would clear a state in every timestep
}


class XyloState(NamedTuple):
    """Integers, (B, K) for hidden and (B, n) for output neurons; recordings are (T, B, ·).

    Attributes:
        isyn, isyn_out: synaptic currents after their decay.
        vmem, vmem_out: membranes after their reset.
        spk, spk_out: spikes of the timestep.
    """

    isyn: Ints
    vmem: Ints
    spk: Ints
    isyn_out: Ints
    vmem_out: Ints
    spk_out: Ints


@dataclass(frozen=True, eq=False)
class XyloChip:
    """Configuration of a Xylo chip, named as in Rockpool's ``XyloSim.from_specification``.

    One timestep, where states saturate at 16 bits after every single arriving spike::

        isyn += counts @ weights_in · 2^weight_shift_in       up to 15 spikes per channel
        isyn += spk @ weights_rec · 2^weight_shift_rec        spikes of the previous timestep
        isyn −= decay(isyn, dash_syn)
        vmem += isyn − decay(vmem, dash_mem) + bias
        spk   = min(⌊vmem / threshold⌋, 31), 0 below threshold
        vmem −= spk · threshold

    decay(v, dash) = ⌊v / 2^dash⌋, but at least 1 for positive v. Output neurons do the same with
    ``weights_out`` and the hidden spikes of the previous timestep, and emit at most 1 spike.

    Attributes:
        weights_in, weights_rec, weights_out: (channels, K), (K, K) and (K, n), from row to column,
            −128 to 127.
        weight_shift_in, weight_shift_rec, weight_shift_out: 0 to 8, one for all weights.
        threshold, threshold_out: (K,) and (n,), 1 to 32,767.
        bias, bias_out: (K,) and (n,), −32,768 to 32,767.
        dash_mem, dash_mem_out, dash_syn, dash_syn_out: (K,) and (n,), 1 to 15.

    Raises:
        ValueError: more than 1,000 hidden or 8 output neurons, inconsistent shapes, or anything but
            integers in these ranges.

    >>> one = np.ones(1, int)
    >>> chip = XyloChip(
    ...     weights_in=20 * one[None], weights_rec=0 * one[None], weights_out=np.zeros((1, 0), int),
    ...     weight_shift_in=0, weight_shift_rec=0, weight_shift_out=0, threshold=30 * one,
    ...     threshold_out=one[:0], bias=one, bias_out=one[:0], dash_mem=15 * one,
    ...     dash_mem_out=one[:0], dash_syn=one, dash_syn_out=one[:0],
    ... )
    >>> [(int(s.isyn[0, 0]), int(s.vmem[0, 0]), int(s.spk[0, 0])) for s in chip.steps([[[4]]] * 3)]
    [(40, 11, 1), (60, 11, 2), (70, 21, 2)]
    """

    weights_in: Ints
    weights_rec: Ints
    weights_out: Ints
    weight_shift_in: int
    weight_shift_rec: int
    weight_shift_out: int
    threshold: Ints
    threshold_out: Ints
    bias: Ints
    bias_out: Ints
    dash_mem: Ints
    dash_mem_out: Ints
    dash_syn: Ints
    dash_syn_out: Ints

    def __post_init__(self) -> None:
        hidden, outputs = len(self.threshold), len(self.threshold_out)
        limits = {"hidden": (hidden, MAX_HIDDEN), "output": (outputs, MAX_OUTPUTS)}
        for kind, (count, limit) in limits.items():
            if count > limit:
                raise ValueError(
                    f"a Xylo chip has at most {limit} {kind} neurons, got {count}: train a model "
                    "or a readout with fewer"
                )
        for field in fields(self):
            targets = outputs if field.name.endswith("_out") else hidden
            shape: tuple[int, ...] = (targets,)
            if field.name.startswith("weights"):
                rows = len(self.weights_in) if field.name == "weights_in" else hidden
                shape = (rows, targets)
            elif field.name.startswith("weight_shift"):
                shape = ()
            values = _integers(getattr(self, field.name), field.name, shape)
            object.__setattr__(self, field.name, values if shape else int(values))

    def steps(self, counts: Iterable[Any], bias: Ints | None = None) -> Iterator[XyloState]:
        """The state after each timestep.

        Args:
            counts: per timestep, input spikes of shape (B, channels).
            bias: one per sample, (B, K), in place of the chip's own.
        """
        into = _Synapses(self.weights_in, self.weight_shift_in, MAX_INPUT_SPIKES)
        lateral = _Synapses(self.weights_rec, self.weight_shift_rec, MAX_SPIKES)
        readout = _Synapses(self.weights_out, self.weight_shift_out, MAX_SPIKES)
        bias = self.bias if bias is None else bias
        hidden = _Neurons(self.threshold, bias, self.dash_mem, self.dash_syn, MAX_SPIKES)
        of_outputs = (self.threshold_out, self.bias_out, self.dash_mem_out, self.dash_syn_out)
        outputs = _Neurons(*of_outputs, MAX_OUTPUT_SPIKES)
        state: XyloState | None = None
        for spk_in in map(np.asarray, counts):
            if state is None:
                rest = np.zeros((len(spk_in), len(self.threshold)), np.int32)
                rest_out = np.zeros((len(spk_in), len(self.threshold_out)), np.int32)
                state = XyloState(rest, rest, rest, rest_out, rest_out, rest_out)
            isyn = lateral.deliver(state.spk, into.deliver(spk_in, state.isyn))
            isyn_out = readout.deliver(state.spk, state.isyn_out)
            state = XyloState(
                *hidden.evolve(isyn, state.vmem), *outputs.evolve(isyn_out, state.vmem_out)
            )
            yield state

    def run(self, counts: Ints, bias: Ints | None = None) -> XyloState:
        """All states of all timesteps, (T, B, ·), for counts of shape (T, B, channels)."""
        states = ([field.astype(np.int16) for field in s] for s in self.steps(counts, bias))
        return XyloState(*map(np.stack, zip(*states, strict=True)))


def _integers(values: Any, name: str, shape: tuple[int, ...]) -> Ints:
    """``values`` in the dtype of a field, validated."""
    kind = "weight_shift" if name.startswith("weight_shift") else name.split("_")[0]
    dtype, low, high = RANGES[kind]
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.kind not in "iu" or ((array < low) | (array > high)).any():
        raise ValueError(
            f"{name} must be integers in [{low}, {high}], got {array.dtype} "
            f"from {array.min(initial=0)} to {array.max(initial=0)}"
        )
    return array.astype(dtype)


class _Synapses:
    """Adds weighted spikes to states: one matrix product if no state can saturate, else in the
    chip's order.

    Args:
        weights: (sources, targets).
        shift: left shift of the weights.
        max_spikes: per source; further spikes are dropped.
    """

    def __init__(self, weights: Ints, shift: int, max_spikes: int) -> None:
        self.weights = weights.astype(np.int32) << shift
        self.shift, self.max_spikes = shift, max_spikes
        exact = 128 * max_spikes * len(weights) < 2**24  # sums fit the mantissa of float32
        floats = weights.astype(np.float32 if exact else np.float64)
        self.signed = np.concatenate([floats.clip(min=0), floats.clip(max=0)], axis=1)

    def deliver(self, counts: Ints, isyn: Ints) -> Ints:
        """``isyn``, (B, targets), after ``counts``, (B, sources), have been added."""
        counts = np.minimum(counts, self.max_spikes)
        sums = counts.astype(self.signed.dtype) @ self.signed
        # Beyond 4 times the range a sum saturates anyway: clip it, so that int32 cannot overflow.
        sums = sums.clip(4 * LOW, 4 * HIGH).astype(np.int32) << self.shift
        excitation, inhibition = np.split(sums, 2, axis=1)
        total: Ints = isyn + excitation + inhibition
        # In any order, the state stays within isyn + inhibition and isyn + excitation.
        unsafe = (isyn + excitation > HIGH) | (isyn + inhibition < LOW)
        if unsafe.any():
            sample, target = np.nonzero(unsafe)
            state = isyn[sample, target]
            for source in np.flatnonzero(counts.any(axis=0)):
                # Spikes of one source have one sign: clipping once equals clipping after each.
                change = counts[sample, source] * self.weights[source, target]
                state = (state + change).clip(LOW, HIGH)
            total[sample, target] = state
        return total


class _Neurons:
    """A population of neurons that emit up to ``max_spikes`` per timestep."""

    def __init__(
        self, threshold: Ints, bias: Ints, dash_mem: Ints, dash_syn: Ints, max_spikes: int
    ) -> None:
        self.threshold, self.bias = threshold.astype(np.int32), bias.astype(np.int32)
        self.dash_mem, self.dash_syn = dash_mem.astype(np.int32), dash_syn.astype(np.int32)
        self.max_spikes = max_spikes

    def evolve(self, isyn: Ints, vmem: Ints) -> tuple[Ints, Ints, Ints]:
        """``isyn``, ``vmem`` and ``spk`` after a timestep."""
        isyn = isyn - _decay(isyn, self.dash_syn)
        change = (isyn - _decay(vmem, self.dash_mem)).clip(LOW, HIGH)
        change = (change + self.bias).clip(LOW, HIGH)
        vmem = (vmem + change).clip(LOW, HIGH)
        spk = (vmem // self.threshold).clip(0, self.max_spikes)
        return isyn, vmem - spk * self.threshold, spk


def _decay(state: Ints, dash: Ints) -> Ints:
    shifted = state >> dash
    change: Ints = np.where(state > 0, np.maximum(shifted, 1), shifted)
    return change
