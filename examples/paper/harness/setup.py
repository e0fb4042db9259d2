"""The options of every experiment, and the cache of finished cells that makes it resumable."""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ipvae_snn._utils.files import atomic_write
from ipvae_snn.bench.timing import machine

SECONDS = 200.0
"""Budget of every training, on one core."""


@dataclass(frozen=True)
class Setup:
    """Where an experiment reads and writes, and how much it computes.

    Attributes:
        name: name of the experiment.
        data: folder of the real data sets; ``None`` for small ones that come with packages.
        out: folder of the results, ``<name>.json`` and figures.
        cache: folder of trained models and finished cells, which a later run reuses.
        quick: a smoke test that takes seconds; its numbers mean nothing.
        seeds: number of seeds, where an experiment uses several.
        seconds: time that every model is trained for, on one core, where it is not told otherwise.
        device: device on which models are trained and run.
    """

    name: str
    data: Path | None
    out: Path
    cache: Path
    quick: bool
    seeds: int
    seconds: float
    device: str

    def amount(self, full: int, *, quick: int) -> int:
        return quick if self.quick else full

    def cell(self, key: str, make: Callable[[], Any], *, experiment: str = "") -> Any:
        """The result of ``make``, plain data: computed once, then read from the cache.

        Args:
            key: its name in the cache.
            make: computes it.
            experiment: whose cell it is, if it is not of this experiment alone.
        """

        def timed() -> Any:
            print(f"{self.name}: {key}", flush=True)
            started = time.monotonic()
            value = make()
            if isinstance(value, dict):
                value = {**value, "seconds": round(time.monotonic() - started, 1)}
            return value

        return kept(self.cache / "cells" / (experiment or self.name) / f"{key}.json", timed)

    def by_seed(self, name: str, make: Callable[[int], Any], several: bool) -> list[Any]:
        """One cell per seed if ``several``, else one of seed 0."""
        return [
            self.cell(f"{name}-seed{seed}", lambda seed=seed: make(seed))
            for seed in range(self.seeds if several else 1)
        ]

    def save(self, result: dict[str, Any]) -> None:
        """Write the result and the environment it was computed in to ``<out>/<name>.json``."""
        environment = {
            **machine(torch.device(self.device)), "seconds": self.seconds, "quick": self.quick,
        }  # fmt: skip
        path = self.out / f"{self.name}.json"
        write_json(path, {"environment": environment, **result})
        print(f"result: {path}")


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """The result of ``make``, plain data: computed once, then read from its file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return json.loads(path.read_text())


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(_rounded(content), indent=1, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), text)  # one line per list
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")


def _rounded(content: Any) -> Any:
    """Numbers rounded to six digits: later digits differ between machines."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, dict):
        return {str(k): _rounded(v) for k, v in content.items()}
    return [_rounded(v) for v in content] if isinstance(content, list | tuple) else content


def parse(script: str, doc: str | None) -> Setup:
    """The setup of a script, from its path, its docstring and the command line."""
    name = Path(script).stem
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of mnist.npz, natural_images.npz, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of results")
    parser.add_argument("--cache", type=Path, help="models and cells (default: OUT/cache)")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="training of each model, on one core"
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data must name a folder of real data sets, or pass --quick")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data {options.data} is not a folder")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    torch.set_num_threads(1)  # so that a budget means the same for every model and script
    options.out.mkdir(parents=True, exist_ok=True)
    cache = options.cache or options.out / "cache"
    if options.quick:
        cache = cache / "quick"  # apart, so that no real run reuses a model of a quick one
    return Setup(
        name, options.data, options.out, cache, options.quick,
        1 if options.quick else options.seeds, options.seconds, options.device,
    )  # fmt: skip
