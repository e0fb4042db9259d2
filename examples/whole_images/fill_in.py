"""Fill in photographs: pixels that are missing at random, and holes.

Pixels of whitened photographs are hidden, and inferred by the convolutional iP-VAE from the others;
R² is that of the hidden ones, pooled over all. Beside it: zeros, which is the mean of whitened
photographs; biharmonic inpainting of scikit-image; the conditional mean of a Gaussian with the
covariance of 16×16 tiles, tile by tile; and convolutional LCA with the same mask. Tonic inhibition,
LCA's λ and the Gaussian's ridge are chosen on a photograph from those that models learned from,
apart from the test. "Within" is the share of hidden pixels in their 90% interval.

    python examples/whole_images/fill_in.py --models models --budget 30min --data path/to/photos

Models are those of compare.py, from its folder; without them, they are trained first.
"""

import argparse
import copy
import math
from pathlib import Path
from typing import Any

import torch
from compare import TILE, learned, read
from matplotlib.figure import Figure
from skimage.restoration import inpaint_biharmonic
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn.baselines import ConvLCA
from ipvae_snn.baselines.lca import shrink
from ipvae_snn.models import ConvIPVAE, impute
from ipvae_snn.runs.folder import write_json

SIDES = (128, 192)
HOLE = 8
MASKS = {"25% at random": 0.25, "50% at random": 0.5, "75% at random": 0.75, "holes": None}
TONIC, LAMBDAS, RIDGES = (1.0, 0.25, 0.06, 0.015), (0.015, 0.06, 0.25, 1.0), (1e-3, 1e-2, 1e-1)
LCA_STEPS = 200


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--budget", default="6min", help="of each training (default: 6min)")
    parser.add_argument("--models", type=Path, help="folder that keeps trained models")
    parser.add_argument("--photographs", type=int, default=8, help="how many are filled in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("fill_in_photographs.png"))
    arguments = parser.parse_args()
    arguments.step, arguments.latents, arguments.finer = None, 64, 1.0
    return arguments


def hidden(name: str, x: Tensor, seed: int) -> Tensor:
    """What is hidden of a photograph (1, H, W): pixels, or a quarter of it in square holes."""
    generator = torch.Generator().manual_seed(seed)
    share = MASKS[name]
    if share is not None:
        return torch.rand(x.shape, generator=generator) < share
    rows, columns = (side // HOLE for side in x.shape[1:])
    holes = torch.rand(1, rows, columns, generator=generator) < 0.25
    lost = torch.zeros(x.shape, dtype=torch.bool)
    lost[:, : rows * HOLE, : columns * HOLE] = holes.repeat_interleave(HOLE, 1).repeat_interleave(
        HOLE, 2
    )
    return lost


def by_model(model: ConvIPVAE, x: Tensor, lost: Tensor, factor: float, draws: int = 16) -> Any:
    """With tonic inhibition of so many times what it was in training.

    After more timesteps what was seen is fitted by ever more neurons, and the rest is found worse.
    """
    model = copy.deepcopy(model)
    model.neuron.log_bias.data += math.log(factor)
    options: Any = {"num_steps": 64, "draws": draws, "calibrate": draws > 16, "seed": 0}
    return impute(model, x[None], ~lost[None], **options)


def by_lca(model: ConvLCA, x: Tensor, lost: Tensor, factor: float) -> Tensor:
    """Sparse coding of the pixels that were seen, with λ of so many times what it was."""
    seen, size = (~lost[None]).to(x), x.shape[1:]
    code = torch.zeros(1, model.latents, *model.code_shape(size)[1:])
    mem = code.clone()
    for _ in range(LCA_STEPS):
        with torch.enable_grad():
            code.requires_grad_()
            error = (seen * (x[None] - model.decode(code, size))).square().sum() / 2
            (slope,) = torch.autograd.grad(error, code)
        mem = mem + model.rate * (-slope - mem + code.detach())
        code = shrink(mem, model.sparsity * factor, nonnegative=False)
    return model.decode(code, size)[0]


def by_gaussian(covariance: Tensor, x: Tensor, lost: Tensor, ridge: float) -> Tensor:
    """E[hidden | seen of the same tile]: what is hidden counts as seen with endless noise."""
    tiles, gone = (_tiles(values) for values in (x, lost))
    noise = torch.where(gone, 1e5, ridge) * covariance.diagonal().mean()
    found = torch.linalg.solve(covariance + torch.diag_embed(noise), (tiles * ~gone)[..., None])
    rows, columns = (side // TILE for side in x.shape[1:])
    whole = (covariance @ found).view(rows, columns, TILE, TILE)
    return whole.transpose(1, 2).reshape(1, rows * TILE, columns * TILE)


def _tiles(x: Tensor) -> Tensor:
    return x[0].unfold(0, TILE, TILE).unfold(1, TILE, TILE).flatten(2).flatten(0, 1)


def by_inpainting(x: Tensor, lost: Tensor) -> Tensor:
    return torch.from_numpy(inpaint_biharmonic(x[0].numpy(), lost[0].numpy())).float()[None]


def error(x: Tensor, filled: Tensor, lost: Tensor) -> float:
    return float((x - filled)[lost].square().sum())


def best(choices: tuple[float, ...], way: Any, x: Tensor, lost: Tensor) -> float:
    return min(choices, key=lambda choice: error(x, way(x, lost, choice), lost))


@torch.no_grad()
def main() -> None:
    arguments = parse()
    whitening, images, photographs = read(arguments)
    with torch.enable_grad():
        model, lca = (
            learned(arguments, name, whitening, images) for name in ("conv-ipvae", "conv-lca")
        )
    height, width = (48, 64) if arguments.quick else SIDES
    cut = [whitening(x)[:, :height, :width] for x in photographs]
    rows = torch.cat([_tiles(x) for x in images])
    covariance = rows.T.cov()
    chosen = images[0][:, :height, :width]
    results: dict[str, Any] = {}
    shown = []
    for name in tqdm(MASKS, desc="masks", disable=None):
        lost = hidden(name, chosen, seed=99)
        tonic = best(TONIC, lambda x, lost, f: by_model(model, x, lost, f).mean[0], chosen, lost)
        factor = best(LAMBDAS, lambda x, lost, f: by_lca(lca, x, lost, f), chosen, lost)
        ridge = best(RIDGES, lambda x, lost, r: by_gaussian(covariance, x, lost, r), chosen, lost)
        errors = dict.fromkeys(("zeros", "biharmonic", "Gaussian", "LCA", "iP-VAE"), 0.0)
        inside = total = 0.0
        for number, x in enumerate(cut):
            lost = hidden(name, x, seed=number)
            filled = by_model(model, x, lost, tonic, draws=64)
            ways = {
                "zeros": torch.zeros_like(x), "biharmonic": by_inpainting(x, lost),
                "Gaussian": by_gaussian(covariance, x, lost, ridge),
                "LCA": by_lca(lca, x, lost, factor), "iP-VAE": filled.mean[0],
            }  # fmt: skip
            for way, values in ways.items():
                errors[way] += error(x, values, lost)
            inside += float(((x >= filled.low[0]) & (x <= filled.high[0]))[lost].sum())
            total += int(lost.sum())
        results[name] = {way: 1 - value / errors["zeros"] for way, value in errors.items()}
        results[name] |= {"within": inside / total, "tonic": tonic, "lambda": factor,
                          "ridge": ridge}  # fmt: skip
        print(
            f"{name:<16}"
            + "".join(f"{way} {value:.3f}   " for way, value in results[name].items()),
            flush=True,
        )
        # The last photograph, as this mask leaves it.
        shown.append((name, x, lost, {way: ways[way] for way in ("LCA", "Gaussian", "iP-VAE")}))
    draw(arguments.out, shown)
    record = arguments.out.with_suffix(".json")
    options = {"data": Path(arguments.data).stem, "budget": arguments.budget,
               "photographs": len(cut), "seed": arguments.seed}  # fmt: skip
    write_json(record, {"options": options, "found": results})
    print(f"result: {record}")


def draw(path: Path, shown: list[tuple[str, Tensor, Tensor, dict[str, Tensor]]]) -> None:
    """A photograph as each mask leaves it, and as each way fills it in; whitened."""
    figure = Figure(figsize=(11, 1.75 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 5, squeeze=False)
    for number, (name, x, lost, ways) in enumerate(shown):
        row = axes[number]
        limit = 2.5 * float(x.std())
        columns = {"seen": x.masked_fill(lost, torch.nan), "photograph": x}
        columns |= {way: torch.where(lost, values, x) for way, values in ways.items()}
        for ax, (title, image) in zip(row, columns.items(), strict=True):
            ax.imshow(image[0], cmap="gray", vmin=-limit, vmax=limit)
            ax.set_facecolor("#8fb8de")
            ax.set(xticks=[], yticks=[], title="" if number else title)
        row[0].set_ylabel(name)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
