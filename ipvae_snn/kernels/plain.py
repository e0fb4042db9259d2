"""The unroll in PyTorch operations: any dtype, any device, any exact estimator.

On a GPU no decision in the loops over timesteps depends on a value: the loop never waits for the
GPU, and can be recorded whole (:mod:`~ipvae_snn.kernels.cuda_graphs`).
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn.kernels import equations
from ipvae_snn.kernels.adjoint import Adjoint, draw_of
from ipvae_snn.kernels.loop import Moment, State, Timestep, record
from ipvae_snn.kernels.spec import UnrollResult, UnrollSpec, to_count_dtype


class PlainTimestep(Timestep):
    """A timestep of a spec in PyTorch operations.

    Args:
        spec: its tensors are read in every timestep, and so may be changed in place.
        product: z ↦ zG, default the dense product.
    """

    def __init__(self, spec: UnrollSpec, product: Callable[[Tensor], Tensor] | None = None) -> None:
        self.spec, self.product = spec, product or spec.product()

    def send(self, spk: Tensor, t: int) -> Tensor:
        return self.product(spk)

    def integrate(self, now: Moment, t: int) -> Tensor:
        spec, inhibition = self.spec, now.sent
        mem: Tensor = _fused(equations.membrane_step, now.mem)(
            now.mem,
            spec.drive_at(t),
            inhibition if spec.lateral_scale == 1 else spec.lateral_scale * inhibition,
            step=spec.step_size,
            bias=spec.bias,
            leak=spec.leak,
            mem_rest=spec.mem_rest,
            clamp=spec.clamp,
        )
        return mem

    def emit(self, mem: Tensor) -> Tensor:
        return draw_of(self.spec, mem)

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        value: Tensor
        if name == "saved_mem":
            return now.mem
        if name == "saved_counts":
            return to_count_dtype(now.spk, self.spec.count_dtype())
        if name == "quad":
            spike_energy = _fused(equations.spike_energy, now.mem)
            value = spike_energy(now.spk, now.sent, self.spec.drive_at(t))
        else:
            kl_sum = _fused(equations.poisson_kl_sum, now.mem)
            value = kl_sum(now.mem, now.mem_before, self.spec.kl_form)
        return value


def forward(spec: UnrollSpec) -> UnrollResult:
    """All timesteps; memory grows with T only by what is recorded or saved."""
    to_save = ("saved_mem", "saved_counts") if spec.save else ()
    timestep, start = PlainTimestep(spec), State(spec.spk, spec.mem)
    names = (*spec.fields, *to_save)
    values, last = record(timestep, start, spec.steps, names, spec.every, in_place=True)
    fields = {name: values.get(name) for name in ("spk", "mem", "quad", "kl")}
    saved = (values["saved_mem"], values["saved_counts"]) if spec.save else None
    return UnrollResult(**fields, last_spk=last.spk, last_mem=last.mem, saved=saved)


def _fused(function: Callable[..., Any], like: Tensor) -> Callable[..., Any]:
    """Compiled into one kernel on a GPU; the function itself on the CPU."""
    return _compiled(function) if like.device.type == "cuda" else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled, usable = torch.compile(function, dynamic=False), True

    @wraps(function)
    def attempt(*arguments: Any, **options: Any) -> Any:
        nonlocal usable
        if usable:
            try:
                return compiled(*arguments, **options)
            except Exception as error:  # missing or broken compiler: of any type
                usable = False
                warnings.warn(f"running uncompiled: {error}", RuntimeWarning, stacklevel=2)
        return function(*arguments, **options)

    return attempt


SATURATED = 0.1
"""Smallest du'/dh that is computed from membranes alone; below, too many digits cancel."""


class PlainAdjoint(Adjoint):
    """The backward pass of a timestep from saved membranes and counts."""

    def _timestep(self, t: int, slope: Tensor | None) -> None:
        spec, mem = self.spec, self.mems[t]
        values = Values(
            mem,
            mem_before=self.mems[t - 1] if t else spec.mem,
            counts=self.counts[t],
            counts_before=self.counts[t - 1] if t else None,
            drive=spec.drive_at(t),
            inhibition_before=self._inhibition_before(t),
            slope=slope,
        )
        grads = Grads(
            self.mem_grad,
            spk=self.spk_grad,
            product=self.product,
            quad=self.quad_grad[t, :, None],
            quad_before=self.quad_grad[t - 1, :, None] if t else None,
            kl=self.kl_grad[t, :, None],
        )
        settings = Settings(*(getattr(spec, name) for name in Settings._fields))
        out = _fused(backward, mem)(values, grads, settings)
        self.mem_grad, self.product_input, gram_factor, drive_grad, bias_sum, step_sum = out
        self.gram_factor[self._slot(t - 1)] = gram_factor
        self._drive_grad(t).add_(drive_grad)
        self.bias_sum += bias_sum
        self.step_sum += step_sum

    def _inhibition_before(self, t: int) -> Tensor | None:
        """zG of the previous timestep, where h cannot be computed from membranes at a clamp.

        Costs a product. The CPU looks for membranes near their clamp; a GPU does not look at
        values, and follows ``recompute_inhibition``.
        """
        mem, mem_before = self.mems[t], self.mems[t - 1] if t else self.spec.mem
        if mem.device.type == "cpu":
            by_current = _clamp_derivatives(mem, mem_before, self.spec.clamp)[1]
            needed = bool((by_current < SATURATED).any())
        else:
            needed = self.spec.recompute_inhibition
        if not needed:
            return None
        return self.spec.product()(self.counts[t - 1].to(mem.dtype) if t else self.spec.spk)


