"""Converts a trained model to integers: bits, exponents and tables of every constant."""

import math
from typing import Any

import numpy as np
import torch

from ipvae_snn._utils.checks import require_finite, require_number
from ipvae_snn.export.constants import Floats, ModelConstants, linear_gaussian
from ipvae_snn.export.fixed_point.arithmetic import Ints, clamp_table, exp_table, fixed, log_table
from ipvae_snn.export.fixed_point.network import EMISSIONS, FixedPoint, require_declared
from ipvae_snn.functional import MEM_FLOOR

__all__ = ["FixedPoint", "to_fixed_point"]

CLAMP_MAX = 10.0
"""Largest clamp, that of the paper: rates up to e¹⁰ leave 16 fraction bits of 32, enough to resolve
the rate e⁻⁸ at the lower bound of the membrane."""


def to_fixed_point(
    model: Any,
    weight_bits: int = 8,
    state_bits: int = 16,
    *,
    emission: str = "rounded",
    input_bits: int = 12,
    input_range: float = 8.0,
) -> FixedPoint:
    """Convert a trained model to integers.

    Weights include α, Λ and the lateral scale. They are integers times a power of two: one for all
    lateral weights, so that inhibition stays symmetric, and one per neuron for input weights, some
    of which Λ makes large. The power of two minimises the squared error, so that a few large
    weights may saturate. The diagonal of G is not a weight but a reset, stored in full precision:
    with 4-bit weights, membranes are unstable otherwise.

    Args:
        model: a trained :class:`~ipvae_snn.IPVAE`, on any device; its estimator does not matter.
        weight_bits: 2 to 16, of weights, sign included. Below 6, check the fidelity: with too few
            bits membranes run away.
        state_bits: 8 to 16, of membranes, from −8 nats to the clamp. Increments below one unit are
            dithered, so that none is lost on average.
        emission: ``"rounded"``, z = round(e^u), or ``"poisson"``.
        input_bits: 2 to 16, of inputs, sign included.
        input_range: a power of two; inputs beyond ± this saturate. With 12 bits, the default suits
            both whitened patches (8 standard deviations) and pixels in [0, 1] (256 levels).

    Raises:
        TypeError: ``model`` is not an IPVAE.
        ValueError: options out of range; weights that are not finite or too large; a clamp above
            10; a neuron with ``state_quant``.

    >>> from ipvae_snn import IPVAE
    >>> to_fixed_point(IPVAE(16, 32), weight_bits=4, emission="poisson").label
    'fixed point, 4-bit weights, poisson'
    """
    constants = linear_gaussian(model)
    _require_convertible(constants, emission)
    weight_bits = require_declared(weight_bits, "weight_bits")
    state_bits = require_declared(state_bits, "state_bits")
    input_bits = require_declared(input_bits, "input_bits")
    input_fraction = input_bits - 1 - _exponent(input_range)
    decoder, step, leak = constants.weight, constants.step, constants.leak
    clamp, mem_init = constants.clamp, constants.mem_init
    feed = step * constants.drive_weight
    inhibit = constants.lateral_scale * feed.T @ decoder  # G in float64, also of float32 models
    bias = step * constants.bias - leak * mem_init
    for name, values in (("decoder", decoder), ("input", feed), ("lateral", inhibit)):
        require_finite(torch.from_numpy(values), f"the {name} weight, with step and scales,")
    require_finite(torch.from_numpy(bias), "the bias")

    spike_bits = math.ceil(math.log2(math.exp(clamp) + 8 * math.exp(clamp / 2) + 8))
    mem_fraction = state_bits - 1 - math.ceil(math.log2(max(clamp, -MEM_FLOOR)))
    rate_fraction = min(20, 31 - math.ceil(clamp / math.log(2)))
    # The worst-case sums determine how many fraction bits fit 32 bits; rounding of the weights at
    # most doubles them.
    max_drive = 2 * input_range * np.abs(feed).sum(0)
    max_inhibition = 2 * 2**spike_bits * np.abs(inhibit).sum(0)
    max_acc = (max_drive + max_inhibition + np.abs(bias) + 16 * leak + 32).max()
    acc_fraction = min(19, math.floor(31 - math.log2(max_acc)))
    if acc_fraction <= mem_fraction:
        raise ValueError(
            f"currents up to {max_acc:.3g} nats in units of 2^-{mem_fraction + 1} do not fit 32 "
            "bits: lower state_bits, the weights or neuron.clamp"
        )
    spare_bits = np.floor(30 - np.log2(np.maximum(max_drive, 1)))
    input_weight, input_exponent = _quantise(feed, weight_bits, spare_bits - input_fraction, axis=0)
    reset = np.diag(inhibit)
    lateral_weight = inhibit - np.diag(reset)
    lateral, lateral_exponent = _quantise(lateral_weight, weight_bits, np.array(acc_fraction))
    leak_exponent = 14 - math.ceil(math.log2(max(leak, 2.0**-10)))
    readout, decoder_exponent = _quantise(decoder, 16, np.array(60))
    unit, top = 2.0**-mem_fraction, 2.0 ** (state_bits - 1 - mem_fraction)
    return FixedPoint(
        emission=emission,
        weight_bits=weight_bits,
        state_bits=state_bits,
        input_bits=input_bits,
        spike_bits=spike_bits,
        input_fraction=input_fraction,
        mem_fraction=mem_fraction,
        acc_fraction=acc_fraction,
        rate_fraction=rate_fraction,
        lateral_shift=acc_fraction - int(lateral_exponent.item()),
        leak=round(leak * 2.0**leak_exponent),
        leak_shift=acc_fraction - mem_fraction - leak_exponent,
        decoder_fraction=int(decoder_exponent.item()),
        input_weight=input_weight,
        input_shift=(acc_fraction - input_fraction - input_exponent[0]).astype(np.int8),
        lateral=lateral,
        reset=fixed(reset, acc_fraction),
        bias=fixed(bias, acc_fraction),
        mem_init=fixed(np.clip(mem_init, -top, top - unit), mem_fraction),
        decoder=readout,
        clamp_table=clamp_table(clamp, acc_fraction),
        exp_table=exp_table(mem_fraction, state_bits, clamp, rate_fraction),
        log_table=log_table(rate_fraction),
        notes=(
            f"weights of {weight_bits} bits: those of the input, with one power of two per "
            f"neuron, are off by {_error(feed, input_weight, input_exponent):.2g} of their norm; "
            "the lateral ones, with one for all, are off by "
            f"{_error(lateral_weight, lateral, lateral_exponent):.2g}",
            f"the reset of a neuron, its own lateral weight, has {acc_fraction} fraction bits; the "
            "decoder has 16 bits",
            f"membranes of {state_bits} bits in units of {unit:g} nats saturate at {-top:g} and "
            f"{top - unit:g}; increments below a unit are dithered",
            f"inputs of {input_bits} bits in units of {2.0**-input_fraction:g}: values outside "
            f"[{-input_range:g}, {input_range - 2.0**-input_fraction:g}] saturate",
            "soft clamp and exponential are interpolated tables with up to 64 entries per nat",
            {
                "rounded": "spikes are rates rounded to integers, without sampling noise",
                "poisson": "spikes are Poisson counts made of 32-bit random words",
            }[emission]
            + f"; counts saturate at {2**spike_bits - 1}",
        ),
    )


