"""Constant memory: images evaluated while read from a file, and a stream of a million timesteps.

Writes random images of 28×28 bytes to an ``.npy``, evaluates a model on them streamed from the file
and again with all in memory, then feeds a ``Stream`` frame by frame. Each runs in its own process,
whose resident memory is sampled along the way (Linux only).

    python examples/trust/flat_memory.py                   # two minutes
    python examples/trust/flat_memory.py --images 1000000 --timesteps 10000000
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ipvae_snn import IPVAE, Stream, data, evaluate, plotting
from ipvae_snn.data.sources import Samples, as_samples
from ipvae_snn.plotting.frame import BLUE, GREEN, ORANGE

SIDE, LATENTS, STEPS, BATCH = 28, 64, 4, 500
PIXELS, NEURONS, STAY = 64, 256, 10
READINGS = 20
HERE = Path(__file__).parent


class Reading(NamedTuple):
    """Progress of a process, its resident memory at that point, and the peak so far, in MiB."""

    done: int
    now: float
    peak: float


class Measured(NamedTuple):
    """Memory readings of one process."""

    label: str
    readings: list[Reading]
    seconds: float

    @property
    def growth(self) -> float:
        """MiB by which the peak rose after the first fifth, when all buffers are allocated."""
        return self.readings[-1].peak - self.readings[READINGS // 5].peak


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        write_images(images, arguments.images)
        jobs = [
            (evaluating, "evaluate, read as needed", images, True),
            (evaluating, "evaluate, all in memory", images, False),
            (streaming, f"Stream, M {PIXELS}, K {NEURONS}", arguments.timesteps),
        ]
        results = [in_new_process(*job) for job in jobs]
    print(table(results))
    report = {
        "images": arguments.images,
        "timesteps": arguments.timesteps,
        "torch": torch.__version__,
        "runs": [
            {
                "label": r.label,
                "seconds": round(r.seconds, 1),
                "growth": round(r.growth, 2),
                **dict(zip(Reading._fields, zip(*r.readings, strict=True), strict=True)),
            }
            for r in results
        ],
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    ax = plotting.canvas((9, 4))
    draw(ax, results)
    ax.figure.savefig(arguments.out, dpi=110, bbox_inches="tight")
    print(f"picture: {arguments.out}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--timesteps", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=HERE / "flat_memory.png")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.timesteps = 10_000, 10_000
    if arguments.images < READINGS * BATCH or arguments.timesteps < READINGS * STAY:
        parser.error(f"at least {READINGS * BATCH:,} images and {READINGS * STAY:,} timesteps")
    return arguments


def write_images(path: Path, count: int) -> None:
    """Random images, written in chunks."""
    shape = (count, SIDE, SIDE)
    file = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
    rng = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        chunk = file[start : start + 10_000]
        chunk[:] = rng.integers(0, 256, chunk.shape, dtype=np.uint8)
    file.flush()


def in_new_process(job: Callable[..., Measured], *arguments: Any) -> Measured:
    """Run a job in a fresh process, so that no memory of other jobs is counted."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *arguments).result()


class Watched(Samples):
    """Samples that record the memory in use at regular points of progress."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.features = samples, samples.features
        self.readings: list[Reading] = []

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, rows: Tensor) -> Tensor:
        if int(rows[0]) >= len(self.readings) * len(self) / READINGS:
            self.readings.append(reading(int(rows[0])))
        return self.samples.read(rows)

    def fingerprint(self) -> str:
        return self.samples.fingerprint()


def evaluating(label: str, images: Path, stream: bool) -> Measured:
    torch.manual_seed(0)
    model = IPVAE(SIDE * SIDE, LATENTS)
    watched = Watched(as_samples(data.load(images, hold_out=False, stream=stream).test))
    started = time.monotonic()
    evaluate(model, watched, STEPS, batch=BATCH)
    watched.readings.append(reading(len(watched)))
    return Measured(label, watched.readings, time.monotonic() - started)


def streaming(label: str, timesteps: int) -> Measured:
    torch.manual_seed(0)
    stream, frames = Stream(IPVAE(PIXELS, NEURONS), seed=0), torch.Generator().manual_seed(0)
    readings, started = [], time.monotonic()
    for timestep in range(0, timesteps, STAY):
        if timestep >= len(readings) * timesteps / READINGS:
            readings.append(reading(timestep))
        stream.push(torch.rand(PIXELS, generator=frames), num_steps=STAY)
    readings.append(reading(stream.timestep))
    return Measured(label, readings, time.monotonic() - started)


def reading(done: int) -> Reading:
    """Resident memory of this process, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    now, peak = (int(sizes[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Reading(done, round(now, 2), round(peak, 2))


def table(results: list[Measured]) -> str:
    shares = range(0, READINGS + 1, 4)
    lines = [f"{'MiB in memory':<26}" + "".join(f"{s / READINGS:>8.0%}" for s in shares)]
    lines[0] += "    peak  growth  seconds"
    for result in results:
        cells = "".join(f"{result.readings[s].now:>8.1f}" for s in shares)
        peak = result.readings[-1].peak
        lines.append(
            f"{result.label:<26}{cells}{peak:>8.1f}{result.growth:>8.2f}{result.seconds:>9.1f}"
        )
    return "\n".join(lines) + "\ngrowth: rise of the peak from 20% of the way to the end"


def draw(ax: Axes, results: list[Measured]) -> None:
    for result, colour in zip(results, (BLUE, ORANGE, GREEN), strict=True):
        done, memory, _ = np.array(result.readings).T
        unit = "timesteps" if result.label.startswith("Stream") else "images"
        ax.plot(
            done / done[-1], memory, "o-", ms=4, color=colour,
            label=f"{result.label} ({done[-1]:,.0f} {unit})",
        )  # fmt: skip
    ax.set_ylim(0, 1.35 * max(result.readings[-1].peak for result in results))
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("progress")
    ax.set_ylabel("resident memory [MiB]")
    ax.set_title("Memory in use does not grow with images or timesteps")
    ax.legend(frameon=False, loc="upper left")
    ax.grid(alpha=0.25)


if __name__ == "__main__":
    main()
