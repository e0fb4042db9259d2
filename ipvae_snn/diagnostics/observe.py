"""What a model does with some samples: everything that the findings are drawn from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.models.ipvae import IPVAE

CHUNK = 20


@dataclass(frozen=True)
class Observation:
    """A run of N samples for T timesteps; *settled* means its second half.

    Attributes:
        free_energy, r2, top: F_t, R² of the rates, and the highest membrane at each timestep,
            means over samples, shape (T,).
        dispersion: Σ (z − λ)² / Σ λ of settled counts; 1 for a Poisson law.
        expected: Σ λ of settled counts.
        swing: change of the rates from one settled timestep to the next, relative to the rates,
            root mean square.
        turning: correlation of one change of the rates with the next, settled; −1 where they
            go up and down by turns.
        clamped: share of the settled spikes that were given within one nat of the clamp.
        active: mean share of neurons that spike at a settled timestep.
        counts: mean settled counts, shape (N, K).
        weight: Φ, shape (M, K).
        x, x_hat: samples and their reconstructions from mean settled counts, shape (N, M).
        gradient: size of the gradient that reaches each neuron through its spikes, shape (K,).
    """

    free_energy: Tensor
    r2: Tensor
    top: Tensor
    dispersion: float
    expected: float
    swing: float
    turning: float
    clamped: float
    active: float
    counts: Tensor
    weight: Tensor
    x: Tensor
    x_hat: Tensor
    gradient: Tensor


def observe(model: IPVAE, x: Tensor, num_steps: int, seed: int) -> Observation:
    """Run ``model`` on samples of shape (N, M), in ``eval()`` mode, and learn one gradient.

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


def _run(model: IPVAE, x: Tensor, num_steps: int) -> dict:  # type: ignore[type-arg]
    curves: dict[str, list[Tensor]] = {"free_energy": [], "r2": [], "top": []}
    sums = dict.fromkeys(
        ("off", "expected", "power", "spikes", "clamped", "active", "turn", "change"), 0.0
    )
    counts = torch.zeros(len(x), model.latents, device=x.device)
    state, done, settled, high = None, 0, num_steps // 2, model.neuron.clamp - 1.0
    last: list[Tensor] = []  # of rates
    while done < num_steps:
        steps = min(CHUNK, num_steps - done)
        out = model.run(x, steps, state=state)
        for t in range(steps):
            spk, mem = out.spk[t], out.mem[t]
            rate = mem.exp()
            curves["free_energy"].append((out.nll[t] + out.kl[t]).mean())
            curves["r2"].append(metrics.r2(x, model.decode(rate)))
            curves["top"].append(mem.amax(1).mean())
            if done + t >= settled:
                counts += spk
                sums["off"] += float((spk - rate).square().sum())
                sums["expected"] += float(rate.sum())
                sums["spikes"] += float(spk.sum())
                sums["clamped"] += float((spk * (mem > high)).sum())
                sums["active"] += float((spk > 0).float().mean())
                if len(last) == 2:
                    before, now = last[1] - last[0], rate - last[1]
                    sums["turn"] += float((before * now).sum())
                    sums["change"] += float((before.square() + now.square()).sum() / 2)
                    sums["power"] += float(rate.square().sum())
                last = [*last[-1:], rate]
        state, done = out.state, done + steps
    length = num_steps - settled
    counts /= length
    return {
        **{name: torch.stack(values).cpu() for name, values in curves.items()},
        "dispersion": sums["off"] / max(sums["expected"], 1e-12),
        "expected": sums["expected"],
        "swing": (sums["change"] / max(sums["power"], 1e-12)) ** 0.5,
        "turning": sums["turn"] / max(sums["change"], 1e-12),
        "clamped": sums["clamped"] / max(sums["spikes"], 1.0),
        "active": sums["active"] / length,
        "counts": counts,
        "x_hat": model.decode(counts),
    }


def _gradient(model: IPVAE, x: Tensor, seed: int, num_steps: int = 16) -> Tensor:
    """|∂NLL/∂log b| per neuron: on the NLL, tonic inhibition acts through spikes alone."""
    bias = model.neuron.log_bias
    asked = bias.requires_grad
    try:
        bias.requires_grad_(True)
        with torch.enable_grad(), model.seeded(seed):
            out = model.run(x[:50], num_steps, record="nll")
            loss = out.nll.mean()
            if not loss.requires_grad:
                return torch.zeros_like(bias)
            (found,) = torch.autograd.grad(loss, bias, allow_unused=True)
    finally:
        bias.requires_grad_(asked)
    return torch.zeros_like(bias) if found is None else found.detach().abs()
