r"""Any decoder, any likelihood: inference by spikes beside encoders, and encoders refined.

Models with the same decoder and likelihood, and 512 neurons, learn for the same CPU time. The
iP-VAE has no encoder; the P-VAE has one and Poisson counts, the VAE one and Gaussian latents, and
the semi-amortised VAE refines what its encoder says by gradients. Then held-out images are coded.
R² is that of one draw, iterative models after 256 timesteps; the bound of log p(x) is
importance-weighted, that of Poisson counts under a prior fitted to the codes of training images.
Options of spiking models were chosen on the first 300 held-out images; the last 500 are measured.

    python examples/decoders/compare.py                                     # digits, a minute
    python examples/decoders/compare.py --data mnist.npz --budget 1min --seeds 3
    python examples/decoders/compare.py --task binary --data mnist.npz --budget 1min --seeds 3
    python examples/decoders/compare.py --task colour --budget 1min --seeds 3
    python examples/decoders/compare.py --task events --budget 1min --seeds 3

Grey pixels, from 0 to 1, are taken as probabilities of black and white ones, by a Bernoulli law;
``binary`` draws each once. ``colour`` has crops of 32×32 of the photographs of scikit-image and
scikit-learn, of other photographs than those learned from, under a Gaussian. ``events`` has what an
event camera counts of moving bars, under Poisson laws.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, evaluate, fit, metrics, recipes
from ipvae_snn.baselines import GaussianVAE, PoissonVAE, SemiAmortisedVAE
from ipvae_snn.data.stimuli import events, moving_bar
from ipvae_snn.models import (
    Bernoulli,
    CodePrior,
    ConvDecoder,
    Gaussian,
    Likelihood,
    LinearDecoder,
    NetworkDecoder,
    Poisson,
)
from ipvae_snn.runs.folder import write_json
from ipvae_snn.training.budget import seconds_of

LATENTS, STEPS, CROP, FITTED_TO, TRIAL = 512, 256, 32, 2000, 60
CURVE, FACTORS = 200, (0.1, 0.3, 1.0, 2.0, 4.0)
"""Images for other factors on the tonic inhibition, and these factors."""
LEARNED_FROM = ("astronaut.png", "chelsea.png", "china.jpg", "motorcycle_left.png", "rocket.jpg")
HELD_OUT = ("coffee.png", "flower.jpg")
COLOURS = {
    "iP-VAE": "#0072B2", "P-VAE": "#D55E00", "VAE": "#000000", "semi-amortised": "#808080",
}  # fmt: skip
MARKS = {"linear": "s", "MLP": "o", "convolutional": "^"}


class Task(NamedTuple):
    """Rows of pixels to learn from and held-out ones, the shape of an image, and its law."""

    train: Tensor
    test: Tensor
    shape: tuple[int, ...]
    law: Callable[[], Likelihood]
    step: float
    bias: float
    lr: float
    """Of models that infer by spikes: α, tonic inhibition, and the learning rate."""
    halvings: int = 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="grey")
    parser.add_argument("--data", default="digits", help="grey images (default: digits)")
    parser.add_argument("--budget", default="6s", help="CPU time of each (default: 6s)")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--latents", type=int, default=LATENTS, help="K (default: 512)")
    parser.add_argument("--images", type=int, default=500, help="held-out ones (default: 500)")
    parser.add_argument("--bounds", type=int, default=30, help="of so many of them (default: 30)")
    parser.add_argument("--draws", type=int, default=500, help="of each bound (default: 500)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("decoders.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.latents, arguments.images, arguments.bounds, arguments.draws = 16, 20, 2, 10
    arguments.ways = arguments.ways or list(WAYS)
    if unknown := {*arguments.ways} - {*WAYS}:
        parser.error(f"unknown way {sorted(unknown)}: choose from {', '.join(WAYS)}")
    return arguments


# -- data ---------------------------------------------------------------------------------------


def grey(arguments: argparse.Namespace) -> Task:
    dataset = data.load(arguments.data)
    side = math.isqrt(dataset.train.shape[1])
    return Task(dataset.train, dataset.test, (side, side), Bernoulli, 1.0, 0.05, 1e-2)


def binary(arguments: argparse.Namespace) -> Task:
    drawn = grey(arguments)
    generator = torch.Generator().manual_seed(0)
    parts = (torch.bernoulli(part, generator=generator) for part in drawn[:2])
    return drawn._replace(train=next(parts), test=next(parts))


def colour(arguments: argparse.Namespace) -> Task:
    generator = torch.Generator().manual_seed(0)

    def crops(names: tuple[str, ...], count: int) -> Tensor:
        found = []
        for name in names:
            photograph = data.read_photograph(_installed(name), channels=3)
            sides = torch.tensor(photograph.shape[1:]) - CROP
            for _ in range(count // len(names)):
                top, left = (torch.rand(2, generator=generator) * sides).int().tolist()
                found.append(photograph[:, top : top + CROP, left : left + CROP].flatten())
        return torch.stack(found)

    train, test = crops(LEARNED_FROM, 20_000), crops(HELD_OUT, 1000)
    test = test[torch.randperm(len(test), generator=generator)]
    mean, unit = train.mean(0), train.std()
    law = partial(Gaussian, train.shape[1], learn_scale=True, scale=0.7)
    rows = (train - mean) / unit, (test - mean) / unit
    # In trials without halvings one held-out image of a hundred exploded.
    return Task(*rows, (3, CROP, CROP), law, 0.03, 0.02, 3e-3, halvings=4)


def _installed(name: str) -> Path:
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        path = Path(spec.origin).parent / folder / name if spec and spec.origin else None
        if path and path.exists():
            return path
    raise SystemExit(f"{name} is not there: pip install scikit-image scikit-learn")


def of_events(arguments: argparse.Namespace) -> Task:
    """Frames of ON and OFF counts: bars of many directions, widths and contrasts."""
    generator = torch.Generator().manual_seed(0)

    def frames(bars: int) -> Tensor:
        found = []
        for _ in range(bars):
            angle, width, contrast = torch.rand(3, generator=generator).tolist()
            bar = moving_bar(
                360 * angle, steps=24, width=1.5 + 4 * width, contrast=0.3 + contrast, f0=None
            )
            counts = events(bar, threshold=0.25)
            found.append(counts[counts.sum(-1) > 0])
        rows = torch.cat(found)
        return rows[torch.randperm(len(rows), generator=generator)]

    count = 20 if arguments.quick else 800
    return Task(
        frames(count), frames(count // 8), (2, 16, 16), Poisson, 0.5, 0.01, 1e-2, halvings=4
    )


TASKS = {"grey": grey, "binary": binary, "colour": colour, "events": of_events}


# -- models -------------------------------------------------------------------------------------


def decoder(kind: str, task: Task, latents: int) -> Any:
    pixels = task.train.shape[1]
    if kind == "linear":
        return LinearDecoder(latents, pixels, init_std=0.1)
    if kind == "MLP":
        return NetworkDecoder(latents, pixels, hidden=[512])
    return ConvDecoder(latents, task.shape)


def by_few_spikes(kind: str, task: Task, latents: int) -> tuple[Any, dict[str, Any]]:
    """The price of a spike such that the bound of log p(x) is high, rather than R²."""
    return by_spikes(kind, task._replace(bias=1.5, step=task.step / 2, lr=task.lr / 2), latents)


def by_spikes(kind: str, task: Task, latents: int) -> tuple[Any, dict[str, Any]]:
    """An iP-VAE, which learns by the local rule: gradients do not flow through time."""
    model = IPVAE(
        task.train.shape[1], latents, decoder=decoder(kind, task, latents), likelihood=task.law(),
        form="published", step=task.step, bias=task.bias, learn_bias=False, halvings=task.halvings,
    )  # fmt: skip
    options = {
        "rule": "local", "batch": 50, "steps": 16, "burn_in": 8, "lr": task.lr, "lr_end": 1e-4,
        "weight_decay": 0.0,
    }  # fmt: skip
    return model, options


def gaussian_linear(kind: str, task: Task, latents: int) -> tuple[Any, dict[str, Any]]:
    """The linear iP-VAE with its Gaussian, by the recipe of the command line for images."""
    recipe = recipes.by_rule(recipes.suited("samples"), "local").changed(latents=latents)
    return recipe.make_model(task.train.shape[1]), {**recipe.training}


def by_encoder(
    cls: Any, kind: str, task: Task, latents: int, beta: float = 1.0
) -> tuple[Any, dict[str, Any]]:
    parts = {"decoder": decoder(kind, task, latents), "likelihood": task.law()}
    options = {**recipes.OTHER_MODELS["samples"], **cls.recipe, "beta": beta, "batch": 50}
    return cls(task.train.shape[1], latents, encoder="mlp", **parts), options


WAYS: dict[str, tuple[str, Callable[..., tuple[Any, dict[str, Any]]]]] = {
    "iP-VAE, linear, Gaussian": ("linear", gaussian_linear),
    "iP-VAE, linear": ("linear", by_spikes),
    "iP-VAE, MLP": ("MLP", by_spikes),
    "iP-VAE, convolutional": ("convolutional", by_spikes),
    "iP-VAE, MLP, few spikes": ("MLP", by_few_spikes),
    "iP-VAE, convolutional, few spikes": ("convolutional", by_few_spikes),
    "P-VAE, MLP": ("MLP", partial(by_encoder, PoissonVAE)),
    "P-VAE, MLP, β 0.1": ("MLP", partial(by_encoder, PoissonVAE, beta=0.1)),
    "P-VAE, convolutional": ("convolutional", partial(by_encoder, PoissonVAE)),
    "VAE, MLP": ("MLP", partial(by_encoder, GaussianVAE)),
    "VAE, convolutional": ("convolutional", partial(by_encoder, GaussianVAE)),
    "semi-amortised VAE, MLP": ("MLP", partial(by_encoder, SemiAmortisedVAE)),
}


def learned(way: str, task: Task, seed: int, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """A model after its time, and what that took."""
    kind, make = WAYS[way]
    torch.manual_seed(seed)
    model, options = make(kind, task, arguments.latents)
    config = TrainConfig(**{**options, "seed": seed, "progress": False})
    config.iterations = 5 if arguments.quick else TRIAL
    seconds = cpu_seconds(copy.deepcopy(model), task.train, config)
    if not arguments.quick:
        share = seconds_of(arguments.budget) / seconds
        config.iterations = max(1, int(share * TRIAL))
    seconds = cpu_seconds(model, task.train, config)
    return model.eval(), {"iterations": config.iterations, "CPU seconds": seconds}


def cpu_seconds(model: Any, train: Tensor, config: TrainConfig) -> float:
    """What training takes of the processor, which other processes change little."""
    started = time.process_time()
    fit(model, train, config)
    return time.process_time() - started


# -- measures -----------------------------------------------------------------------------------


def gaussian_bound(model: Any, x: Tensor, draws: int, steps: int) -> Tensor:
    """The importance-weighted bound under the prior N(0, 1), of a code that is a draw."""
    with torch.no_grad():
        mem = model.run(x, steps, record=(), seed=0).state.mem
        mean, log_std = mem[:, : model.latents], mem[:, model.latents : 2 * model.latents]
        torch.manual_seed(0)
        weights = []
        for _ in range(draws):
            noise = torch.randn_like(mean)
            z = mean + log_std.exp() * noise
            ratio = (0.5 * (noise.square() - z.square()) + log_std).sum(-1)
            weights.append(ratio - model.nll_of(z, x))
        return torch.stack(weights).logsumexp(0) - math.log(draws)


def pooled_r2(x: Tensor, x_hat: Tensor, mean: Tensor) -> float:
    """1 − error / variance about the mean of each pixel, over all images: blank ones count less."""
    return 1 - float((x - x_hat.detach()).square().sum() / (x - mean).square().sum())


def measured(model: Any, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of held-out images."""
    test = task.test[-arguments.images :]
    iterative = isinstance(model, IPVAE)
    steps = STEPS if iterative else 8 if isinstance(model, SemiAmortisedVAE) else 1
    steps = 2 if arguments.quick else steps
    started = time.process_time()
    spk = model.run(test, steps, record=(), seed=0, graph=False).state.spk
    seconds = time.process_time() - started
    found = evaluate(model, test, num_steps=steps).at(steps)
    row: dict[str, Any] = {
        "r2": found["r2"], "pooled r2": pooled_r2(test, model.decode(spk), task.train.mean(0)),
        "zeros": found["zeros"],
        "active": float((spk != 0).float().sum(-1).mean()),
        "ms per image": 1000 * seconds / len(test),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }  # fmt: skip
    if iterative:
        row["curve"] = curve(model, test[:CURVE], steps)
    if model.emits_counts:
        row["spikes"] = float(spk.sum(-1).mean())
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    x = test[order[: arguments.bounds]]
    if model.emits_counts:
        prior = CodePrior.fit(model, task.train[:FITTED_TO], seed=0)
        nats = prior.log_likelihood(model, x, arguments.draws, seed=0).log_likelihood
    else:
        nats = gaussian_bound(model, x, 4 * arguments.draws, steps)
    return {**row, "nats": float(nats.mean()), "nats error": float(nats.std() / len(x) ** 0.5)}


