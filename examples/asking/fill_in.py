"""Ask a model for what it has not seen: missing pixels, and labels.

A model learns images by the local rule. Then pixels of held-out ones are hidden, at random or as a
square, and filled in; R² is that of the hidden values, pooled over all, about the mean of their
pixel. Beside it: zeros, the mean of the pixel, LCA with a dictionary of its own and the same mask,
and the conditional mean of a Gaussian with the covariance of the training images. A sparse code is
best to learn by and a denser one to fill in by, so tonic inhibition is lowered. How far, the
threshold of LCA, and what is added to the diagonal of the covariance, are chosen on images that no
model learned from; the same ones, with the same masks, calibrate the 90% intervals, and "within" is
the share of hidden values in these. Where there are labels, a second
model learns images together with them and fills in the labels of held-out images; and a classifier
of pixels (a layer of 256 ReLUs) says how many draws of a given label it takes for that label. Last,
images of other kinds are told from held-out ones (area under the ROC curve) by what is surprising
about them: a low bound of log p(x), or a large error of their reconstruction.

    python examples/asking/fill_in.py
    python examples/asking/fill_in.py --data mnist.npz --other emnist_letters_test.npz --seeds 3
    python examples/asking/fill_in.py --data path/to/photos --seeds 3 --iterations 3000
"""

import argparse
import copy
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from ipvae_snn import IPVAE, data, fit, metrics, plotting, recipes
from ipvae_snn.baselines.lca import LCA, shrink
from ipvae_snn.models import CodePrior, fill_in_labels, impute, join_labels
from ipvae_snn.runs.folder import write_json

MASKS = {
    "25% at random": 0.25,
    "50% at random": 0.5,
    "75% at random": 0.75,
    "a quarter, square": None,
}
HELD_OUT, LCA_STEPS, SURPRISED = 500, 300, 100
THRESHOLDS, RIDGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (1e-4, 1e-3, 1e-2, 1e-1)
TONIC = (1.0, 0.25, 0.06, 0.015)
"""On the tonic inhibition after training."""
CHANGES = {
    "natural-local": {
        "step": 0.1, "steps": 48, "burn_in": 40, "bias": 0.1, "learn_bias": False,
        "lateral_scale": 1.0, "target_rate": 0.0,
    }
}  # fmt: skip
"""To the recipe of sparse patches, so that membranes settle, and lateral weights are exact."""


