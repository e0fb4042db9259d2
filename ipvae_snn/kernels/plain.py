"""The unroll in PyTorch operations: any dtype, any device, any exact estimator.

On a GPU nothing in the loops over timesteps looks at a value, so that it never waits for the host
and the whole loop can be recorded (:mod:`~ipvae_snn.kernels.cuda_graphs`).
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels import equations
from ipvae_snn.kernels.adjoint import Adjoint
from ipvae_snn.kernels.loop import Moment, State, Timestep, record
from ipvae_snn.kernels.spec import UnrollResult, UnrollSpec, to_count_dtype


class PlainTimestep(Timestep):
    """A timestep of a spec in PyTorch operations.

    Args:
        spec: the tensors are read at every timestep: who changes them in place changes the next.
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
            inhibition if spec.scale == 1 else spec.scale * inhibition,
            step=spec.step,
            bias=spec.bias,
            leak=spec.leak,
            mem_rest=spec.rest,
            clamp=spec.clamp,
        )
        return mem

    def emit(self, mem: Tensor) -> Tensor:
        return self.spec.draw(mem)

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        value: Tensor
        if name == "saved_mem":
            return now.mem
        if name == "saved_counts":
            return to_count_dtype(now.spk, self.spec.count_dtype())
        if name == "quad":
            value = _fused(equations.spike_energy, now.mem)(
                now.spk, now.sent, self.spec.drive_at(t)
            )
        else:
            value = _fused(equations.poisson_kl_sum, now.mem)(
                now.mem, now.before, self.spec.kl_form
            )
        return value


def forward(spec: UnrollSpec) -> UnrollResult:
    """All timesteps; memory grows with T only by what is returned or saved."""
    saved = ("saved_mem", "saved_counts") if spec.keep else ()
    values, last = record(
        PlainTimestep(spec), State(spec.spk, spec.mem), spec.steps, (*spec.fields, *saved),
        spec.every, in_place=True,
    )  # fmt: skip
    fields = {name: values.get(name) for name in ("spk", "mem", "quad", "kl")}
    kept = (values[saved[0]], values[saved[1]]) if saved else None
    return UnrollResult(**fields, last_spk=last.spk, last_mem=last.mem, saved=kept)


def _fused(function: Callable[..., Any], like: Tensor) -> Callable[..., Any]:
    """One GPU kernel for a chain of element-wise operations; the function itself on the CPU."""
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
            except Exception as error:  # whatever a compiler that is missing or ill may raise
                usable = False
                warnings.warn(f"running uncompiled: {error}", RuntimeWarning, stacklevel=2)
        return function(*arguments, **options)

    return attempt


SATURATED = 0.1
"""Part of a step that the clamps let through, below which it is not had from the membranes."""


class PlainAdjoint(Adjoint):
    """The adjoint of a timestep from the membranes and counts of the saved alone."""

    def _step(self, t: int, slope: Tensor | None) -> None:
        spec, mem = self.spec, self.mems[t]
        before = self.mems[t - 1] if t else spec.mem
        found = _fused(_back, mem)(
            mem,
            before,
            self.counts[t],
            self.counts[t - 1] if t else None,
            spec.drive_at(t),
            self.product,
            slope,
            self.spk_grad,
            self.carry,
            self.quad_grad[t, :, None],
            self.kl_grad[t, :, None],
            self.quad_grad[t - 1, :, None] if t else None,
            spec.step,
            spec.bias,
            spec.rest,
            spec.clamp,
            self._earlier_inhibition(t, mem, before),
            scale=spec.scale,
            leak=spec.leak,
            published=spec.kl_form == "published",
        )
        self.carry, self.push, half, to_drive, to_bias, step_sum = found
        self.half[self._slot(t - 1)] = half
        self._drive_grad(t).add_(to_drive)
        self.bias_sum += to_bias
        self.step_sum += step_sum

    def _earlier_inhibition(self, t: int, mem: Tensor, before: Tensor) -> Tensor | None:
        """zG of the timestep before, another product, where a clamp hides what went in.

        The CPU looks for membranes near their clamp; a GPU is not asked, and always takes it
        where clamp and KL are such that it matters.
        """
        if mem.device.type == "cpu":
            needed = bool((_passed(mem, before, self.spec.clamp)[1] < SATURATED).any())
        else:
            needed = self.spec.careful
        if not needed:
            return None
        return self.spec.product()(self.counts[t - 1].to(mem.dtype) if t else self.spec.spk)


