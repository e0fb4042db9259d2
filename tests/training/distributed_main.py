"""Program of each process in test_distributed.py, started by torchrun."""

import sys
from pathlib import Path

import torch
import torch.distributed.fsdp as fsdp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ipvae_snn import IPVAE, IPVAENeuron, TrainConfig, fit, reset, surrogate
from ipvae_snn.baselines import IGVAE
from ipvae_snn.training.distributed import ProcessGroup, join_process_group

X = torch.randn(60, 20, generator=torch.Generator().manual_seed(1))
ESTIMATORS = {
    "midpoint": surrogate.midpoint,
    "rounded": surrogate.rounded,
    "bernoulli": surrogate.bernoulli,
    "local": surrogate.midpoint,
}


def trained(estimator, iterations):
    """Weights, history and last gradients of a short training; a batch of 11 splits unevenly."""
    torch.manual_seed(0)
    make = IGVAE if estimator == "baseline" else IPVAE
    options = {} if make is IGVAE else {"spike_grad": ESTIMATORS[estimator]()}
    model = make(20, 15, init_std=0.3, **options)
    recipe = {"batch": 11, "steps": 5, "log_every": 1, "lr": 1e-3}
    if estimator == "local":
        recipe |= {"rule": "local", "lr": 0.1, "target_rate": 0.5}
    config = TrainConfig(iterations=iterations, progress=False, **recipe)
    history = fit(model, X, config, validation=X[:4])
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"weights": model.state_dict(), "history": history, "grads": grads}


DECODERS = {"own weights": lambda: 6, "decoder": lambda: nn.Linear(6, 9, bias=False)}
WRAPPERS = {"DDP": DistributedDataParallel, "FSDP": getattr(fsdp, "fully_shard", None)}
BATCHES = [
    4 * torch.rand(6, size, 5, generator=torch.Generator().manual_seed(size)) for size in (8, 3)
]


def network(decoder):
    """A network that keeps its states, with deterministic spikes."""
    torch.manual_seed(0)
    options = {"init_hidden": True, "mem_init": 0.5, "step": 0.3, "learn_step": False}
    options["spike_grad"] = surrogate.rounded()
    first, last = IPVAENeuron(DECODERS[decoder](), **options), IPVAENeuron(3, **options)
    return nn.Sequential(nn.Linear(5, 6), first, nn.Linear(6, 3), last)


def batch_results(decoder, wrap=lambda net: net, rank=None):
    """Gradients and states after each batch; a rank has 5 of 8 and 1 of 3 rows, or the others."""
    net = network(decoder)
    module, results = wrap(net), []
    for x in BATCHES:
        split = x.shape[1] * 5 // 8
        rows = {None: slice(None), 0: slice(split), 1: slice(split, None)}[rank]
        weight = 1 if rank is None else 2  # gradients are averaged over two ranks
        reset(net)
        out = sum(module(frame) for frame in x[:, rows])
        (weight * out.square().sum() / x.shape[1]).backward()
        states = {f"{i}.{name}": getattr(net[i], name) for i in (1, 3) for name in ("spk", "mem")}
        results.append(
            {
                "grads": {name: whole(p.grad) for name, p in net.named_parameters()},
                "states": {name: state.detach()[:] for name, state in states.items()},
                "rows": (rows.start, rows.stop),
            }
        )
        net.zero_grad()
    return results


def whole(grad):
    return grad.full_tensor() if hasattr(grad, "full_tensor") else grad.clone()


def main(folder):
    torch.set_num_threads(1)
    with join_process_group("cpu"):
        group = ProcessGroup()
        results = {
            f"{name} {n}": trained(name, n) for name in (*ESTIMATORS, "baseline") for n in (1, 30)
        }
        for name, wrap in WRAPPERS.items():
            for decoder in DECODERS if wrap else ():
                results[f"{name} {decoder}"] = batch_results(decoder, wrap, group.rank)
        torch.save(results, folder / f"{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
