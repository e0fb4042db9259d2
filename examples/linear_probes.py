"""Linear probes for the labels, on the codes of trained runs.

Codes are rates e^u at one timestep, of all labelled samples that a run learned from; the test is on
those it held out. Three probes: scikit-learn's logistic regression with its defaults, on rates (the
paper's) and on their square roots; and on roots of unit variance, with the regularisation chosen on
a tenth of the training samples.

    python examples/linear_probes.py runs/mnist runs/mnist-tuned --data path/to/mnist.npz
    python examples/linear_probes.py              # a small model of the digits of scikit-learn
"""

import argparse
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ipvae_snn import data, fit, load_model, metrics, recipes
from ipvae_snn.models import BaseModel

STRENGTHS = 0.005, 0.02, 0.1
PROBES = {
    "rates": lambda rates: (rates, None),
    "√rates": lambda rates: (rates.sqrt(), None),
    "scaled √rates": lambda rates: (rates.sqrt(), STRENGTHS),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run folders of train or tune")
    parser.add_argument("--data", default="digits", help="the data of the runs, with labels")
    parser.add_argument("--step", type=int, default=64, help="timestep of the codes")
    parser.add_argument("--samples", type=int, default=10**9, help="at most so many per split")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("linear_probes.png"))
    return parser.parse_args()


def models_of(arguments: argparse.Namespace, x: Tensor) -> dict[str, BaseModel]:
    """The models of the runs by name; a newly trained one if there is no run."""
    if arguments.runs:
        return {run.name: load_model(run / "model.pt") for run in arguments.runs}
    torch.manual_seed(0)
    iterations = 20 if arguments.quick else 1000
    recipe = recipes.find("mnist").changed(latents=128, iterations=iterations)
    model = recipe.make_model(x.shape[1])
    fit(model, x, recipe.config())
    return {"digits": model}


def codes(model: BaseModel, x: Tensor, step: int) -> Tensor:
    """Rates of a model at a timestep, (N, K)."""
    with torch.no_grad():
        parts = (model.run(part, step, record=(), seed=0).state.mem for part in x.split(500))
        return torch.cat([mem.exp() for mem in parts])


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the defaults stop after 100 iterations
    images = data.load(arguments.data)
    if images.train_labels is None or images.test_labels is None:
        raise SystemExit(f"{arguments.data} has no labels: a probe needs them")
    part = slice(0, 200 if arguments.quick else arguments.samples)
    x, x_test = images.train[part], images.test[part]
    y, y_test = images.train_labels[part], images.test_labels[part]
    print(f"{images.description}\nprobes: {len(x):,} training samples, {len(x_test):,} tests\n")

    models = models_of(arguments, images.train)
    print(f"\n{'run':<24}" + "".join(f"{name:>16}" for name in PROBES))
    figure = Figure(figsize=(6.2, 1.4 + 0.4 * len(models)), layout="constrained")
    axes = figure.subplots()
    for row, (name, model) in enumerate(models.items()):
        train, test = codes(model, x, arguments.step), codes(model, x_test, arguments.step)
        accuracies = []
        for colour, features in zip(
            ("#808080", "#E69F00", "#0072B2"), PROBES.values(), strict=True
        ):
            (trained_on, strengths), (tested_on, _) = features(train), features(test)
            accuracies.append(
                metrics.probe_accuracy(trained_on, y, tested_on, y_test, strengths=strengths)
            )
            axes.plot(100 * accuracies[-1], row, "o", color=colour, ms=8)
        print(f"{name:<24}" + "".join(f"{value:>16.2%}" for value in accuracies), flush=True)

    axes.set_yticks(range(len(models)), list(models))
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlabel("test samples classified correctly [%]")
    axes.set_title(f"Linear probes on the code at timestep {arguments.step}", fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(list(PROBES), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
