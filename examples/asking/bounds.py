r"""How likely are images? A bound of log p(x), for models with and without an encoder.

The iP-VAE infers by spiking; the amortised P-VAE has an encoder, and the same decoder, counts and
learned σ. Each learns for the same time. Then log p(x) of held-out images is bounded from below by
importance sampling, under priors fitted to the codes of training images; for the P-VAE also under
the prior that it learned. Codes are proposed from the rates of inference, or of the encoder, and
then about the best ones: rounds and draws are the same for all. Iterative models of three sizes,
and several seeds, show whether the bound is tight enough to rank models.

    python examples/asking/bounds.py                                        # digits
    python examples/asking/bounds.py --data mnist.npz --budget 1min --images 50 --draws 1000 \
        --seeds 3

Photographs, by a path to a folder, take the same options.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from fill_in import CHANGES as DENSER
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import TrainConfig, data, fit, recipes
from ipvae_snn.baselines import PoissonVAE
from ipvae_snn.models.code_prior import LARGEST_SHAPE, CodePrior
from ipvae_snn.runs.folder import write_json
from ipvae_snn.training import iterations_within

FITTED_TO = 2000
CHANGES = {**DENSER, "mnist-local": {"bias": 0.0025, "scale": 1.0, "learn_scale": True}}
"""To recipes of sparse codes, so that codes are denser, and σ is learned for each pixel."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits (default), mnist.npz, photographs")
    parser.add_argument("--latents", type=int, default=512, help="of the largest (default: 512)")
    parser.add_argument("--budget", default="10s", help="of each training (default: 10s)")
    parser.add_argument("--images", type=int, default=30, help="held-out ones (default: 30)")
    parser.add_argument("--draws", type=int, default=500, help="of each round (default: 500)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("bounds.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.latents, arguments.images, arguments.draws = 32, 4, 20
    return arguments


def trained(model: Any, train: Tensor, config: TrainConfig, arguments: argparse.Namespace) -> Any:
    """The model after its time."""
    config.iterations = (
        10 if arguments.quick else iterations_within(arguments.budget, model, train, config)
    )
    fit(model, train, config)
    return model.eval()


def models(
    train: Tensor, kind: str, seed: int, arguments: argparse.Namespace
) -> dict[str, tuple[Any, CodePrior]]:
    """Each model, and the prior that its images are judged under."""
    part = train[:FITTED_TO]
    found = {}
    local = recipes.by_rule(recipes.suited(kind), "local")
    local = local.changed(**CHANGES.get(local.name, {}), seed=seed)
    for latents in (arguments.latents, arguments.latents // 4, arguments.latents // 16):
        torch.manual_seed(seed)
        recipe = local.changed(latents=latents)
        model = trained(recipe.make_model(train.shape[1]), train, recipe.config(), arguments)
        found[f"iP-VAE, K {latents}"] = model, CodePrior.fit(model, part, seed=seed)
    recipe = recipes.suited(kind, "poisson-vae").changed(latents=arguments.latents, seed=seed)
    torch.manual_seed(seed)
    amortised = trained(recipe.make_model(train.shape[1]), train, recipe.config(), arguments)
    assert isinstance(amortised, PoissonVAE)
    name = f"P-VAE, K {arguments.latents}"
    found[name] = amortised, CodePrior.fit(amortised, part, seed=seed)
    found[f"{name}, its own prior"] = amortised, learned_prior(amortised)
    return found


def learned_prior(model: PoissonVAE) -> CodePrior:
    """Poisson counts of the rates e^{u₀}."""
    rate = model.mem_init.detach().exp()[None]
    shape = torch.full_like(rate, LARGEST_SHAPE)
    return CodePrior(rate, shape, torch.ones(1), torch.zeros(1).long())


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Bounds by model, a point per seed with the error of the mean over images."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    ax = figure.subplots()
    names = list(rows[0])
    for seed, row in enumerate(rows):
        places = [k + 0.12 * (seed - (len(rows) - 1) / 2) for k in range(len(names))]
        ax.errorbar(
            [row[name]["nats"] for name in names], places,
            xerr=[row[name]["spread"] for name in names], fmt="o", ms=4, color="#0072B2",
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("lower bound of log p(x), nats per image; bars: standard error over images")
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    dataset = data.load(arguments.data)
    print(dataset.description)
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
    test = dataset.test[order[: arguments.images]]
    rows = []
    for seed in range(arguments.seeds):
        row = {}
        for name, (model, prior) in models(dataset.train, dataset.kind, seed, arguments).items():
            parts = [
                prior.log_likelihood(model, x, arguments.draws, seed=seed)
                for x in tqdm(test.split(10), desc=name, disable=None)
            ]
            nats = torch.cat([part.log_likelihood for part in parts])
            error = torch.cat([part.error for part in parts])
            row[name] = {
                "nats": float(nats.mean()),
                "spread": float(nats.std() / len(nats) ** 0.5),
                "error of a bound": float(error.median()),
            }
        rows.append(row)
    for name in rows[0]:
        nats = torch.tensor([row[name]["nats"] for row in rows])
        error = max(row[name]["error of a bound"] for row in rows)
        values = ", ".join(f"{value:.1f}" for value in nats.tolist())
        print(f"{name:<28}{float(nats.mean()):>9.1f} nats ({values}); error of one {error:.2f}")
    draw(arguments.out, rows)
    record = arguments.out.with_suffix(".json")
    options = {key: str(value) for key, value in vars(arguments).items() if key != "out"}
    options["data"] = Path(arguments.data).stem
    write_json(record, {"options": options, "bounds": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
