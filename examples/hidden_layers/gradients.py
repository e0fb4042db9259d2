"""Where the gradient of a deep spiking network dies: signal, noise and bias in each layer.

A network of two layers of neurons with a linear read-out, small enough to measure its gradient
without any surrogate: of the loss over random spikes, by the score function,

    ∇ E[L] = E[L Σ (z − λ) ∇u + ∇L],

where spikes are constants. It is unbiased for any network, and needs very many draws. Each gradient
estimator is then compared with it, per layer: its bias (distance from that gradient, without what
chance would give) and its signal-to-noise ratio per draw, |E g|² / tr Var g, against the number of
timesteps, the initial rate, the clamp and the estimator. Only one of these differs from the
network in the middle. Neurons and currents are as in a new ``IPVAENeuron(K)``.

    python examples/hidden_layers/gradients.py
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tasks import write_json
from torch import Tensor, nn
from tqdm.auto import tqdm

from ipvae_snn import IPVAENeuron, surrogate

INPUTS, NEURONS, CLASSES = 6, 8, 3
COLOURS = {"first layer": "#0072B2", "second layer": "#D55E00"}
LAYERS = tuple(COLOURS)
MIDDLE: dict[str, Any] = {
    "T": 20, "mem_init": -1.0, "clamp": 1.5, "step": 1.0, "estimator": "midpoint",
}  # fmt: skip
VARIED: dict[str, tuple[Any, ...]] = {
    "T": (5, 10, 20, 40),
    "mem_init": (-6.0, -4.0, -2.0, -1.0, 0.0),
    "clamp": (1.0, 1.5, 2.0, 3.0, 5.0),
    "step": (0.2, 0.5, 1.0, 2.0),
    "estimator": ("midpoint", "floor 0.5", "rate"),
}
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "midpoint": surrogate.midpoint, "floor 0.5": lambda: surrogate.midpoint(0.5),
    "rate": surrogate.rate,
}  # fmt: skip
"""With Poisson counts: the score is of their law."""


class Network(nn.Module):
    """Two spiking layers and a linear read-out, on one random input."""

    def __init__(self, T: int, estimator: str, **options: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        neuron = {"spike_grad": ESTIMATORS[estimator](), **options}
        self.currents = nn.ModuleList([nn.Linear(INPUTS, NEURONS), nn.Linear(NEURONS, NEURONS)])
        self.neurons = nn.ModuleList([IPVAENeuron(NEURONS, **neuron) for _ in range(2)])
        self.readout, self.steps = nn.Linear(NEURONS, CLASSES), T
        self.x = torch.randn(INPUTS)
        with torch.no_grad():
            for layer in self.currents:
                layer.weight.mul_(3)  # currents of about one nat, as normalised ones have

    def loss(self, outputs: Tensor) -> Tensor:
        """Of each draw, (B,): cross-entropy of the read-out at every timestep."""
        target = torch.zeros(outputs.shape[:2], dtype=torch.long)
        return nn.functional.cross_entropy(outputs.movedim(-1, 1), target, reduction="none").mean(0)

    def surrogate_loss(self, draws: int) -> Tensor:
        """The mean loss of some draws, whose gradient is the estimator's."""
        spk = self.x.expand(self.steps, draws, INPUTS)
        for current, neuron in zip(self.currents, self.neurons, strict=True):
            spk, _ = neuron.run(current(spk))
        return self.loss(self.readout(spk)).mean()

    def score_loss(self, draws: int) -> Tensor:
        """A scalar whose gradient is that of the score function, spikes held constant."""
        spk, score = self.x.expand(self.steps, draws, INPUTS), torch.zeros(draws)
        for current, neuron in zip(self.currents, self.neurons, strict=True):
            drive, state, counts = current(spk), neuron.initial_state((draws, NEURONS)), []
            for now in drive:
                z, mem = neuron.step(now, *state)
                state = (z.detach(), mem)
                score = score + (z.detach() * mem - mem.exp()).sum(-1)
                counts.append(z.detach())
            spk = torch.stack(counts)
        loss = self.loss(self.readout(spk))
        centred = (loss - loss.mean()).detach()
        return (centred * score + loss).mean()


