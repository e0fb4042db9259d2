"""Evaluation of a trained model: curves, codes and a linear probe."""

import json
import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from ipvae_snn import evaluate, metrics
from ipvae_snn.runs import pick

from harness.recipes import log_of, settings
from harness.setup import Setup


def evaluated(
    setup: Setup, model: nn.Module, x: Tensor, num_steps: int, *, samples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Curves and summary of :func:`ipvae_snn.evaluate`, on a random subset of ``x``."""
    x = pick(x, setup.amount(samples, quick=20), seed).to(setup.device)
    result = evaluate(model, x, num_steps, seed=seed, progress=not setup.quick)
    last = result.at(result.num_steps)
    return {
        "parameters": result.parameters,
        "convergence_step": result.convergence_step,
        "last": last,
        "curves": {name: thinned(result.curves[name]) for name in ("r2", "mse", "zeros")},
        "steps": thinned(list(range(1, num_steps + 1))),
    }


def effort(setup: Setup, data: str, name: str, **changes: Any) -> dict[str, float]:
    """What a model of :func:`~harness.recipes.trained` saw, iterations times batch, and took."""
    wanted = settings(setup, data, name, **changes)
    training = wanted["training"]
    return {
        "trained_on": training.iterations * training.batch,
        "cpu_seconds": json.loads(log_of(setup, wanted).read_text())["cpu_seconds"],
    }


def thinned(curve: list[Any], each: float = 1.05) -> list[Any]:
    """Entries of a curve about evenly spaced on a logarithmic axis, a factor of ``each`` apart."""
    entries, due = [], 1.0
    for t, value in enumerate(curve, 1):
        if t >= due or t == len(curve):
            entries.append(value)
            due = max(t + 1, t * each)
    return entries


def probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """:func:`ipvae_snn.metrics.probe_accuracy` without its convergence warning."""
    with warnings.catch_warnings():  # scikit-learn's default stops after 100 iterations
        warnings.simplefilter("ignore", ConvergenceWarning)
        return metrics.probe_accuracy(train, train_labels, test, test_labels)


def codes(
    setup: Setup, model: nn.Module, x: Tensor, num_steps: int, *, seed: int = 0, batch: int = 500
) -> Tensor:
    """E[z] at the last timestep, (N, K): the rates, for an IPVAE."""
    batches = []
    with torch.no_grad():
        for samples in x.split(batch):
            out = model.run(
                samples.to(setup.device), num_steps, record="mem", every=num_steps, seed=seed
            )
            batches.append(model.mean_code(out.mem[-1]).cpu())
    return torch.cat(batches)
