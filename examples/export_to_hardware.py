"""Export to hardware: one model as NIR graphs, in fixed point and for Xylo, compared in quality.

Uses the model of a run folder, or trains a small one on the digits. Exports it to every form, runs
each in the toolchains that are installed (norse, sinabs, xylosim), and compares all with the
stochastic model: R², zeros, spikes and agreement of spike trains, on the same held-out samples at
the same timesteps; then counts the synaptic operations of inference on an event-driven chip.

    python examples/export_to_hardware.py --run runs/natural
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, export, fit, metrics
from ipvae_snn.runs import open_run, pick, recorded_data

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#808080"
BITS = (16, 8, 6, 4)


def model_and_data(run: Path | None, source: str | None, iterations: int) -> tuple[Any, ...]:
    """A trained model, training samples for calibration, and held-out samples."""
    if run is None:
        digits = data.load("digits")
        torch.manual_seed(0)
        model = IPVAE(64, 128)
        config = TrainConfig(
            iterations=iterations, lr=5e-3, beta=16.0, grad_clip=3000.0, progress=False
        )
        fit(model, digits.train, config)
        return model, digits.train, digits.test
    model, config = open_run(run)
    seed = config["training"]["seed"]
    samples = data.load(recorded_data(run, config, source)["source"], patches=(100, 500), seed=seed)
    return model, samples.train, samples.test


def forms(model: IPVAE, calibration: Tensor) -> list[Any]:
    """The model in every form, each in its own toolchain where that is installed."""
    exported: list[Any] = [export.rounded_source(model), export.to_nir(model)]
    for reset, run_in in (("zero", export.in_norse), ("subtract", export.in_sinabs)):
        portable = export.calibrate(model, calibration, reset)
        graph = export.to_nir(model, "portable", portable=portable)
        exported.append(_if_installed(run_in, graph))
    for emission in ("rounded", "poisson"):
        exported += [export.to_fixed_point(model, bits, emission=emission) for bits in BITS]
    exported.append(_if_installed(export.in_xylosim, export.to_xylo(model, calibration)))
    return exported


def _if_installed(run_in: Any, exported: Any) -> Any:
    """The exported form in a toolchain, or as it is where that is not installed."""
    try:
        return run_in(exported)
    except ImportError as error:
        print(f"run by this package instead: {error}")
        return exported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder (default: train on the digits)")
    parser.add_argument("--data", help="data set (default: the one of the run)")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("export_to_hardware.png"))
    arguments = parser.parse_args()
    samples, steps = (10, 24) if arguments.quick else (arguments.samples, arguments.steps)

    model, training, held_out = model_and_data(
        arguments.run, arguments.data, iterations=60 if arguments.quick else 1000
    )
    calibration = pick(training, 20 if arguments.quick else 100, seed=0)
    x = pick(held_out, samples, seed=0)
    result = export.report(forms(model, calibration), model, x, steps, progress=not arguments.quick)
    print(result)
    cost = metrics.synops(model, x, steps)
    print(f"\nOn an event-driven chip, per image of {steps} timesteps\n{cost}")
    summary = {**result.summary(), "synops": {r.layer: vars(r) for r in cost.rows}}
    arguments.out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    draw_forms(left, result)
    draw_bits(right, result)
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


def draw_forms(ax: Axes, result: export.Fidelity) -> None:
    """R² of every form, from one timestep and from the mean over the window."""
    rows = [r for r in result.rows if r.label != "the same, other draws"]
    places = range(len(rows))[::-1]
    ax.axvline(rows[0].r2, color=GREY, lw=1, zorder=0)
    ax.hlines(places, [r.r2 for r in rows], [r.r2_mean for r in rows], color=GREY, lw=1, alpha=0.5)
    ax.plot([r.r2 for r in rows], places, "o", color=BLUE, label="spikes of one timestep")
    mean = f"mean of {result.window} timesteps"
    ax.plot([r.r2_mean for r in rows], places, "D", color=ORANGE, mfc="none", label=mean)
    ax.set_yticks(places, [r.label for r in rows])
    ax.set_xlabel("R², held-out samples")
    ax.set_title(f"Every form after {result.num_steps} timesteps")
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=2, fontsize=9)
    ax.grid(axis="x", alpha=0.25)


def draw_bits(ax: Axes, result: export.Fidelity) -> None:
    """R² of the fixed-point forms against weight bits; dashed lines: the same in float."""
    floats = {"rounded": "float, rounded", "poisson": "stochastic original"}
    for emission, colour, marker in (("rounded", BLUE, "o"), ("poisson", GREEN, "s")):
        label = f"fixed point, {{}}-bit weights, {emission}"
        r2 = [result.row(label.format(bits)).r2 for bits in BITS]
        ax.plot(BITS, r2, marker + "-", color=colour, label=f"integers, {emission}")
        level = result.row(floats[emission]).r2
        ax.axhline(level, color=colour, ls="--", lw=1, label=floats[emission])
    ax.set_xscale("log", base=2)
    ax.set_xticks(BITS, BITS)
    ax.minorticks_off()
    ax.set_xlabel("bits of a weight")
    ax.set_ylabel("R², spikes of one timestep")
    ax.set_title("In integers, 16-bit membranes")
    ax.legend(frameon=False, fontsize=9)
    ax.grid(alpha=0.25)


if __name__ == "__main__":
    main()
