r"""Two layers against one of equal parameters: free energy, a hidden quarter, and surrounds.

Patches of photographs are learned by one layer, whose prior is that of its resting membranes, and
by two, the upper of which predicts the lower. Both have the same number of parameters and of
iterations. Then, of held-out patches:

* the free energy NLL + KL to the prior, which is above −log p(x);
* R² of a quarter, as a square, that was hidden;
* size tuning: gratings of the orientation, frequency and phase of each neuron, in discs of growing
  radius about its place. Suppression is 1 − (response to the largest disc) / (to the best). The
  two layers are also measured with the upper one silenced, which tells what comes from above.

    python examples/decoders/two_layers.py                                  # a minute
    python examples/decoders/two_layers.py --data path/to/photos --iterations 1000 --seeds 3
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

from ipvae_snn import IPVAE, TrainConfig, data, evaluate, fit
from ipvae_snn.functional import poisson_kl
from ipvae_snn.models import DeepIPVAE, Gaussian, LinearDecoder, impute
from ipvae_snn.runs.folder import write_json

SIDE, LOWER, UPPER = 16, 448, 36
RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Of discs, in pixels."""
COLOURS = {
    "one layer": "#000000", "two layers": "#D55E00", "two, upper one silenced": "#0072B2",
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--lower", type=int, default=LOWER, help=f"neurons (default: {LOWER})")
    parser.add_argument("--upper", type=int, default=UPPER, help=f"neurons (default: {UPPER})")
    parser.add_argument("--images", type=int, default=500, help="held-out ones (default: 500)")
    parser.add_argument("--bias", type=float, default=1e-4, help="tonic inhibition of all layers")
    parser.add_argument("--steps", type=int, default=256, help="timesteps that measure")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("two_layers.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.lower, arguments.upper, arguments.images, arguments.steps = 16, 4, 20, 8
        arguments.iterations = 5
    return arguments


def learned(model: Any, train: Tensor, seed: int, arguments: argparse.Namespace) -> Any:
    changes = {"seed": seed, "iterations": arguments.iterations, "progress": False}
    started = time.process_time()
    fit(model, train, TrainConfig(**{**DeepIPVAE.recipe, **changes}))
    print(f"{type(model).__name__}: {time.process_time() - started:.0f} CPU seconds", flush=True)
    return model.eval()


def models(train: Tensor, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    pixels, lower, upper = train.shape[1], arguments.lower, arguments.upper
    common = {
        "form": "exact",
        "step": 0.1,
        "bias": arguments.bias,
        "learn_bias": False,
        "clamp": 10.0,
    }
    torch.manual_seed(seed)
    two = DeepIPVAE(pixels, [lower, upper], **common)
    count = sum(p.numel() for p in two.parameters())
    alone = (count - pixels) // (pixels + 2)
    torch.manual_seed(seed)
    # A prior that does not move with the membranes, as the top layer of two has; learned by the
    # same optimizer, which a decoder of one's own takes.
    parts = {"decoder": LinearDecoder(alone, pixels), "likelihood": Gaussian(pixels)}
    one = IPVAE(pixels, alone, leak=1.0, **parts, **common)
    found = {"one layer": learned(one, train, seed, arguments)}
    found["two layers"] = learned(two, train, seed, arguments)
    return {**found, "two, upper one silenced": silenced(found["two layers"])}


def silenced(model: DeepIPVAE) -> DeepIPVAE:
    """A copy whose upper layer never fires."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.neurons[1].log_bias.fill_(math.log(1e5))
        model.neurons[1].mem_init.fill_(-30.0)
    return model


def first_layer(model: Any) -> Any:
    return model.base if isinstance(model, DeepIPVAE) else model


# -- what is measured ---------------------------------------------------------------------------


def energies(model: Any, x: Tensor, steps: int) -> dict[str, float]:
    """NLL and KL of the second half of the timesteps, in nats for each patch."""
    out = model.run(x, steps, record=("spk", "mem", "nll", "kl"), seed=0, graph=False)
    kl = out.kl
    if isinstance(model, IPVAE):  # whose own KL is to the membranes of the timestep before
        kl = poisson_kl(out.mem, model.neuron.mem_init.detach()).sum(-1)
    half = slice(steps // 2, None)
    nll, kl = float(out.nll[half].mean()), float(kl[half].mean())
    return {"free energy": nll + kl, "nll": nll, "kl": kl}


def filled_in(model: Any, x: Tensor, pixel_mean: Tensor, steps: int, seed: int) -> float:
    """R² of a square of a quarter of the pixels, at a random place of each patch."""
    generator = torch.Generator().manual_seed(seed)
    lost = torch.zeros(len(x), SIDE, SIDE, dtype=torch.bool)
    places = torch.randint(0, SIDE // 2 + 1, (len(x), 2), generator=generator)
    for hidden, (top, left) in zip(lost, places.tolist(), strict=True):
        hidden[top : top + SIDE // 2, left : left + SIDE // 2] = True
    lost = lost.flatten(1)
    mean = impute(model, x, ~lost, num_steps=steps, calibrate=False, noise=False, seed=seed).mean
    left = (mean - x)[lost].square().sum() / (x - pixel_mean)[lost].square().sum()
    return 1 - float(left)


def size_tuning(model: Any, steps: int) -> tuple[Tensor, Tensor]:
    """Mean counts (neurons, radii) for gratings that suit each neuron, and which neurons."""
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
    found = []
    for radius in RADII:
        disc = (radius - away + 0.5).clamp(0, 1)
        out = model.run((gratings * disc).flatten(1), steps, record=("spk",), seed=0, graph=False)
        counts = out.spk[steps // 4 :].mean(0)
        found.append(counts.gather(1, chosen[:, None])[:, 0])
    return torch.stack(found, -1), chosen


def suppression(tuning: Tensor) -> Tensor:
    """1 − last / best of neurons that respond, (N,)."""
    best = tuning.amax(1)
    return (1 - tuning[:, -1] / best.clamp(min=1e-9))[best > 0.05]


def measured(name: str, model: Any, dataset: Any, seed: int, options: Any) -> dict[str, Any]:
    test = dataset.test[: options.images]
    at = evaluate(model, test, num_steps=options.steps).at(options.steps)
    tuning, _ = size_tuning(model, options.steps)
    found = suppression(tuning)
    normed = tuning[tuning.amax(1) > 0.05]
    normed = normed / normed.amax(1, keepdim=True) if len(normed) else tuning[:1]
    return {
        **energies(model, test, options.steps),
        "r2": at["r2"], "zeros": at["zeros"], "spikes": at["spikes"],
        "hidden quarter": filled_in(model, test, dataset.train.mean(0), options.steps, seed),
        "suppression": float(found.median()) if len(found) else 0.0,
        "neurons measured": len(found),
        "size tuning": normed.mean(0).tolist(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def draw(rows: list[dict[str, dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    energy, hidden, size = figure.subplots(1, 3)
    for name, colour in COLOURS.items():
        found = [row[name] for row in rows]
        seeds = range(len(found))
        for ax, key in ((energy, "free energy"), (hidden, "hidden quarter")):
            ax.plot(seeds, [row[key] for row in found], "o", color=colour, ms=6, label=name)
        for row in found:
            size.plot(RADII, row["size tuning"], color=colour, lw=1.3)
    energy.set_ylabel("NLL + KL, nats for each patch")
    hidden.set_ylabel("R² of a hidden quarter")
    for ax in (energy, hidden):
        ax.set_xlabel("seed")
        ax.set_xticks(range(len(rows)))
        ax.margins(x=0.2)
    size.set_xlabel("radius of the grating, pixels")
    size.set_ylabel("response, of each neuron's best")
    size.set_ylim(bottom=0)
    for ax in (energy, hidden, size):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = energy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    options = parse()
    dataset = data.load(options.data)
    print(dataset.description)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows.append({})
        for name, model in models(dataset.train, seed, options).items():
            rows[-1][name] = measured(name, model, dataset, seed, options)
            cells = "  ".join(
                f"{key} {value:.4g}" for key, value in rows[-1][name].items()
                if not isinstance(value, list)
            )  # fmt: skip
            print(f"{seed} {name:<24}{cells}", flush=True)
    draw(rows, options.out)
    record = options.out.with_suffix(".json")
    kept = {key: str(value) for key, value in vars(options).items() if key != "out"}
    kept["data"] = Path(options.data).stem
    write_json(record, {"options": kept, "seeds": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
