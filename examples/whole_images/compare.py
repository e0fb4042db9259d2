"""Whole photographs: the convolutional iP-VAE, flat models in tiles, and convolutional LCA.

All models learn from the same whitened photographs, for the same time, and code others as a whole.
The flat iP-VAE has 512 neurons for tiles of 16×16 pixels: side by side, or overlapping by half and
averaged. Thresholds are varied after training, which gives each a curve of error against active
neurons per pixel, as codes of different sparsity do not compare. Error is pooled over all pixels of
all photographs; the median R² of 16×16 patches, PSNR and SSIM in pixels stand beside it. Where
sporco is installed (extra peers), its ConvBPDN codes with the iP-VAE's dictionary, whose features
wrap around at the borders there.

    python examples/whole_images/compare.py                                # scikit-image's
    python examples/whole_images/compare.py --data path/to/photos --budget 40min --photographs 100

With --models, trained models are kept in a folder and taken from there, and --train makes one of
them alone, so that they can be trained beside one another. --only codes by some ways; their results
are added to those of the file, if there is one.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, fit, load_model, metrics, recipes, surrogate
from ipvae_snn._utils.files import atomic_write
from ipvae_snn.baselines import ConvLCA
from ipvae_snn.models import ConvIPVAE, Whitening
from ipvae_snn.training import Knobs, iterations_within, retuned

TILE, STEPS = 16, 256
MODELS = ("conv-ipvae", "conv-lca", "ipvae")
FACTORS = (0.25, 0.5, 0.7, 1.0, 2.0, 4.0)
"""On the tonic inhibition after training, or on λ."""
ON_ALL = (0.7, 1.0)
"""Those of them with which all photographs are coded, as they are with factors beyond these."""
COLOURS = {
    "convolutional iP-VAE": "#0072B2", "the same, graded counts": "#56B4E9",
    "flat, tiles": "#D55E00",
    "flat, overlapping tiles": "#E69F00", "convolutional LCA": "#000000", "ConvBPDN": "#808080",
}  # fmt: skip
Coder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A whitened photograph (C, H, W) to its reconstruction and its code."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--budget", default="6min", help="of each training (default: 6min)")
    parser.add_argument("--photographs", type=int, default=12, help="how many are coded")
    parser.add_argument("--curve", type=int, default=12, help="how many with other thresholds")
    parser.add_argument("--latents", type=int, default=64, help="features of convolutional models")
    parser.add_argument("--models", type=Path, help="folder that keeps trained models")
    parser.add_argument("--train", choices=MODELS, help="train this model for --models, no more")
    parser.add_argument("--only", nargs="+", choices=COLOURS, default=list(COLOURS), metavar="WAY")
    parser.add_argument(
        "--step", type=float, help="α of iP-VAEs where they code, if not as trained"
    )
    parser.add_argument(
        "--finer", type=float, default=1.0, help="counts that stand for one in training, in iP-VAEs"
    )
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="on thresholds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("whole_images.png"))
    return parser.parse_args()


def read(arguments: argparse.Namespace) -> tuple[Whitening, list[Tensor], list[Tensor]]:
    """The whitening, whitened photographs to learn from, and others as they are."""
    dataset = data.load(arguments.data, treat="images", patches=(0, 2), seed=arguments.seed)
    assert isinstance(dataset.train, data.Crops)
    assert isinstance(dataset.test, data.Crops)
    whitening = Whitening.fit(dataset.train.images)
    images = [whitening(x) for x in dataset.train.images]
    return whitening, images, dataset.test.images[: 1 if arguments.quick else arguments.photographs]


# -- training -----------------------------------------------------------------------------------


class Tiles(data.Samples):
    """Crops as rows, for flat models."""

    in_memory = True

    def __init__(self, crops: data.Crops) -> None:
        self.crops, self.features = crops, crops.features

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, rows: Tensor) -> Tensor:
        return self.crops.read(rows).flatten(1)

    def fingerprint(self) -> str:
        return self.crops.fingerprint()


def learned(
    arguments: argparse.Namespace, name: str, whitening: Whitening, images: list[Tensor]
) -> Any:
    """A model after its time of training, or from the folder of models."""
    label = name if name == "ipvae" or arguments.latents == 64 else f"{name}-{arguments.latents}"
    kept = arguments.models and arguments.models / f"{label}-{arguments.budget}-{arguments.seed}.pt"
    if kept and kept.exists():
        return _as_asked(load_model(kept).eval(), arguments)
    recipe = recipes.suited("patches" if name == "ipvae" else "images", name)
    changes: dict[str, Any] = {"seed": arguments.seed}
    if name != "ipvae":
        changes["latents"] = arguments.latents
    if arguments.quick:
        changes |= {"latents": 8, "iterations": 8, "batch": 4, "steps": 6, "progress": False}
    recipe = recipe.changed(**changes)
    torch.manual_seed(arguments.seed)
    if name == "ipvae":
        samples: Any = Tiles(data.Crops(images, TILE))
        model: Any = recipe.make_model(samples.features)
    else:
        samples = data.Crops(images, 64)
        model = recipe.changed(whitening=whitening).make_model(samples.channels)
    config: TrainConfig = recipe.config()
    if not arguments.quick:
        config.iterations = iterations_within(arguments.budget, model, samples, config)
    fit(model, samples, config)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        model.save(kept)
    return _as_asked(model.eval(), arguments)


def _as_asked(model: Any, arguments: argparse.Namespace) -> Any:
    """An iP-VAE with the step and the fineness that were asked for."""
    if not isinstance(model, ConvIPVAE | IPVAE):
        return model
    if arguments.step is not None:
        model.neuron.log_step.data.fill_(math.log(arguments.step))
    return retuned(model, Knobs(fineness=arguments.finer))


# -- coding -------------------------------------------------------------------------------------


def _scaled(model: Any, factor: float) -> Any:
    """A copy whose tonic inhibition, or λ, is so many times as large."""
    model = copy.deepcopy(model)
    if isinstance(model, ConvLCA):
        model.sparsity *= factor
    else:
        model.neuron.log_bias.data += math.log(factor)
    return model


def _graded(model: Any) -> Any:
    """A copy whose counts are rounded rates."""
    model = copy.deepcopy(model)
    model.neuron.spike_grad = surrogate.rounded()
    return model


def as_a_whole(model: ConvIPVAE | ConvLCA, steps: int) -> Coder:
    def code(x: Tensor) -> tuple[Tensor, Tensor]:
        spk = model.run(x[None], steps, record=(), seed=0).state.spk
        return model.decode(spk, x.shape[1:])[0], spk

    return code


def in_tiles(model: IPVAE, steps: int, stride: int) -> Coder:
    """Each pixel is the mean over the tiles that it lies in."""

    def code(x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (side + -(side - TILE) % stride for side in x.shape[1:])
        padded = torch.nn.functional.pad(
            x[None], (0, width - x.shape[2], 0, height - x.shape[1]), mode="replicate"
        )
        columns = torch.nn.functional.unfold(padded, TILE, stride=stride)  # (1, M, tiles)
        spk = model.run(columns[0].mT, steps, record=(), seed=0).state.spk
        x_hat = model.decode(spk).mT[None]
        fold = {"output_size": (height, width), "kernel_size": TILE, "stride": stride}
        count = torch.nn.functional.fold(torch.ones_like(x_hat), **fold)
        whole = torch.nn.functional.fold(x_hat, **fold) / count
        return whole[0, :, : x.shape[1], : x.shape[2]], spk

    return code


def by_basis_pursuit(model: ConvIPVAE, strength: float) -> Coder:
    """sporco's ConvBPDN: the lasso on the same features, signed, at every pixel."""
    from sporco.admm.cbpdn import ConvBPDN

    features = model.decoder.weight.detach()[:, 0].permute(1, 2, 0).numpy()
    features = features / np.linalg.norm(features, axis=(0, 1))

    def code(x: Tensor) -> tuple[Tensor, Tensor]:
        options = ConvBPDN.Options({"Verbose": False, "MaxMainIter": 100})
        solver = ConvBPDN(features, x[0].numpy().astype(np.float32), strength, options)
        found = torch.from_numpy(np.asarray(solver.solve()))
        return torch.from_numpy(np.asarray(solver.reconstruct()).squeeze())[None], found

    return code


