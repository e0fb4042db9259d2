"""What is measured of a trained model."""

import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from ipvae_snn import evaluate, metrics
from ipvae_snn.runs import pick

from lab.bench import Lab


def evaluated(
    lab: Lab, model: nn.Module, x: Tensor, num_steps: int, *, samples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Curves and summary of :func:`ipvae_snn.evaluate`, on samples from all over ``x``."""
    x = pick(x, lab.few(samples, 20), seed).to(lab.device)
    result = evaluate(model, x, num_steps, seed=seed, progress=not lab.quick)
    last = result.at(result.num_steps)
    return {
        "parameters": result.parameters,
        "convergence_step": result.convergence_step,
        "last": last,
        "curves": {name: thinned(result.curves[name]) for name in ("r2", "mse", "zeros")},
        "steps": thinned(list(range(1, num_steps + 1))),
    }


def thinned(curve: list[Any], each: float = 1.05) -> list[Any]:
    """Entries 1, 2, 3, ... of a curve, and further on only every 5% more: for logarithmic axes."""
    kept, wanted = [], 1.0
    for t, value in enumerate(curve, 1):
        if t >= wanted or t == len(curve):
            kept.append(value)
            wanted = max(t + 1, t * each)
    return kept


def probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """:func:`ipvae_snn.metrics.probe_accuracy`, without a word on its 100 iterations."""
    with warnings.catch_warnings():  # its defaults stop there, converged or not
        warnings.simplefilter("ignore", ConvergenceWarning)
        return metrics.probe_accuracy(train, train_labels, test, test_labels)


def codes(
    lab: Lab, model: nn.Module, x: Tensor, num_steps: int, *, seed: int = 0, batch: int = 500
) -> Tensor:
    """E[z] at the last of so many timesteps, (N, K): rates, for an IPVAE."""
    found = []
    with torch.no_grad():
        for part in x.split(batch):
            out = model.run(
                part.to(lab.device), num_steps, record="mem", every=num_steps, seed=seed
            )
            found.append(model.mean_code(out.mem[-1]).cpu())
    return torch.cat(found)
