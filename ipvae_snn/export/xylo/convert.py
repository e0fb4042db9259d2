"""Converts a model to integrate-and-fire neurons with 8-bit weights for the Xylo chip."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_finite, require_number
from ipvae_snn.export.constants import Floats, ModelConstants, linear_gaussian, samples
from ipvae_snn.export.xylo.chip import HIGH, LOW, MAX_INPUT_SPIKES, MAX_SPIKES, XyloChip
from ipvae_snn.export.xylo.network import XyloNetwork

CHANNELS, FANOUT = 16, 64
"""Input channels of Xylo, and targets per neuron of Xylo Audio; xylosim has neither limit. Source:
SynSense's overview, https://rockpool.ai/devices/xylo-overview.html."""
WEIGHT_MAX = 127
MAX_THRESHOLD = HIGH // (2 * MAX_SPIKES)
"""A membrane can then hold the spikes of two timesteps."""
DASH_MEM, DASH_SYN = 15, 1
"""The slowest decay, 1 LSB per timestep, for membranes, and the fastest, by half, for synapses."""
MIN_DIAGONAL = 0.01
"""Weaker features, as a fraction of the largest diag(G), get the threshold of this one: they act
more slowly, and leave the range of the 8 bits to the others."""
READOUT_SAMPLES, READOUT_STEPS = 64, 64


