"""Out of distribution: models of MNIST see turned digits, letters, foreign scripts, photographs.

All models are those of the MNIST table. Iterative models and hybrids go on for 1,000 timesteps;
amortised ones have but one. Error is the squared error against the picture shown, from one
timestep's code, 1,000 · MSE / pixels; beside it R². Sets: digits turned by 15 to 180 degrees,
EMNIST letters, Omniglot characters, 28×28 crops of photographs (as they are, in [0, 1]), digits
with Gaussian noise (σ 0.3) and digits with a quarter of the picture covered in grey.

    python examples/paper/out_of_distribution.py --data path/to/data
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn.runs import pick

from lab import LABELS, Lab, evaluated, figure, finish, load, parse, trained
from lab.pictures import plain_log, style
from lab.sets import rotated
from lab.zoo import ONE_PASS

MODELS = ("iP", "iG", "iG-relu", "LCA", "sa", "ia", "P-conv", "G-conv")
ANGLES = (15, 30, 60, 90, 120, 150, 180)


def sets(lab: Lab) -> Iterator[tuple[str, Tensor]]:
    """Names and pictures, (N, M), of each set that is at hand."""
    samples, count = load(lab, "mnist"), lab.few(200, 20)
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
    if lab.data is None:
        print("letters, characters and photographs need --data: left out")
        return
    with np.load(lab.data / "emnist_letters_test.npz") as file:
        yield "EMNIST letters", unit(file["x_test"], count)
    with np.load(lab.data / "omniglot.npz") as file:
        yield "Omniglot", unit(file["x"], count)
    with np.load(lab.data / "natural_images.npz") as file:
        scenes = file["bsds_test_landscape"]
    rng = np.random.default_rng(0)
    places = (
        (scenes[rng.integers(len(scenes))], rng.integers(4, 321 - 32), rng.integers(4, 481 - 32))
        for _ in range(count)
    )
    crops = np.stack([scene[r : r + 28, c : c + 28] for scene, r, c in places])
    yield "photographs", unit(crops, count)


def unit(images: np.ndarray, count: int) -> Tensor:
    """So many images from all over, flat, in [0, 1]."""
    return pick(torch.from_numpy(images), count, seed=0).flatten(1).float() / 255


def measure(lab: Lab, name: str, x: Tensor) -> dict[str, Any]:
    steps = 2 if name in ONE_PASS else lab.few(1000, 20)
    return evaluated(lab, trained(lab, "mnist", name), x, steps, samples=len(x))


def main() -> None:
    lab = parse(__file__, __doc__)
    found: dict[str, dict[str, Any]] = {}
    for label, x in sets(lab):
        key = label.replace(" ", "-").replace("°", "")
        found[label] = {
            name: lab.cell(f"{key}-{name}", lambda n=name, x=x: measure(lab, n, x))
            for name in MODELS
        }
    lab.save({"found": found})
    draw_curves(lab, found)
    draw_angles(lab, found)
    draw_pictures(lab)
    report(found)


def error(run: dict[str, Any]) -> float:
    return run["last"]["mse_per_dim"]


def draw_curves(lab: Lab, found: dict[str, Any]) -> None:
    shown = [n for n in found if not n.startswith("turned") or n.endswith(("90°", "180°"))][:8]
    pixels = load(lab, "mnist").train.shape[1]
    with figure(lab, 2, -(-len(shown) // 2), size=(11, 5)) as axes:
        for ax, label in zip(axes.flat, shown, strict=False):
            for name, run in found[label].items():
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
            handles, labels, loc="outside lower center", ncols=8, frameon=False, fontsize=8
        )


def draw_angles(lab: Lab, found: dict[str, Any]) -> None:
    with figure(lab, name="angles", size=(5.6, 3.6)) as axes:
        ax = axes[0, 0]
        for name in MODELS:
            errors = [error(found["MNIST"][name])]
            errors += [error(found[f"turned {angle}°"][name]) for angle in ANGLES]
            ax.plot((0, *ANGLES), errors, marker="o", ms=3, **style(name))
        ax.set_xticks((0, *ANGLES[1:]))
        ax.set_yscale("log")
        plain_log(ax.yaxis)
        finish(ax, x="turned by (degrees)", y="1,000 · MSE / pixels, last step", legend=None)
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


@torch.no_grad()
def draw_pictures(lab: Lab) -> None:
    """One picture of each set, and what some models make of it."""
    found = [(label, x[:1]) for label, x in sets(lab) if label[7:9] not in ("15", "30", "60", "12")]
    x = torch.cat([picture for _, picture in found]).to(lab.device)
    names = ("iP", "iG-relu", "sa", "ia", "P-conv")
    rows = [("shown", x)]
    for name in names:
        model = trained(lab, "mnist", name)
        out = model.run(x, 2 if name in ONE_PASS else lab.few(1000, 20), record=(), seed=0)
        rows.append((LABELS[name], model.decode(out.state.spk)))
    size = (0.95 * len(found) + 1.2, 0.95 * len(rows) + 0.2)
    with figure(lab, len(rows), len(found), name="pictures", size=size) as axes:
        for line, (label, images) in zip(axes, rows, strict=True):
            for ax, image, (title, _) in zip(line, images.cpu(), found, strict=True):
                shape = load(lab, "mnist").shape
                ax.imshow(image.reshape(shape).numpy(), cmap="gray", vmin=0, vmax=1)
                ax.set_xticks([])
                ax.set_yticks([])
                if label == "shown":
                    ax.set_title(title, fontsize=7)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def report(found: dict[str, Any]) -> None:
    print("1,000 · MSE / pixels at the last step (of the iP-VAE also at steps 16 and 100)")
    print(f"{'':<16}{'iP 16':>9}{'iP 100':>9}" + "".join(f"{name:>9}" for name in MODELS))
    for label, runs in found.items():
        run = runs["iP"]
        scale = error(run) / run["curves"]["mse"][-1]
        early = np.interp((16, 100), run["steps"], run["curves"]["mse"]) * scale
        row = (*early, *(error(runs[name]) for name in MODELS))
        print(f"{label:<16}" + "".join(f"{value:9.3f}" for value in row))


if __name__ == "__main__":
    main()
