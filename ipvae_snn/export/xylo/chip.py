"""The integer arithmetic of the Xylo chip, over many samples at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_HIDDEN, MAX_OUTPUTS = 1000, 8
MAX_INPUT_SPIKES, MAX_SPIKES, MAX_OUTPUT_SPIKES = 15, 31, 1
"""Per timestep: of an input channel, of a hidden neuron, of an output neuron."""
LOW, HIGH = -(2**15), 2**15 - 1
"""Bounds of a state."""
RANGES = {
    "weights": (np.int8, -128, 127),
    "weight_shift": (np.int8, 0, 8),  # shifted by more, a weight would not fit 16 bits
    "threshold": (np.int16, 1, HIGH),
    "bias": (np.int16, LOW, HIGH),
    "dash": (np.uint8, 1, 15),  # 0 would empty a state in every timestep
}


class XyloState(NamedTuple):
    """Integers, (B, K) for hidden and (B, n) for output neurons; recordings have T in front.

    Attributes:
        isyn, isyn_out: synaptic currents after their decay.
        vmem, vmem_out: membranes after their reset.
        spk, spk_out: spikes of the timestep.
    """

    isyn: NDArray
    vmem: NDArray
    spk: NDArray
    isyn_out: NDArray
    vmem_out: NDArray
    spk_out: NDArray


@dataclass(frozen=True, eq=False)
class XyloChip:
    """What a Xylo chip is configured with, named as in Rockpool's ``XyloSim.from_specification``.

    A timestep, where states saturate at 16 bits after every single spike that arrives::

        isyn += counts @ weights_in · 2^weight_shift_in       at most 15 spikes per channel
        isyn += spk @ weights_rec · 2^weight_shift_rec        spikes of the timestep before
        isyn −= decay(isyn, dash_syn)
        vmem += isyn − decay(vmem, dash_mem) + bias
        spk   = min(⌊vmem / threshold⌋, 31), 0 below threshold
        vmem −= spk · threshold

    decay(v, dash) = ⌊v / 2^dash⌋, but 1 for smaller positive v. Output neurons do the same with
    ``weights_out`` and the spikes of the timestep before, and emit 1 spike at most.

    Attributes:
        weights_in, weights_rec, weights_out: (channels, K), (K, K) and (K, n), −128 to 127, from
            row to column.
        weight_shift_in, weight_shift_rec, weight_shift_out: 0 to 8, for all weights of one kind.
        threshold, threshold_out: (K,) and (n,), 1 to 32,767.
        bias, bias_out: (K,) and (n,), −32,768 to 32,767.
        dash_mem, dash_mem_out, dash_syn, dash_syn_out: (K,) and (n,), 1 to 15.

    Raises:
        ValueError: more than 1,000 hidden or 8 output neurons, shapes that do not fit one another,
            or anything but integers in these ranges.

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

    weights_in: NDArray
    weights_rec: NDArray
    weights_out: NDArray
    weight_shift_in: int
    weight_shift_rec: int
    weight_shift_out: int
    threshold: NDArray
    threshold_out: NDArray
    bias: NDArray
    bias_out: NDArray
    dash_mem: NDArray
    dash_mem_out: NDArray
    dash_syn: NDArray
    dash_syn_out: NDArray

    def __post_init__(self) -> None:
        hidden, outputs = len(self.threshold), len(self.threshold_out)
        for what, count, most in (
            ("hidden neurons", hidden, MAX_HIDDEN), ("output neurons", outputs, MAX_OUTPUTS),
        ):  # fmt: skip
            if count > most:
                raise ValueError(
                    f"a Xylo chip has at most {most} {what}, got {count}: train a model or a "
                    "readout with fewer"
                )
        for field in fields(self):
            out, kind = field.name.endswith("_out"), field.name.split("_")[0]
            if kind == "weights":
                rows = len(self.weights_in) if field.name == "weights_in" else hidden
                shape: tuple[int, ...] = (rows, outputs if out else hidden)
            else:
                shape = () if kind == "weight" else (outputs if out else hidden,)
            values = _integers(getattr(self, field.name), field.name, shape)
            object.__setattr__(self, field.name, int(values) if shape == () else values)

    def steps(self, counts: Iterable[Any], bias: NDArray | None = None) -> Iterator[XyloState]:
        """The state after each timestep.

        Args:
            counts: per timestep, input spikes of shape (B, channels).
            bias: one for each sample, (B, K), in place of the chip's own.
        """
        into = _Synapses(self.weights_in, self.weight_shift_in, MAX_INPUT_SPIKES)
        lateral = _Synapses(self.weights_rec, self.weight_shift_rec, MAX_SPIKES)
        readout = _Synapses(self.weights_out, self.weight_shift_out, MAX_SPIKES)
        hidden = _Neurons(
            self.threshold, self.bias if bias is None else bias, self.dash_mem, self.dash_syn,
            MAX_SPIKES,
        )  # fmt: skip
        outputs = _Neurons(
            self.threshold_out, self.bias_out, self.dash_mem_out, self.dash_syn_out,
            MAX_OUTPUT_SPIKES,
        )  # fmt: skip
        state: XyloState | None = None
        for arriving in map(np.asarray, counts):
            if state is None:
                rest = np.zeros((len(arriving), len(self.threshold)), np.int32)
                rest_out = np.zeros((len(arriving), len(self.threshold_out)), np.int32)
                state = XyloState(rest, rest, rest, rest_out, rest_out, rest_out)
            isyn = lateral.deliver(state.spk, into.deliver(arriving, state.isyn))
            isyn_out = readout.deliver(state.spk, state.isyn_out)
            state = XyloState(
                *hidden.evolve(isyn, state.vmem), *outputs.evolve(isyn_out, state.vmem_out)
            )
            yield state

    def run(self, counts: NDArray, bias: NDArray | None = None) -> XyloState:
        """All states of all timesteps, (T, B, ·), for counts of shape (T, B, channels)."""
        narrow = ([part.astype(np.int16) for part in state] for state in self.steps(counts, bias))
        return XyloState(*map(np.stack, zip(*narrow, strict=True)))