class Values(NamedTuple):
    """A timestep forward; ``*_before`` are of the previous one."""

    mem: Tensor
    mem_before: Tensor
    counts: Tensor
    counts_before: Tensor | None
    drive: Tensor
    inhibition_before: Tensor | None
    slope: Tensor | None


class Grads(NamedTuple):
    """Gradients that reach a timestep; of ``product`` that of later spikes, p_t Gᵀ."""

    mem: Tensor
    spk: Tensor | None
    product: Tensor
    quad: Tensor
    quad_before: Tensor | None
    kl: Tensor


class Settings(NamedTuple):
    """Fields of :class:`UnrollSpec` that the backward pass of a timestep needs."""

    step_size: Tensor
    bias: Tensor
    mem_rest: Tensor
    clamp: float | Tensor
    lateral_scale: float
    leak: float
    kl_form: str


def backward(values: Values, grads: Grads, settings: Settings) -> tuple[Tensor, ...]:
    """The backward pass of one timestep: pure and element-wise, except for sums.

    With r = 1/λ and ε = e^−c the clamped step is r' = ε + min(r (ε + min(e^−h, e⁸)), e⁸). Its
    derivatives are du'/du = 1 − ελ' and du'/dh = 1 − ελ'(1 + 1/λ), and 0 at a floor. Where they
    would be differences of nearly equal numbers, they are computed from h (``inhibition_before``).
    """
    mem, mem_before, counts, counts_before, drive, inhibition, slope = values
    step_size, bias, mem_rest, clamp, lateral_scale, leak, kl_form = settings
    spk = counts.to(mem.dtype)
    rate, rate_before, x = mem.exp(), mem_before.exp(), mem - mem_before
    if kl_form == "published":
        grown = x.exp()
        kl_by_mem = rate * (1 + grown * (2 * x - 1))
        kl_by_mem_before = -rate * grown * x
    else:
        kl_by_mem, kl_by_mem_before = rate * x, rate_before - rate
    grad = grads.mem + grads.kl * kl_by_mem
    if slope is not None:
        spk_grad = grads.product - grads.quad * drive
        grad = grad + slope * (spk_grad if grads.spk is None else spk_grad + grads.spk)
    # e⁸, but for the rounding of a stored membrane.
    floor = math.exp(-equations.MEM_FLOOR) * (1 - 64 * torch.finfo(mem.dtype).eps)
    by_mem, by_current = _clamp_derivatives(mem, mem_before, clamp)
    above = by_mem / rate
    inside = by_current * rate_before / rate  # e^−h
    if inhibition is not None:
        current = drive - lateral_scale * inhibition - bias - leak * (mem_before - mem_rest)
        epsilon = _exp_minus(clamp)
        inside = torch.exp((-step_size * current).clamp(max=-equations.MEM_FLOOR))
        above = (epsilon + inside) / rate_before
        by_mem = above / (above + epsilon)
        by_current = inside / rate_before / (above + epsilon)
    grad = grad * (above < floor)
    h_grad = grad * (inside < floor) * by_current
    mem_grad = grad * by_mem + grads.kl * kl_by_mem_before
    by_inhibition = -step_size * lateral_scale * h_grad
    if leak:
        mem_grad = mem_grad - step_size * leak * h_grad
    product_input = gram_factor = by_inhibition
    if counts_before is not None and grads.quad_before is not None:
        quad_part = grads.quad_before * counts_before
        product_input, gram_factor = by_inhibition + quad_part, by_inhibition + quad_part / 2
    h = -torch.log(inside.clamp(min=torch.finfo(mem.dtype).tiny))
    step_sum = (h_grad * h).sum(dtype=torch.float64)
    drive_grad = step_size * h_grad - grads.quad * spk
    return mem_grad, product_input, gram_factor, drive_grad, h_grad.sum(0), step_sum


def _clamp_derivatives(
    mem: Tensor, mem_before: Tensor, clamp: float | Tensor
) -> tuple[Tensor, Tensor]:
    """du'/du and du'/dh of a clamped step, floors aside, from the membranes alone."""
    epsilon = _exp_minus(clamp)
    by_mem = 1 - epsilon * mem.exp()
    return by_mem, by_mem - epsilon * torch.exp(mem - mem_before)


def _exp_minus(clamp: float | Tensor) -> float | Tensor:
    return torch.exp(-clamp) if isinstance(clamp, Tensor) else math.exp(-clamp)