def _back(
    mem: Tensor,
    before: Tensor,
    counts: Tensor,
    counts_before: Tensor | None,
    drive: Tensor,
    product: Tensor,
    slope: Tensor | None,
    spk_grad: Tensor | None,
    carry: Tensor,
    quad: Tensor,
    kl: Tensor,
    quad_before: Tensor | None,
    step: Tensor,
    bias: Tensor,
    rest: Tensor,
    clamp: float | Tensor,
    inhibition: Tensor | None,
    *,
    scale: float,
    leak: float,
    published: bool,
) -> tuple[Tensor, ...]:
    """The adjoint of one timestep: pure and element-wise, but for sums.

    With r = 1/λ and ε = e^−c the clamped step is r' = ε + min(r (ε + min(e^−h, e⁸)), e⁸), whose
    derivatives are du'/du = 1 − ελ' and du'/dh = 1 − ελ'(1 + 1/λ), 0 where a floor was taken.
    Where both come out of nearly equal numbers they are had from h itself (``inhibition``).
    """
    spk = counts.to(mem.dtype)
    rate, rate_before, x = mem.exp(), before.exp(), mem - before
    if published:
        grown = x.exp()
        to_mem, to_before = rate * (1 + grown * (2 * x - 1)), -rate * grown * x
    else:
        to_mem, to_before = rate * x, rate_before - rate
    grad = carry + kl * to_mem
    if slope is not None:
        to_spk = product - quad * drive
        grad = grad + slope * (to_spk if spk_grad is None else to_spk + spk_grad)
    # e⁸, less what rounding leaves of it in a stored membrane.
    floor = math.exp(-equations.MEM_FLOOR) * (1 - 64 * torch.finfo(mem.dtype).eps)
    by_mem, by_current = _passed(mem, before, clamp)
    above = by_mem / rate
    inside = by_current * rate_before / rate  # e^−h
    if inhibition is not None:
        current = drive - scale * inhibition - bias - leak * (before - rest)
        epsilon = _exp_minus(clamp)
        inside = torch.exp((-step * current).clamp(max=-equations.MEM_FLOOR))
        above = (epsilon + inside) / rate_before
        by_mem = above / (above + epsilon)
        by_current = inside / rate_before / (above + epsilon)
    grad = grad * (above < floor)
    to_h = grad * (inside < floor) * by_current
    carry = grad * by_mem + kl * to_before
    pushed = -step * scale * to_h
    if leak:
        carry = carry - step * leak * to_h
    push = half = pushed
    if counts_before is not None and quad_before is not None:
        earlier = quad_before * counts_before
        push, half = pushed + earlier, pushed + earlier / 2
    h = -torch.log(inside.clamp(min=torch.finfo(mem.dtype).tiny))
    step_sum = (to_h * h).sum(dtype=torch.float64)
    return carry, push, half, step * to_h - quad * spk, to_h.sum(0), step_sum


def _passed(mem: Tensor, before: Tensor, clamp: float | Tensor) -> tuple[Tensor, Tensor]:
    """du'/du and du'/dh of a clamped step, floors aside, from the membranes alone."""
    epsilon = _exp_minus(clamp)
    by_mem = 1 - epsilon * mem.exp()
    return by_mem, by_mem - epsilon * torch.exp(mem - before)


def _exp_minus(clamp: float | Tensor) -> float | Tensor:
    return torch.exp(-clamp) if isinstance(clamp, Tensor) else math.exp(-clamp)