def coders(
    arguments: argparse.Namespace, whitening: Whitening, images: list[Tensor]
) -> Iterator[tuple[str, float, Coder]]:
    """Name, factor on the threshold, and the coder."""
    steps = 8 if arguments.quick else STEPS
    ways: dict[str, tuple[str, Callable[[Any, float], Coder]]] = {
        "convolutional iP-VAE": ("conv-ipvae", lambda m, f: as_a_whole(_scaled(m, f), steps)),
        "the same, graded counts": (
            "conv-ipvae", lambda m, f: as_a_whole(_scaled(_graded(m), f), steps)
        ),
        "convolutional LCA": ("conv-lca", lambda m, f: as_a_whole(_scaled(m, f), steps)),
        "flat, tiles": ("ipvae", lambda m, f: in_tiles(_scaled(m, f), steps, TILE)),
        "flat, overlapping tiles": (
            "ipvae", lambda m, f: in_tiles(_scaled(m, f), steps, TILE // 2)
        ),
        "ConvBPDN": ("conv-ipvae", lambda m, f: by_basis_pursuit(m, 0.3 * f)),
    }  # fmt: skip
    for name in arguments.only:
        if name == "ConvBPDN" and find_spec("sporco") is None:
            continue
        model = learned(arguments, ways[name][0], whitening, images)
        for factor in sorted(arguments.factors, key=lambda factor: factor not in ON_ALL):
            yield name, factor, ways[name][1](model, factor)


@torch.no_grad()
def measured(coder: Coder, photographs: list[Tensor], whitening: Whitening) -> dict[str, float]:
    """Over all photographs; times of this machine."""
    error = variation = active = spikes = pixels = 0.0
    patches, psnr, ssim, seconds = [], [], [], []
    for photograph in photographs:
        x = whitening(photograph)
        started = time.perf_counter()
        x_hat, code = coder(x)
        seconds.append(time.perf_counter() - started)
        error += float((x - x_hat).square().sum())
        variation += float((x - x.mean()).square().sum())
        active += float((code != 0).sum())
        spikes += float(code.abs().sum())
        pixels += x.numel()
        patches.append(metrics.r2_per_sample(_patches(x), _patches(x_hat)))
        pair = photograph, whitening.inverse(x_hat)
        psnr.append(metrics.psnr(*pair))
        ssim.append(metrics.ssim(*pair))
    return {
        "r2": 1 - error / variation, "median_r2": float(torch.cat(patches).median()),
        "active": active / pixels, "spikes": spikes / pixels, "psnr": float(np.mean(psnr)),
        "ssim": float(np.mean(ssim)), "seconds": float(np.mean(seconds)),
    }  # fmt: skip


def _patches(image: Tensor) -> Tensor:
    """Those of 16×16 pixels that are not blank."""
    tiles = image[0].unfold(0, TILE, TILE).unfold(1, TILE, TILE)
    return tiles.flatten(2).flatten(0, 1)


# -- results ------------------------------------------------------------------------------------


def draw(path: Path, found: dict[str, dict[str, dict[str, Any]]]) -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    for ax, key, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("active", "spikes"),
        ("active neurons per pixel", "spikes (or their strength) per pixel"),
        strict=True,
    ):
        for name in [*(n for n in COLOURS if n in found), *sorted(found.keys() - COLOURS.keys())]:
            rows, shown = found[name], name.replace("the same", "convolutional iP-VAE")
            colour = COLOURS.get(name, "#009E73")
            most = max(row["photographs"] for row in rows.values())
            for count in sorted({row["photographs"] for row in rows.values()}):
                # Photographs differ: points of others make a line of their own.
                ordered = [
                    rows[f] for f in sorted(rows, key=float) if rows[f]["photographs"] == count
                ]
                across = [row[key] for row in ordered]
                up = [1 - row["r2"] for row in ordered]
                style = {"ls": "-", "label": f"{shown} ({count})"} if count == most else {
                    "ls": ":", "mfc": "none"}  # fmt: skip
                ax.loglog(across, up, marker="o", ms=4, color=colour, **style)
        ax.set_xlabel(label)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("error, of the variance of whitened photographs")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), title="photographs; dotted: fewer of them",
        loc="outside right upper", frameon=False, fontsize=8, title_fontsize=8,
    )  # fmt: skip
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    whitening, images, photographs = read(arguments)
    if arguments.quick:
        photographs = [photographs[0][:, :50, :70]]
    record = arguments.out.with_suffix(".json")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    if len(arguments.only) < len(COLOURS) and record.exists():
        found = json.loads(record.read_text())["found"]
    print(f"{'':<24}{'thresh.':>8}{'R²':>7}{'median':>8}{'active':>8}{'spikes':>8}{'PSNR':>7}"
          f"{'SSIM':>7}{'s':>7}")  # fmt: skip
    if arguments.train:
        learned(arguments, arguments.train, whitening, images)
        return
    for name, factor, coder in coders(arguments, whitening, images):
        few = (factor not in ON_ALL and factor in FACTORS) or name == "ConvBPDN"
        coded = photographs[: arguments.curve] if few else photographs
        row = {
            **measured(coder, coded, whitening),
            "photographs": len(coded),
            "step": arguments.step,
            "finer": arguments.finer,
        }
        finer = "" if arguments.finer == 1 else f", counts × {arguments.finer:g}"
        found.setdefault(f"{name}{finer}", {})[f"{factor:g}"] = row
        print(f"{name:<24}{factor:>8g}{row['r2']:>7.3f}{row['median_r2']:>8.3f}{row['active']:>8.3f}"
              f"{row['spikes']:>8.3f}{row['psnr']:>7.2f}{row['ssim']:>7.3f}{row['seconds']:>7.2f}",
              flush=True)  # fmt: skip
    settings = {"data": Path(arguments.data).stem, "budget": arguments.budget,
                "latents": arguments.latents, "seed": arguments.seed,
                "threads": torch.get_num_threads()}  # fmt: skip
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps({**settings, "found": found}, indent=1) + "\n")
    draw(arguments.out, found)


if __name__ == "__main__":
    main()
