"""How good a trained model's code is, at every timestep, on samples it has not seen."""

from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn._utils.checks import require_integer
from ipvae_snn.data.sources import Samples, as_samples, stream
from ipvae_snn.metrics.quality import (
    convergence_step,
    r2_of,
    rate_distortion_distance,
    sparsity_of,
    squared_error_of,
    treves_rolls,
    zeros_of,
)
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.models.run_output import require_sample_seeds

REPORTED_STEPS = (1, 16, 64, 256, 1000)
CURVES = ("r2", "r2_map", "mse", "zeros", "lifetime_sparsity", "population_sparsity")


@dataclass
class Evaluation:
    """Metrics by timestep: ``curves["r2"][t - 1]`` is R² at step t, from one draw of the spikes.

    ``r2_map`` is R² from rates. For the definitions see :mod:`ipvae_snn.metrics`.
    """

    curves: dict[str, list[float]]
    in_features: int
    parameters: int

    @property
    def num_steps(self) -> int:
        return len(self.curves["r2"])

    @property
    def convergence_step(self) -> int | None:
        return convergence_step(self.curves["r2"])

    def reported_steps(self) -> list[int]:
        """Steps 1, 16, 64, 256, 1000 as far as they were run, and the last."""
        return sorted({t for t in REPORTED_STEPS if t < self.num_steps} | {self.num_steps})

    def at(self, step: int) -> dict[str, float]:
        """All metrics at one step, counted from 1; ``ValueError`` if it was not run."""
        if not 1 <= step <= self.num_steps:
            raise ValueError(f"step must be from 1 to {self.num_steps}, got {step}")
        values = {name: self.curves[name][step - 1] for name in CURVES}
        distance = rate_distortion_distance(values["r2"], values["zeros"])
        per_dim = 1000 * values["mse"] / self.in_features
        return {**values, "mse_per_dim": per_dim, "rate_distortion_distance": distance}

    def summary(self) -> dict[str, object]:
        """What ``metrics.json`` holds."""
        return {
            "steps": {str(t): self.at(t) for t in self.reported_steps()},
            "convergence_step": self.convergence_step,
            "parameters": self.parameters,
        }


def evaluate(
    model: BaseModel,
    x: Tensor | Samples,
    num_steps: int = 1000,
    *,
    batch: int = 500,
    chunk: int = 20,
    seed: int = 0,
    sample_seeds: Tensor | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Run ``model`` in ``eval()`` mode, with exact counts, and measure every timestep.

    Memory does not grow with ``num_steps`` or the number of samples.

    Args:
        model: an :class:`IPVAE`, or one of :mod:`ipvae_snn.baselines`; left in the mode it had.
        x: held-out samples, shape (N, M), N ≥ 2; :class:`~ipvae_snn.data.Samples` are read a
            batch at a time, and brought to the device and dtype of the weights.
        num_steps: T.
        batch: samples at a time; spikes depend on it, as on the seed, unless there are
            ``sample_seeds``.
        chunk: timesteps at a time.
        seed: of the spikes, whatever was drawn before.
        sample_seeds: a number per sample, int64 of shape (N,), for an IPVAE: see :meth:`IPVAE.run`.
        workers: processes that read samples ahead, see :func:`~ipvae_snn.data.sources.stream`.
        progress: show a progress bar.

    Raises:
        ValueError: fewer than two samples, or what :meth:`IPVAE.run` raises.

    >>> from ipvae_snn import IPVAE
    >>> result = evaluate(IPVAE(16, 8), torch.rand(6, 16), num_steps=5)
    >>> result.reported_steps(), sorted(result.at(5))[:2]
    ([1, 5], ['lifetime_sparsity', 'mse'])
    """
    for name, value in (("num_steps", num_steps), ("batch", batch), ("chunk", chunk)):
        require_integer(value, name)
    require_model(model)
    samples, like = as_samples(x, "x"), model.like
    count = len(samples)
    if count < 2:
        raise ValueError(f"x must have shape (N, M) with N ≥ 2, got {(count, samples.features)}")
    if sample_seeds is not None:
        sample_seeds = require_sample_seeds(sample_seeds, count)
        if not model.takes_sample_seeds:
            raise TypeError(f"sample_seeds are for an IPVAE, not for a {type(model).__name__}")
    rows = (torch.arange(i, min(i + batch, count)) for i in range(0, count, batch))
    batches = stream(samples, rows, workers)
    if not isinstance(x, Tensor):
        batches = (part.to(like) for part in batches)
    training = model.training
    tally = _Tally(num_steps, model.latents, like.device)
    bar = tqdm(
        total=num_steps * -(-count // batch), disable=not progress, desc="evaluating", unit="step"
    )
    model.eval()
    try:
        with torch.no_grad(), model.seeded(seed), bar, closing(batches):
            for first, part in zip(range(0, count, batch), batches, strict=True):
                state, done = None, 0
                own: AbstractContextManager[None] = nullcontext()
                known: Any = {}
                if sample_seeds is not None:  # every batch draws alike, and tells its samples apart
                    own = model.seeded(seed)
                    known = {"sample_seeds": sample_seeds[first : first + batch]}
                with own:
                    while done < num_steps:
                        steps = min(chunk, num_steps - done)
                        out = model.run(part, steps, record=("spk", "mem"), state=state, **known)
                        tally.add(model, part, done, out.spk, out.mem)
                        state, done = out.state, done + steps
                        bar.update(steps)
    finally:
        model.train(training)
    parameters = sum(p.numel() for p in model.parameters())
    return Evaluation(tally.means(count), model.in_features, parameters)


class _Tally:
    """Sums over samples, per timestep, from which all metrics follow at the end."""

    def __init__(self, num_steps: int, latents: int, device: torch.device) -> None:
        names = ("r2", "r2_map", "mse", "zeros", "population_sparsity")
        options: Any = {"dtype": torch.float64, "device": device}
        self.sums = {name: torch.zeros(num_steps, **options) for name in names}
        self.spk_sum = torch.zeros(num_steps, latents, **options)
        self.spk_square = torch.zeros_like(self.spk_sum)

    def add(self, model: BaseModel, x: Tensor, start: int, spk: Tensor, mem: Tensor) -> None:
        """Add timesteps ``start`` ... of samples x, (B, M), with codes (T, B, K)."""
        decoded = zip(model.decode(spk), model.decode(model.mean_code(mem)), strict=True)
        codes = spk.abs()  # codes of baselines may be negative: sparsity is of magnitudes
        for t, (x_hat, x_hat_mean) in enumerate(decoded, start):
            self.sums["r2"][t] += r2_of(x, x_hat).sum()
            self.sums["r2_map"][t] += r2_of(x, x_hat_mean).sum()
            self.sums["mse"][t] += squared_error_of(x, x_hat).sum()
        times = slice(start, start + len(spk))
        self.sums["zeros"][times] += zeros_of(codes) * len(x)
        if codes.shape[-1] > 1:  # a single neuron is no population: 0
            self.sums["population_sparsity"][times] += sparsity_of(codes, -1).sum(-1)
        self.spk_sum[times] += codes.sum(1)
        self.spk_square[times] += codes.square().sum(1)

    def means(self, count: int) -> dict[str, list[float]]:
        lifetime = treves_rolls(self.spk_sum, self.spk_square, count).mean(-1)
        means = {name: (total / count).tolist() for name, total in self.sums.items()}
        return {**means, "lifetime_sparsity": lifetime.tolist()}
