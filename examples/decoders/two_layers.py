r"""Two layers against one of equal parameters: free energy, a hidden quarter, and surrounds.

Crops of photographs, each with the contrast that it has and without its mean, are learned by one
layer, whose prior is that of its resting membranes, and by two, the upper of which predicts the
lower. In crops of high contrast all neurons fire more: that is what an upper layer can predict, and
it pays where the lower one fires tens of spikes (patches of equal contrast, or a code of ten
spikes, leave it little). Both have the same number of parameters, iterations and timesteps, and the
same first σ; the step of each is the best of the few tried. Then, of held-out crops:

* the free energy NLL + KL to the prior, which is above −log p(x);
* R² of a quarter, as a square, that was hidden;
* size tuning: gratings of the orientation, frequency and phase of each neuron, in discs of growing
  radius about its place. Suppression is 1 − (response to the largest disc) / (to the best), of
  spikes, and of what goes up, the spikes that were not predicted, z − e^a.

*Upper one cut off* is the lower of the two layers alone, with the best constant in place of what
was predicted: the difference is what the prediction is worth to the same features.

Three things of the upper layer are not the defaults: membranes start at log rates about 0 (by
default its neurons hardly fire), Ψ starts small and positive, and the step is small, as what the
layer predicts adds up over all neurons below: with 36 upper neurons and a step of .02, the KL of
some held-out crops exploded.

    python examples/decoders/two_layers.py                                  # some minutes
    python examples/decoders/two_layers.py --data path/to/photos --seeds 3
"""

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, fit
from ipvae_snn.functional import poisson_kl
from ipvae_snn.models import DeepIPVAE, Gaussian, LinearDecoder, Whitening, impute
from ipvae_snn.runs.folder import write_json

