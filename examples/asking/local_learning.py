"""Learning without back-propagation through time: how good, how fast, in how much memory.

Two models of the same kind learn the same images: one by back-propagation through the timesteps,
with the recipe of the command line, one by the local rule in a third of its CPU time. Distance is
that from a perfect code without spikes, at step 1,000, on the last 500 held-out images (by the
first 500 the options for patches were chosen); dead are neurons that never fire for any of them.
The memory of a process is measured with 16 and with 512 timesteps.

    python examples/asking/local_learning.py                                # one seed, minutes
    python examples/asking/local_learning.py --data path/to/photos --seeds 3
    python examples/asking/local_learning.py --data mnist.npz --rules local --share 1

With --share, the local rule has another share of the time. Where it learns alone, it learns for as
many iterations as its recipe says.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ipvae_snn import data, evaluate, fit, recipes
from ipvae_snn.runs.folder import write_json

RULES = {"backprop": "#0072B2", "local": "#D55E00"}
STEPS, HELD_OUT, COUNTED, TRIAL, LENGTHS = 1000, 500, 200, 400, (16, 512)
MEMORY = """
import re, torch
from ipvae_snn import fit, recipes
recipe = recipes.by_rule(recipes.find("natural"), "{rule}").changed(
    steps={steps}, burn_in=0, iterations=3, progress=False)
torch.manual_seed(0)
torch.set_num_threads(1)
fit(recipe.make_model(256), torch.randn(200, 256), recipe.config())
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""
"""Peak of a process in MiB, on Linux."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="natural (default), photographs, digits")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--share", type=float, default=1 / 3, help="of the time of backprop")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("local_learning.png"))
    return parser.parse_args()


def learned(recipe: Any, train: torch.Tensor, iterations: int) -> tuple[Any, float]:
    """A model after so many iterations, and the CPU seconds that they took."""
    changed = recipe.changed(iterations=iterations)
    torch.manual_seed(recipe.config().seed)
    model = changed.make_model(train.shape[1])
    started = time.process_time()
    fit(model, train, changed.config())
    return model.eval(), time.process_time() - started


def measured(model: Any, test: torch.Tensor, steps: int) -> dict[str, float]:
    """Of held-out images."""
    found = evaluate(model, test, num_steps=steps).at(steps)
    counts = model.run(test, COUNTED, record=("spk",), seed=0, graph=False).spk
    dead = (counts.sum((0, 1)) == 0).float().mean()
    return {
        "r2": found["r2"], "zeros": found["zeros"], "dead": float(dead),
        "distance": found["rate_distortion_distance"],
    }  # fmt: skip


def compared(dataset: Any, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each rule, on the same images."""
    rows: dict[str, dict[str, float]] = {}
    for rule in options.rules:
        recipe = recipes.by_rule(recipes.suited(dataset.kind), rule).changed(seed=seed)
        iterations: int = recipe.config().iterations
        if options.quick:
            recipe, iterations = recipe.changed(latents=16, batch=10, progress=False), 30
        elif "backprop" in rows:
            each = learned(recipe.changed(progress=False), dataset.train, TRIAL)[1] / TRIAL
            iterations = int(options.share * rows["backprop"]["CPU seconds"] / each)
        model, seconds = learned(recipe, dataset.train, iterations)
        rows[rule] = {"CPU seconds": seconds, "iterations": iterations}
        test = dataset.test[-HELD_OUT:]
        rows[rule] |= measured(model, test, 20 if options.quick else STEPS)
        cells = "   ".join(f"{key} {value:.3g}" for key, value in rows[rule].items())
        print(f"{rule:<10}{cells}", flush=True)
    return rows


def peak(rule: str, steps: int) -> float:
    """MiB of a process that learns."""
    code = MEMORY.format(rule=rule, steps=steps)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(run.stdout)


def draw(rows: list[dict[str, Any]], memory: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    quality, size = figure.subplots(1, 2)
    for rule, colour in RULES.items():
        found = [row[rule] for row in rows if rule in row]
        quality.plot(
            [row["CPU seconds"] for row in found], [row["distance"] for row in found],
            "o", color=colour, label=rule, ms=5,
        )  # fmt: skip
        if memory:
            size.plot(LENGTHS, list(memory[rule].values()), "o-", color=colour, label=rule, ms=5)
    quality.set_xlabel("CPU seconds of learning")
    quality.set_ylabel("distance from a perfect code")
    quality.set_xlim(left=0)
    distances = [row[rule]["distance"] for row in rows for rule in row]
    quality.set_ylim(0, 1.2 * max(distances))
    size.set_xlabel("timesteps")
    size.set_ylabel("peak memory of the process, MiB")
    size.set_ylim(bottom=0)
    size.set_xticks(LENGTHS)
    for ax in (quality, size):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    quality.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)  # CPU seconds of waiting threads would count
    dataset = data.load(arguments.data)
    print(dataset.description)
    rows = [compared(dataset, seed, arguments) for seed in range(arguments.seeds)]
    lengths = LENGTHS[:1] if arguments.quick else LENGTHS
    memory = {rule: {str(steps): peak(rule, steps) for steps in lengths} for rule in RULES}
    print(f"peak memory, MiB: {json.dumps(memory)}")
    draw(rows, memory if len(lengths) > 1 else {}, arguments.out)
    record = arguments.out.with_suffix(".json")
    content = {"data": Path(arguments.data).stem, "share": arguments.share, "seeds": rows}
    write_json(record, {**content, "peak memory, MiB": memory})
    print(f"result: {record}")


if __name__ == "__main__":
    main()
