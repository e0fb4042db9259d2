"""A snnTorch classifier of digits, with snn.Leaky and with IPVAENeuron as hidden layers.

Networks with one and two hidden layers, each in three versions: ``snn.Leaky``, ``IPVAENeuron`` with
deterministic graded spikes (``rounded``), and ``IPVAENeuron`` with Poisson counts (``midpoint``).
Everything else is the same: initial weights, loss, optimizer, timesteps, and a small penalty on
spikes that rises over the first half of training. Spikes per image are the counts summed over all
hidden layers and timesteps.

    python examples/snntorch_classifier.py
    python examples/snntorch_classifier.py --data mnist --data-dir path/to/mnist
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

import ipvae_snn
from ipvae_snn import IPVAENeuron, data, surrogate

HIDDEN: dict[str, Callable[[int], nn.Module]] = {
    "Leaky": lambda k: snn.Leaky(beta=0.9, init_hidden=True),
    "IPVAE, rounded": lambda k: IPVAENeuron(k, spike_grad=surrogate.rounded(), init_hidden=True),
    "IPVAE, Poisson": lambda k: IPVAENeuron(k, init_hidden=True),
}
COLOURS = {"Leaky": "#808080", "IPVAE, rounded": "#0072B2", "IPVAE, Poisson": "#D55E00"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits (default), mnist or a path")
    parser.add_argument("--data-dir", type=Path, default=Path("."), help="folder of mnist")
    parser.add_argument("--images", type=int, default=2000, help="maximal number per split")
    parser.add_argument("--hidden", type=int, default=128, help="neurons per hidden layer")
    parser.add_argument("--steps", type=int, default=20, help="timesteps")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--price", type=float, default=1e-3, help="penalty per spike in the loss")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("snntorch_classifier.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.steps, arguments.images = 1, 4, 200
    return arguments


def network(pixels: int, hidden: int, layers: int, make: Callable[[int], nn.Module]) -> nn.Module:
    """Linear → spiking → ... → Linear → snn.Leaky, whose membrane is the readout."""
    modules: list[nn.Module] = []
    for size in (pixels, *[hidden] * (layers - 1)):
        modules += [nn.Linear(size, hidden), make(hidden)]
    modules += [nn.Linear(hidden, 10), snn.Leaky(beta=0.9, init_hidden=True, output=True)]
    return nn.Sequential(*modules)


def infer(net: nn.Module, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Membrane of the readout averaged over time, (B, 10), and hidden spikes per image, (B,)."""
    ipvae_snn.reset(net)  # resets both kinds of neuron
    readout, spikes = torch.zeros(()), torch.zeros(())
    for _ in range(steps):
        value = x
        for module in net[:-1]:
            value = module(value)
            if isinstance(module, snn.SpikingNeuron):
                spikes = spikes + value.sum(1)
        _, mem = net[-1](value)
        readout = readout + mem / steps
    return readout, spikes


def train(net: nn.Module, x: Tensor, labels: Tensor, arguments: argparse.Namespace) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for epoch in range(arguments.epochs):
        # Ramped up over the first half: a full penalty at the start would silence the layers.
        price = arguments.price * min(2 * epoch / arguments.epochs, 1)
        for batch in torch.randperm(len(x)).split(64):
            readout, spikes = infer(net, x[batch], arguments.steps)
            loss = nn.functional.cross_entropy(readout, labels[batch])
            loss = loss + price * spikes.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    net.eval()


def main() -> None:
    arguments = parse()
    images = data.load(arguments.data, data_dir=arguments.data_dir)
    x, labels = images.train[: arguments.images], images.train_labels[: arguments.images]
    x_test, labels_test = images.test[: arguments.images], images.test_labels[: arguments.images]
    print(f"{images.description}; used {len(x):,} and {len(x_test):,}")

    results: dict[tuple[int, str], list[tuple[float, float]]] = {}
    cases = [
        (layers, name, seed)
        for layers in (1, 2)
        for name in HIDDEN
        for seed in range(arguments.seeds)
    ]
    for layers, name, seed in tqdm(cases, desc="networks", disable=None):
        torch.manual_seed(seed)
        net = network(x.shape[1], arguments.hidden, layers, HIDDEN[name])
        train(net, x, labels, arguments)
        with torch.no_grad():
            readout, spikes = infer(net, x_test, arguments.steps)
        accuracy = (readout.argmax(1) == labels_test).float().mean().item()
        results.setdefault((layers, name), []).append((accuracy, spikes.mean().item()))

    print(f"\n{'hidden layers':<15}{'neuron':<17}{'accuracy':>10}{'spikes per image':>19}")
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for (layers, name), pairs in results.items():
        accuracy, spikes = np.mean(pairs, axis=0)
        print(f"{layers:<15}{name:<17}{accuracy:>10.4f}{spikes:>19.1f}")
        marker = "o" if layers == 1 else "s"
        ax.plot(
            *np.array(pairs).T[::-1], marker, color=COLOURS[name], ms=8, mec="white",
            label=f"{name}, {layers} hidden",
        )  # fmt: skip
    ax.set_xlim(left=0)
    ax.set_xlabel("spikes per image, all hidden layers and timesteps")
    ax.set_ylabel("accuracy on test images")
    ax.set_title("The same classifier with different neurons")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize="small")
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
