"""The same networks with snn.Leaky and with IPVAENeuron layers, on equal terms.

Every version trains for equal epochs of the same samples. Its learning rate, normalisation of
currents and price of spikes are searched in the same way, each with a network of its own, on
validation samples: first the learning rate and normalisation with the best score, with at most
5,000 samples to learn from, then, with all of them, the highest price whose score is within .2
points of the best. ``sparse`` has the highest price whose score is no less than that of ``Leaky``.
``defaults`` is ``IPVAENeuron(K)`` as it is, in sequences ``IPVAENeuron(Recurrent(K))``, with
normalised currents, at learning rate 5e-3 and price 0.3. Test samples are looked at once, by the
final networks. "Price" is what the loss pays for a thousand spikes per sample; it rises from zero
over the first half of training. Small data sets are shown more often. "Operations" are those of
``metrics.synops`` per sample: additions by spikes, also those of lateral inhibition, and the
products of an input that is no spikes. Training steps are timed in turns, as processor time of one
thread. Without spikes, and with a single pass, a network with ReLUs shows what is lost. Classifiers
of images are tested on noisy, covered and pale ones too.

    python examples/hidden_layers/compare.py --task classifier
    python examples/hidden_layers/compare.py --task convolutional --data path/to/mnist.npz
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from tasks import (
    DISTURBANCES,
    TASKS,
    Layer,
    Part,
    Task,
    accuracy,
    kept,
    settled,
    splits_of,
    write_json,
)
from torch import Tensor, nn
from tqdm.auto import tqdm

from ipvae_snn import IPVAENeuron, metrics, over_time, surrogate
from ipvae_snn.bench.timing import machine
from ipvae_snn.neurons import Recurrent

Options = dict[str, Any]
RATES, PRICES = (2e-3, 5e-3, 1e-2), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
DEFAULTS: Options = {"lr": RATES[1], "norm": True, "price": PRICES[1]}
WITHIN = 0.002
"""Of the best score: where the highest price is taken."""
BATCH, LEAST_BATCHES, SEARCHED, WATCHED = 64, 1000, 5000, 1000
FEW_EPOCHS = 12
"""Each has a dot in the picture, if there are no more."""
ROUNDS, TIMED = 7, 10
"""Of the timing: in each round every version learns from so many batches; the fastest counts."""
NOT_OF_RESULTS = "out", "cache", "seeds", "quick", "time"
"""Options that finished networks do not depend on."""
VERSIONS = {
    "Leaky": "#808080", "IPVAE, Poisson": "#D55E00", "IPVAE, rounded": "#0072B2",
    "IPVAE, Poisson, sparse": "#D55E00", "IPVAE, rounded, sparse": "#0072B2",
    "IPVAE, Poisson, defaults": "#E69F00", "IPVAE, rounded, defaults": "#56B4E9",
    "ReLU": "#009E73",
}  # fmt: skip
MARKERS = {"sparse": "^", "defaults": "s"}


def leaky(features: int, kind: str) -> nn.Module:
    if kind == "recurrent":
        return snn.RLeaky(0.9, linear_features=features, init_hidden=True)
    return snn.Leaky(0.5 if kind == "maps" else 0.9, init_hidden=True)


def ours(features: int, kind: str, rounded: bool) -> nn.Module:
    options: Options = {"spike_grad": surrogate.rounded()} if rounded else {}
    if kind == "maps":
        options["dim"] = 1
    source = Recurrent(features) if kind == "recurrent" else features
    return IPVAENeuron(source, init_hidden=True, **options)


def layer_of(version: str, norm: bool) -> Layer:
    """What makes the spiking layers of a version."""

    def layer(features: int, kind: str) -> list[nn.Module]:
        if version == "ReLU":
            neuron: nn.Module = nn.ReLU()
        else:
            rounded = "rounded" in version
            neuron = leaky(features, kind) if version == "Leaky" else ours(features, kind, rounded)
        norms = nn.BatchNorm2d if kind == "maps" else nn.BatchNorm1d
        return [norms(features), neuron] if norm else [neuron]

    return layer


class Network:
    """A network for a task, whose hidden spikes are counted."""

    def __init__(self, task: Task, version: str, norm: bool) -> None:
        self.task, self.sums = task, list[Tensor]()
        self.steps = 1 if version == "ReLU" else task.num_steps
        self.net = task.network(layer_of(version, norm))
        for layer in list(self.net)[:-1]:
            if isinstance(layer, IPVAENeuron):
                layer.observers.append(lambda seen: self.sums.append(seen.spk.sum()))
            elif isinstance(layer, snn.SpikingNeuron):
                layer.register_forward_hook(lambda _, __, spk: self.sums.append(spk.sum()))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs at all timesteps, (T, B, ...), and hidden spikes per sample."""
        steps = self.steps
        outputs = over_time(self.net, x.transpose(0, 1) if steps is None else x, steps).mem
        spikes = sum(self.sums, x.new_zeros(())) / len(x)
        self.sums.clear()
        return outputs, spikes

    @torch.no_grad()
    def measure(self, part: Part) -> dict[str, float]:
        """Score, and hidden spikes per sample."""
        self.net.eval()
        found, total = [], 0.0
        for x in part.x.split(500):
            outputs, spikes = self(x)
            found.append(settled(outputs))
            total += float(spikes) * len(x)
        self.net.train()
        score = self.task.score(torch.cat(found), part.wanted)
        return {"score": score, "spikes": total / len(part.x)}

    def operations(self, x: Tensor) -> float:
        """Additions by spikes and other products, per sample."""
        shown = x.transpose(0, 1).contiguous() if self.steps is None else x
        operations = metrics.synops(self.net, shown, self.steps).operations
        self.sums.clear()
        return operations

    def disturbed(self) -> dict[str, float]:
        """Scores on disturbed test images, of a kind that no network has seen before."""
        x, wanted = self.task.test
        return {
            name: self.measure(Part(change(x), wanted))["score"]
            for name, change in DISTURBANCES.items()
        }


