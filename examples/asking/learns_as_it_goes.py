"""A stream whose statistics change: a network that goes on learning, and one that does not.

A model learns digits, by the local rule. Then both, it and a copy whose weights stay, are shown a
stream, one image after the other: digits, then other images, then digits again. No gradient goes
through time, and nothing but the last 25 images is kept. The picture shows the error of each image
as it comes, and what is remembered: R² of held-out images of both kinds, as the weights are.

    python examples/asking/learns_as_it_goes.py
    python examples/asking/learns_as_it_goes.py --data mnist.npz --then emnist_letters_test.npz
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import IPVAE, Stream, data, fit, metrics, recipes
from ipvae_snn.runs.folder import write_json

COLOURS = {"learning": "#D55E00", "frozen": "#808080"}
HELD_OUT, WINDOW, MEASURED_EVERY = 300, 200, 250
"""Images of each kind to remember; those that errors are averaged over; and between measurements.
"""


def kinds_of(arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images to learn from and held-out ones, (N, M): of the first kind, and of the second."""
    first = data.load(arguments.data)
    if arguments.then is None:  # the same images, turned by a quarter
        turned = [
            x.unflatten(1, first.shape).mT.flip(-1).flatten(1) for x in (first.train, first.test)
        ]
        return first.train, first.test[:HELD_OUT], turned[0], turned[1][:HELD_OUT]
    other = data.load(arguments.then, hold_out=False)
    x = other.test if len(other.test) else other.train
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return first.train, first.test[:HELD_OUT], x[HELD_OUT:], x[:HELD_OUT]


def stream_of(first: Tensor, second: Tensor, count: int, seed: int) -> Tensor:
    """Three phases of ``count`` images each: first, second, first."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for x in (first, second, first):
        parts.append(x[torch.randint(len(x), (count,), generator=generator)])
    return torch.cat(parts)


@torch.no_grad()
def remembered(model: IPVAE, *kinds: Tensor) -> list[float]:
    """R² of each kind, by the rates after 64 timesteps."""
    found = []
    for x in kinds:
        mem = model.run(x, 64, record=("mem",), every=64, seed=0, graph=False).mem[-1]
        found.append(float(metrics.r2(x, model.decode(mem.exp()))))
    return found


def watch(model: IPVAE, learn: bool, frames: Tensor, kinds: Any, options: Any) -> dict[str, Any]:
    """Error of each image as a share of its energy, and what is remembered on the way."""
    stream = Stream(model, seed=options.seed, learn=learn, lr=options.lr)
    errors, memory = [], [[0, *remembered(model, *kinds)]]
    bar = tqdm(frames, desc="learning" if learn else "frozen", disable=None)
    for number, x in enumerate(bar, 1):
        _, mem = stream.push(x, num_steps=options.steps)
        with torch.no_grad():
            residual = x - model.decode(mem.exp())
        errors.append(float(residual.square().sum() / x.square().sum().clamp(min=1e-6)))
        if number % MEASURED_EVERY == 0:
            memory.append([number, *remembered(model, *kinds)])
    return {"errors": errors, "memory": memory}


def overtakes(learning: Any, frozen: Any, count: int) -> int | None:
    """Images of the second kind until the mean error of the last ones is below the frozen one's.

    It is at least ``WINDOW``, over which errors are averaged.
    """
    mine, theirs = (
        np.convolve(run["errors"][count : 2 * count], np.ones(WINDOW) / WINDOW, "valid")
        for run in (learning, frozen)
    )
    below = np.flatnonzero(mine < theirs)
    return int(below[0]) + WINDOW if len(below) else None


def draw(results: dict[str, Any], count: int, names: tuple[str, str], path: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    stream, memory = figure.subplots(1, 2)
    for name, run in results.items():
        smooth = np.convolve(run["errors"], np.ones(WINDOW) / WINDOW, "valid")
        stream.plot(np.arange(len(smooth)) + WINDOW, smooth, color=COLOURS[name], label=name)
        steps, *kinds = zip(*run["memory"], strict=True)
        for kind, line, r2 in zip(names, ("-", "--"), kinds, strict=True):
            memory.plot(steps, r2, line, color=COLOURS[name], label=f"{kind}, {name}")
    stream.set_ylabel(f"error / energy, mean of {WINDOW}")
    memory.set_ylabel("R² of held-out images")
    for ax in (stream, memory):
        for change in (count, 2 * count):
            ax.axvline(change, color="black", lw=0.8, ls=":")
        for number, name in enumerate((names[0], names[1], names[0])):
            where = ((number + 0.5) / 3, 1.01)
            ax.text(*where, name, transform=ax.transAxes, ha="center", fontsize="small")
        ax.set_xlabel("images shown")
        ax.set_xlim(0, 3 * count)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="first kind: digits (default), mnist.npz")
    parser.add_argument("--then", help="second kind (default: the same images, turned)")
    parser.add_argument("--count", type=int, default=2000, help="images of each phase")
    parser.add_argument("--iterations", type=int, default=1000, help="of learning before")
    parser.add_argument("--latents", type=int, default=128)
    parser.add_argument("--steps", type=int, default=32, help="timesteps for each image")
    parser.add_argument("--lr", type=float, default=0.02, help="in the stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("learns_as_it_goes.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.count, arguments.iterations, arguments.latents = 250, 100, 16
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    first, first_held, second, second_held = kinds_of(arguments)
    recipe = recipes.by_rule(recipes.find("mnist"), "local").changed(
        latents=arguments.latents, iterations=arguments.iterations, seed=arguments.seed
    )
    torch.manual_seed(arguments.seed)
    model = recipe.make_model(first.shape[1])
    fit(model, first, recipe.config())
    frames = stream_of(first, second, arguments.count, arguments.seed)
    kinds, results = (first_held, second_held), {}
    for name in COLOURS:
        one = copy.deepcopy(model)
        results[name] = watch(one, name == "learning", frames, kinds, arguments)
    names = (
        Path(arguments.data).stem,
        "turned" if arguments.then is None else Path(arguments.then).stem,
    )
    print(f"{'R² of held-out images':<28}{names[0]:>10}{names[1]:>10}")
    for name, run in results.items():
        for when, row in zip(("before", "after the second"), (0, 2), strict=True):
            at = run["memory"][row * (len(run["memory"]) - 1) // 3]
            print(f"{name + ', ' + when:<28}{at[1]:10.3f}{at[2]:10.3f}")
        end = run["memory"][-1]
        print(f"{name + ', at the end':<28}{end[1]:10.3f}{end[2]:10.3f}")
    after = overtakes(results["learning"], results["frozen"], arguments.count)
    if after is None:
        print("learning never has the lower error on the second kind")
    else:
        print(f"of the first {after} images of the second kind, learning has the lower error")
    draw(results, arguments.count, names, arguments.out)
    record = arguments.out.with_suffix(".json")
    content = {"lr": arguments.lr, "seed": arguments.seed, "overtakes": after, "results": results}
    write_json(record, content)
    print(f"picture: {arguments.out}\nresult: {record}")


if __name__ == "__main__":
    main()