def to_xylo(
    model: Any,
    data: Tensor,
    *,
    gain: float = 1.0,
    threshold: float = 2.5,
    input_as: str = "spikes",
    readout: nn.Linear | None = None,
) -> XyloNetwork:
    r"""Convert a model to integers for the Xylo chip.

    The neurons become integrate-and-fire neurons with thresholds θ = threshold · diag(G). A
    self-connection returns what the reset subtracts beyond diag(G):

    .. math::
        v_t &= v_{t−1} + gain (d − b) + z_{t−1} (diag(θ) − G) \\
        z_t &= ⌊v_t / θ⌋, \quad v_t ← v_t − z_t θ

    so that z_t = z_{t−1} + (gain (d − b) − z_{t−1} G + v_{t−1} − v_t) / θ: gradient descent on the
    reconstruction error plus a cost b per spike, where v carries the rounding error over. The
    chip's synapses spread each term over a few timesteps. A scale per neuron makes its largest
    recurrent weight 127.

    Args:
        model: a trained :class:`~ipvae_snn.IPVAE` of at most 1,000 neurons.
        data: (N, M), typical inputs: they set the input range, and the scale of the readout.
        gain: spikes per spike of the model; fewer spikes reconstruct more coarsely.
        threshold: θ in units of diag(G), at least 1.5. Neurons act all at once: if it is too low,
            they overshoot together; if too high, codes change slowly and 8 bits resolve G less.
        input_as: ``"spikes"``: events on one input channel per pixel, or two if data has negative
            values. ``"bias"``: no channels; each input configures the biases of the chip.
        readout: an ``nn.Linear(K, n)`` on the counts of the model, n ≤ 8, for n output neurons. One
            spike per timestep represents the largest output over the first 64 of ``data``;
            negative outputs are silent.

    Returns:
        :class:`~ipvae_snn.export.xylo.network.XyloNetwork`; ``notes`` say what is approximated.

    Raises:
        TypeError: ``model`` is not an IPVAE, ``readout`` not an ``nn.Linear``, data not floating
            point.
        ValueError: more neurons or outputs than the chip has; a leak, or no lateral inhibition,
            which the chip cannot represent; data of another shape, not finite or all 0; options out
            of range; a readout of another width, or without any positive output.

    >>> from ipvae_snn import IPVAE
    >>> net = to_xylo(IPVAE(16, 32), torch.rand(20, 16))
    >>> net.run(torch.rand(5, 16), num_steps=10).spk.shape
    (10, 5, 32)
    """
    c = linear_gaussian(model)
    _require_convertible(model, c)
    values = samples(data, len(c.weight), "data")
    peak, signed = float(np.abs(values).max()), bool(values.min() < 0)
    if not peak:
        raise ValueError("data must not be all zeros: its range becomes that of the input")
    gain = require_number(gain, "gain", least=1e-3, most=1e3)
    threshold = require_number(threshold, "threshold", least=1.5, most=1e3)
    if input_as not in ("spikes", "bias"):
        raise ValueError(f"input_as must be 'spikes' or 'bias', got {input_as!r}")

    diagonal = np.diag(c.gram)
    unit = diagonal.clip(min=MIN_DIAGONAL * diagonal.max())
    feedback = np.eye(len(unit)) - c.gram / (threshold * unit)  # in thresholds of the target
    largest = np.abs(feedback).max(axis=0)
    shift = int(np.log2(MAX_THRESHOLD / WEIGHT_MAX * largest.min()).clip(0))
    theta = np.floor((WEIGHT_MAX << shift) / largest).clip(1)
    lateral = _Int8Weights(feedback * theta)

    per_nat = gain * theta / (threshold * unit)
    drive = c.drive_weight * per_nat
    spikes_per_unit, into = 0.0, _Int8Weights(drive[:0])
    if input_as == "spikes":
        spikes_per_unit = _spikes_per_unit(float(np.abs(drive).max()), peak)
        on = drive / spikes_per_unit
        into = _Int8Weights(np.stack([on, -on], axis=1).reshape(-1, len(unit)) if signed else on)
    bias = -c.bias * per_nat
    if np.abs(bias).max() > HIGH:
        raise ValueError(
            f"tonic inhibition is up to {np.abs(bias / theta).max():.3g} thresholds of a neuron "
            "per timestep: its features are too weak to fire, train the model first"
        )
    if into.shift > 8:
        raise ValueError(
            f"input of up to {peak:.3g} with gain {gain:.3g} drives membranes beyond 16 bits: "
            "scale data to about [-1, 1] or to unit variance, train the model on such data, or "
            "lower gain"
        )
    none = np.zeros(0, np.int64)
    fanout = int((lateral.weights != 0).sum(axis=1).max())
    net = XyloNetwork(
        XyloChip(
            weights_in=into.weights,
            weights_rec=lateral.weights,
            weights_out=np.zeros((len(unit), 0), np.int64),
            weight_shift_in=into.shift,
            weight_shift_rec=lateral.shift,
            weight_shift_out=0,
            threshold=theta.astype(np.int64),
            threshold_out=none,
            bias=np.rint(bias).astype(np.int64),
            bias_out=none,
            dash_mem=np.full(len(unit), DASH_MEM),
            dash_mem_out=none,
            dash_syn=np.full(len(unit), DASH_SYN),
            dash_syn_out=none,
        ),
        weight=(c.weight / gain).astype(np.float32),
        drive=drive,
        spikes_per_unit=spikes_per_unit,
        notes=(
            "neuron: integrate-and-fire with subtract reset in place of e^u and a Poisson draw",
            "clamps and the initial membrane: left out",
            f"input gain {gain:.3g}, thresholds {threshold:.3g} times diag(G), at most "
            f"{MAX_SPIKES} spikes per timestep",
            f"lateral weights: 8 bits, off by {lateral.error:.1%} rms; each neuron reaches up to "
            f"{fanout}" + (f", Xylo Audio has {FANOUT}: simulated only" if fanout > FANOUT else ""),
            _input_note(into, spikes_per_unit, len(c.weight)),
        ),
    )
    return net if readout is None else _with_readout(net, readout, data, gain)


def _spikes_per_unit(largest: float, peak: float) -> float:
    """As many as ``peak`` allows, so that the ``largest`` weight of a spike is 127 · 2^shift."""
    shift = math.ceil(math.log2(largest * peak / (MAX_INPUT_SPIKES * WEIGHT_MAX)))
    return largest / (WEIGHT_MAX << max(shift, 0))


