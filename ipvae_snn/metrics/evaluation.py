"""``evaluate``: metrics of a trained model at every timestep, on held-out samples."""

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn.data.sources import Samples, as_samples, stream
from ipvae_snn.metrics.quality import (
    convergence_step,
    r2_from_error,
    rate_distortion_distance,
    squared_error_of,
    treves_rolls,
    variation_of,
)
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.models.run_output import require_sample_seeds

if TYPE_CHECKING:
    from ipvae_snn.models import IPVAE, CodePrior

REPORTED_STEPS = (1, 16, 64, 256, 1000)
RATES_EVERY = 16
"""Timesteps from one reconstruction by rates to the next, after as many that are all measured."""


@dataclass
class Evaluation:
    """Metrics at every timestep, from one draw of the spikes.

    Attributes:
        curves: values by name: ``curves["r2"][t - 1]`` is R² at timestep t. ``r2_map`` is R² of the
            rates, measured at timesteps 1 to 16, each 16th, those of the report and the last, and
            linear in between: to decode rates takes longer than inference. ``spikes`` is their
            number per sample, of models that emit counts; for the other names see
            :mod:`ipvae_snn.metrics`.
        in_features: M.
        parameters: number of parameters of the model.
        bits_per_dim: −log₂ p(x) / M at most, of the density of x, and its standard error over
            samples; ``None`` without a prior. For pixels of 256 levels in [0, 1] add 8.
    """

    curves: dict[str, list[float]]
    in_features: int
    parameters: int
    bits_per_dim: tuple[float, float] | None = None

    @property
    def num_steps(self) -> int:
        return len(self.curves["r2"])

    @property
    def convergence_step(self) -> int | None:
        return convergence_step(self.curves["r2"])

    def reported_steps(self) -> list[int]:
        """The timesteps 1, 16, 64, 256 and 1000 that were run, and the last one."""
        return sorted({t for t in REPORTED_STEPS if t < self.num_steps} | {self.num_steps})

    def at(self, step: int) -> dict[str, float]:
        """All metrics at one timestep, counted from 1; ``ValueError`` if it was not run."""
        if not 1 <= step <= self.num_steps:
            raise ValueError(f"step must be from 1 to {self.num_steps}, got {step}")
        values = {name: curve[step - 1] for name, curve in self.curves.items()}
        distance = rate_distortion_distance(values["r2"], values["zeros"])
        per_dim = 1000 * values["mse"] / self.in_features
        return {**values, "mse_per_dim": per_dim, "rate_distortion_distance": distance}

    def summary(self) -> dict[str, object]:
        """The content of ``metrics.json``."""
        bits = {} if self.bits_per_dim is None else {"bits_per_dim": [*self.bits_per_dim]}
        return {
            "steps": {str(t): self.at(t) for t in self.reported_steps()},
            "convergence_step": self.convergence_step,
            "parameters": self.parameters,
            **bits,
        }


