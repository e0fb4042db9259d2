"""What a model does with some samples: everything that the findings are drawn from."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.models.base import BaseModel

CHUNK = 20


@dataclass(frozen=True)
class Observation:
    """A run of N samples for T timesteps; *settled* means its second half.

    Attributes:
        free_energy, r2: F_t and R² of the rates at each timestep, means over samples, shape (T,).
        top: the highest membrane at each timestep, (T,); ``None`` where ``mem`` is no log rate.
        dispersion: Σ (z − λ)² / Σ λ of settled counts; 1 for a Poisson law. ``None`` for a code
            that is no counts.
        expected: Σ λ of settled counts.
        swing: change of the rates from one settled timestep to the next, relative to the rates,
            root mean square.
        turning: correlation of one change of the rates with the next, settled; −1 where they
            go up and down by turns.
        clamped: share of the settled spikes that were given within one nat of the clamp; ``None``
            where there is none.
        active: mean share of neurons that spike at a settled timestep.
        counts: mean magnitudes of settled codes, shape (N, K).
        weight: Φ, shape (M, K).
        x, x_hat: samples and their reconstructions from mean settled counts, shape (N, M).
        gradient: size of the gradient that reaches each neuron through its spikes, shape (K,);
            ``None`` where the model has nothing to measure it by.
    """

    free_energy: Tensor
    r2: Tensor
    top: Tensor | None
    dispersion: float | None
    expected: float
    swing: float
    turning: float
    clamped: float | None
    active: float
    counts: Tensor
    weight: Tensor
    x: Tensor
    x_hat: Tensor
    gradient: Tensor | None


def observe(model: BaseModel, x: Tensor, num_steps: int, seed: int) -> Observation:
    """Run ``model`` on samples of shape (N, M), in ``eval()`` mode, and take one gradient.

    The model is left as it was.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.seeded(seed):
            seen = _run(model, x, num_steps)
        model.train()  # relaxed counts are exact in eval mode, and pass nothing back
        gradient = _gradient(model, x, seed)
    finally:
        model.train(training)
    return Observation(**seen, weight=model.weight.detach(), x=x, gradient=gradient)


def _run(model: BaseModel, x: Tensor, num_steps: int) -> dict[str, Any]:
    curves: dict[str, list[Tensor]] = {"free_energy": [], "r2": [], "top": []}
    sums = dict.fromkeys(
        ("off", "expected", "power", "spikes", "clamped", "active", "turn", "change"), 0.0
    )
    code_sum = torch.zeros(len(x), model.latents, device=x.device)
    counts = torch.zeros_like(code_sum)
    state, done, settled = None, 0, num_steps // 2
    high = math.inf if model.clamp is None else model.clamp - 1.0
    last: list[Tensor] = []  # of rates
    while done < num_steps:
        steps = min(CHUNK, num_steps - done)
        out = model.run(x, steps, state=state)
        for t in range(steps):
            spk, mem = out.spk[t], out.mem[t]
            rate = model.mean_code(mem)
            curves["free_energy"].append((out.nll[t] + out.kl[t]).mean())
            curves["r2"].append(metrics.r2(x, model.decode(rate)))
            curves["top"].append(mem.amax(1).mean())
            if done + t >= settled:
                code_sum += spk
                counts += spk.abs()
                sums["active"] += float((spk != 0).float().mean())
                if model.emits_counts:
                    sums["off"] += float((spk - rate).square().sum())
                    sums["expected"] += float(rate.sum())
                    sums["spikes"] += float(spk.sum())
                    sums["clamped"] += float((spk * (mem > high)).sum())
                if len(last) == 2:
                    before, now = last[1] - last[0], rate - last[1]
                    sums["turn"] += float((before * now).sum())
                    sums["change"] += float((before.square() + now.square()).sum() / 2)
                    sums["power"] += float(rate.square().sum())
                last = [*last[-1:], rate]
        state, done = out.state, done + steps
    length = num_steps - settled
    seen: dict[str, Any] = {name: torch.stack(values).cpu() for name, values in curves.items()}
    dispersion = sums["off"] / max(sums["expected"], 1e-12)
    clamped = sums["clamped"] / max(sums["spikes"], 1.0)
    return seen | {
        "top": seen["top"] if model.emits_counts else None,
        "dispersion": dispersion if model.emits_counts else None,
        "expected": sums["expected"],
        "swing": (sums["change"] / max(sums["power"], 1e-12)) ** 0.5,
        "turning": sums["turn"] / max(sums["change"], 1e-12),
        "clamped": clamped if model.emits_counts and model.clamp is not None else None,
        "active": sums["active"] / length,
        "counts": counts / length,
        "x_hat": model.decode(code_sum / length),
    }


def _gradient(model: BaseModel, x: Tensor, seed: int, num_steps: int = 16) -> Tensor | None:
    """|∂NLL/∂probe| per neuron, of a parameter that acts through spikes alone."""
    probe = model.gradient_probe()
    if probe is None:
        return None
    asked = probe.requires_grad
    try:
        probe.requires_grad_(True)
        with torch.enable_grad(), model.seeded(seed):
            loss = model.run(x[:50], num_steps, record=("nll",)).nll.mean()
            if not loss.requires_grad:
                return torch.zeros_like(probe)
            (found,) = torch.autograd.grad(loss, probe, allow_unused=True)
    finally:
        probe.requires_grad_(asked)
    return torch.zeros_like(probe) if found is None else found.detach().abs()
