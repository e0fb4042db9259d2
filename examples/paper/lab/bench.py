"""The options every experiment takes, and the cells that make it resumable."""

import argparse
import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ipvae_snn._utils.files import atomic_write
from ipvae_snn.version import __version__


@dataclass(frozen=True)
class Lab:
    """Where an experiment reads and writes, and how much it does.

    Attributes:
        name: of the experiment.
        data: folder of real data sets; ``None`` for stand-ins that come with packages.
        out: folder of the result: ``<name>.json`` and pictures.
        cache: folder of trained models and finished cells, which a later run takes up again.
        quick: seconds instead of minutes; shows that everything runs, and measures nothing.
        seeds: how many seeds, where an experiment has several.
        device: where models are trained and run.
    """

    name: str
    data: Path | None
    out: Path
    cache: Path
    quick: bool
    seeds: int
    device: str

    def few(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def cell(self, key: str, make: Callable[[], Any]) -> Any:
        """The result of ``make``, plain data, computed once and then read from the cache."""
        path = self.cache / "cells" / self.name / f"{key}.json"
        if path.is_file():
            return json.loads(path.read_text())
        print(f"{self.name}: {key}", flush=True)
        started = time.monotonic()
        value = make()
        if isinstance(value, dict):
            value = {**value, "seconds": round(time.monotonic() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
        return json.loads(path.read_text())

    def by_seed(self, name: str, make: Callable[[int], Any], several: bool) -> list[Any]:
        """A cell for each seed, where there are to be several; otherwise for seed 0 alone."""
        return [
            self.cell(f"{name}-seed{seed}", lambda seed=seed: make(seed))
            for seed in range(self.seeds if several else 1)
        ]

    def save(self, result: dict[str, Any]) -> None:
        """Write the whole result, and where it was computed, to ``<out>/<name>.json``."""
        where = {
            "ipvae_snn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": platform.machine(),
            "device": self.device,
            "quick": self.quick,
        }
        path = self.out / f"{self.name}.json"
        write_json(path, {"environment": where, **result})
        print(f"result: {path}")


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(_short(content), indent=1, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), text)  # a list, a line
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")


def _short(content: Any) -> Any:
    """Numbers to six digits: what is beyond differs between machines."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, dict):
        return {str(k): _short(v) for k, v in content.items()}
    return [_short(v) for v in content] if isinstance(content, list | tuple) else content


def parse(script: str, doc: str | None) -> Lab:
    """The lab of the script at that path, from the command line."""
    name = Path(script).stem
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of mnist.npz, natural_images.npz, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="results go here")
    parser.add_argument("--cache", type=Path, help="models and cells (default: OUT/cache)")
    parser.add_argument("--quick", action="store_true", help="seconds, for a first look")
    parser.add_argument("--seeds", type=int, default=2, help="where there are several")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data must name a folder of real data sets, or pass --quick")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data {options.data} is no folder")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    cache = options.cache or options.out / "cache"
    if options.quick:
        cache = cache / "quick"  # what a quick look trained is no result
    return Lab(
        name, options.data, options.out, cache, options.quick,
        1 if options.quick else options.seeds, options.device,
    )  # fmt: skip