def hidden(name: str, x: Tensor, shape: tuple[int, int], seed: int) -> Tensor:
    """What is hidden of x, (N, M)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    if MASKS[name] is not None:
        return torch.rand(x.shape, generator=generator) < MASKS[name]
    places = torch.zeros(len(x), *shape, dtype=torch.bool)
    height, width = shape[0] // 2, shape[1] // 2
    for image in places:
        top = int(torch.randint(shape[0] - height + 1, (), generator=generator))
        left = int(torch.randint(shape[1] - width + 1, (), generator=generator))
        image[top : top + height, left : left + width] = True
    return places.flatten(1)


def score(x: Tensor, filled: Tensor, lost: Tensor, pixel_mean: Tensor) -> float:
    """R² of the hidden values, pooled over all samples."""
    error = (x - filled)[lost].square().sum()
    return 1 - float(error / (x - pixel_mean)[lost].square().sum())


@torch.no_grad()
def by_lca(model: LCA, x: Tensor, lost: Tensor, threshold: float) -> Tensor:
    """Sparse coding of the values that were seen."""
    weight, seen = model.weight, (~lost).to(x)
    rate = min(model.rate, 1 / float(torch.linalg.matrix_norm(weight, 2)) ** 2)  # else it diverges
    mem = torch.zeros(len(x), weight.shape[1])
    for _ in range(LCA_STEPS):
        code = shrink(mem, threshold, nonnegative=False)
        mem = mem + rate * ((seen * (x - code @ weight.mT)) @ weight - mem + code)
    return shrink(mem, threshold, nonnegative=False) @ weight.mT


def by_gaussian(mean: Tensor, covariance: Tensor, x: Tensor, lost: Tensor, ridge: float) -> Tensor:
    """E[hidden | seen] under a Gaussian."""
    covariance = covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance))
    filled = x.clone()
    for row, image, gone in zip(filled, x, lost, strict=True):
        seen = ~gone
        shift = torch.linalg.solve(covariance[seen][:, seen], (image - mean)[seen])
        row[gone] = mean[gone] + covariance[gone][:, seen] @ shift
    return filled


def with_tonic(model: IPVAE, factor: float) -> IPVAE:
    """A copy whose tonic inhibition is so many times as strong."""
    model = copy.deepcopy(model)
    model.neuron.log_bias.data += math.log(factor)
    return model


def trained(train: Tensor, recipe: Any, seed: int, options: Any) -> Any:
    """A model of these inputs."""
    torch.manual_seed(seed)
    changes = CHANGES.get(recipe.name, {})
    changed = recipe.changed(
        **changes, latents=options.latents, iterations=options.iterations, seed=seed
    )
    model = changed.make_model(train.shape[1])
    fit(model, train, changed.config())
    return model.eval()


def missing_pixels(
    dataset: Any, model: IPVAE, seed: int, options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """R² of each way and the intervals' coverage, by mask; and a few images of each to show."""
    train, chosen, test = (
        dataset.train[HELD_OUT:],
        dataset.train[:HELD_OUT],
        dataset.test[:HELD_OUT],
    )
    lca = trained(train, recipes.suited(dataset.kind, "lca"), seed, options)
    pixel_mean, covariance, few = train.mean(0), train.mT.cov(), slice(0, options.few)
    rows, shown = {}, {}
    for name in tqdm(MASKS, desc="missing pixels", disable=None):
        lost, gone = (hidden(name, x, dataset.shape, seed) for x in (test, chosen))
        threshold = max(
            THRESHOLDS,
            key=lambda t: score(chosen, by_lca(lca, chosen, gone, t), gone, pixel_mean),
        )
        some = chosen[few], gone[few]
        ridge = max(
            RIDGES,
            key=lambda r: score(
                some[0], by_gaussian(pixel_mean, covariance, *some, r), some[1], pixel_mean
            ),
        )
        tonic = max(
            TONIC,
            key=lambda factor: score(
                some[0],
                impute(
                    with_tonic(model, factor), some[0], ~some[1], draws=16, calibrate=False
                ).mean,
                some[1],
                pixel_mean,
            ),
        )
        filled = impute(with_tonic(model, tonic), test, ~lost, calibrate=chosen, seed=seed)
        ways = {
            "zeros": torch.zeros_like(test), "pixel mean": pixel_mean.expand_as(test),
            "LCA": by_lca(lca, test, lost, threshold),
            "Gaussian": by_gaussian(pixel_mean, covariance, test, lost, ridge),
            "iP-VAE": filled.mean,
        }  # fmt: skip
        inside = (test >= filled.low) & (test <= filled.high)
        rows[name] = {way: score(test, values, lost, pixel_mean) for way, values in ways.items()}
        rows[name] |= {"within": float(inside[lost].float().mean()), "threshold": threshold,
                       "ridge": ridge, "tonic": tonic}  # fmt: skip
        seen = torch.where(lost, 0.5 if in_unit(test) else 0.0, test)  # what is hidden is grey
        parts = {way: torch.where(lost, ways[way], test) for way in ("LCA", "Gaussian", "iP-VAE")}
        shown[name] = [test[:3], {"seen": seen[:3], **{way: x[:3] for way, x in parts.items()}}]
    return rows, shown


def labels(dataset: Any, plain: IPVAE, seed: int, options: Any) -> dict[str, float]:
    """Accuracy of filled-in labels and of a probe, and how well draws are recognised."""
    count = int(dataset.train_labels.max()) + 1
    x, known = dataset.train[HELD_OUT:], dataset.train_labels[HELD_OUT:]
    test, wanted = dataset.test[:2000], dataset.test_labels[:2000]
    recipe = recipes.by_rule(recipes.suited(dataset.kind), "local")
    model = trained(join_labels(x, known, count), recipe, seed, options)
    filled = fill_in_labels(model, test, count, seed=seed)
    right = filled.label == wanted
    part = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10_000]
    codes = [_codes(plain, part_of, seed) for part_of in (x[part], test)]
    probe = metrics.probe_accuracy(codes[0], known[part], codes[1], wanted)
    drawn = CodePrior.fit(plain, x[part], known[part], num_steps=64, seed=seed)
    sampled = drawn.sample(plain, 2000, seed=seed)
    judge = classifier(x, known, count, seed)
    with torch.no_grad():
        recognised = judge(sampled.x).argmax(1) == sampled.label
        judged = judge(test).argmax(1) == wanted
    return {
        "filled in": float(right.float().mean()), "linear probe": float(probe),
        "classifier of pixels": float(judged.float().mean()),
        "draws recognised": float(recognised.float().mean()),
        "mean share of the chosen label": float(filled.share.max(1).values.mean()),
    }  # fmt: skip


