"""Runs a model on some samples, and measures all that the signatures test."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.models.base import BaseModel

CHUNK = 20
"""Timesteps per call of ``run``, to bound memory."""


@dataclass(frozen=True)
class Observation:
    """Measurements on N samples over T timesteps; *late* means the second half of them.

    Attributes:
        free_energy, r2: free energy F_t and R² of the rates at each timestep, means over samples,
            shape (T,).
        top: maximum of the membranes at each timestep, mean over samples, shape (T,); ``None`` if
            ``mem`` is not a log rate.
        dispersion: Σ (z − λ)² / Σ λ of late counts, 1 for Poisson counts; ``None`` if the code is
            not counts.
        expected: Σ λ of late counts.
        swing: root mean square change of the rates between late timesteps, relative to the rates.
        turning: correlation of successive changes of the rates, late; −1 if they alternate.
        clamped: portion of late spikes with a membrane within one nat of the clamp; ``None`` if
            there is no clamp.
        active: mean portion of neurons that spike in a late timestep.
        counts: mean magnitudes of late codes, shape (N, K); of maps a row for each place.
        weight: Φ, shape (M, K).
        x, x_hat: samples, and their reconstructions from mean late codes, shape (N, M); of images
            a row for each channel.
        gradient: magnitude of the gradient through the spikes of each neuron, shape (K,); ``None``
            if the model has no parameter to measure it by.
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
    """Run ``model`` on samples (N, M), or (N, C, H, W), in ``eval()`` mode, and take one gradient.

    The model is left unchanged.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.seeded(seed):
            measured = _run(model, x, num_steps)
        model.train()  # in eval mode relaxed counts are integers and have no gradient
        gradient = _gradient(model, x, seed)
    finally:
        model.train(training)
    return Observation(**measured, weight=model.weight.detach(), x=_rows(x), gradient=gradient)


def _rows(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as rows of pixels, a channel each; flat samples as they are."""
    return images if images.ndim == 2 else images.flatten(0, 1).flatten(1)


def _run(model: BaseModel, x: Tensor, num_steps: int) -> dict[str, Any]:
    curves: dict[str, list[Tensor]] = {"free_energy": [], "r2": [], "top": []}
    sums = dict.fromkeys(
        ("deviation", "expected", "power", "spikes", "clamped", "active", "turn", "change"), 0.0
    )
    code_sum, counts = (torch.zeros((), device=x.device) for _ in range(2))
    state, done, late_from = None, 0, num_steps // 2
    near_clamp = math.inf if model.clamp is None else model.clamp - 1.0
    last_rates: list[Tensor] = []  # of up to two timesteps
    while done < num_steps:
        steps = min(CHUNK, num_steps - done)
        out = model.run(x, steps, state=state)
        for t in range(steps):
            spk, mem = out.spk[t], out.mem[t]
            rate = model.mean_code(mem)
            curves["free_energy"].append((out.nll[t] + out.kl[t]).mean())
            x_hat = model.reconstruct(rate, x)
            curves["r2"].append(metrics.r2(x.flatten(1), x_hat.flatten(1)))
            curves["top"].append(mem.flatten(1).amax(1).mean())
            if done + t < late_from:
                continue
            code_sum, counts = code_sum + spk, counts + spk.abs()
            sums["active"] += float((spk != 0).float().mean())
            if model.emits_counts:
                sums["deviation"] += float((spk - rate).square().sum())
                sums["expected"] += float(rate.sum())
                sums["spikes"] += float(spk.sum())
                sums["clamped"] += float((spk * (mem > near_clamp)).sum())
            if len(last_rates) == 2:
                change, next_change = last_rates[1] - last_rates[0], rate - last_rates[1]
                sums["turn"] += float((change * next_change).sum())
                sums["change"] += float((change.square() + next_change.square()).sum() / 2)
                sums["power"] += float(rate.square().sum())
            last_rates = [*last_rates[-1:], rate]
        state, done = out.state, done + steps
    length = num_steps - late_from
    measured: dict[str, Any] = {name: torch.stack(values).cpu() for name, values in curves.items()}
    dispersion = sums["deviation"] / max(sums["expected"], 1e-12)
    clamped = sums["clamped"] / max(sums["spikes"], 1.0)
    return measured | {
        "top": measured["top"] if model.emits_counts else None,
        "dispersion": dispersion if model.emits_counts else None,
        "expected": sums["expected"],
        "swing": (sums["change"] / max(sums["power"], 1e-12)) ** 0.5,
        "turning": sums["turn"] / max(sums["change"], 1e-12),
        "clamped": clamped if model.emits_counts and model.clamp is not None else None,
        "active": sums["active"] / length,
        "counts": model.code_rows(counts[None])[0] / length,
        "x_hat": _rows(model.reconstruct(code_sum / length, x)),
    }


def _gradient(model: BaseModel, x: Tensor, seed: int, num_steps: int = 16) -> Tensor | None:
    """|∂NLL/∂probe| per neuron, where the probe acts on the NLL through spikes only."""
    probe = model.gradient_probe()
    if probe is None:
        return None
    requires_grad = probe.requires_grad
    try:
        probe.requires_grad_(True)
        with torch.enable_grad(), model.seeded(seed):
            loss = model.run(x[:50], num_steps, record=("nll",)).nll.mean()
            if not loss.requires_grad:
                return torch.zeros_like(probe)
            (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    finally:
        probe.requires_grad_(requires_grad)
    return torch.zeros_like(probe) if gradient is None else gradient.detach().abs()
