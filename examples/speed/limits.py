r"""How far each part of a training step is from what the machine could do at most.

Of one timestep, B samples and K neurons, a share a of which spikes, these cannot be avoided:

* zG, forward: a B K² multiplications, each with a number of G that was read from the second cache;
* the sampler: ten rounds of Philox, an exponential and an inversion, some 45 operations a neuron;
* membrane, KL and NLL: three exponentials, a logarithm and two divisions, some 100 operations;
* the tape: a membrane and a count, 5 bytes a neuron, written forward and read backward;
* the product of the backward pass: B K² multiplications, dense;
* derivatives of the membrane: some 110 operations, and 41 bytes a neuron read and written;
* the gradient of G: a B K² multiplications, each with a number from the second cache.

The peaks are measured in the same run, in turn with the parts: a dense product, whose
multiplications, each with its addition, stand for as many other operations; a copy within the
second cache, and one that goes through memory.

    python examples/speed/limits.py
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ipvae_snn.bench import cases
from ipvae_snn.bench.cases import Shape
from ipvae_snn.bench.timing import machine
from ipvae_snn.kernels import native
from ipvae_snn.kernels.adjoint import CHUNK
from ipvae_snn.runs.folder import write_json

ACTIVE = 0.15
SAMPLER, MEMBRANE, DERIVATIVES = 45, 100, 110
"""Operations for each neuron and timestep."""
TAPE, BACKWARD_BYTES = 5, 41
COLUMNS = ("measured", "arithmetic", "traffic")


def best(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each, all in turn, each after a run that fills the caches."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            work()
            started = time.perf_counter()
            work()
            found[name] = min(found[name], time.perf_counter() - started)
    return found


def measured(shape: Shape, rounds: int) -> dict[str, float]:
    """Seconds of one timestep of each part, and of what tells the peaks."""
    torch.manual_seed(0)
    model, x = cases.make(shape, torch.device("cpu"))
    rows, latents, steps = shape.batch, shape.latents, shape.steps
    spk = (torch.rand(rows, latents) < ACTIVE).float()
    rate, full = torch.full((rows, latents), shape.rate), torch.rand(rows, latents)
    gram, out = native.padded(torch.rand(latents, latents)), torch.empty(rows, latents)
    counts = spk.to(torch.uint8).expand(CHUNK, -1, -1).contiguous()
    factor, gradient = torch.rand(CHUNK, rows, gram.shape[1]), torch.zeros_like(gram)
    events = torch.empty(torch.get_num_threads(), native.LANES, CHUNK * rows, 2)
    key, threads = torch.tensor(1), torch.get_num_threads()
    small, large = torch.rand(threads * 2**16), torch.rand(2**25)  # 256 kB a thread, 128 MB
    to_small, to_large = torch.empty_like(small), torch.empty_like(large)

    def forward() -> object:
        with torch.no_grad():
            return model.run(x, steps, record=("nll", "kl"))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.loss(x, steps).backward()

    found = best(
        {
            "product": lambda: torch.mm(full, gram[:, :latents], out=out),
            "copy, second cache": lambda: [to_small.copy_(small) for _ in range(20)],
            "copy, memory": lambda: to_large.copy_(large),
            "zG": lambda: native.sum_rows(spk, gram, out),
            "sampler": lambda: native.poisson(rate, key),
            "gradient of G": lambda: native.add_gram_gradient(counts, factor, gradient, events),
            "forward": forward,
            "step": step,
        },
        rounds,
    )
    found["copy, second cache"] /= 20
    found["gradient of G"] /= CHUNK
    found["forward"] /= steps
    found["step"] /= steps
    found["small bytes"], found["large bytes"] = 8.0 * len(small), 8.0 * len(large)
    return found


def parts(shape: Shape, found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of each part: least seconds by arithmetic and by traffic, and measured ones."""
    neurons = shape.batch * shape.latents
    dense = neurons * shape.latents
    product = dense / found["product"]  # multiplications, each with an addition, a second
    cache = found["small bytes"] / found["copy, second cache"]
    memory = found["large bytes"] / found["copy, memory"]
    membrane = found["forward"] - found["zG"] - found["sampler"]
    backward = found["step"] - found["forward"]
    rest = backward - found["product"] - found["gradient of G"]

    def part(seconds: float, arithmetic: float, traffic: float) -> dict[str, float]:
        least = max(arithmetic, traffic)
        return {
            "measured": seconds, "arithmetic": arithmetic, "traffic": traffic,
            "above the limit": seconds / least,
        }  # fmt: skip

    by_spikes = ACTIVE * dense / product, 4 * ACTIVE * dense / cache
    return {
        "zG": part(found["zG"], *by_spikes),
        "sampler": part(found["sampler"], SAMPLER * neurons / product, 0.0),
        "membrane, KL, tape, calls": part(
            membrane, MEMBRANE * neurons / product, TAPE * neurons / memory
        ),
        "product of the backward pass": part(found["product"], dense / product, 0.0),
        "gradient of G": part(found["gradient of G"], *by_spikes),
        "derivatives, autograd, calls": part(
            rest, DERIVATIVES * neurons / product, BACKWARD_BYTES * neurons / cache
        ),
    }


def draw(path: Path, rows: dict[str, dict[str, float]], title: str) -> None:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax = figure.subplots()
    places = range(len(rows))
    for offset, key, colour in (
        (-0.27, "measured", "#0072B2"), (0, "arithmetic", "#D55E00"), (0.27, "traffic", "#808080"),
    ):  # fmt: skip
        values = [1e3 * row[key] for row in rows.values()]
        label = "measured" if key == "measured" else f"least by {key}"
        ax.barh([p + offset for p in places], values, 0.25, color=colour, label=label)
    ax.set_yticks(places, list(rows))
    ax.invert_yaxis()
    ax.set_xlabel("ms for one timestep of a training step")
    ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("limits.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not native.available():
        raise SystemExit(f"no compiled kernels: {native.unavailable_reason()}")
    shape = Shape(64, 64, 4, 20) if arguments.quick else cases.PATCHES
    found = measured(shape, 2 if arguments.quick else arguments.rounds)
    rows = parts(shape, found)
    neurons = shape.batch * shape.latents
    print(f"dense product: {2e-9 * neurons * shape.latents / found['product']:.0f} GFLOP/s")
    for name, size in (("second cache", "small bytes"), ("memory", "large bytes")):
        print(f"copy, {name}: {1e-9 * found[size] / found[f'copy, {name}']:.0f} GB/s")
    print(f"{'ms for one timestep':30}" + "".join(f"{key:>12}" for key in COLUMNS))
    for name, row in rows.items():
        cells = "".join(f"{1e3 * row[key]:12.3f}" for key in COLUMNS)
        print(f"{name:30}{cells}  {row['above the limit']:.1f} × the limit")
    about = machine(torch.device("cpu"))
    draw(arguments.out, rows, f"{about['device']}, {arguments.threads} threads")
    record = arguments.out.with_suffix(".json")
    write_json(record, {"machine": about, "peaks": found, "parts": rows})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
