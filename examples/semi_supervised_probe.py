"""Linear readout from few labels: unsupervised IPVAE features against raw pixels and PCA.

An IPVAE is trained on all training images without labels. Then the same linear readout
(scikit-learn's logistic regression on standardised features) is trained on 10, 100 and 1,000
labelled images, with each of three features: the IPVAE's spike counts averaged over timesteps, raw
pixels, and principal components of the training images. Labelled sets are drawn several times,
balanced over the classes.

    python examples/semi_supervised_probe.py
    python examples/semi_supervised_probe.py --data mnist --data-dir path/to/mnist
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, fit

COLOURS = {"IPVAE spikes": "#0072B2", "raw pixels": "#808080", "PCA": "#D55E00"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits (default), mnist or a path")
    parser.add_argument("--data-dir", type=Path, default=Path("."), help="folder of mnist")
    parser.add_argument("--latents", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--steps", type=int, default=100, help="timesteps to average over")
    parser.add_argument("--repeats", type=int, default=10, help="labelled sets drawn per size")
    parser.add_argument("--images", type=int, default=5000, help="maximal number per split")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("semi_supervised_probe.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.iterations, arguments.steps, arguments.repeats = 20, 10, 2
    return arguments


def spike_features(model: IPVAE, x: Tensor, steps: int) -> np.ndarray:
    """Counts of each neuron averaged over the timesteps, as a downstream neuron receives them."""
    total, state = torch.zeros(len(x), model.latents), None
    with torch.no_grad():
        for _ in range(steps):
            out = model.run(x, 1, record=(), state=state)
            state = out.state
            total += state.spk
    return (total / steps).numpy()


def balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``count`` samples, balanced over the classes as far as possible."""
    classes = np.unique(labels)
    by_class = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    rounds = (members[i] for i in range(len(labels)) for members in by_class if i < len(members))
    return np.fromiter(rounds, dtype=int, count=min(count, len(labels)))


def main() -> None:
    arguments = parse()
    images = data.load(arguments.data, data_dir=arguments.data_dir)
    x, x_test = images.train, images.test[: arguments.images]
    labels = images.train_labels.numpy()
    labels_test = images.test_labels.numpy()[: arguments.images]
    print(images.description)

    torch.manual_seed(0)
    model = IPVAE(x.shape[1], arguments.latents)
    fit(
        model,
        x,
        TrainConfig(
            iterations=arguments.iterations, steps=32, beta=32.0, lr=5e-3, grad_clip=3000.0
        ),
    )
    torch.manual_seed(0)
    pool = slice(0, arguments.images)  # labelled images are drawn from these
    components = min(64, x.shape[1] // 2)
    pca = PCA(components).fit(x.numpy())
    features = {
        "IPVAE spikes": (
            spike_features(model, x[pool], arguments.steps),
            spike_features(model, x_test, arguments.steps),
        ),
        "raw pixels": (x[pool].numpy(), x_test.numpy()),
        "PCA": (pca.transform(x[pool].numpy()), pca.transform(x_test.numpy())),
    }
    labels = labels[pool]

    sizes = (10, 100, 1000)
    scores: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in features}
    for repeat in range(arguments.repeats):
        rng = np.random.default_rng(repeat)
        for column, size in enumerate(sizes):
            chosen = balanced(labels, size, rng)
            for name, (train, test) in features.items():
                probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                probe.fit(train[chosen], labels[chosen])
                scores[name][column].append(probe.score(test, labels_test))

    print(
        f"\naccuracy on {len(labels_test):,} test images, mean ± std of {arguments.repeats} draws"
    )
    print("labels        " + "".join(f"{size:>16}" for size in sizes))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for name, columns in scores.items():
        means, stds = np.mean(columns, axis=1), np.std(columns, axis=1)
        row = "".join(f"{f'{m:.3f} ± {s:.3f}':>16}" for m, s in zip(means, stds, strict=True))
        print(f"{name:<14}{row}")
        ax.errorbar(
            sizes, means, stds, label=name, color=COLOURS[name], marker="o", capsize=3, lw=1.8
        )
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.set_xlabel("labelled images")
    ax.set_ylabel("accuracy on test images")
    ax.set_title("Linear readout of features learned without labels")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="lower right")
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
