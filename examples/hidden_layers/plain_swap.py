"""The networks of snnTorch's tutorials 5 and 6, with every Leaky replaced, read-out included.

Nothing else is changed: losses, learning rates and the loop over time are the tutorials'
(cross-entropy of the read-out's membrane at every timestep; ``ce_rate_loss`` of its spikes), and
``from_snntorch`` replaces the layers. How often does such a network stay at chance, or fall back
to it? The lowest and the highest accuracy over ten seeds, after each epoch, on held-out samples.

    python examples/hidden_layers/plain_swap.py
    python examples/hidden_layers/plain_swap.py --data path/to/mnist.npz --images 2000
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from snntorch.functional import ce_rate_loss
from snntorch.utils import reset
from tasks import Part, splits_of, write_json
from torch import Tensor, nn
from tqdm.auto import tqdm

from ipvae_snn import from_snntorch, surrogate

STEPS, BATCH, CHANCE = 25, 128, 0.1
COLOURS = {"Leaky": "#808080", "counts": "#D55E00", "rounded": "#0072B2"}
VERSIONS: dict[str, dict[str, Any] | None] = {
    "Leaky": None,
    "counts": {},
    "rounded": {"spike_grad": surrogate.rounded()},
}


def flat(side: int) -> tuple[nn.Sequential, float, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Network, learning rate and loss of tutorial 5."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(side**2, 1000), snn.Leaky(0.95, init_hidden=True),
        nn.Linear(1000, 10), snn.Leaky(0.95, init_hidden=True, output=True),
    )  # fmt: skip

    def loss(spk: Tensor, mem: Tensor, labels: Tensor) -> Tensor:
        return sum((nn.functional.cross_entropy(now, labels) for now in mem), mem.new_zeros(()))

    return net, 5e-4, loss


def convolutional(side: int) -> tuple[nn.Sequential, float, Callable[..., Tensor]]:
    """Network, learning rate and loss of tutorial 6; a smaller kernel for small images."""
    kernel, padding = (5, 0) if side > 10 else (3, 1)
    options = {"beta": 0.5, "spike_grad": snn.surrogate.fast_sigmoid(slope=25), "init_hidden": True}
    left = side
    for _ in range(2):
        left = (left + 2 * padding - kernel + 1) // 2
    net = nn.Sequential(
        nn.Conv2d(1, 12, kernel, padding=padding), nn.MaxPool2d(2), snn.Leaky(**options),
        nn.Conv2d(12, 64, kernel, padding=padding), nn.MaxPool2d(2), snn.Leaky(**options),
        nn.Flatten(), nn.Linear(64 * left**2, 10), snn.Leaky(**options, output=True),
    )  # fmt: skip
    rate_loss = ce_rate_loss()
    return net, 1e-2, lambda spk, mem, labels: rate_loss(spk, labels)


NETWORKS = {"tutorial 5, flat": flat, "tutorial 6, convolutional": convolutional}


def over_time(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and membranes of the read-out, (T, B, 10)."""
    reset(net)
    spk, mem = zip(*(net(x) for _ in range(STEPS)), strict=True)
    return torch.stack(spk), torch.stack(mem)


@torch.no_grad()
def accuracy(net: nn.Module, part: Part) -> float:
    """By the number of spikes, as in the tutorials."""
    spk, _ = over_time(net, part.x)
    return float((spk.sum(0).argmax(-1) == part.wanted).float().mean())


def learn(make: Any, options: dict[str, Any] | None, seed: int, parts: list[Part], epochs: int):
    """Accuracy after each epoch."""
    train, held_out = parts[0], Part(*(value[:1000] for value in parts[1]))
    torch.manual_seed(seed)
    net, lr, loss_of = make(train.x.shape[-1])
    if options is not None:
        net = from_snntorch(net, train.x[:2], **options).network
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    found = []
    for _ in range(epochs):
        for batch in torch.randperm(len(train.x)).split(BATCH):
            loss = loss_of(*over_time(net, train.x[batch]), train.wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(accuracy(net, held_out))
    return found


def draw(results: dict[str, list[list[float]]], path: Path) -> None:
    """The mean over seeds after each epoch, and all that lies between the extremes."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, name in zip(figure.subplots(1, 2, sharey=True), NETWORKS, strict=True):
        for version, colour in COLOURS.items():
            rows = np.array(results[f"{name}, {version}"])
            epochs = range(1, rows.shape[1] + 1)
            ax.fill_between(epochs, rows.min(0), rows.max(0), color=colour, alpha=0.2, lw=0)
            ax.plot(epochs, rows.mean(0), "o-", ms=4, color=colour, label=version)
        ax.axhline(CHANCE, color="#808080", ls=":", lw=1)
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("epoch (dotted: chance; bands: all seeds)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0, 1)
        ax.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("accuracy on held-out samples")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits (default), or mnist.npz")
    parser.add_argument("--images", type=int, help="training samples (default: all)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("plain_swap.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.epochs, arguments.seeds = 64, 1, 1
    torch.set_num_threads(1)
    parts = splits_of(arguments)
    parts = [Part(part.x.unsqueeze(1), part.wanted) for part in parts]
    results: dict[str, list[list[float]]] = {}
    print(f"{'':<36}" + "".join(f"{'epoch ' + str(e + 1):>16}" for e in range(arguments.epochs)))
    for name, make in NETWORKS.items():
        for version, options in VERSIONS.items():
            seeds = tqdm(range(arguments.seeds), desc=f"{name}, {version}", disable=None)
            rows = [learn(make, options, seed, parts, arguments.epochs) for seed in seeds]
            results[f"{name}, {version}"] = rows
            cells = (f"{min(epoch):.3f} – {max(epoch):.3f}" for epoch in zip(*rows, strict=True))
            print(f"{name + ', ' + version:<36}" + "".join(f"{cell:>16}" for cell in cells))
    draw(results, arguments.out)
    record = arguments.out.with_suffix(".json")
    write_json(record, results)
    print(f"picture: {arguments.out}\nresult: {record}; chance is {CHANCE}")


if __name__ == "__main__":
    main()
