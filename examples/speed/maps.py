"""Speed of the convolutional iP-VAE, as ratios to the convolutions that it cannot do without.

A training step needs two convolutions per timestep forward and four backward, inference two; they
are timed alone, in turn with the model. Then a photograph of 512×512 pixels, and a timestep of one
frame of 512×512 pixels by events and by convolutions, against the portion of neurons that spike.

    python examples/speed/maps.py
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from ipvae_snn._utils.files import atomic_write
from ipvae_snn.bench.models import convolutions
from ipvae_snn.models import ConvIPVAE, ImageStream

LATENTS, KERNEL, STRIDE = 64, 16, 4
ACTIVE = 0.12
"""Portion of neurons that spike, as in trained models."""
PORTIONS = (0.0, 0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
MEMORY = """
import re, torch
from ipvae_snn.models import ConvIPVAE
model = ConvIPVAE(1, {latents}, {kernel}, {stride}).eval()
x = torch.randn(1, 1, {side}, {side})
model.run(x, {steps}, record=())
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least time of each in ms, all in turn."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            found[name] = min(found[name], 1000 * (time.perf_counter() - started))
    return found


def active_model(stays: bool) -> ConvIPVAE:
    """A model whose neurons spike at a known rate; its membranes do not move if ``stays``."""
    model = ConvIPVAE(1, LATENTS, KERNEL, STRIDE, init_std=1e-3, step=1e-6 if stays else 0.2)
    with torch.no_grad():
        model.neuron.mem_init.fill_(torch.tensor(ACTIVE).log().item())
    return model


def against_the_floor(rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    model = active_model(stays=True)
    batch, steps = (2, 4) if quick else (4, 16)
    x, one = torch.randn(batch, 1, 64, 64), torch.randn(1, 1, 128 if quick else 321, 128)

    def step() -> None:
        model.zero_grad()
        model.loss(x, steps).backward()

    training = best(
        {"model": step, "floor": lambda: convolutions(model, x, steps, weights=True)}, rounds
    )
    model.eval()
    with torch.no_grad():
        inference = best(
            {
                "model": lambda: model.run(one, steps, record=()),
                "floor": lambda: convolutions(model, one, steps, weights=False),
            },
            rounds,
        )
    return {"training": training, "inference": inference}


def large_photograph(quick: bool) -> dict[str, float]:
    side, steps = (128, 4) if quick else (512, 64)
    model, x = active_model(stays=True).eval(), torch.randn(1, 1, side, side)
    started = time.perf_counter()
    model.run(x, steps, record=())
    seconds = time.perf_counter() - started
    sizes = {"latents": LATENTS, "kernel": KERNEL, "stride": STRIDE, "side": side}
    memory = {}
    for factor in (1, 4):
        code = MEMORY.format(**sizes, steps=max(1, steps // 16) * factor)
        memory[factor] = float(
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        )
    return {
        "side": side, "steps": steps, "seconds": seconds,
        "MB": memory[1], "MB, 4 T": memory[4],
    }  # fmt: skip


@torch.no_grad()
def by_events(rounds: int, quick: bool) -> list[dict[str, float]]:
    side = 64 if quick else 512
    stream = ImageStream(active_model(stays=True), (side, side), seed=0)
    stream.push(torch.randn(1, side, side))
    stepper, rows = stream._stepper, []
    for form in (stepper.current_of_events, stepper.dense_current):
        form()  # not timed
    for portion in PORTIONS:
        stepper.state.spk.bernoulli_(portion)
        times = best({"events": stepper.current_of_events, "dense": stepper.dense_current}, rounds)
        spikes = int(stepper.state.spk.sum())
        rows.append({"portion": portion, "spikes": spikes, "most": stepper.most_events, **times})
    return rows


def draw(path: Path, rows: list[dict[str, float]], title: str) -> None:
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    ax = figure.subplots()
    across = [row["spikes"] for row in rows]
    for name, colour in (("events", "#D55E00"), ("dense", "#0072B2")):
        label = {"events": "sums of events", "dense": "convolutions"}[name]
        ax.plot(across, [row[name] for row in rows], "o-", color=colour, label=label)
    ax.axvline(rows[0]["most"], color="#808080", ls=":", lw=1.2, label="where the stream changes")
    ax.set_xscale("symlog", linthresh=100)
    ax.set_xlim(left=-10)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(ScalarFormatter())
    ax.set_xlabel("neurons that spiked")
    ax.set_ylabel("ms per timestep")
    ax.set_title(title, fontsize=9, loc="left")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("maps.png"))
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else 12
    found = {
        "processor": processor(), "threads": torch.get_num_threads(),
        "floor": against_the_floor(rounds, arguments.quick),
        "photograph": large_photograph(arguments.quick),
        "events": by_events(rounds, arguments.quick),
    }  # fmt: skip
    for name, row in found["floor"].items():
        print(f"{name}: {row['model']:.1f} ms, {row['model'] / row['floor']:.2f} × the floor")
    large = found["photograph"]
    print(f"{large['side']}×{large['side']} pixels, {large['steps']} timesteps: "
          f"{large['seconds']:.1f} s; peak memory of a process {large['MB']:.0f} MB, with four "
          f"times as many timesteps {large['MB, 4 T']:.0f} MB")  # fmt: skip
    with atomic_write(arguments.out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    draw(arguments.out, found["events"], f"one frame, {LATENTS} features of {KERNEL}×{KERNEL}")


if __name__ == "__main__":
    main()