def _integers(values: Any, name: str, shape: tuple[int, ...]) -> NDArray:
    """``values`` as the integers that the chip stores under that name."""
    kind = "weight_shift" if name.startswith("weight_shift") else name.split("_")[0]
    dtype, least, most = RANGES[kind]
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.kind not in "iu" or ((array < least) | (array > most)).any():
        raise ValueError(
            f"{name} must be integers in [{least}, {most}], got {array.dtype} "
            f"from {array.min(initial=0)} to {array.max(initial=0)}"
        )
    return array.astype(dtype)


class _Synapses:
    """Delivers spikes: in one product where no state can saturate, in the chip's order elsewhere.

    Args:
        weights: (sources, targets).
        shift: of the weights.
        most: spikes of one source that are delivered.
    """

    def __init__(self, weights: NDArray, shift: int, most: int) -> None:
        self.weights = weights.astype(np.int32) << shift
        self.shift, self.most = shift, most
        exact = 128 * most * len(weights) < 2**24  # then float32 products hold integers exactly
        wide = weights.astype(np.float32 if exact else np.float64)
        self.parts = np.concatenate([wide.clip(min=0), wide.clip(max=0)], axis=1)

    def deliver(self, counts: NDArray, isyn: NDArray) -> NDArray:
        """``isyn`` of shape (B, targets) after ``counts`` of shape (B, sources) have arrived."""
        counts = np.minimum(counts, self.most)
        sums = counts.astype(self.parts.dtype) @ self.parts
        # What is that far out is unsafe in any case, and must not overflow here.
        sums = sums.clip(4 * LOW, 4 * HIGH).astype(np.int32) << self.shift
        excitation, inhibition = np.split(sums, 2, axis=1)
        total = isyn + excitation + inhibition
        # On the way the state is nowhere above isyn + excitation, nor below isyn + inhibition.
        unsafe = (isyn + excitation > HIGH) | (isyn + inhibition < LOW)
        if unsafe.any():
            sample, target = np.nonzero(unsafe)
            state = isyn[sample, target]
            for source in np.flatnonzero(counts.any(axis=0)):
                # Spikes of one source push the same way, so that one bound serves them all.
                change = counts[sample, source] * self.weights[source, target]
                state = (state + change).clip(LOW, HIGH)
            total[sample, target] = state
        return total


class _Neurons:
    """Integrates, emits and resets a population that spikes ``most`` times per timestep."""

    def __init__(
        self, threshold: NDArray, bias: NDArray, dash_mem: NDArray, dash_syn: NDArray, most: int
    ) -> None:
        self.threshold, self.bias = threshold.astype(np.int32), bias.astype(np.int32)
        self.dash_mem, self.dash_syn = dash_mem.astype(np.int32), dash_syn.astype(np.int32)
        self.most = most

    def evolve(self, isyn: NDArray, vmem: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """``isyn``, ``vmem`` and ``spk`` after a timestep."""
        isyn = isyn - _decay(isyn, self.dash_syn)
        change = (isyn - _decay(vmem, self.dash_mem)).clip(LOW, HIGH)
        change = (change + self.bias).clip(LOW, HIGH)
        vmem = (vmem + change).clip(LOW, HIGH)
        spk = (vmem // self.threshold).clip(0, self.most)
        return isyn, vmem - spk * self.threshold, spk


def _decay(state: NDArray, dash: NDArray) -> NDArray:
    change = state >> dash
    return change + ((state > 0) & (change == 0))