def _error(weights: Floats, quantised: Ints, exponent: Floats) -> float:
    """Norm of the error of :func:`_quantise`, relative to that of the weights."""
    norm = max(np.linalg.norm(weights), np.finfo(float).tiny)
    return float(np.linalg.norm(quantised * 2.0**-exponent - weights) / norm)


def _quantise(
    weights: Floats, bits: int, max_exponent: Floats, axis: int | None = None
) -> tuple[Ints, Floats]:
    """Integers within ±(2^(bits − 1) − 1), and exponents: weights ≈ integers · 2^−exponent.

    The exponents minimise the squared error: fine units saturate the largest weights, coarse ones
    round many small weights to 0.

    Args:
        weights: (rows, columns).
        bits: of the integers, sign included.
        max_exponent: upper bound of the exponents.
        axis: 0 for one exponent per column, ``None`` for a single one.
    """
    limit = 2 ** (bits - 1) - 1
    peak = np.abs(weights).max(axis, keepdims=True)
    coarsest = np.floor(np.log2(limit / np.where(peak > 0, peak, limit)))
    best, exponent, error = np.zeros_like(weights), coarsest, np.full_like(peak, np.inf)
    for finer in range(5):
        trial = np.minimum(coarsest + finer, max_exponent)
        rounded = np.clip(np.rint(weights * 2**trial), -limit, limit)
        trial_error = np.square(rounded * 2**-trial - weights).sum(axis, keepdims=True)
        better = trial_error < error
        best = np.where(better, rounded, best)
        exponent, error = np.where(better, trial, exponent), np.where(better, trial_error, error)
    return best.astype(np.int16), exponent


def _require_convertible(constants: ModelConstants, emission: str) -> None:
    if emission not in EMISSIONS:
        raise ValueError(f"emission must be one of {EMISSIONS}, got {emission!r}")
    if constants.state_quant:
        raise ValueError("state_quant cannot be exported: state_bits rounds the membrane")
    if constants.clamp > CLAMP_MAX:
        raise ValueError(
            f"a clamp of {constants.clamp:g} nats allows rates that do not fit 32 bits: set "
            f"model.neuron.clamp to at most {CLAMP_MAX:g}"
        )


def _exponent(input_range: float) -> int:
    exponent = math.log2(require_number(input_range, "input_range", least=2**-20, most=2**20))
    if exponent % 1:
        raise ValueError(f"input_range must be a power of two, such as 8, got {input_range}")
    return int(exponent)
