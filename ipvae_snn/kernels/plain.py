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

from ipvae_snn import functional as F
from ipvae_snn.kernels.adjoint import Adjoint
from ipvae_snn.kernels.spec import UnrollResult, UnrollSpec, narrow


def forward(spec: UnrollSpec) -> UnrollResult:
    """All timesteps; memory grows with T only by what is returned or kept."""
    stacks = {name: spec.stack(name) for name in ("spk", "mem", "quad", "kl")}
    saved = None
    if spec.keep:
        shape = (spec.steps, *spec.mem.shape)
        saved = spec.empty(*shape), spec.empty(*shape, dtype=spec.count_dtype())
    spk, mem, product = spec.spk, spec.mem, spec.product()
    inhibition = product(spk)
    for t in range(spec.steps):
        drive, prior = spec.drive_at(t), mem
        mem = _fused(F.membrane_step, mem)(
            mem,
            drive,
            inhibition if spec.scale == 1 else spec.scale * inhibition,
            step=spec.step,
            bias=spec.bias,
            leak=spec.leak,
            mem_rest=spec.rest,
            clamp=spec.clamp,
        )
        spk = spec.draw(mem)
        inhibition = product(spk)
        if saved is not None:
            saved[0][t], saved[1][t] = mem, narrow(spk, saved[1].dtype)
        if stacks["quad"] is not None:
            stacks["quad"][t] = _fused(_likelihood, mem)(spk, inhibition, drive)
        if stacks["kl"] is not None:
            stacks["kl"][t] = _fused(_divergence, mem)(mem, prior, spec.kl_form)
        if (t + 1) % spec.every == 0:
            for name, value in (("spk", spk), ("mem", mem)):
                stack = stacks[name]
                if stack is not None:
                    stack[t // spec.every] = value
    return UnrollResult(**stacks, last_spk=spk, last_mem=mem, saved=saved)


def _likelihood(spk: Tensor, inhibition: Tensor, drive: Tensor) -> Tensor:
    return F.gaussian_nll_gram(spk, inhibition, drive, drive.new_zeros(()), 0)


def _divergence(mem: Tensor, prior: Tensor, form: str) -> Tensor:
    return F.poisson_kl(mem, prior, form).sum(-1)


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
    floor = math.exp(-F.MEM_FLOOR) * (1 - 64 * torch.finfo(mem.dtype).eps)
    by_mem, by_current = _passed(mem, before, clamp)
    above = by_mem / rate
    inside = by_current * rate_before / rate  # e^−h
    if inhibition is not None:
        current = drive - scale * inhibition - bias - leak * (before - rest)
        epsilon = _exp_minus(clamp)
        inside = torch.exp((-step * current).clamp(max=-F.MEM_FLOOR))
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
