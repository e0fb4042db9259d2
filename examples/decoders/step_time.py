"""Time of a training step with any decoder, against passes through the decoder alone.

The unit is a forward and a backward pass of the decoder, with gradients of its weights and of its
input, for each of T timesteps. By the local rule the step infers without gradients of weights, and
learns from the last eight timesteps; by back-propagation through time it differentiates the
gradients that inference takes. Inference alone stands beside them.

    python examples/decoders/step_time.py
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ipvae_snn import IPVAE, TrainConfig
from ipvae_snn.bench.timing import all_seconds
from ipvae_snn.models import Bernoulli, ConvDecoder, NetworkDecoder
from ipvae_snn.runs.folder import write_json
from ipvae_snn.training.local import LocalObjective

BATCH, STEPS, PIXELS = 50, 32, 784
Work = dict[str, Callable[[], Any]]
COLOURS = {"local rule": "#D55E00", "back-propagation": "#0072B2", "inference": "#000000"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("step_time.png"))
    return parser.parse_args()


def work(decoder: torch.nn.Module, latents: int, form: Any, steps: int) -> Work:
    torch.manual_seed(0)
    model = IPVAE(PIXELS, latents, decoder=decoder, likelihood=Bernoulli(), form=form, step=0.5)
    with torch.no_grad():
        model.neuron.mem_init.fill_(-1.5)  # a fifth of the neurons fires
    x = torch.rand(BATCH, PIXELS)
    config = TrainConfig(rule="local", steps=steps, burn_in=steps * 3 // 4, batch=BATCH)
    objective = LocalObjective(model, config, None, None)
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-9)
    spk = torch.poisson(torch.full((BATCH, latents), 0.2))

    def alone() -> None:
        for _ in range(steps):
            z = spk.clone().requires_grad_()
            decoder(z).sum().backward()

    def local() -> None:
        optimizer.zero_grad()
        objective(x, 1.0)[0].backward()
        optimizer.step()

    def through_time() -> None:
        optimizer.zero_grad()
        model.train().loss(x, steps).backward()
        optimizer.step()

    def inference() -> None:
        model.run(x, steps, record=(), graph=False)

    return {
        "decoder": alone, "local rule": local, "back-propagation": through_time,
        "inference": inference,
    }  # fmt: skip


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(7, 3), layout="constrained")
    ax = figure.subplots()
    for place, (name, colour) in enumerate(COLOURS.items()):
        values = [row[name] for row in rows.values()]
        heights = [k + 0.26 * (place - 1) for k in range(len(rows))]
        ax.barh(heights, values, 0.24, color=colour, label=name)
    ax.axvline(1, color="#808080", lw=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlabel("time, in forward and backward passes of the decoder")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    latents, steps, rounds = (16, 4, 2) if arguments.quick else (512, STEPS, arguments.rounds)
    rows = {}
    for form in ("published", "exact"):
        for name, decoder in (
            ("MLP", NetworkDecoder(latents, PIXELS, [latents])),
            ("convolutional", ConvDecoder(latents, [28, 28])),
        ):
            seconds = all_seconds(
                work(decoder, latents, form, steps), torch.device("cpu"), rounds, warm_up=1
            )
            ratios = {
                key: statistics.median(seconds[key]) / statistics.median(seconds["decoder"])
                for key in COLOURS
            }
            rows[f"{name}, {form}"] = ratios
            cells = "  ".join(f"{key} {value:.2f}" for key, value in ratios.items())
            unit = 1000 * statistics.median(seconds["decoder"])
            print(f"{name}, {form:<12}{cells}   (unit {unit:.0f} ms)", flush=True)
    draw(rows, arguments.out)
    record = arguments.out.with_suffix(".json")
    write_json(record, {"threads": arguments.threads, "ratios": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
