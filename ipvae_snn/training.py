"""Learning: the recipe of the paper as schedules around one loop."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import functional as F
from ipvae_snn import metrics
from ipvae_snn.baselines import Baseline
from ipvae_snn.checks import (
    require_device,
    require_finite,
    require_float,
    require_number,
    require_seed,
    require_whole,
)
from ipvae_snn.kernels.job import PRECISIONS
from ipvae_snn.model import IPVAE
from ipvae_snn.surrogate.relaxed import Relaxed

ADVICE = "lower the learning rate or the model's clamp, or lengthen clamp_ramp"


@dataclass
class TrainConfig:
    """The recipe; the defaults learn whitened natural patches in a minute or two on a CPU.

    Ramps are fractions of ``iterations``. The paper's own recipe for patches is 155,000 iterations
    with batch 200, lr 5e-3, beta_ramp 0.1; a short run wants a higher learning rate, and a β that
    is not full before the dictionary carries anything. Source: arXiv 2410.19315, appendix.

    Attributes:
        iterations: optimizer steps.
        batch: samples per step.
        steps: T, timesteps per sample.
        burn_in: first timesteps whose NLL does not count, in 0 … T − 1. While a run still looks for
            its answer its error is large, and a σ that must cover it is too large for what comes
            after: leaving these steps out teaches a finer code.
        lr: peak learning rate of Adamax.
        lr_end: learning rate at the end of the cosine.
        warmup: fraction of the iterations over which the learning rate rises.
        weight_decay: L2 on every parameter.
        grad_clip: largest global norm of the gradient; three times that during the warm-up.
        beta: final weight of the KL.
        beta_start: weight of the KL at the first iteration.
        beta_ramp: fraction over which β rises, linearly.
        clamp_start: clamp at the first iteration; it rises to the model's own. Without this, rates
            explode before the dictionary is learned.
        clamp_ramp: fraction over which the clamp rises, linearly.
        temp_start, temp_end: temperature of a relaxed estimator, falling linearly.
        temp_ramp: fraction over which the temperature falls.
        seed: of batches and spikes.
        device: ``"cpu"``, ``"cuda"``, ...
        precision: of the products with G, see :attr:`IPVAE.precision`.
        log_every: iterations between rows of the history.
        progress: show a progress bar.
    """

    iterations: int = 1200
    batch: int = 50
    steps: int = 16
    burn_in: int = 0
    lr: float = 2e-2
    lr_end: float = 1e-5
    warmup: float = 0.005
    weight_decay: float = 3e-4
    grad_clip: float = 300.0
    beta: float = 24.0
    beta_start: float = 1e-4
    beta_ramp: float = 1.0
    clamp_start: float = 2.0
    clamp_ramp: float = 0.1
    temp_start: float = 1.0
    temp_end: float = 0.01
    temp_ramp: float = 0.5
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    log_every: int = 20
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "steps", "log_every"):
            require_whole(getattr(self, name), name)
        require_whole(self.burn_in, "burn_in", least=0)
        if self.burn_in >= self.steps:
            raise ValueError(f"burn_in must be below steps = {self.steps}, got {self.burn_in}")
        require_seed(self.seed)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        for name in ("warmup", "beta_ramp", "clamp_ramp", "temp_ramp"):
            require_number(getattr(self, name), name, least=0, most=1)
        require_number(self.lr, "lr", least=1e-12, most=100)
        require_number(self.grad_clip, "grad_clip", least=1e-12)
        for name in ("temp_start", "temp_end"):
            require_number(getattr(self, name), name, least=1e-6, most=1)
        for name in ("lr_end", "weight_decay", "beta", "beta_start"):
            require_number(getattr(self, name), name, least=0)
        require_number(self.clamp_start, "clamp_start", least=F.MEM_FLOOR + 1)


def linear_ramp(iteration: int, start: float, end: float, length: float) -> float:
    """Value at ``iteration`` of a line from ``start`` to ``end`` over ``length`` iterations.

    >>> [linear_ramp(i, 0.0, 1.0, length=4) for i in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return end if iteration >= length else start + (end - start) * iteration / length


def warmup_cosine(iteration: int, iterations: int, warmup: float, floor: float) -> float:
    """Factor on the learning rate: linear rise over ``warmup``, then half a cosine to ``floor``.

    >>> [round(warmup_cosine(i, 100, warmup=10, floor=0.0), 3) for i in (0, 9, 10, 55, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if iteration < warmup:
        return (iteration + 1) / math.ceil(warmup)
    progress = (iteration - warmup) / max(iterations - warmup, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def fit(
    model: IPVAE | Baseline, data: Tensor, config: TrainConfig | None = None
) -> list[dict[str, float]]:
    """Train ``model`` on ``data`` in place.

    Args:
        model: an :class:`IPVAE`, or one of :mod:`ipvae_snn.baselines`; moved to ``config.device``,
            and left in ``eval()`` mode. An IPVAE has its final clamp again, and a relaxed estimator
            keeps the temperature it ended with. Baselines have neither: their history has no
            ``clamp``.
        data: samples, shape (N, M), floating point.
        config: the recipe; default :class:`TrainConfig`.

    Returns:
        History: a row per ``config.log_every`` iterations and one for the last, with ``iteration``,
        ``loss``, ``nll`` and ``kl`` (nats per sample and timestep), ``r2`` and ``zeros`` of the
        batch at the last timestep, ``beta``, ``clamp``, ``lr`` and ``grad_norm``. Equal seeds
        give equal weights on the CPU, whatever was drawn before.

    Raises:
        TypeError: data is no floating tensor.
        ValueError: wrong shape, fewer samples than one, NaN or infinity in data.
        FloatingPointError: the loss or the gradient stops being finite; the model keeps the
            weights it had before that iteration.

    >>> config = TrainConfig(iterations=4, batch=8, steps=3, log_every=2, progress=False)
    >>> [row["iteration"] for row in fit(IPVAE(16, 8), torch.rand(32, 16), config)]
    [2, 4]
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    require_float(data, "data")
    if data.ndim != 2 or data.shape[1] != model.in_features or not len(data):
        raise ValueError(
            f"data must have shape (N, {model.in_features}) with N ≥ 1, got {tuple(data.shape)}"
        )
    require_finite(data, "data")
    device = require_device(config.device)
    model.to(device).train()
    data = data.to(device=device, dtype=model.decoder.weight.dtype)
    optimizer = torch.optim.Adamax(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    history: list[dict[str, float]] = []
    bar = tqdm(total=config.iterations, disable=not config.progress, desc="training", unit="it")
    try:
        with model.seeded(config.seed), _as_it_was(model, config) as final_clamp, bar:
            batches = _batches(len(data), config.batch, config.seed, device)
            for iteration in range(config.iterations):
                schedule = _apply_schedules(model, optimizer, config, iteration, final_clamp)
                x = data[next(batches)]
                step = _train_step(model, optimizer, x, config, schedule)
                bar.update()
                last = iteration + 1 == config.iterations
                if last or (iteration + 1) % config.log_every == 0:
                    row = _history_row(model, x, step, schedule)
                    history.append({"iteration": iteration + 1, **row})
                    bar.set_postfix({k: f"{row[k]:.3g}" for k in ("loss", "r2", "zeros")})
    finally:
        model.eval()
    return history


@contextmanager
def _as_it_was(model: IPVAE | Baseline, config: TrainConfig) -> Iterator[float]:
    """The final clamp; clamp and precision are the model's own again after the block."""
    if not isinstance(model, IPVAE):
        yield math.inf
        return
    clamp, usual, model.precision = model.neuron.clamp, model.precision, config.precision
    try:
        yield clamp
    finally:
        model.neuron.clamp, model.precision = clamp, usual


def _batches(count: int, batch: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Indices of batch after batch, each epoch in a new order; a rest joins the next epoch."""
    shuffle = torch.Generator().manual_seed(seed)
    pending = torch.empty(0, dtype=torch.long)
    while True:
        while len(pending) < batch:
            pending = torch.cat([pending, torch.randperm(count, generator=shuffle)])
        yield pending[:batch].to(device)
        pending = pending[batch:]


def _apply_schedules(
    model: IPVAE | Baseline,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    iteration: int,
    final_clamp: float,
) -> dict[str, float]:
    total = config.iterations
    warming = iteration < config.warmup * total
    if isinstance(model, IPVAE):
        start = min(config.clamp_start, final_clamp)
        model.neuron.clamp = linear_ramp(iteration, start, final_clamp, config.clamp_ramp * total)
        spike_grad = model.neuron.spike_grad
        if isinstance(spike_grad, Relaxed):
            spike_grad.temp = linear_ramp(
                iteration, config.temp_start, config.temp_end, config.temp_ramp * total
            )
    lr = config.lr * warmup_cosine(
        iteration, total, config.warmup * total, floor=config.lr_end / config.lr
    )
    for group in optimizer.param_groups:
        group["lr"] = lr
    return {
        "beta": linear_ramp(iteration, config.beta_start, config.beta, config.beta_ramp * total),
        **({"clamp": model.neuron.clamp} if isinstance(model, IPVAE) else {}),
        "lr": lr,
        "grad_clip": config.grad_clip * (3 if warming else 1),
    }


def _train_step(
    model: IPVAE | Baseline,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    config: TrainConfig,
    schedule: dict[str, float],
) -> dict[str, Any]:
    try:
        out = model.run(x, config.steps, record=("nll", "kl"))
    except ValueError as error:  # x was found sound before: the weights no longer are
        raise FloatingPointError(f"training diverged, {error}; {ADVICE}") from error
    counted = torch.zeros_like(out.nll)
    counted[config.burn_in :] = config.steps / (config.steps - config.burn_in)
    loss = F.free_energy(counted * out.nll, out.kl, schedule["beta"], model.in_features)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule["grad_clip"])
    if not torch.isfinite(loss + norm):
        raise FloatingPointError(
            f"training diverged: loss {loss.item():g}, gradient norm {norm.item():g}; {ADVICE}"
        )
    optimizer.step()
    return {
        "loss": loss.detach(),
        "nll": out.nll.detach().mean(),
        "kl": out.kl.detach().mean(),
        "state": out.state,
        "grad_norm": norm,
    }


def _history_row(
    model: IPVAE | Baseline, x: Tensor, step: dict[str, Any], schedule: dict[str, float]
) -> dict[str, float]:
    spk = step["state"].spk.detach()
    with torch.no_grad():
        r2 = float(metrics.r2(x, model.decode(spk)))
    row = {name: float(step[name]) for name in ("loss", "nll", "kl", "grad_norm")}
    return {**row, "r2": r2, "zeros": float(metrics.zeros(spk)), **schedule}