def _input_note(into: "_Int8Weights", spikes_per_unit: float, pixels: int) -> str:
    channels = len(into.weights)
    if not channels:
        return "input: a bias per neuron, configured for each input, which saturates at 16 bits"
    return (
        f"input: {pixels} values need {channels} channels"
        + (f", the chip has {CHANNELS}: simulated only" if channels > CHANNELS else "")
        + f"; 8-bit weights, off by {into.error:.1%} rms; values beyond "
        f"{MAX_INPUT_SPIKES / spikes_per_unit:.3g} saturate"
    )


class _Int8Weights:
    """8-bit integers with one shift for all, the smallest that the largest weight allows.

    Attributes:
        weights, shift: weights ≈ integers · 2^shift.
        error: root mean square of the rounding errors, relative to that of the weights.
    """

    def __init__(self, weights: Floats) -> None:
        largest = float(np.abs(weights).max(initial=WEIGHT_MAX))
        self.shift = math.ceil(math.log2(largest / WEIGHT_MAX) - 1e-9)
        self.weights = np.rint(weights / 2**self.shift).astype(np.int64)
        error = float(np.linalg.norm((self.weights << self.shift) - weights))
        self.error = error / max(float(np.linalg.norm(weights)), 1e-30)


def _with_readout(net: XyloNetwork, readout: nn.Linear, data: Tensor, gain: float) -> XyloNetwork:
    """``net`` with output neurons, scaled so that the largest output is one spike per timestep."""
    if not isinstance(readout, nn.Linear):
        raise TypeError(f"readout must be an nn.Linear, got {type(readout).__name__}")
    features, outputs = len(net.chip.threshold), readout.out_features
    if readout.in_features != features:
        raise ValueError(f"readout must take {features} counts, got {readout.in_features}")
    if not outputs:
        raise ValueError("readout must have at least one output")
    for name, values in readout.state_dict().items():
        require_finite(values, f"readout.{name}")
    state = {name: values.cpu().double().numpy() for name, values in readout.state_dict().items()}
    weight, bias = state["weight"].T / gain, state.get("bias", np.zeros(outputs))
    spk = list(net.unroll(data[:READOUT_SAMPLES], READOUT_STEPS))[READOUT_STEPS // 2 :]
    top = float((torch.stack(spk).mean(0).numpy() @ weight + bias).max())
    if not top > 0:
        raise ValueError(
            f"the largest output of the readout over data is {top:.3g}: output neurons spike "
            "only for positive outputs, raise its bias"
        )
    scale = min(WEIGHT_MAX / float(np.abs(weight).max(initial=1e-30)), HIGH / (4 * top))
    quantised = _Int8Weights(weight * scale)
    chip = replace(
        net.chip,
        weights_out=quantised.weights,
        weight_shift_out=quantised.shift,
        threshold_out=np.full(outputs, max(round(top * scale), 1)),
        bias_out=np.rint(bias * scale).clip(LOW, HIGH).astype(np.int64),
        dash_mem_out=np.full(outputs, DASH_MEM),
        dash_syn_out=np.full(outputs, DASH_SYN),
    )
    note = f"readout: a spike per timestep stands for {top:.3g}, 8 bits off by "
    return replace(net, chip=chip, notes=(*net.notes, f"{note}{quantised.error:.1%} rms"))


def _require_convertible(model: nn.Module, constants: ModelConstants) -> None:
    for name, values in model.state_dict().items():
        require_finite(values, name)
        if bool((values.abs() > 1e6).any()):
            raise ValueError(f"{name} holds {float(values.abs().max()):.3g}: train the model first")
    if constants.leak:
        raise ValueError(
            f"the leak of {constants.leak / constants.step:g} pulls log rates to mem_init, but the "
            "chip's membranes are not log rates: train a model without leak"
        )
    if not constants.lateral_scale > 0 or not constants.weight.any():
        raise ValueError(
            "thresholds are taken from lateral_scale · G, which is 0 here: train the model first, "
            "with a lateral_scale above 0"
        )
