"""How fast this machine runs the network, as ratios to what it cannot do without.

The command ``ipvae-snn bench``. Each time is measured beside (a) the floor, the dense matrix
products of the algorithm alone, and (b) plain references (:mod:`~ipvae_snn.bench.reference`), all
interleaved in one run, since times of different runs do not compare.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ipvae_snn._utils.checks import require_device
from ipvae_snn._utils.files import atomic_folder, require_free_folder
from ipvae_snn.bench import cases
from ipvae_snn.bench.cases import MNIST, PATCHES, Shape
from ipvae_snn.bench.clock import machine
from ipvae_snn.bench.report import picture, table

__all__ = ["measure", "picture", "save", "table"]


def measure(
    *, device: str = "cpu", quick: bool = False, precision: str = "float32", progress: bool = True
) -> dict[str, Any]:
    """Measure everything: about five minutes on two cores, ``quick`` about half a minute.

    Args:
        device: ``"cpu"``, ``"cuda"``, ...
        quick: fewer and smaller shapes, fewer repeats.
        precision: of the products with G, see :attr:`ipvae_snn.IPVAE.precision`.
        progress: show a progress bar.

    Returns:
        ``machine``, and per kind of measurement a list of rows: the shape, seconds, ratios, bytes.
    """
    where = require_device(device)
    repeats = 5 if quick else 21
    heads = [replace(PATCHES, batch=50), replace(MNIST, steps=16)] if quick else [PATCHES, MNIST]
    runs = [replace(s, steps=64) for s in (heads[:1] if quick else [PATCHES, MNIST])]
    events = [Shape(64, k, 1, 1, -math.log1p(-active)) for k, active in _events(quick)]
    sweeps = [(name, shape) for name, shapes in cases.sweeps(quick) for shape in shapes]
    result: dict[str, Any] = {"machine": machine(where), "precision": precision}
    total = len(heads) + len(runs) + len(events) + 2 * len(sweeps)
    with tqdm(total=total, disable=not progress, desc="measuring", unit="case") as bar:

        def rows(kind: str, found: list[tuple[dict[str, Any], Shape]]) -> None:
            result[kind] = [{**asdict(shape), **row} for row, shape in found]

        def done(row: dict[str, Any], shape: Shape) -> tuple[dict[str, Any], Shape]:
            bar.update()
            return row, shape

        # Headlines take more repeats: they are what is compared.
        rows("training", [done(cases.training(s, where, repeats, precision), s) for s in heads])
        rows("inference", [done(cases.inference(s, where, repeats, precision), s) for s in runs])
        often = 200 if quick else 2000
        rows("streaming", [
            done(cases.streaming(s, where, often if s.latents < 9000 else often // 10), s)
            for s in events
        ])  # fmt: skip
        few = 3 if quick else 7
        for kind, of in (("training", cases.training), ("inference", cases.inference)):
            result[f"{kind}_sweeps"] = [
                {"varied": name, **asdict(s), **done(of(s, where, few, precision), s)[0]}
                for name, s in sweeps
            ]
    return result


def _events(quick: bool) -> list[tuple[int, float]]:
    if quick:
        return [(1024, 0.02), (1024, 0.2)]
    spread = [(4096, a) for a in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)]
    return [(512, 0.02), (1024, 0.02), *spread, (16384, 0.02)]


def save(result: dict[str, Any], folder: str | Path) -> None:
    """Write ``bench.json`` and ``bench.png`` to a new folder, whole or not at all.

    Raises:
        ValueError: the folder holds anything.
    """
    require_free_folder(folder)
    with atomic_folder(folder) as unfinished:
        (unfinished / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        picture(result).savefig(unfinished / "bench.png", dpi=110)