def evaluate(  # noqa: PLR0913
    model: BaseModel,
    x: Tensor | Samples,
    num_steps: int = 1000,
    *,
    batch: int = 500,
    chunk: int = 16,
    seed: int = 0,
    sample_seeds: Tensor | None = None,
    workers: int = 0,
    prior: "CodePrior | None" = None,
    progress: bool = False,
) -> Evaluation:
    """Run ``model`` in ``eval()`` mode, with integer counts, and measure every timestep.

    Memory does not grow with ``num_steps`` or the number of samples.

    Args:
        model: an :class:`IPVAE`, or one of :mod:`ipvae_snn.baselines`; its mode is restored.
        x: held-out samples, shape (N, M), N ≥ 2, or (N, C, H, W) of a convolutional model;
            :class:`~ipvae_snn.data.Samples` are read batch by batch, and converted to the device
            and dtype of the weights.
        num_steps: T.
        batch: samples per batch. The spikes depend on it, unless there are ``sample_seeds``.
        chunk: timesteps per call of ``run``.
        seed: seed of the spikes.
        sample_seeds: int64 of shape (N,), one seed per sample; for an IPVAE, see
            :meth:`IPVAE.run`.
        workers: processes that read samples ahead, see :func:`~ipvae_snn.data.sources.stream`.
        prior: of codes, fitted to training samples: for the bits per dimension, by
            :meth:`CodePrior.log_likelihood`, which takes some tenths of a second for each sample.
        progress: show a progress bar.

    Raises:
        TypeError: ``model`` is not a model, or takes no ``sample_seeds``, or no prior.
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
        raise ValueError(f"x must have shape (N, M) with N ≥ 2, got {(count, *samples.shape)}")
    if sample_seeds is not None:
        sample_seeds = require_sample_seeds(sample_seeds, count)
        if not model.takes_sample_seeds:
            raise TypeError(f"sample_seeds are for an IPVAE, not for a {type(model).__name__}")
    _require_prior(prior, model)
    rows = (torch.arange(i, min(i + batch, count)) for i in range(0, count, batch))
    batches = stream(samples, rows, workers)
    if not isinstance(x, Tensor):
        batches = (values.to(like) for values in batches)
    sums = _Sums(num_steps, model.latents, like.device)
    total = num_steps * -(-count // batch)
    bar = progress_bar(total, "evaluating", shown=progress, unit="step")
    nats, ipvae = list[Tensor](), cast("IPVAE", model)  # a prior refuses other models
    with eval_mode(model), torch.no_grad(), model.seeded(seed), bar, closing(batches):
        for first, values in zip(range(0, count, batch), batches, strict=True):
            state, done = None, 0
            options: Any = {}
            batch_seed = None  # goes on with the draws of the last batch
            if sample_seeds is not None:
                # All batches start from one seed, so that spikes depend on sample_seeds only.
                batch_seed = seed
                options = {"sample_seeds": sample_seeds[first : first + batch]}
            with model.seeded(batch_seed):
                while done < num_steps:
                    steps = min(chunk, num_steps - done)
                    # The last membrane is in the state.
                    record = ("spk", "mem") if sums.with_rates(done, done + steps - 1) else ("spk",)
                    out = model.run(values, steps, record=record, state=state, **options)
                    sums.add(model, values, done, out)
                    state, done = out.state, done + steps
                    del out  # whose memory the next timesteps take: new pages are slow
                    bar.update(steps)
                if prior is not None:
                    nats.append(prior.log_likelihood(ipvae, values).log_likelihood)
    parameters = sum(p.numel() for p in model.parameters())
    curves = sums.means(count)
    if not model.emits_counts:
        del curves["spikes"]
    bits = _bits_per_dim(nats, samples.features)
    return Evaluation(curves, samples.features, parameters, bits)


def _require_prior(prior: Any, model: BaseModel) -> None:
    """Raise unless there is no prior, or one that fits."""
    if prior is None:
        return
    require = getattr(prior, "require_fitting", None)
    if require is None:
        raise TypeError(f"prior must be a CodePrior, got {type(prior).__name__}")
    require(model)


def _bits_per_dim(nats: list[Tensor], features: int) -> tuple[float, float] | None:
    if not nats:
        return None
    bits = torch.cat(nats) / (-math.log(2) * features)
    return float(bits.mean()), float(bits.std()) / math.sqrt(len(bits))


class _Sums:
    """Sums over samples at each timestep, from which all metrics are computed."""

    def __init__(self, num_steps: int, latents: int, device: torch.device) -> None:
        names = ("r2", "r2_map", "mse", "zeros", "population_sparsity")
        options: Any = {"dtype": torch.float64, "device": device}
        self.sums = {name: torch.zeros(num_steps, **options) for name in names}
        self.spk_sum = torch.zeros(num_steps, latents, **options)
        self.spk_square = torch.zeros_like(self.spk_sum)
        self.rows = 0
        """Of codes: one per sample, or one per place of each."""
        ends = {t - 1 for t in (*REPORTED_STEPS, num_steps) if t <= num_steps}
        self.measured = [
            t for t in range(num_steps) if t < RATES_EVERY or not (t + 1) % RATES_EVERY or t in ends
        ]

    def with_rates(self, start: int, stop: int) -> list[int]:
        """The timesteps from ``start`` on, below ``stop``, whose rates are measured."""
        return [t for t in self.measured if start <= t < stop]

    def add(self, model: BaseModel, x: Tensor, start: int, out: Any) -> None:
        """Add what a run from timestep ``start`` gave for samples x, (B, M)."""
        flat, stop = x.flatten(1), start + len(out.spk)
        variation, times, latents = variation_of(flat), slice(start, stop), self.spk_sum.shape[1]
        of_steps = zip(*model.code_sums(out.spk, x), strict=True)
        error, total, squares, fired, by_neuron, squares_by_neuron = map(torch.stack, of_steps)
        self.rows += 0 if start else total.shape[1]
        self.sums["mse"][times] += error.sum(-1)
        self.sums["r2"][times] += r2_from_error(error, variation).sum(-1)
        portion = fired.mean(-1, dtype=torch.float64) / latents
        self.sums["zeros"][times] += (1 - portion) * len(x)
        if latents > 1:  # undefined for one neuron: 0
            sparsity = treves_rolls(total, squares, latents)
            self.sums["population_sparsity"][times] += sparsity.mean(-1) * len(x)
        self.spk_sum[times] += by_neuron
        self.spk_square[times] += squares_by_neuron
        for t in self.with_rates(start, stop):
            mem = out.state.mem if t == stop - 1 else out.mem[t - start]
            x_hat = model.reconstruct(model.mean_code(mem.unsqueeze(0)), x)[0].flatten(1)
            error = squared_error_of(flat, x_hat)
            self.sums["r2_map"][t] += r2_from_error(error, variation).sum()

    def means(self, count: int) -> dict[str, list[float]]:
        """All curves of an :class:`Evaluation` of ``count`` samples."""
        lifetime = treves_rolls(self.spk_sum, self.spk_square, self.rows).mean(-1)
        means = {name: (total / count).tolist() for name, total in self.sums.items()}
        found = [means["r2_map"][t] for t in self.measured]
        means["r2_map"] = np.interp(range(len(means["r2_map"])), self.measured, found).tolist()
        spikes = (self.spk_sum.sum(-1) / count).tolist()
        return {**means, "lifetime_sparsity": lifetime.tolist(), "spikes": spikes}