def gradients(
    network: Network, make_loss: Callable[[int], Tensor], draws: int, repeats: int
) -> dict[str, Tensor]:
    """Gradients of the weights before each layer, (repeats, weights), by layer."""
    rows: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    weights = [layer.weight for layer in network.currents]
    for _ in range(repeats):
        found = torch.autograd.grad(make_loss(draws), weights)
        for name, grad in zip(LAYERS, found, strict=True):
            rows[name].append(grad.flatten())
    return {name: torch.stack(row) for name, row in rows.items()}


def measure(settings: dict[str, Any], scale: int) -> dict[str, dict[str, float | None]]:
    """Signal-to-noise ratio per draw, and relative bias, in each layer; the layer's rate."""
    network, draws = Network(**settings), 64
    torch.manual_seed(1)
    exact = gradients(network, network.score_loss, 2000, 10 * scale)
    found = gradients(network, network.surrogate_loss, draws, 20 * scale)
    result = {}
    spk = network.x.expand(settings["T"], 500, INPUTS)
    for name, current, neuron in zip(LAYERS, network.currents, network.neurons, strict=True):
        spk = neuron.run(current(spk))[0].detach()
        mean, truth = found[name].mean(0), exact[name].mean(0)
        noise = float(found[name].var(0).sum())
        mean_noise = noise / len(found[name])
        truth_noise = float(exact[name].var(0).sum()) / len(exact[name])
        # Squared lengths, less what chance adds to them.
        signal = max(float(truth.square().sum()) - truth_noise, 0.0)
        distance = max(float((mean - truth).square().sum()) - mean_noise - truth_noise, 0.0)
        strength = max(float(mean.square().sum()) - mean_noise, 0.0)
        result[name] = {
            "rate": float(spk.mean()),
            "gradient": signal**0.5,
            "signal_to_noise": strength / (draws * noise),
            "bias": (distance / signal) ** 0.5 if signal else None,  # the draws do not show it
        }
    return result


def draw(results: dict[str, list[Any]], path: Path) -> None:
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    axes = figure.subplots(2, len(VARIED), sharey="row")
    for column, (option, values) in enumerate(VARIED.items()):
        for name in LAYERS:
            rows = [row[name] for row in results[option]]
            for ax, key in zip(axes[:, column], ("signal_to_noise", "bias"), strict=True):
                ax.plot(
                    range(len(values)),
                    [row[key] for row in rows],
                    "o-",
                    color=COLOURS[name],
                    label=name,
                )
        for ax in axes[:, column]:
            names = [str(value).replace(" ", "\n") for value in values]
            ax.set_xticks(range(len(values)), names)
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_yscale("log")
        axes[1, column].set_yscale("symlog", linthresh=0.1)
        axes[1, column].set_xlabel(option)
    axes[0, 0].set_ylabel("signal / noise, per draw")
    axes[1, 0].set_ylabel("bias / gradient")
    axes[0, 0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("gradients.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scale = 1 if arguments.quick else 40
    results: dict[str, list[Any]] = {}
    cases = [(option, value) for option, values in VARIED.items() for value in values]
    print(f"{'':<24}{'layer':<14}{'rate':>8}{'gradient':>11}{'signal/noise':>14}{'bias':>8}")
    for option, value in tqdm(cases, disable=None):
        row = measure({**MIDDLE, option: value}, scale)
        results.setdefault(option, []).append(row)
        for name, found in row.items():
            bias = "?" if found["bias"] is None else f"{found['bias']:.3f}"
            print(
                f"{option + ' ' + str(value):<24}{name:<14}{found['rate']:8.3f}"
                f"{found['gradient']:11.2e}{found['signal_to_noise']:14.2e}{bias:>8}"
            )
    draw(results, arguments.out)
    record = arguments.out.with_suffix(".json")
    write_json(record, results)
    print(f"picture: {arguments.out}\nresult: {record}")


if __name__ == "__main__":
    main()
