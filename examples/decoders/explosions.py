"""1,000 timesteps of 2,000 images that a model has not seen: does anything explode?

Models learn for a short time, with the options of `compare.py`; the deep one with its own. Then
each infers unseen images for 1,000 timesteps. Reported are the largest membrane and count that any
neuron ever had, and how much the NLL rises from timesteps 100 to 200 to the last 100, in units of
its mean size, of the mean image and of the worst one: far above 0, inference lost what it had
found.

    python examples/decoders/explosions.py --data mnist.npz --photographs path/to/photos
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compare import TASKS, Task, by_spikes, gaussian_linear
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import TrainConfig, data, fit
from ipvae_snn.models import DeepIPVAE, Gaussian, NegativeBinomial, StudentT
from ipvae_snn.runs.folder import write_json

STEPS, IMAGES, ROWS, WINDOW = 1000, 2000, 500, 100


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="grey images (default: digits)")
    parser.add_argument("--photographs", default="natural", help="default: scikit-image's")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("explosions.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.iterations, arguments.latents = 5, 16
    return arguments


def deep(kind: str, task: Task, latents: int) -> tuple[Any, dict[str, Any]]:
    model = DeepIPVAE(task.train.shape[1], [latents, max(1, latents // 8)])
    return model, {**DeepIPVAE.recipe}


def cases(arguments: argparse.Namespace) -> dict[str, tuple[Task, str, Callable[..., Any]]]:
    """A task, a decoder and a maker of each model."""
    grey, events, colour = (TASKS[name](arguments) for name in ("grey", "events", "colour"))
    patches = data.load(arguments.photographs)
    natural = grey._replace(train=patches.train, test=patches.test, shape=(16, 16))
    pixels = grey.train.shape[1]
    # The curvature of a Gaussian with this σ is that of a Bernoulli law at even odds.
    like = {"step": 0.1, "bias": 0.05, "lr": 5e-3}
    gaussian = grey._replace(law=partial(Gaussian, pixels, scale=0.5), **like)
    heavy = grey._replace(law=partial(StudentT, pixels, scale=0.5), **like)
    return {
        "Gaussian, linear": (grey, "linear", gaussian_linear),
        "Gaussian, MLP": (gaussian, "MLP", by_spikes),
        "Student-t, MLP": (heavy, "MLP", by_spikes),
        "Bernoulli, linear": (grey, "linear", by_spikes),
        "Bernoulli, MLP": (grey, "MLP", by_spikes),
        "Bernoulli, convolutional": (grey, "convolutional", by_spikes),
        "Gaussian, convolutional, colour": (colour, "convolutional", by_spikes),
        "Poisson, MLP, events": (events, "MLP", by_spikes),
        "negative binomial, MLP, events": (
            events._replace(law=partial(NegativeBinomial, events.train.shape[1])), "MLP", by_spikes,
        ),
        "two layers, patches": (natural, "linear", deep),
    }  # fmt: skip


def endured(model: Any, x: Tensor, steps: int) -> dict[str, float]:
    """Extremes over all timesteps, in blocks of the window, and the NLL early and late."""
    largest = {"mem": -float("inf"), "spk": 0.0}
    early, late, rows = [], [], x.split(ROWS)
    with torch.no_grad():
        for part in rows:
            state, means = None, []
            for start in range(0, steps, WINDOW):
                out = model.run(
                    part, min(WINDOW, steps - start), record=("spk", "mem", "nll"), state=state,
                    seed=start, graph=False,
                )  # fmt: skip
                state = out.state
                for name in largest:
                    largest[name] = max(largest[name], float(getattr(out, name).max()))
                means.append(out.nll.mean(0))
            early.append(means[min(1, len(means) - 1)])
            late.append(means[-1])
    before, after = torch.cat(early), torch.cat(late)
    scale = before.abs().mean()
    return {
        "largest mem": largest["mem"], "largest count": largest["spk"],
        "nll, early": float(before.mean()), "nll, late": float(after.mean()),
        "worst rise": float((after - before).max() / scale),
    }  # fmt: skip


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    ax = figure.subplots()
    for key, colour in (("nll, late", "#0072B2"), ("worst rise", "#D55E00")):
        ratio = [
            1 + (row[key] - row["nll, early"]) / abs(row["nll, early"])
            if key == "nll, late"
            else 1 + row[key]
            for row in rows.values()
        ]
        label = "mean image" if key == "nll, late" else "image that rose most"
        ax.plot(ratio, range(len(rows)), "o", color=colour, ms=6, label=label)
    ax.axvline(1, color="#808080", lw=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlim(min(0.8, ax.get_xlim()[0]), max(1.3, ax.get_xlim()[1]))
    ax.set_xlabel("1 + rise of the NLL from timesteps 100–200 to 900–1,000, of its mean size")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    steps, images = (20, 10) if arguments.quick else (STEPS, IMAGES)
    rows = {}
    for name, (task, kind, make) in tqdm(cases(arguments).items(), disable=None):
        torch.manual_seed(0)
        model, options = make(kind, task, arguments.latents)
        config = TrainConfig(**{**options, "iterations": arguments.iterations, "progress": False})
        fit(model, task.train, config)
        rows[name] = endured(model.eval(), task.test[:images], steps)
        cells = "  ".join(f"{key} {value:.4g}" for key, value in rows[name].items())
        print(f"{name:<32}{len(task.test[:images])} images  {cells}", flush=True)
    draw(rows, arguments.out)
    record = arguments.out.with_suffix(".json")
    write_json(record, {"iterations": arguments.iterations, "steps": steps, "models": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
