"""How fast this machine runs the network, behind the command ``ipvae-snn bench``.

Each time is measured beside (a) the floor, the dense matrix products of the algorithm alone, and
(b) plain references (:mod:`~ipvae_snn.bench.reference`), interleaved in one run and compared as
ratios: times of different runs do not compare.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ipvae_snn._utils.checks import require_device
from ipvae_snn._utils.files import atomic_folder, require_free_folder
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn.bench import cases, models
from ipvae_snn.bench.cases import HELD_OUT, MNIST, PATCHES, SMALL, Shape
from ipvae_snn.bench.report import picture, table
from ipvae_snn.bench.timing import machine
from ipvae_snn.kernels.spec import Precision

__all__ = ["measure", "picture", "save", "table"]


def measure(
    *,
    device: str = "cpu",
    quick: bool = False,
    precision: Precision = "float32",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure everything: about ten minutes on two cores, ``quick`` about half a minute.

    Args:
        device: ``"cpu"``, ``"cuda"``, ...
        quick: fewer and smaller shapes, fewer repeats.
        precision: precision of the products with the lateral weights G. See
            :attr:`ipvae_snn.IPVAE.precision`.
        progress: show a progress bar.

    Returns:
        ``machine`` and ``precision``, and rows for each kind of measurement: shape, seconds,
        ratios, bytes.
    """
    where = require_device(device)
    repeats, sweep_repeats, stream_repeats = (5, 3, 200) if quick else (21, 7, 2000)
    heads = [PATCHES, MNIST, SMALL]
    if quick:
        heads = [replace(PATCHES, batch=50), replace(MNIST, steps=16), SMALL]
    runs = [replace(s, steps=64) for s in (heads[:1] if quick else heads[:2])]
    events = [Shape(64, k, 1, 1, -math.log1p(-active)) for k, active in _events(quick)]
    sweeps = [(name, shape) for name, shapes in cases.sweeps(quick) for shape in shapes]
    result: dict[str, Any] = {"machine": machine(where), "precision": precision}
    others = models.cases(quick)
    held_out = replace(HELD_OUT, batch=50, steps=64) if quick else HELD_OUT
    total = len(heads) + len(runs) + len(events) + 2 * len(sweeps) + len(others) + 2
    with progress_bar(total, "measuring", shown=progress, unit="case") as bar:

        def row(
            case: Callable[..., dict[str, Any]], shape: Shape, *options: Any, **labels: str
        ) -> dict[str, Any]:
            measured = {**labels, **asdict(shape), **case(shape, where, *options)}
            bar.update()
            return measured

        result["training"] = [row(cases.training, s, repeats, precision) for s in heads]
        result["inference"] = [row(cases.inference, s, repeats, precision) for s in runs]
        result["streaming"] = [
            row(cases.streaming, s, stream_repeats if s.latents < 9000 else stream_repeats // 10)
            for s in events
        ]
        result["calls"] = row(cases.calls, replace(SMALL, steps=1, batch=1), stream_repeats // 4)
        result["evaluation"] = row(cases.evaluation, held_out, 3)
        result["models"] = {}
        for name, make in others.items():
            result["models"][name] = models.timed(make, where, sweep_repeats)
            bar.update()
        for kind, case in (("training", cases.training), ("inference", cases.inference)):
            result[f"{kind}_sweeps"] = [
                row(case, s, sweep_repeats, precision, varied=name) for name, s in sweeps
            ]
    return result


def _events(quick: bool) -> list[tuple[int, float]]:
    """Latents and portion of active neurons of the streaming measurements."""
    if quick:
        return [(1024, 0.02), (1024, 0.2)]
    activities = [(4096, a) for a in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)]
    return [(512, 0.02), (1024, 0.02), *activities, (16384, 0.02)]


def save(result: dict[str, Any], folder: str | Path) -> None:
    """Write ``bench.json`` and ``bench.png`` to a new folder, atomically.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    require_free_folder(folder)
    with atomic_folder(folder) as unfinished:
        (unfinished / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        picture(result).savefig(unfinished / "bench.png", dpi=110)
