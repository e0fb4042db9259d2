"""Out of distribution: models of MNIST on rotated digits, letters, other scripts and photographs.

The models are those of the MNIST table, among them the strongest simple rivals, linear and MLP
encoders. Iterative models and hybrids run for 256 timesteps; amortised ones need one. Error is
1,000 · MSE / pixels against the input, from the code of one timestep; R² is in the results too.
Data sets: digits rotated by 15 to 180 degrees, EMNIST letters, Omniglot characters, 28×28 crops of
photographs (in [0, 1], not whitened), digits with Gaussian noise (σ 0.3), and digits with a grey
square over a quarter of the image.

    python examples/paper/out_of_distribution.py --data path/to/data
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import IPVAE
from ipvae_snn.runs import pick

from harness import LABELS, Setup, evaluated, figure, finish, load, parse, trained
from harness.datasets import rotated
from harness.figures import plain_log, style
from harness.recipes import HEADLINE, ONE_PASS
from harness.tables import spread
from harness.tuned import MIN_ZEROS, tuned

MODELS = (
    "iP", "iP-tuned", "iG", "iG-relu", "LCA", "G-linear", "G-mlp", "P-linear", "P-mlp", "sa", "ia",
    "P-conv", "G-conv",
)  # fmt: skip
SMALL_RATES = {"photographs": 0.02}
"""dt / τ of LCA, for as much longer, where its own of 0.1 diverges: so many neurons are active."""
DIVERGED = 1e6
"""Mean errors above it are of single samples whose rates jump between the ends of the clamp."""
ANGLES = (15, 30, 60, 90, 120, 150, 180)


def datasets(setup: Setup) -> Iterator[tuple[str, Tensor]]:
    """Name and images (N, M) of each available data set."""
    samples, count = load(setup, "mnist"), setup.amount(500, quick=20)
    digits = pick(samples.test, count, seed=0)
    generator = torch.Generator().manual_seed(0)
    yield "MNIST", digits
    for angle in ANGLES:
        yield f"turned {angle}°", rotated(digits, samples.shape, angle)
    noise = 0.3 * torch.randn(digits.shape, generator=generator)
    yield "noise", (digits + noise).clamp(0, 1)
    covered = digits.clone().reshape(-1, *samples.shape)
    height, width = (side // 2 for side in samples.shape)
    covered[:, height // 2 : height // 2 + height, width // 2 : width // 2 + width] = 0.5
    yield "occlusion", covered.reshape(digits.shape)
    if setup.data is None:
        print("letters, characters and photographs need --data: skipped")
        return
    with np.load(setup.data / "emnist_letters_test.npz") as file:
        yield "EMNIST letters", unit(file["x_test"], count)
    with np.load(setup.data / "omniglot.npz") as file:
        yield "Omniglot", unit(file["x"], count)
    with np.load(setup.data / "natural_images.npz") as file:
        scenes = file["bsds_test_landscape"]
    rng = np.random.default_rng(0)
    corners = (
        (scenes[rng.integers(len(scenes))], rng.integers(4, 321 - 32), rng.integers(4, 481 - 32))
        for _ in range(count)
    )
    crops = np.stack([scene[r : r + 28, c : c + 28] for scene, r, c in corners])
    yield "photographs", unit(crops, count)


def unit(images: np.ndarray, count: int) -> Tensor:
    """A random subset of ``count`` images, flat, in [0, 1]."""
    return pick(torch.from_numpy(images), count, seed=0).flatten(1).float() / 255


@cache
def tuned_iP(setup: Setup, seed: int) -> IPVAE:
    """That of the MNIST table: no more spikes than before."""
    found = tuned(setup, "mnist", seed, min_zeros=MIN_ZEROS)
    return found.model


def measure(setup: Setup, label: str, name: str, x: Tensor, seed: int) -> dict[str, Any]:
    model = tuned_iP(setup, seed) if name == "iP-tuned" else trained(setup, "mnist", name, seed)
    steps = 2 if name in ONE_PASS else setup.amount(256, quick=20)
    if name == "LCA" and label in SMALL_RATES:
        steps = round(steps * model.rate / SMALL_RATES[label])
        model.rate = SMALL_RATES[label]
    return evaluated(setup, model, x, steps, samples=len(x))


def main() -> None:
    setup = parse(__file__, __doc__)
    results: dict[str, dict[str, list[Any]]] = {}
    for label, x in datasets(setup):
        key = label.replace(" ", "-").replace("°", "")
        results[label] = {
            name: setup.by_seed(
                f"{key}-{name}",
                lambda seed, d=label, n=name, x=x: measure(setup, d, n, x, seed),
                several=name in HEADLINE,
            )
            for name in MODELS
        }
    setup.save({"found": results})
    draw_curves(setup, results)
    draw_angles(setup, results)
    draw_examples(setup)
    report(results)


def error(run: dict[str, Any]) -> float:
    return run["last"]["mse_per_dim"]


def _shown(results: dict[str, Any]) -> list[str]:
    """Data sets of the table and the curves: two of the angles."""
    return [n for n in results if not n.startswith("turned") or n.endswith(("90°", "180°"))]


def draw_curves(setup: Setup, results: dict[str, Any]) -> None:
    shown = _shown(results)
    pixels = load(setup, "mnist").train.shape[1]
    with figure(setup, 2, -(-len(shown) // 2), size=(11, 5)) as axes:
        for ax, label in zip(axes.flat, shown, strict=False):
            for name, (run, *_) in results[label].items():
                look = style(name)
                if name in ONE_PASS:
                    ax.axhline(error(run), **{**look, "lw": 1.2, "alpha": 0.8})
                else:
                    per_dim = [1000 * value / pixels for value in run["curves"]["mse"]]
                    ax.plot(run["steps"], per_dim, **look)
            ax.set_xscale("log")
            ax.set_yscale("log")
            plain_log(ax.yaxis)
            finish(ax, x="timestep", y="1,000 · MSE / pixels", title=label, legend=None)
        for ax in list(axes.flat)[len(shown) :]:
            ax.set_axis_off()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(
            handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8
        )


def draw_angles(setup: Setup, results: dict[str, Any]) -> None:
    with figure(setup, name="angles", size=(5.6, 3.6)) as axes:
        ax = axes[0, 0]
        for name in MODELS:
            errors = [error(results["MNIST"][name][0])]
            errors += [error(results[f"turned {angle}°"][name][0]) for angle in ANGLES]
            ax.plot((0, *ANGLES), errors, marker="o", ms=3, **style(name))
        ax.set_xticks((0, *ANGLES[1:]))
        ax.set_yscale("log")
        plain_log(ax.yaxis)
        finish(ax, x="turned by (degrees)", y="1,000 · MSE / pixels, last step", legend=None)
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


@torch.no_grad()
def draw_examples(setup: Setup) -> None:
    """One image of each data set, above its reconstructions by some models."""
    left_out = tuple(f"turned {angle}°" for angle in (15, 30, 60, 120, 150))
    inputs = [(label, x[:1]) for label, x in datasets(setup) if label not in left_out]
    x = torch.cat([image for _, image in inputs]).to(setup.device)
    names = ("iP", "iG-relu", "LCA", "G-linear", "G-mlp", "P-mlp")
    rows = [("shown", x)]
    for name in names:
        model = trained(setup, "mnist", name)
        steps = 2 if name in ONE_PASS else setup.amount(256, quick=20)
        out = model.run(x, steps, record=(), seed=0)
        rows.append((LABELS[name], model.decode(out.state.spk)))
    size = (0.95 * len(inputs) + 1.2, 0.95 * len(rows) + 0.2)
    with figure(setup, len(rows), len(inputs), name="pictures", size=size) as axes:
        for line, (label, images) in zip(axes, rows, strict=True):
            for ax, image, (title, _) in zip(line, images.cpu(), inputs, strict=True):
                shape = load(setup, "mnist").shape
                ax.imshow(image.reshape(shape).numpy(), cmap="gray", vmin=0, vmax=1)
                ax.set_xticks([])
                ax.set_yticks([])
                if label == "shown":
                    ax.set_title(title, fontsize=7)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def report(results: dict[str, Any]) -> None:
    print("1,000 · MSE / pixels at the last step")
    lines = [["", *(LABELS[name] for name in MODELS)]]
    for label in _shown(results):
        errors = ([error(run) for run in results[label][name]] for name in MODELS)
        lines.append([label, *(
            "diverges" if max(each) > DIVERGED else spread(each, ".1f") for each in errors
        )])  # fmt: skip
    dense = [f"{np.mean([r['last']['zeros'] for r in results['MNIST'][n]]):.3f}" for n in MODELS]
    lines.append(["zeros, MNIST", *dense])
    for column in zip(*lines, strict=True):  # models are rows: there are more of them
        print(
            column[0].ljust(20)
            + "".join(
                c.rjust(max(12, len(line[0]) + 2))
                for c, line in zip(column[1:], lines[1:], strict=True)
            )
        )


if __name__ == "__main__":
    main()
