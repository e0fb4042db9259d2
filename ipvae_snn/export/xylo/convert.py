"""Models as integrate-and-fire networks of 8-bit weights and 16-bit states for the Xylo chip."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_finite, require_number
from ipvae_snn.export.xylo.chip import HIGH, LOW, MAX_INPUT_SPIKES, MAX_SPIKES, XyloChip
from ipvae_snn.export.xylo.network import XyloNetwork, checked_inputs
from ipvae_snn.models.ipvae import IPVAE

CHANNELS, FANOUT = 16, 64
"""Input channels of Xylo, and targets per neuron of Xylo Audio. Source: SynSense's overview,
https://rockpool.ai/devices/xylo-overview.html. xylosim knows neither limit."""
WEIGHT_MAX = 127
ROOM = HIGH // (2 * MAX_SPIKES)
"""Largest threshold: a membrane then holds twice the spikes that one timestep can carry."""
KEEP, PASS = 15, 1
"""dash of membranes, which lose 1 LSB per timestep, and of synapses, which pass half of what they
hold: no dash is slower than the one, and none faster than the other."""
WEAKEST = 0.01
"""Features with less of the largest diag(G) get thresholds as if they had so much: they act more
slowly, and do not take the range of the 8 bits from the others."""
READOUT_SAMPLES, READOUT_STEPS = 64, 64


def to_xylo(
    model: IPVAE,
    data: Tensor,
    *,
    gain: float = 1.0,
    threshold: float = 2.5,
    input_as: str = "spikes",
    readout: nn.Linear | None = None,
) -> XyloNetwork:
    r"""Convert a model to integers for the Xylo chip.

    The neurons become integrate-and-fire neurons, with thresholds θ = threshold · diag(G) and a
    self-connection that returns what a spike takes beyond diag(G):

    .. math::
        v_t &= v_{t−1} + gain (d − b) + z_{t−1} (diag(θ) − G) \\
        z_t &= ⌊v_t / θ⌋, \quad v_t ← v_t − z_t θ

    so that z_t = z_{t−1} + (gain (d − b) − z_{t−1} G + v_{t−1} − v_t) / θ: a gradient step on the
    reconstruction error plus a cost b per spike, where v carries the rounding error on. The chip's
    synapses spread each term over a few timesteps. A scale per neuron makes its largest recurrent
    weight 127.

    Args:
        model: a trained :class:`~ipvae_snn.IPVAE` of at most 1,000 neurons.
        data: (N, M), inputs as they will come: the input range is theirs, and the readout's.
        gain: spikes per spike of the model; fewer reconstruct less finely.
        threshold: θ in units of diag(G), at least 1.5. Neurons act all at once: too low, they
            overshoot together; too high, codes move slowly and 8 bits resolve G less.
        input_as: ``"spikes"``, events on one input channel per pixel, or two where data has
            negative values; ``"bias"``, no channels, but a configuration of the chip per input.
        readout: an ``nn.Linear(K, n)``, n ≤ 8, on the counts of the model, for n output neurons. A
            spike in every timestep stands for its largest output over the first 64 of ``data``;
            outputs below 0 are silent.

    Returns:
        :class:`~ipvae_snn.export.xylo.network.XyloNetwork`; ``notes`` say what is approximated.

    Raises:
        TypeError: ``model`` is no IPVAE, ``readout`` no ``nn.Linear``, data not floating point.
        ValueError: more neurons or outputs than the chip has; a leak, or no lateral inhibition,
            which have no counterpart; data of another shape, not finite or all 0; options out of
            range; a readout of another width, or without any positive output.

    >>> net = to_xylo(IPVAE(16, 32), torch.rand(20, 16))
    >>> net.run(torch.rand(5, 16), num_steps=10).spk.shape
    (10, 5, 32)
    """
    _check_model(model)
    values = checked_inputs(data, model.in_features, "data")
    peak, signed = float(np.abs(values).max()), bool(values.min() < 0)
    if not peak:
        raise ValueError("data must not be all zeros: its range becomes that of the input")
    gain = require_number(gain, "gain", least=1e-3, most=1e3)
    reach = require_number(threshold, "threshold", least=1.5, most=1e3)
    if input_as not in ("spikes", "bias"):
        raise ValueError(f"input_as must be 'spikes' or 'bias', got {input_as!r}")

    gram = model.neuron.lateral_scale * _array(model.neuron.gram())
    unit = np.diag(gram).clip(min=WEAKEST * np.diag(gram).max())
    feedback = np.eye(len(unit)) - gram / (reach * unit)  # in thresholds of the neuron it reaches
    largest = np.abs(feedback).max(axis=0)
    shift = int(np.log2(ROOM / WEIGHT_MAX * largest.min()).clip(0))
    theta = np.floor((WEIGHT_MAX << shift) / largest).clip(1)
    lateral = _Rounded(feedback * theta)

    per_nat = gain * theta / (reach * unit)
    drive = _array(F.drive_weight(model.decoder.weight, model.log_scale)) * per_nat
    spikes_per_unit, into = 0.0, _Rounded(drive[:0])
    if input_as == "spikes":
        spikes_per_unit = _spikes_per_unit(float(np.abs(drive).max()), peak)
        on = drive / spikes_per_unit
        into = _Rounded(np.stack([on, -on], axis=1).reshape(-1, len(unit)) if signed else on)
    bias = -_array(model.neuron.log_bias.exp()) * per_nat
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
            dash_mem=np.full(len(unit), KEEP),
            dash_mem_out=none,
            dash_syn=np.full(len(unit), PASS),
            dash_syn_out=none,
        ),
        weight=(_array(model.decoder.weight) / gain).astype(np.float32),
        drive=drive,
        spikes_per_unit=spikes_per_unit,
        notes=(
            "neuron: integrate-and-fire with subtract reset in place of e^u and a Poisson draw",
            "clamps and the initial membrane: left out",
            f"input gain {gain:.3g}, thresholds {reach:.3g} times diag(G), at most {MAX_SPIKES} "
            "spikes per timestep",
            f"lateral weights: 8 bits, off by {lateral.error:.1%} rms; each neuron reaches up to "
            f"{fanout}" + (f", Xylo Audio has {FANOUT}: simulated only" if fanout > FANOUT else ""),
            _input_note(into, spikes_per_unit, model.in_features),
        ),
    )
    return net if readout is None else _with_readout(net, readout, data, gain)