SIDE, LOWER, UPPER = 16, 320, 16
CHOSEN_ON = 800
"""Held-out crops that were looked at while options were chosen; what is measured are others."""
RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Of discs, in pixels."""
COLOURS = {
    "one layer": "#000000", "two layers": "#D55E00", "upper one cut off": "#0072B2",
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--whiten", action="store_true", help="whiten the photographs first")
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--lower", type=int, default=LOWER, help=f"neurons (default: {LOWER})")
    parser.add_argument("--upper", type=int, default=UPPER, help=f"neurons (default: {UPPER})")
    parser.add_argument("--scale", type=float, default=0.5, help="first σ, of values of unit std")
    parser.add_argument("--step-alone", type=float, default=0.015, help="α of one layer")
    parser.add_argument("--step", type=float, default=0.03, help="α of the lower of two layers")
    parser.add_argument("--top-step", type=float, default=0.006, help="α of the upper layer")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--images", type=int, default=500, help="held-out ones (default: 500)")
    parser.add_argument("--steps", type=int, default=256, help="timesteps that measure")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("two_layers.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.lower, arguments.upper, arguments.images, arguments.steps = 16, 4, 20, 8
        arguments.iterations = 5
    return arguments


def crops(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Rows of pixels to learn from and held-out ones, of unit variance as a whole."""
    dataset = data.load(options.data, treat="images", patches=(0, 2))
    print(dataset.description)
    whitening = Whitening.fit(dataset.train.images)
    generator = torch.Generator().manual_seed(0)

    def drawn(images: list[Tensor], count: int) -> Tensor:
        found = []
        for image in images:
            plane = (whitening(image) if options.whiten else image)[0]
            sides = torch.tensor(plane.shape) - SIDE
            for _ in range(-(-count // len(images))):
                top, left = (torch.rand(2, generator=generator) * sides).int().tolist()
                found.append(plane[top : top + SIDE, left : left + SIDE].flatten())
        rows = torch.stack(found)[torch.randperm(len(found), generator=generator)]
        return rows if options.whiten else rows - rows.mean(1, keepdim=True)

    train, test = drawn(dataset.train.images, 20_000), drawn(dataset.test.images, 2000)
    test = test[CHOSEN_ON : CHOSEN_ON + options.images]
    return (train - train.mean(0)) / train.std(), (test - train.mean(0)) / train.std()


# -- models -------------------------------------------------------------------------------------


def learned(model: Any, train: Tensor, seed: int, options: argparse.Namespace) -> Any:
    changes = {
        "seed": seed, "iterations": options.iterations, "progress": False, "lr": options.lr,
        "steps": 48, "burn_in": 40,
    }  # fmt: skip
    started = time.process_time()
    fit(model, train, TrainConfig(**{**DeepIPVAE.recipe, **changes}))
    print(f"{type(model).__name__}: {time.process_time() - started:.0f} CPU seconds", flush=True)
    return model.eval()


def models(train: Tensor, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    pixels = train.shape[1]
    common = {"form": "exact", "bias": 1e-4, "learn_bias": False, "clamp": 10.0}
    torch.manual_seed(seed)
    two = DeepIPVAE(
        pixels, [options.lower, options.upper], step=options.step, top_step=options.top_step,
        scale=options.scale, top_std=0.05, **common,
    )  # fmt: skip
    with torch.no_grad():
        two.upper[0].weight.abs_()
        two.neurons[1].mem_init.normal_(0.0, 0.1)
    count = sum(p.numel() for p in two.parameters())
    alone = round((count - pixels) / (pixels + 1))
    torch.manual_seed(seed)
    # A prior that does not move with the membranes, as the top layer of two has; learned by the
    # same optimizer, which a decoder of one's own takes.
    parts = {
        "decoder": LinearDecoder(alone, pixels),
        "likelihood": Gaussian(pixels, scale=options.scale),
    }
    one = IPVAE(pixels, alone, leak=1.0, step=options.step_alone, **parts, **common)
    found = {"one layer": learned(one, train, seed, options)}
    found["two layers"] = learned(two, train, seed, options)
    sample = train[: options.images]
    return {**found, "upper one cut off": cut_off(found["two layers"], sample, options.steps)}


@torch.no_grad()
def cut_off(model: DeepIPVAE, x: Tensor, steps: int) -> DeepIPVAE:
    """A copy that predicts the same of all inputs: the mean rates of its lower layer."""
    mem = model.run(x, steps, record=("mem",), seed=0).mem[steps // 2 :]
    model = copy.deepcopy(model)
    model.neurons[0].mem_init.copy_(model.split(mem.exp().mean((0, 1)))[0].log())
    model.upper[0].weight.zero_()
    return model


def first_layer(model: Any) -> Any:
    return model.base if isinstance(model, DeepIPVAE) else model


def first_part(model: Any, values: Tensor) -> Tensor:
    """Of codes, membranes or priors (..., K) those of the first layer."""
    return model.split(values)[0] if isinstance(model, DeepIPVAE) else values


def predicted(model: Any, spk: Tensor) -> Tensor:
    """Log rates a that are expected of the neurons of all layers, (..., K)."""
    return model.predicted(spk) if isinstance(model, DeepIPVAE) else model.neuron.mem_init


# -- what is measured ---------------------------------------------------------------------------


@torch.no_grad()
def energies(model: Any, x: Tensor, steps: int) -> tuple[dict[str, float], Tensor]:
    """Means over the second half of the timesteps, and the free energy of each crop, in nats."""
    nll, kl, spikes, pixels = 0.0, 0.0, 0.0, 0.0
    state = model.run(x, steps // 2, record=(), seed=0).state
    out = model.run(x, steps - steps // 2, record=("spk", "mem", "nll"), state=state, seed=1)
    for spk, mem in zip(out.spk, out.mem, strict=True):
        kl = kl + poisson_kl(mem, predicted(model, spk)).sum(-1)
        spikes = spikes + first_part(model, spk).sum(-1)
        # f(z) is linear: that of mean rates is the mean reconstruction.
        pixels = pixels + first_layer(model).decode(first_part(model, mem.exp()))
    nll, kl, spikes, pixels = out.nll.mean(0), *(v / len(out.spk) for v in (kl, spikes, pixels))
    found = {
        "free energy": nll.mean(), "nll": nll.mean(), "kl": kl.mean(), "spikes": spikes.mean(),
        "r2": 1 - (x - pixels).square().sum() / (x - x.mean(0)).square().sum(),
    }  # fmt: skip
    found["free energy"] = (nll + kl).mean()
    return {name: float(value) for name, value in found.items()}, nll + kl


def filled_in(model: Any, x: Tensor, pixel_mean: Tensor, steps: int, seed: int) -> float:
    """R² of a square of a quarter of the pixels, at a random place of each crop."""
    generator = torch.Generator().manual_seed(seed)
    lost = torch.zeros(len(x), SIDE, SIDE, dtype=torch.bool)
    places = torch.randint(0, SIDE // 2 + 1, (len(x), 2), generator=generator)
    for hidden, (top, left) in zip(lost, places.tolist(), strict=True):
        hidden[top : top + SIDE // 2, left : left + SIDE // 2] = True
    lost = lost.flatten(1)
    mean = impute(model, x, ~lost, num_steps=steps, calibrate=False, noise=False, seed=seed).mean
    left = (mean - x)[lost].square().sum() / (x - pixel_mean)[lost].square().sum()
    return 1 - float(left)


def discs(model: Any) -> tuple[list[Tensor], Tensor]:
    """For each radius gratings (N, M) that suit a neuron each, and the neurons, (N,)."""
    weight = first_layer(model).weight.detach().mT.reshape(-1, SIDE, SIDE)  # (K, H, W)
    power = weight.square()
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    total = power.sum((1, 2)).clamp(min=1e-12)
    centres = torch.stack([power.sum(2) @ place / total, power.sum(1) @ place / total], -1)
    central = (centres.abs() < SIDE / 5).all(-1)
    chosen = (total * central).argsort(descending=True)[:100]
    chosen = chosen[central[chosen]]
    spectrum = torch.fft.fft2(weight[chosen], s=(64, 64))
    peak = spectrum.abs().flatten(1).argmax(1)
    waves = torch.stack([peak // 64, peak % 64], -1) / 64
    waves = 2 * math.pi * (waves - (waves > 0.5).float())
    phases = spectrum.flatten(1).gather(1, peak[:, None]).angle()
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    angle = waves[:, :1, None] * rows + waves[:, 1:, None] * columns + phases[:, :, None]
    gratings = 1.5 * torch.cos(angle)  # (N, H, W)
    away = (place[:, None] - centres[chosen, 0, None, None]).square()
    away = (away + (place[None, :] - centres[chosen, 1, None, None]).square()).sqrt()
    shown = [gratings * (radius - away + 0.5).clamp(0, 1) for radius in RADII]
    return [images.flatten(1) for images in shown], chosen


@torch.no_grad()
def size_tuning(model: Any, steps: int) -> dict[str, Tensor]:
    """Mean spikes, and what of them was not predicted, of each neuron: (neurons, radii)."""
    inputs, chosen = discs(model)
    found: dict[str, list[Tensor]] = {"spikes": [], "not predicted": []}
    for images in inputs:
        spk = model.run(images, steps, record=("spk",), seed=0).spk[steps // 4 :]
        counts = first_part(model, spk)
        rates = first_part(model, predicted(model, spk).exp())
        for name, values in (("spikes", counts), ("not predicted", counts - rates)):
            mean = values.mean(0)
            found[name].append(mean.gather(1, chosen[:, None])[:, 0])
    return {name: torch.stack(values, -1) for name, values in found.items()}


def of_sizes(tuning: Tensor) -> tuple[float, list[float]]:
    """Median of 1 − last / best of neurons that respond, and their mean curve; best is 1."""
    best = tuning.amax(1)
    some = tuning[best > 0.05]
    if not len(some):
        return 0.0, [0.0] * tuning.shape[1]
    some = some / some.amax(1, keepdim=True)
    return float((1 - some[:, -1]).median()), some.mean(0).tolist()


def measured(model: Any, train: Tensor, test: Tensor, seed: int, options: Any) -> dict[str, Any]:
    found, each = energies(model, test, options.steps)
    quarters = each[test.std(1).argsort()].chunk(4)
    tuning = size_tuning(model, options.steps)
    suppression, curve = of_sizes(tuning["spikes"])
    unpredicted, unpredicted_curve = of_sizes(tuning["not predicted"])
    return {
        **found,
        "hidden quarter": filled_in(model, test, train.mean(0), options.steps, seed),
        "suppression": suppression, "suppression of what goes up": unpredicted,
        "parameters": sum(p.numel() for p in model.parameters()),
        "of quarters by contrast": [float(part.mean()) for part in quarters],
        "size tuning": curve, "size tuning of what goes up": unpredicted_curve,
    }  # fmt: skip


def draw(rows: list[dict[str, dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    energy, hidden, size, up = figure.subplots(1, 4)
    for name, colour in COLOURS.items():
        found = [row[name] for row in rows]
        seeds = range(len(found))
        for ax, key in ((energy, "free energy"), (hidden, "hidden quarter")):
            ax.plot(seeds, [row[key] for row in found], "o", color=colour, ms=6, label=name)
        for row in found:
            size.plot(RADII, row["size tuning"], color=colour, lw=1.3)
            up.plot(RADII, row["size tuning of what goes up"], color=colour, lw=1.3)
    energy.set_ylabel("NLL + KL, nats for each crop")
    hidden.set_ylabel("R² of a hidden quarter")
    for ax in (energy, hidden):
        ax.set_xlabel("seed")
        ax.set_xticks(range(len(rows)))
        ax.margins(x=0.2)
    for ax, name in ((size, "spikes"), (up, "spikes not predicted")):
        ax.set_xlabel("radius of the grating, pixels")
        ax.set_ylabel(f"{name}, of the best")
        ax.set_ylim(0, 1)
    for ax in (energy, hidden, size, up):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = energy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    options = parse()
    train, test = crops(options)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows.append({})
        for name, model in models(train, seed, options).items():
            rows[-1][name] = measured(model, train, test, seed, options)
            cells = "  ".join(
                f"{key} {value:.4g}" for key, value in rows[-1][name].items()
                if not isinstance(value, list)
            )  # fmt: skip
            print(f"{seed} {name:<18}{cells}", flush=True)
    draw(rows, options.out)
    record = options.out.with_suffix(".json")
    kept = {key: str(value) for key, value in vars(options).items() if key != "out"}
    kept["data"] = Path(options.data).stem
    write_json(record, {"options": kept, "seeds": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