def curve(model: IPVAE, x: Tensor, steps: int) -> list[dict[str, float]]:
    """R², active neurons and spikes with other tonic inhibition than that of training."""
    found = []
    for factor in FACTORS:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.neuron.log_bias += math.log(factor)
        spk = other.run(x, steps, record=(), seed=0, graph=False).state.spk
        r2 = metrics.r2(x, other.decode(spk).detach())
        active, spikes = (spk != 0).float().sum(-1).mean(), spk.sum(-1).mean()
        found.append(
            {"factor": factor, "r2": float(r2), "active": float(active), "spikes": float(spikes)}
        )
    return found


def draw(path: Path, rows: list[dict[str, dict[str, Any]]]) -> None:
    """R² against active neurons, and bounds, a point for each seed; a line for other tonic b."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    quality, bounds = figure.subplots(1, 2)
    names = list(rows[0])
    for place, name in enumerate(names):
        family = next(key for key in COLOURS if name.startswith(key))
        style: Any = {
            "color": COLOURS[family], "marker": MARKS[WAYS[name][0]], "ls": "", "ms": 6,
            "mfc": "none" if any(w in name for w in ("β", "Gaussian", "few")) else None,
        }  # fmt: skip
        found = [row[name] for row in rows]
        for row in found:
            points = sorted((p["active"], p["r2"]) for p in row.get("curve", []))
            quality.plot(*zip(*points, strict=True), color=COLOURS[family], lw=0.8, alpha=0.6)
        quality.plot([r["active"] for r in found], [r["r2"] for r in found], label=name, **style)
        if "Gaussian" in name:  # a density of grey values, which no other law's compares with
            middle = {"transform": bounds.get_yaxis_transform(), "ha": "center", "va": "center"}
            bounds.text(0.5, place, "another law", color="#808080", **middle)
        else:
            bounds.plot([r["nats"] for r in found], [place] * len(found), **style)
    quality.set_xlabel("active neurons for each image")
    quality.set_ylabel("R² of held-out images, one draw")
    bounds.set_yticks(range(len(names)), names)
    bounds.set_ylim(len(names) - 0.5, -0.5)
    bounds.set_xlabel("bound of log p(x), nats for each image")
    for ax in (quality, bounds):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    task = TASKS[arguments.task](arguments)
    print(f"{len(task.train):,} images to learn from, {len(task.test):,} held out", flush=True)
    rows: list[dict[str, dict[str, Any]]] = []
    for seed in range(arguments.seeds):
        rows.append({})
        for way in arguments.ways:
            model, row = learned(way, task, seed, arguments)
            rows[-1][way] = {**row, **measured(model, task, arguments)}
            numbers = {k: v for k, v in rows[-1][way].items() if not isinstance(v, list)}
            cells = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
            print(f"{seed} {way:<26}{cells}", flush=True)
    draw(arguments.out, rows)
    record = arguments.out.with_suffix(".json")
    options = {key: str(value) for key, value in vars(arguments).items() if key != "out"}
    options["data"] = Path(arguments.data).stem
    write_json(record, {"options": options, "seeds": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
