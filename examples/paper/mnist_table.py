"""The MNIST table: R², error, zeros, spikes, probe accuracy and parameters of all models.

Every model trains for the same time on 55,000 images, with options chosen on 5,000 others
(``choices.py``), and is run on test images: iterative models for 1,000 timesteps, many more than in
training, hybrids and amortised models for as many as in training. The probe is scikit-learn's
logistic regression, with its defaults, on E[z] of 20,000 training images at timestep 64, scored on
all test images; a second one ("√ probe") is trained on √E[z], which evens out the noise of counts.

*Tuned* is the iP-VAE after ``ipvae_snn.tune`` on the validation images, for the least error at 85%
zeros: with as many spikes as before, and with up to three times as many.

    python examples/paper/mnist_table.py --data path/to/data
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness import LABELS, Setup, codes, evaluated, figure, finish, load, parse, probe, trained
from harness.figures import COLOURS, plain_log
from harness.measure import effort
from harness.recipes import HEADLINE, ONE_PASS
from harness.tables import ERROR, PARAMETERS, R2, SPIKES, TRAINED, ZEROS, table
from harness.tuned import MIN_ZEROS, tuned

MODELS = (
    "iP", "iP-tuned", "iP-finer", "iG", "iG-relu", "LCA", "sa", "ia", "P-conv", "P-mlp", "P-linear",
    "G-conv", "G-mlp", "G-linear", "G-relu-conv",
)  # fmt: skip
TUNED = {"iP-tuned": 1.0, "iP-finer": 3.0}
"""At most so many times the spikes."""
PROBED = 20_000
"""Training images of the probes."""
PUBLISHED = {  # R², 1000 · MSE / pixels, zeros, accuracy, parameters: arXiv 2410.19315
    "iP": (0.9510, 4.386, 0.844, 0.9646, 403_217),
    "iG": (0.9136, 7.626, 0.0, 0.9273, 403_730),
    "iG-relu": (0.9055, 8.451, 0.785, 0.9574, 404_242),
    "P-conv": (0.7133, 25.48, 0.838, 0.9789, 6.79e6),
    "G-conv": (0.8406, 14.40, 0.0, 0.9575, 6.93e6),
    "G-relu-conv": (0.8089, 17.13, 0.500, 0.9541, 6.93e6),
}


def measure(setup: Setup, name: str, seed: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    model: nn.Module
    if name in TUNED:
        found = tuned(setup, "mnist", seed, times=TUNED[name], min_zeros=MIN_ZEROS)
        model, chosen = found.model, {"knobs": vars(found.knobs)}
    else:
        model = trained(setup, "mnist", name, seed)
    samples = load(setup, "mnist")
    steps, probe_step = run_length(setup, name)
    evaluation = evaluated(setup, model, samples.test, steps, samples=1000)
    train, test = (
        codes(setup, model, x, probe_step) for x in (samples.train[:PROBED], samples.test)
    )
    assert samples.train_labels is not None
    assert samples.test_labels is not None
    labels = samples.train_labels[:PROBED], samples.test_labels
    return {
        **evaluation,
        **chosen,
        "probe": probe(train, labels[0], test, labels[1]),
        "probe_root": probe(root(train), labels[0], root(test), labels[1]),
        "eval_steps": steps,
        "probe_step": probe_step,
        **effort(setup, "mnist", "iP" if name in TUNED else name),
    }


def run_length(setup: Setup, name: str) -> tuple[int, int]:
    """Timesteps of the evaluation, and timestep of the codes for the probe."""
    if name in ONE_PASS:
        return 2, 1
    if name in ("ia", "sa"):
        return setup.amount(8, quick=4), setup.amount(8, quick=4)
    return setup.amount(1000, quick=20), setup.amount(64, quick=10)


def root(code: Tensor) -> Tensor:
    return code.sign() * code.abs().sqrt()


def main() -> None:
    setup = parse(__file__, __doc__)
    results = {
        name: setup.by_seed(
            name, lambda seed, n=name: measure(setup, n, seed), several=name in HEADLINE
        )
        for name in MODELS
    }
    setup.save({"measured": results, "published": PUBLISHED})
    draw_table(setup, results)
    draw_digits(setup)
    report(results)


def draw_table(setup: Setup, results: dict[str, Any]) -> None:
    marks = {"linear": "v", "mlp": "s", "tuned": "*", "finer": "P"}
    with figure(setup, 1, 2, size=(10.4, 3.8)) as axes:
        for ax, key, column, label in (
            (axes[0, 0], "mse_per_dim", 1, "1,000 · MSE / pixels"),
            (axes[0, 1], "probe", 3, "probe accuracy"),
        ):
            for name, runs in results.items():
                mark = "D" if name == "G-relu-conv" else marks.get(name.rsplit("-", 1)[-1], "o")
                look = {"color": COLOURS[name], "ms": 10 if mark in "*P" else 6, "ls": ""}
                for index, run in enumerate(runs):
                    value = run["last"][key] if key in run["last"] else run[key]
                    ax.plot(
                        run["last"]["zeros"], value, mark, **look,
                        label=None if index else LABELS[name],
                    )  # fmt: skip
                if name in PUBLISHED:
                    row = PUBLISHED[name]
                    ax.plot(row[2], row[column], mark, **look, mfc="none", alpha=0.7)
            finish(ax, x="portion of zeros", y=label, legend=None)
        axes[0, 0].set_yscale("log")
        plain_log(axes[0, 0].yaxis)
        axes[0, 0].set_title("filled: here; open: published", fontsize=9, loc="left")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(
            handles, labels, loc="outside right center", frameon=False, fontsize=8
        )


@torch.no_grad()
def draw_digits(setup: Setup) -> None:
    """Digits and their reconstructions by some of the models."""
    samples = load(setup, "mnist")
    x, (height, width) = samples.test[:10].to(setup.device), samples.shape
    rows = [("shown", x)]
    for name in ("iP", "iG", "iG-relu", "LCA", "P-mlp", "G-mlp", "G-linear"):
        model = trained(setup, "mnist", name)
        out = model.run(x, run_length(setup, name)[0], record=(), seed=0)
        rows.append((LABELS[name], model.decode(out.state.spk)))
    with figure(setup, len(rows), 1, name="digits", size=(6.2, 0.62 * len(rows) + 0.2)) as axes:
        for ax, (label, images) in zip(axes[:, 0], rows, strict=True):
            strip = images.cpu().reshape(-1, height, width).numpy()
            ax.imshow(np.concatenate(list(strip), 1), cmap="gray", vmin=0, vmax=1)
            ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])


def report(results: dict[str, Any]) -> None:
    columns = (
        R2, ERROR, ZEROS, SPIKES, ("probe", lambda run: run["probe"], ".2%"),
        ("√ probe", lambda run: run["probe_root"], ".2%"), PARAMETERS, *TRAINED,
    )  # fmt: skip
    print(table(results, columns))
    print("\npublished: R², error, zeros, probe, parameters")
    for name, row in PUBLISHED.items():
        print(f"{LABELS[name]:<22}" + "".join(f"{value:>12g}" for value in row))


if __name__ == "__main__":
    main()
