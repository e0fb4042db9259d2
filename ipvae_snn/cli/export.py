"""The command ``export``: writes the model of a run for a toolchain, and measures fidelity."""

import argparse
import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from ipvae_snn import data, export
from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn._utils.files import fsync, require_free_file
from ipvae_snn._utils.options import Family
from ipvae_snn._utils.text import printable
from ipvae_snn.export.graphs.maps import fits
from ipvae_snn.models import ConvIPVAE, unrolled
from ipvae_snn.runs import open_run, pick, read, recorded_data
from ipvae_snn.runs.whole_images import whitened

CALIBRATION_SAMPLES = 100
SIZE = 16, 16
"""Of the images that a convolutional model is unrolled over, where none is said."""


def export_run(arguments: argparse.Namespace) -> None:
    """Export the model of a run, and print the fidelity table."""
    target = export.TARGETS.find(arguments.to)(**targets().given(arguments, arguments.to))
    out = arguments.out
    require_free_file(out)
    require_integer(arguments.samples, "samples", least=2)
    require_integer(arguments.steps, "steps")
    seed, progress = require_seed(arguments.seed), not arguments.quiet
    model, config = open_run(arguments.run)
    if arguments.size is not None and not isinstance(model, ConvIPVAE):
        raise ValueError("--size belongs to runs with --decoder conv: leave it out")
    trained = recorded_data(arguments.run, config, arguments.data, arguments.data_dir)
    dataset = data.load(
        trained["source"],
        treat=arguments.treat or trained.get("treat", "auto"),
        data_dir=trained.get("data_dir", "."),
        axis=trained.get("axis") if arguments.data is None else arguments.axis,
        patches=(CALIBRATION_SAMPLES, arguments.samples),
        seed=config["training"]["seed"],
    )
    if isinstance(model, ConvIPVAE):
        size = tuple(arguments.size or SIZE)
        dataset = _of_size(whitened(dataset, model, "train", "test"), size)
        as_map = getattr(target, "takes_maps", False) and fits(model, size)
        layout = "maps" if as_map else "one layer, those of all places side by side"
        print(f"neurons for images of {size[0]}×{size[1]} pixels: {layout}")
        model = model if as_map else unrolled(model, size)
    values = dataset.shape[0] * dataset.shape[1]
    if isinstance(dataset.train, data.Crops):
        values *= dataset.train.channels
    is_map = isinstance(model, ConvIPVAE)
    if values != model.in_features and not is_map:
        raise ValueError(
            f"{arguments.run} takes inputs of {model.in_features} values, these have "
            f"{values}: give it data of the kind it was trained on (--data, --as)"
        )
    calibration = read(pick(dataset.train, CALIBRATION_SAMPLES, seed))
    x = read(pick(dataset.test, arguments.samples, seed))
    if not is_map:
        calibration, x = calibration.flatten(1), x.flatten(1)
    # In a folder of its own: what fails leaves nothing behind, and the name stays that of --out.
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=out.parent) as folder:
        path = Path(folder) / out.name
        exported = _write(target, model, calibration, path, progress=progress)
        result = export.report(exported, model, x, arguments.steps, seed=seed, progress=progress)
        fsync(path)
        os.replace(path, out)
        fsync(out.parent)
    compared = printable(dataset.description)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB; compared on {compared}")
    print(result)


def _of_size(dataset: data.Dataset, size: tuple[int, int]) -> data.Dataset:
    """The data set in crops of ``size``."""
    crops: dict[str, Any] = {}
    for name in ("train", "test"):
        part = getattr(dataset, name)
        assert isinstance(part, data.Crops)
        crops[name] = data.Crops(part.images, size, len(part), part.seed)
    return dataset._replace(**crops, shape=size)


def _write(
    target: export.Target, model: Any, calibration: Tensor, path: Path, *, progress: bool
) -> list[Any]:
    """What a target returned; raises unless it is a list and the file is written."""
    told = f"write() of {type(target).__name__}"
    exported: Any = target.write(model, calibration, path, progress=progress)
    if not isinstance(exported, list | tuple):
        raise TypeError(
            f"{told} must return a list of what to compare with the model, [] for nothing; it "
            f"returned {exported!r}"
        )
    if not path.is_file() or not path.stat().st_size:
        others = [p.name for p in path.parent.iterdir() if p != path]
        wrote = f", it wrote {', '.join(others)}" if others else ""
        raise ValueError(f"{told} left the file it was asked for, {path.name}, unwritten{wrote}")
    return list(exported)


def targets() -> Family:
    """The export targets and their options."""
    return Family("--to", export.TARGETS)


def target_help() -> str:
    """A line for each target: its name, and the first line of its docstring."""
    docs = {name: str(inspect.getdoc(target)) for name, target in export.TARGETS.items()}
    return "".join(f"{name:<12} {doc.splitlines()[0]}\n" for name, doc in docs.items())
