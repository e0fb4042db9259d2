"""Program of each process in test_distributed.py, started by torchrun."""

import sys
from pathlib import Path

import torch

from ipvae_snn import IPVAE, TrainConfig, fit, surrogate
from ipvae_snn.baselines import IGVAE
from ipvae_snn.training.distributed import ProcessGroup, join_process_group

X = torch.randn(60, 20, generator=torch.Generator().manual_seed(1))
ESTIMATORS = {
    "midpoint": surrogate.midpoint,
    "rounded": surrogate.rounded,
    "bernoulli": surrogate.bernoulli,
}


def trained(estimator, iterations):
    """Weights, history and last gradients of a short training; a batch of 11 splits unevenly."""
    torch.manual_seed(0)
    make = IGVAE if estimator == "baseline" else IPVAE
    options = {} if make is IGVAE else {"spike_grad": ESTIMATORS[estimator]()}
    model = make(20, 15, init_std=0.3, **options)
    recipe = {"batch": 11, "steps": 5, "log_every": 1, "lr": 1e-3}
    config = TrainConfig(iterations=iterations, progress=False, **recipe)
    history = fit(model, X, config)
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return {"weights": model.state_dict(), "history": history, "grads": grads}


def main(folder):
    torch.set_num_threads(1)
    with join_process_group("cpu"):
        group = ProcessGroup()
        results = {
            f"{name} {n}": trained(name, n) for name in (*ESTIMATORS, "baseline") for n in (1, 30)
        }
        torch.save(results, folder / f"{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