def train(
    task: Task, version: str, options: Options, seed: int, epochs: int
) -> tuple[Network, Options]:
    """A trained network, and its score on a few validation samples by epoch."""
    torch.manual_seed(seed)
    network = Network(task, version, options["norm"])
    net, samples = network.net, len(task.train.x)
    optimizer = torch.optim.Adam(net.parameters(), lr=options["lr"])
    batches = max(1, samples // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    history = []
    watched = Part(*(part[:WATCHED] for part in task.validation))
    for epoch in range(epochs):
        price = 1e-3 * options["price"] * min(1.0, 2 * epoch / epochs)
        for batch in torch.randperm(samples)[: batches * BATCH].chunk(batches):
            learn(network, optimizer, Part(*(part[batch] for part in task.train)), price)
            schedule.step()
        history.append(network.measure(watched)["score"])
    return network, {"history": history}


def learn(network: Network, optimizer: Any, batch: Part, price: float) -> None:
    """A training step."""
    outputs, spikes = network(batch.x)
    loss = network.task.loss(outputs, batch.wanted) + price * spikes
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.net.parameters(), 1.0)
    optimizer.step()


def timed(
    task: Task, results: dict[str, Any], clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds of a training step of each version, taken in turns, so that a busy machine and the
    order matter little."""
    batch = Part(*(part[:BATCH] for part in task.train))
    networks = [Network(task, name, found["options"]["norm"]) for name, found in results.items()]
    optimizers = [torch.optim.Adam(network.net.parameters(), lr=1e-4) for network in networks]
    seconds = dict.fromkeys(results, float("inf"))
    for _ in range(ROUNDS):
        for name, network, optimizer in zip(results, networks, optimizers, strict=True):
            started = clock()
            for _ in range(TIMED):
                learn(network, optimizer, batch, 0.0)
            seconds[name] = min(seconds[name], (clock() - started) / TIMED)
    return seconds


def report_times(task: Task) -> None:
    """Of a training step by the clock on the wall, on all threads, relative to ``Leaky``."""
    for norm in (False, True):
        versions = {name: {"options": {"norm": norm}} for name in list(VERSIONS)[:3]}
        seconds = timed(task, versions, time.perf_counter)
        ratios = (f"{name} {value / seconds['Leaky']:.2f}" for name, value in seconds.items())
        print(f"{'with' if norm else 'without'} normalisation: {', '.join(ratios)}")


Kept = Callable[[str, Callable[[], Options]], Options]
"""Name and maker of a result: made once, then read from its file, if there is a cache. With another
release, whose defaults may differ, take another folder."""


def searched(
    task: Task, version: str, epochs: int, kept: Kept
) -> tuple[list[Options], list[Options]]:
    """Options with their scores: those tried on part of the training samples, then all prices."""
    part = replace(task, train=Part(*(part[:SEARCHED] for part in task.train)))

    def tried(task: Task, options: Options, how: str) -> Options:
        options = {key: options[key] for key in DEFAULTS}

        def measured() -> Options:
            network, _ = train(task, version, options, seed=100, epochs=epochs)
            return {**options, **network.measure(task.validation)}

        return kept(f"{version} {how} {listed(options)}", measured)

    ways = [{"lr": lr, "norm": norm, "price": PRICES[0]} for norm in (False, True) for lr in RATES]
    rows = [tried(part, way, "tried") for way in ways]
    best = max(rows, key=lambda row: row["score"])
    prices = PRICES[:1] if version == "ReLU" else PRICES
    return rows, [tried(task, {**best, "price": price}, "priced") for price in prices]


def dearest(rows: list[Options], least: float) -> Options | None:
    """The row of the highest price whose score is at least this, if any."""
    good = (row for row in rows if row["score"] >= least)
    return max(good, key=lambda row: row["price"], default=None)


def listed(options: Options) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def tested(task: Task, version: str, options: Options, seed: int, epochs: int) -> Options:
    """What a final network does on test samples."""
    network, took = train(task, version, options, seed, epochs)
    row = {**network.measure(task.test), **took}
    row["operations"] = network.operations(task.test.x[:200])
    if task.images and task.score is accuracy:
        row["disturbed"] = network.disturbed()
    return row


def versions_of(task: Task) -> list[str]:
    return [name for name in VERSIONS if task.images or name != "ReLU"]


def cache_of(arguments: argparse.Namespace) -> Kept:
    """Results under the folder ``--cache``, named by all that they depend on but the library."""
    if arguments.cache is None:
        return lambda name, make: make()
    folder = arguments.cache / listed(of_results(arguments)).replace(",", ";")
    return lambda name, make: kept(folder / f"{name}.json", make)


def of_results(arguments: argparse.Namespace) -> Options:
    """Options that finished networks depend on, data by name."""
    same = {key: value for key, value in vars(arguments).items() if key not in NOT_OF_RESULTS}
    return {**same, "data": Path(arguments.data).stem}


def compared(task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """Per version: options that were tried, and the final networks of all seeds."""
    results: dict[str, Any] = {}
    keep = cache_of(arguments)
    epochs = arguments.epochs or max(task.epochs, LEAST_BATCHES * BATCH // len(task.train.x))
    versions = tqdm(versions_of(task), desc=arguments.task, disable=None)
    for version in versions:
        versions.set_postfix_str(version)
        base, tried, priced = version.removesuffix(", defaults"), list[Options](), list[Options]()
        chosen: Options | None = DEFAULTS
        if version.endswith("sparse"):
            base = version.removesuffix(", sparse")
            chosen = dearest(results[base]["priced"], results["Leaky"]["validation"])
        elif base == version:
            tried, priced = searched(task, version, epochs, keep)
            chosen = dearest(priced, max(row["score"] for row in priced) - WITHIN)
        if chosen is None:
            print(f"{version:<26}  none: Leaky is more accurate at every price")
            continue
        options = {key: chosen[key] for key in DEFAULTS}
        runs = [
            keep(
                f"{base} seed {seed} {listed(options)}",
                lambda: tested(task, base, options, seed, epochs),  # noqa: B023, called at once
            )
            for seed in range(arguments.seeds)
        ]
        results[version] = {
            "options": options, "validation": chosen.get("score"), "tried": tried, "priced": priced,
            "runs": runs,
        }  # fmt: skip
        print(line(version, results[version]))
    print("\na training step, relative to Leaky's")
    seconds = timed(task, results)
    for version, found in results.items():
        found["seconds_per_step"] = seconds[version]
        print(f"{version:<26}{seconds[version] / seconds['Leaky']:8.2f}")
    return results


def line(version: str, found: dict[str, Any]) -> str:
    """Of the table: score, spikes, and operations."""
    runs = found["runs"]
    score, spikes, work = ([run[key] for run in runs] for key in ("score", "spikes", "operations"))
    return (
        f"{version:<26}{np.mean(score):8.4f} ±{np.std(score):.4f}{np.mean(spikes):9.0f} "
        f"±{np.std(spikes):<5.0f}{np.mean(work):12,.0f}   {listed(found['options'])}"
    )


def report_disturbed(results: dict[str, Any]) -> None:
    print(f"\n{'':<26}" + "".join(f"{name:>16}" for name in DISTURBANCES))
    for version, found in results.items():
        rows = [[run["disturbed"][name] for run in found["runs"]] for name in DISTURBANCES]
        cells = (f"{np.mean(row):.3f} ±{np.std(row):.3f}" for row in rows)
        print(f"{version:<26}" + "".join(f"{cell:>16}" for cell in cells))


def draw(results: dict[str, Any], title: str, path: Path) -> None:
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    quality, learning = figure.subplots(1, 2)
    for version, found in results.items():
        runs, tried = found["runs"], found["priced"]
        look = {"color": VERSIONS[version], "marker": MARKERS.get(version.split(", ")[-1], "o")}
        if version == "ReLU":
            quality.axhline(np.mean([r["score"] for r in runs]), color=look["color"], lw=1, ls="--")
        for rows, size in (
            (runs, {"ms": 8, "mec": "white", "ls": ""}),
            (tried, {"ms": 3, "lw": 1}),
        ):
            points = [r["spikes"] or np.nan for r in rows], [r["score"] for r in rows]
            quality.plot(*points, label=version if rows is runs else None, **size, **look)
        mean = np.mean([run["history"] for run in runs], axis=0)
        dots = {"ms": 4} if len(mean) <= FEW_EPOCHS else {"marker": ""}
        style = "--" if version.endswith("sparse") else "-"
        learning.plot(range(1, len(mean) + 1), mean, ls=style, **{**look, **dots})
    quality.set_xscale("log")
    quality.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    quality.xaxis.set_major_formatter("{x:,.0f}")
    quality.xaxis.set_minor_locator(NullLocator())
    learning.xaxis.set_major_locator(MaxNLocator(integer=True))
    quality.set_xlabel("hidden spikes per sample")
    quality.set_ylabel("score on test samples (lines: prices, validation)")
    learning.set_xlabel("epoch")
    learning.set_ylabel("score on validation samples")
    quality.set_title(title, loc="left", fontsize="medium")
    for ax in (quality, learning):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="classifier")
    parser.add_argument("--data", default="digits", help="digits (default), mnist.npz, fsdd_8k.npz")
    parser.add_argument("--images", type=int, help="training samples (default: all)")
    parser.add_argument("--hidden", type=int, default=256, help="neurons of a flat hidden layer")
    parser.add_argument("--steps", type=int, help="timesteps, where the input stays")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder of finished networks, for a later run")
    parser.add_argument(
        "--time", action="store_true", help="only time training steps, on all cores"
    )
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("hidden_layers.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.steps, arguments.images, arguments.seeds = 1, 3, 64, 1
        arguments.hidden = 16
    return arguments


def main() -> None:
    arguments = parse()
    task = TASKS[arguments.task](splits_of(arguments), arguments)
    if arguments.time:
        report_times(task)
        return
    torch.set_num_threads(1)  # so that times compare whatever else the machine does
    print(f"{'':<26}{'score':>8}{'':8}{'spikes':>9}{'':7}{'operations':>11}   options")
    results = compared(task, arguments)
    if "disturbed" in results["Leaky"]["runs"][0]:
        report_disturbed(results)
    sizes = [len(part.x) for part in (task.train, task.validation, task.test)]
    title = f"{arguments.task}, {Path(arguments.data).stem}, {sizes[0]:,} training samples"
    draw(results, title, arguments.out)
    record = arguments.out.with_suffix(".json")
    content = {
        "machine": machine(torch.device("cpu")), "options": of_results(arguments), "sizes": sizes,
        "results": results,
    }  # fmt: skip
    write_json(record, content)
    print(f"picture: {arguments.out}\nresult: {record}")


if __name__ == "__main__":
    main()