def _spikes_per_unit(largest: float, peak: float) -> float:
    """As many as ``peak`` allows, so that the ``largest`` weight of a spike is 127 · 2^shift."""
    shift = math.ceil(math.log2(largest * peak / (MAX_INPUT_SPIKES * WEIGHT_MAX)))
    return largest / (WEIGHT_MAX << max(shift, 0))


def _input_note(into: "_Rounded", spikes_per_unit: float, pixels: int) -> str:
    channels = len(into.weights)
    if not channels:
        return "input: a bias per neuron, configured for each input, which saturates at 16 bits"
    return (
        f"input: {pixels} values need {channels} channels"
        + (f", the chip has {CHANNELS}: simulated only" if channels > CHANNELS else "")
        + f"; 8-bit weights, off by {into.error:.1%} rms; values beyond "
        f"{MAX_INPUT_SPIKES / spikes_per_unit:.3g} saturate"
    )


class _Rounded:
    """Weights as 8-bit integers with one shift for all, the smallest that fits the largest.

    Attributes:
        weights, shift: weights ≈ integers · 2^shift.
        error: root mean square of what rounding changed, over that of the weights.
    """

    def __init__(self, weights: NDArray) -> None:
        largest = float(np.abs(weights).max(initial=WEIGHT_MAX))
        self.shift = math.ceil(math.log2(largest / WEIGHT_MAX) - 1e-9)
        self.weights = np.rint(weights / 2**self.shift).astype(np.int64)
        missed = float(np.linalg.norm((self.weights << self.shift) - weights))
        self.error = missed / max(float(np.linalg.norm(weights)), 1e-30)


def _with_readout(net: XyloNetwork, readout: nn.Linear, data: Tensor, gain: float) -> XyloNetwork:
    """``net`` with output neurons, in units that let the largest output spike all the time."""
    if not isinstance(readout, nn.Linear):
        raise TypeError(f"readout must be an nn.Linear, got {type(readout).__name__}")
    features, outputs = len(net.chip.threshold), readout.out_features
    if readout.in_features != features:
        raise ValueError(f"readout must take {features} counts, got {readout.in_features}")
    if not outputs:
        raise ValueError("readout must have at least one output")
    for name, values in readout.state_dict().items():
        require_finite(values, f"readout.{name}")
    weight = _array(readout.weight).T / gain
    bias = np.zeros(outputs) if readout.bias is None else _array(readout.bias)
    spk = list(net.unroll(data[:READOUT_SAMPLES], READOUT_STEPS))[READOUT_STEPS // 2 :]
    top = float((torch.stack(spk).mean(0).numpy() @ weight + bias).max())
    if not top > 0:
        raise ValueError(
            f"the largest output of the readout over data is {top:.3g}: output neurons only spike "
            "for positive ones, raise its bias"
        )
    scale = min(WEIGHT_MAX / float(np.abs(weight).max(initial=1e-30)), HIGH / (4 * top))
    out = _Rounded(weight * scale)
    chip = replace(
        net.chip,
        weights_out=out.weights,
        weight_shift_out=out.shift,
        threshold_out=np.full(outputs, max(round(top * scale), 1)),
        bias_out=np.rint(bias * scale).clip(LOW, HIGH).astype(np.int64),
        dash_mem_out=np.full(outputs, KEEP),
        dash_syn_out=np.full(outputs, PASS),
    )
    note = f"readout: a spike per timestep stands for {top:.3g}, 8 bits off by {out.error:.1%} rms"
    return replace(net, chip=chip, notes=(*net.notes, note))


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().cpu().double().numpy()


def _check_model(model: IPVAE) -> None:
    if not isinstance(model, IPVAE):
        raise TypeError(f"to_xylo converts an IPVAE, got {type(model).__name__}")
    for name, values in model.state_dict().items():
        require_finite(values, name)
        if bool((values.abs() > 1e6).any()):
            raise ValueError(f"{name} holds {float(values.abs().max()):.3g}: train the model first")
    if model.neuron.leak:
        raise ValueError(
            f"the leak of {model.neuron.leak:g} pulls log rates to mem_init, which the chip's "
            "membranes are not: train a model without leak"
        )
    if not model.neuron.lateral_scale > 0 or not bool(model.decoder.weight.any()):
        raise ValueError(
            "thresholds are taken from lateral_scale · G, which is 0 here: train the model first, "
            "with a lateral_scale above 0"
        )
