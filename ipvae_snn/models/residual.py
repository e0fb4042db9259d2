"""Inference by residuals: current = Φᵀ Λ (x − Φ z), which may weigh each value of each sample.

Where every sample has all its values, a flat linear model takes the Gram form, drive − zG, with one
G for all. Where values are missing, or have a precision of their own, each sample has another G:
the residual form has the same currents at the cost of both products with Φ. Maps always have it.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_all_finite,
    require_finite,
    require_fitting,
    require_float,
)
from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels.convolution import MapSpec, infer_maps
from ipvae_snn.kernels.loop import State
from ipvae_snn.neurons import IPVAENeuron
from ipvae_snn.neurons.inference import assumptions_of


def neuron_spec(
    neuron: IPVAENeuron, kl_form: str, *, x: Tensor, weight: Tensor, mask: Tensor | None,
    variance: Tensor | None, spk: Tensor, mem: Tensor, row_ids: Tensor | None,
) -> MapSpec:  # fmt: skip
    """One timestep of neurons (B, h, w, K), as the kernels take it.

    Args:
        neuron: the neurons.
        kl_form: of the model.
        x, weight, mask, spk, mem, row_ids: see :class:`~ipvae_snn.kernels.convolution.MapSpec`.
        variance: diag G, of each place or for all alike, half of which the exact form takes away;
            ``None`` in the published form.
    """
    tonic = neuron.log_bias.exp().reshape(1, -1)
    if variance is not None:
        tonic = tonic + 0.5 * neuron.lateral_scale * variance
    known = assumptions_of(neuron)
    spec = MapSpec(
        x=x, weight=weight, spk=spk, mem=mem, step_size=neuron.log_step.exp(),
        bias=tonic.expand(-1, neuron.features), mem_rest=neuron.mem_init.expand(neuron.features),
        mask=mask, lateral_scale=neuron.lateral_scale, leak=neuron.leak, clamp=neuron.clamp,
        estimator=neuron.spike_grad, law="own" if known is None else known.law,
        slope="own" if known is None else known.slope, kl_form=kl_form, row_ids=row_ids,
    )  # fmt: skip
    require_all_finite(
        x=x, weight=weight, step=spec.step_size, bias=spec.bias, mem_init=spec.mem_rest
    )
    return spec


def inferred(
    neuron: IPVAENeuron,
    spec: MapSpec,
    fields: tuple[str, ...],
    every: int,
    layout: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """The fields of a run, and ``last_spk`` and ``last_mem``; ``nll`` lacks its constant.

    Args:
        neuron: the neurons, whose observers are called.
        spec: of all timesteps.
        fields, every: of the run.
        layout: neurons (..., h, w, K) as the model has them.
    """
    watched = bool(neuron.observers)
    asked = tuple(dict.fromkeys((*fields, "spk", "mem"))) if watched else fields
    out = infer_maps(replace(spec, fields=asked, every=1 if watched else every))
    require_finite(out.last_mem, "the membranes")
    values: dict[str, Any] = {}
    for name in ("spk", "mem", "last_spk", "last_mem"):
        value = getattr(out, name)
        values[name] = None if value is None else layout(value)
    if watched:
        neuron.notify_observers(State(values["spk"], values["mem"]))
    for name in ("spk", "mem") if watched else ():
        values[name] = values[name][every - 1 :: every]
    for name in ("nll", "kl"):
        value = getattr(out, name)
        values[name] = None if value is None else value[every - 1 :: every]
    return values


# -- values that are missing, or known with a precision of their own ----------------------------


class Seen(NamedTuple):
    """Inputs without their missing values, and the precision of each value."""

    x: Tensor
    precision: Tensor

    def nll_constant(self, log_scale: Tensor | None) -> Tensor:
        """Σ log σ + ½ log 2π − ½ log w over the values that were seen, (B,) or (1,)."""
        seen = self.precision > 0
        each = 0.5 * math.log(2 * math.pi) - 0.5 * self.precision.where(seen, 1.0).log()
        each = each if log_scale is None else each + log_scale
        return each.where(seen, 0.0).flatten(1).sum(1)


def seen(x: Any, mask: Any, sample_ndim: int, like: Tensor) -> Seen:
    """Inputs x (B, ...), or (T, B, ...), with what was not seen set to 0.

    Args:
        x: floating-point; NaN and infinity only where the mask is 0.
        mask: 1 where a value was seen and 0 where it was not, or its precision in units of 1 / σ²:
            booleans or numbers ≥ 0 that broadcast to (B, ...). ``"nan"``: NaN were not seen.
        sample_ndim: dimensions of a sample.
        like: a weight of the model.

    Returns:
        x, and the precision (B, ...) or (1, ...), both in the dtype of ``like``.

    Raises:
        TypeError, ValueError: what is wrong with x or the mask.
    """
    require_float(x, "x")
    require_fitting(x, "x", like=like)
    shape = tuple(x.shape[-sample_ndim - 1 :])
    if isinstance(mask, str) and mask == "nan":
        mask = ~x.isnan()
        changing = x.ndim > len(shape)
        if changing and not bool((mask == mask[:1]).all()):
            raise ValueError("what is missing must be the same at all timesteps, got NaN that move")
        mask = mask[0] if changing else mask
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"mask must be a tensor of numbers or 'nan', got {mask!r}")
    require_fitting(mask, "mask", like=like)
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == shape and mask.ndim
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"mask must broadcast to the shape of x, {shape}, got {tuple(mask.shape)}")
    precision = mask.detach().to(like.dtype)
    if not bool((precision >= 0).all() and precision.isfinite().all()):
        raise ValueError("mask must hold precisions, finite numbers of at least 0")
    precision = precision.expand(torch.broadcast_shapes(precision.shape, (1, *shape[1:])))
    x = x.to(like.dtype)
    x = torch.where(precision > 0, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return Seen(x, precision)


def expected_nll(
    residual: Tensor, spread: Tensor, log_scale: Tensor | None, precision: Tensor
) -> Tensor:
    """Mean NLL of counts, from mean and variance of the reconstruction, in nats.

    ½ Σ w / σ² (r² + v) + Σ log σ + ½ log 2π − ½ log w, over the values that were seen.

    Args:
        residual: r = x − E[Φ z], (..., B, M) or (..., B, C, H, W).
        spread: v = Var[Φ z], in the same shape.
        log_scale: log σ of each pixel (M,), or with as many dimensions as a sample; ``None`` for
            σ = 1.
        precision: w, (B, ...) or (1, ...), 0 where nothing was seen.

    Returns:
        (..., B).
    """
    inverse = 1.0 if log_scale is None else torch.exp(-2 * log_scale)
    energy = precision * inverse * (residual.square() + spread)
    given = Seen(residual, precision)
    return 0.5 * energy.flatten(1 - precision.ndim).sum(-1) + given.nll_constant(log_scale)


def pixel_noise(x: Tensor, log_scale: Tensor | None, channel_dim: int = -1) -> Tensor:
    """σ ε in the shape of x, from the generator of the present block; σ = 1 without a log σ.

    Args:
        x: shape (..., M), or (..., C, H, W).
        log_scale: log σ of each pixel (M,), or of each channel (C,).
        channel_dim: the dimension of x, from its end, that log σ belongs to.
    """
    noise = torch.randn(x.shape, generator=source(None, x.device), dtype=x.dtype, device=x.device)
    if log_scale is None:
        return noise
    return noise * log_scale.exp().view(-1, *(1,) * (-1 - channel_dim))