def surprising(dataset: Any, model: IPVAE, seed: int, options: Any) -> dict[str, dict[str, float]]:
    """Area under the ROC curve, by what images are told from held-out ones, and by which score."""
    known = dataset.test[-SURPRISED:]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(known.shape[1], generator=generator)
    others = {
        "turned by a quarter": known.unflatten(1, dataset.shape).mT.flip(-1).flatten(1),
        "pixels shuffled": known[:, order],
        "noise": known.flatten()[torch.randint(known.numel(), known.shape, generator=generator)],
    }
    if options.other is not None:
        source = data.load(options.other, hold_out=False)
        x = source.test if len(source.test) else source.train
        others[Path(options.other).stem] = x[
            torch.randperm(len(x), generator=generator)[:SURPRISED]
        ]
    prior = CodePrior.fit(model, dataset.train[HELD_OUT:][:2000], num_steps=64, seed=seed)

    def scores(x: Tensor) -> dict[str, Tensor]:
        bound = prior.log_likelihood(model, x, options.draws, rounds=2, num_steps=64, seed=seed)
        error = (x - model.decode(_codes(model, x, seed))).square().sum(1)
        return {"bound": -bound.log_likelihood, "error": error.detach()}

    mine, found = scores(known), {}
    for name, x in tqdm(others.items(), desc="surprising", disable=None):
        theirs = scores(x)
        found[name] = {by: auroc(mine[by], theirs[by]) for by in mine}
    return found


def auroc(known: Tensor, other: Tensor) -> float:
    """How often an image of another kind has the higher score."""
    higher, equal = (other[:, None] > known).double(), (other[:, None] == known).double()
    return float((higher + equal / 2).mean())


def _codes(model: IPVAE, x: Tensor, seed: int) -> Tensor:
    out = model.run(x, 128, record=("mem",), every=128, seed=seed, graph=False)
    return out.mem[-1].exp()


def classifier(x: Tensor, known: Tensor, count: int, seed: int) -> nn.Module:
    """One hidden layer of ReLUs, as a judge of draws."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, count))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(max(3, 1000 * 100 // len(x))):
        for batch in torch.randperm(len(x)).split(100):
            loss = nn.functional.cross_entropy(net(x[batch]), known[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def in_unit(x: Tensor) -> bool:
    """Whether these are grey values from 0 to 1."""
    return float(x.min()) >= 0 and float(x.max()) <= 1


def draw(shown: dict[str, Any], shape: tuple[int, int], path: Path) -> None:
    """Three images for each mask: as they are, what was seen, and what was filled in."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for ax, (name, (x, columns)) in zip(figure.subplots(2, 2).flat, shown.items(), strict=True):
        plotting.reconstructions(x, columns, shape, scale="unit" if in_unit(x) else "each", ax=ax)
        ax.set_title(name, fontsize="medium", pad=18)
    figure.savefig(path, dpi=130)


def shuffled(dataset: data.Dataset) -> data.Dataset:
    """Held-out images in random order: in MNIST the first are harder than the last."""
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
    labels = dataset.test_labels
    return dataset._replace(
        test=dataset.test[order], test_labels=None if labels is None else labels[order]
    )


def report(rows: list[dict[str, Any]]) -> None:
    """Means over seeds."""
    for name in rows[0]:
        keys = [key for key in rows[0][name] if key not in ("threshold", "ridge", "tonic")]
        cells = []
        for key in keys:
            values = torch.tensor([row[name][key] for row in rows])
            spread = f" ±{float(values.std(unbiased=False)):.3f}" if len(rows) > 1 else ""
            cells.append(f"{key} {float(values.mean()):.3f}{spread}")
        print(f"{name:<20}" + "   ".join(cells))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits (default), mnist.npz, photographs")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=1500, help="of each training")
    parser.add_argument(
        "--few", type=int, default=100, help="images to choose ridge and tonic inhibition on"
    )
    parser.add_argument("--other", help="images of another kind, of the same size")
    parser.add_argument("--draws", type=int, default=200, help="of the bound of log p(x)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("fill_in.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.latents, arguments.iterations, arguments.few = 32, 30, 5
        arguments.draws = 5
    return arguments


def main() -> None:
    arguments = parse()
    dataset = shuffled(data.load(arguments.data))
    print(dataset.description)
    pixels, named, told = [], [], []
    recipe = recipes.by_rule(recipes.suited(dataset.kind), "local")
    for seed in range(arguments.seeds):
        model = trained(dataset.train[HELD_OUT:], recipe, seed, arguments)
        rows, shown = missing_pixels(dataset, model, seed, arguments)
        pixels.append(rows)
        told.append(surprising(dataset, model, seed, arguments))
        if dataset.train_labels is not None:
            named.append({"labels": labels(dataset, model, seed, arguments)})
    print("\nR² of hidden values")
    report(pixels)
    if named:
        print("\naccuracy")
        report(named)
    print("\narea under the ROC curve")
    report(told)
    draw(shown, dataset.shape, arguments.out)
    record = arguments.out.with_suffix(".json")
    options = {key: str(value) for key, value in vars(arguments).items() if key != "out"}
    options["data"] = Path(arguments.data).stem
    write_json(record, {"options": options, "missing pixels": pixels, "labels": named,
                        "surprising": told})  # fmt: skip
    print(f"picture: {arguments.out}\nresult: {record}")


if __name__ == "__main__":
    main()
