"""The equations of a timestep in PyTorch, without checks: what the time loops call.

:mod:`ipvae_snn.functional` has the same functions with checks, shapes and sources.
"""

import torch
from torch import Tensor

MEM_FLOOR = -8.0
"""Lower clamp of the membrane, in nats: e⁻⁸, one spike in 3,000 timesteps."""


def soft_clamp(v: Tensor, clamp: float | Tensor | None, floor: float = MEM_FLOOR) -> Tensor:
    if clamp is None:
        return v
    return clamp - torch.nn.functional.softplus(clamp - v.clamp(min=floor))


def membrane_step(
    mem: Tensor,
    drive: Tensor,
    inhibition: Tensor | float,
    *,
    step: Tensor | float,
    bias: Tensor | float,
    leak: float,
    mem_rest: Tensor | float,
    clamp: float | Tensor | None,
) -> Tensor:
    current = drive - inhibition - bias
    if leak:
        current = current - leak * (mem - mem_rest)
    return soft_clamp(mem + soft_clamp(step * current, clamp), clamp)


def poisson_kl(mem: Tensor, mem_prior: Tensor, form: str = "exact") -> Tensor:
    delta = mem - mem_prior
    # 1 + e^Δ(Δ − 1) = Δ + (Δ − 1)(e^Δ − 1); the right side loses fewer digits where Δ is small.
    divergence = delta + (delta - 1) * torch.expm1(delta)
    return torch.exp(mem if form == "published" else mem_prior) * divergence


def poisson_kl_sum(mem: Tensor, mem_prior: Tensor, form: str) -> Tensor:
    """:func:`poisson_kl` summed over neurons, (..., K) to (...)."""
    return poisson_kl(mem, mem_prior, form).sum(-1)


def spike_energy(spk: Tensor, inhibition: Tensor, drive: Tensor) -> Tensor:
    """z·(zG/2 − d), shape (...): the part of the Gaussian NLL that depends on the spikes."""
    return 0.5 * (spk * (inhibition - 2 * drive)).sum(-1)
