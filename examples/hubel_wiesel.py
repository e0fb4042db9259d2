"""Hubel and Wiesel's bar of light, shown to neurons that learned from natural photographs.

A bar sweeps over the patch in many directions, many times; the model was never trained on bars.
Measures the preferred orientation and selectivity of every neuron, and shows one selective neuron
in detail: raster of its spikes for each direction, its membrane and currents while the best bar
passes, a film, and its spikes as clicks. The response is the number of spikes above those to a
blank field, as in physiology.

    python examples/hubel_wiesel.py                    # trains on photographs first
    python examples/hubel_wiesel.py --run runs/demo    # or uses the model of a run

Writes the figure to --out, and next to it a film (.gif) and the clicks (.wav).
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, currents, data, fit, metrics, plotting
from ipvae_snn.data.stimuli import moving_bar
from ipvae_snn.plotting.sound import save_clicks
from ipvae_snn.runs import open_run

SELECTIVE = 0.3
"""Selectivity index above which a neuron counts as orientation selective."""
MIN_RESPONSE = 1.0
"""Extra spikes of a sweep in the best direction below which a neuron counts as unresponsive."""
SECONDS = 0.02
"""Duration of a timestep in the sound."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a model of square patches")
    parser.add_argument("--directions", type=int, default=24)
    parser.add_argument("--trials", type=int, default=20, help="sweeps per direction")
    parser.add_argument("--steps", type=int, default=96, help="timesteps of a sweep")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("hubel_wiesel.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.directions, arguments.trials, arguments.steps = 8, 3, 24
    return arguments


def patch_model(arguments: argparse.Namespace) -> tuple[IPVAE, int]:
    """The model of the run, or one that is trained now, and the side of its patches."""
    if arguments.run is not None:
        model, config = open_run(arguments.run)
        height, width = config["sample_shape"]
        if height != width or config["sample_kind"] != "patches":
            raise SystemExit(f"{arguments.run} was not trained on square patches: give another run")
        return model, height
    patches = data.load("natural", patches=(200 if arguments.quick else 40_000, 2))
    print(patches.description)
    torch.manual_seed(0)
    model = IPVAE(patches.train.shape[1], 512)
    fit(model, patches.train, TrainConfig(iterations=5 if arguments.quick else 1200))
    return model, patches.shape[0]


@torch.no_grad()
def sweep(model: IPVAE, bars: Tensor, trials: int) -> tuple[Tensor, Tensor]:
    """Counts and membranes while bars (A, T, M) pass: shape (T, A, trials, K) each.

    A blank field precedes them, so that every sweep starts from rest.
    """
    directions, steps, pixels = bars.shape
    frames = bars.transpose(0, 1)[:, :, None].expand(-1, -1, trials, -1).reshape(steps, -1, pixels)
    rest = model.run(torch.zeros_like(frames[0]), 50, record=(), seed=0).state
    out = model.run(frames, record=("spk", "mem"), state=rest, seed=1)
    shape = (steps, directions, trials, model.latents)
    return out.spk.reshape(shape), out.mem.reshape(shape)


def main() -> None:
    arguments = parse()
    model, side = patch_model(arguments)
    angles = torch.arange(arguments.directions) * (360 / arguments.directions)
    bars = torch.stack([moving_bar(float(a), size=side, steps=arguments.steps) for a in angles])
    blank, _ = sweep(model, torch.zeros_like(bars[:1]), 4 * arguments.trials)
    spk, mem = sweep(model, bars, arguments.trials)

    total = spk.sum(0).mean(1)  # spikes while a bar passes, (A, K)
    per_sweep = (total - blank.sum(0).mean(1)).clamp(min=0)
    preferred, index = metrics.orientation_tuning(per_sweep, angles)
    active = per_sweep.amax(0) >= min(MIN_RESPONSE, float(per_sweep.max()))
    share = float((index[active] > SELECTIVE).float().mean())
    print(
        f"{int(active.sum())} of {model.latents} neurons respond to a bar; {share:.0%} of them are "
        f"orientation selective (index above {SELECTIVE:g}), median index "
        f"{float(index[active].median()):.2f} (without subtraction of the blank field: "
        f"{float(metrics.orientation_tuning(total, angles)[1][active].median()):.2f})"
    )
    # A neuron that is both selective and active.
    neuron = int((index * per_sweep.amax(0).sqrt() * active).argmax())
    best = int(per_sweep[:, neuron].argmax())
    print(
        f"shown: neuron {neuron}, prefers {float(preferred[neuron]):.0f}°, index "
        f"{float(index[neuron]):.2f}, {float(per_sweep[best, neuron]):.1f} spikes per sweep more "
        "than a blank field"
    )
    draw(arguments.out, model, angles, bars, spk, mem, index[active], neuron, best)
    save_film(arguments.out.with_suffix(".gif"), model, side, bars[best], spk, mem, neuron, best)
    trials = spk[:, best, :, neuron].T.reshape(-1)  # one sweep after the other
    sound = save_clicks(arguments.out.with_suffix(".wav"), trials, timestep=SECONDS)
    print(f"sound: {sound}, {len(trials) * SECONDS:.0f} s, {int(trials.sum())} clicks")


def draw(
    path: Path,
    model: IPVAE,
    angles: Tensor,
    bars: Tensor,
    spk: Tensor,
    mem: Tensor,
    index: Tensor,
    neuron: int,
    best: int,
) -> None:
    side = math.isqrt(model.in_features)
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.get_layout_engine().set(wspace=0.12)  # space for the axis of rates
    parts = figure.subplot_mosaic(
        [["feature", "raster", "raster", "tuning"], ["bar", "raster", "raster", "index"],
         ["mem", "mem", "current", "current"]],
        width_ratios=(1.1, 1, 1.1, 1.3), height_ratios=(1, 1, 1.1),
        per_subplot_kw={"tuning": {"projection": "polar"}},
    )  # fmt: skip
    middle = bars[best, bars.shape[1] // 2]
    for name, image, title in (
        ("feature", model.weight[:, neuron].detach(), f"feature of neuron {neuron}"),
        ("bar", middle, f"best bar, moving {float(angles[best]):.0f}°"),
    ):
        plotting.mosaic(image.reshape(1, side, side), columns=1, ax=parts[name])
        parts[name].set_title(title, fontsize="medium")
    draw_raster(parts["raster"], spk[..., neuron], angles)
    draw_tuning(parts["tuning"], spk[..., neuron].sum(0).mean(1), angles)
    bins = np.linspace(0, 1, 21)
    parts["index"].hist(index.numpy(), bins=list(bins), color=plotting.BLUE, rwidth=0.9)
    parts["index"].axvline(SELECTIVE, color=plotting.GREY, ls="--", lw=1)
    parts["index"].set_xlabel("orientation selectivity index")
    parts["index"].set_ylabel("neurons")
    parts["index"].spines[["top", "right"]].set_visible(False)
    plotting.membranes(
        mem[:, best, :6, neuron], neurons=range(min(6, mem.shape[2])), ax=parts["mem"]
    )
    parts["mem"].set_title("membrane while the best bar passes, six sweeps", fontsize="medium")
    parts["mem"].get_legend().remove()
    contributions = currents.parts(
        model.neuron, model.neuron.drive(bars[best])[:, None], spk[:, best, :1], mem[:, best, :1],
        state=(spk[0, best, :1] * 0, mem[0, best, :1]),
    ).of(0, neuron)  # fmt: skip
    plotting.currents(
        {name: values[1:] for name, values in contributions.items()},
        first_step=2,
        ax=parts["current"],
    )
    parts["current"].set_title("what moved it, first sweep", fontsize="medium")
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def draw_raster(ax: Axes, spk: Tensor, angles: Tensor) -> None:
    """Raster of counts (T, A, N), with one block of N sweeps per direction."""
    shown = range(0, len(angles), max(1, len(angles) // 12))
    plotting.trials(spk[:, list(shown)].transpose(1, 2), neurons=range(len(shown)), ax=ax)
    ax.set_yticks(ax.get_yticks(), [f"{float(angles[a]):.0f}°" for a in shown])
    ax.set_ylabel(f"direction of motion, {spk.shape[2]} sweeps each")
    ax.set_xlabel("timestep of the sweep")


def draw_tuning(ax: Axes, per_sweep: Tensor, angles: Tensor) -> None:
    turn = torch.deg2rad(torch.cat([angles, angles[:1]])).numpy()
    closed = torch.cat([per_sweep, per_sweep[:1]]).numpy()
    ax.plot(turn, closed, color=plotting.BLUE, lw=1.8)
    ax.fill(turn, closed, color=plotting.BLUE, alpha=0.15)
    ax.set_title("spikes per sweep", fontsize="medium")
    ax.set_rlabel_position(100)
    ax.tick_params(labelsize="small")
    ax.grid(alpha=0.4)


def save_film(
    path: Path, model: IPVAE, side: int, bar: Tensor, spk: Tensor, mem: Tensor, neuron: int,
    best: int,
) -> None:  # fmt: skip
    """Film of the best bar: input, reconstruction, and the neuron among the most active ones."""
    counts, traces = spk[:, best, 0], mem[:, best, 0]
    others = [int(k) for k in metrics.by_use(counts)[:40] if int(k) != neuron]
    plotting.animate(
        path, counts, traces, model.decode(traces.exp()).detach(), (side, side), x=bar,
        neurons=[neuron, *others], every=2, dark=True, dpi=80,
    )  # fmt: skip
    print(f"film: {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
