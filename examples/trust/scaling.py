"""Speed-up of training by a second process, on the same batches.

Three ways to use two cores, interleaved: one process with one thread (the reference), one process
with two threads, and two processes with one thread each under torchrun. About two minutes:

    python examples/trust/scaling.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from ipvae_snn import IPVAE, TrainConfig, fit
from ipvae_snn.training.distributed import ProcessGroup, join_process_group

WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}
SHAPES = {"patches": (256, 512, 16, 200), "digits": (784, 512, 32, 100)}
ITERATIONS = 20


def measured(shape: tuple[int, int, int, int]) -> tuple[float, float]:
    """Seconds per iteration of a training, without start-up, and its last loss."""
    pixels, latents, steps, batch = shape
    x = torch.randn(1000, pixels, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = IPVAE(pixels, latents)
    times = []
    for iterations in (3, ITERATIONS):  # the first one warms up
        config = TrainConfig(iterations=iterations, batch=batch, steps=steps, progress=False)
        started = time.perf_counter()
        history = fit(model, x, config)
        times.append((time.perf_counter() - started) / iterations)
    return times[-1], history[-1]["loss"]


def work() -> None:
    """The training in each process; rank 0 prints the results."""
    with join_process_group("cpu"):
        results = {name: measured(shape) for name, shape in SHAPES.items()}
        if ProcessGroup().is_main:
            print(json.dumps(results))


def run(processes: int, threads: int) -> dict[str, tuple[float, float]]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*start, "--nproc-per-node", str(processes), __file__, "--work"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    results: dict[str, tuple[float, float]] = json.loads(done.stdout.splitlines()[-1])
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.work:
        work()
        return
    rounds = [{way: run(*how) for way, how in WAYS.items()} for _ in range(options.repeats)]
    result: dict[str, dict[str, dict[str, float]]] = {}
    alone = next(iter(WAYS))
    for name, (pixels, latents, steps, batch) in SHAPES.items():
        print(f"M {pixels}, K {latents}, T {steps}, B {batch}: time per iteration, and as a ratio")
        result[name] = {}
        for way in WAYS:
            seconds = [r[way][name][0] for r in rounds]
            ratios = [r[way][name][0] / r[alone][name][0] for r in rounds]
            row = {
                "milliseconds": 1000 * statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "loss": rounds[0][way][name][1],
            }
            result[name][way] = row
            print(
                f"  {way:22}{row['milliseconds']:8.1f} ms {row['ratio']:6.2f} "
                f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f}), last loss {row['loss']:.5f}"
            )
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
