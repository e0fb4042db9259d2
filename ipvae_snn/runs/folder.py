"""The folder of a run: what lies in it, and how it is read.

It holds ``config.json`` from the start, ``checkpoint.pt`` while it is being made, and ``model.pt``,
``history.csv``, ``metrics.json`` and ``figures/*.png`` when it is complete.
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ipvae_snn import data
from ipvae_snn._utils.checks import require_image_shape, require_integer
from ipvae_snn._utils.files import atomic_write, fsync
from ipvae_snn.models.base import load_model
from ipvae_snn.training import TrainConfig
from ipvae_snn.version import __version__

TRAIN_PATCHES = 40_000
CONFIG, MODEL, CHECKPOINT = "config.json", "model.pt", "checkpoint.pt"
RESULTS = ".results.part"


@dataclass
class RunConfig:
    """What a run was made with; ``config.json``."""

    data: dict[str, Any]
    model: dict[str, Any]
    training: TrainConfig = field(default_factory=TrainConfig)
    eval_steps: int = 1000
    eval_samples: int = 500

    def __post_init__(self) -> None:
        require_integer(self.eval_steps, "evaluation steps")
        require_integer(self.eval_samples, "samples", least=2)


def describe(config: RunConfig, dataset: data.Dataset) -> dict[str, Any]:
    """The content of ``config.json``."""
    return {
        "ipvae_snn": __version__,
        "torch": torch.__version__,
        "sample_shape": list(dataset.shape),
        "sample_kind": dataset.kind,
        "description": dataset.description,
        **asdict(config),
    }


def open_run(run: str | Path, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """The model and ``config.json`` of a run folder; raises what :func:`read_config` does."""
    config = read_config(run)
    return load_model(Path(run) / MODEL, device=device), config


def read_config(run: str | Path, complete: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a run folder, without its model.

    Args:
        complete: the run must have ended.

    Raises:
        FileNotFoundError: no such folder, it is no run folder, or the run has not ended.
        ValueError: a file in it is damaged.
    """
    run = Path(run)
    path = run / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is no run folder: expected a {CONFIG} in it, as train writes it"
        )
    if complete and not is_complete(run):
        raise FileNotFoundError(
            f"{run} is not complete, its training was interrupted or is still at work: go on "
            f"with ipvae-snn train --resume {run}"
        )
    try:
        config = json.loads(path.read_text())
        _check_config(config)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it lacks {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return dict(config)


def read_recipe(run: str | Path) -> tuple[dict[str, Any], RunConfig]:
    """The ``config.json`` of a run that may not have ended, and what it is to be made with.

    Raises:
        FileNotFoundError: no run folder.
        ValueError: the file is damaged.
    """
    content = read_config(run, complete=False)
    try:
        config = RunConfig(
            data=dict(content["data"]),
            model=dict(content["model"]),
            training=TrainConfig(**content["training"]),
            eval_steps=content["eval_steps"],
            eval_samples=content["eval_samples"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{Path(run) / CONFIG} is damaged: {error}") from error
    return content, config


def is_complete(run: str | Path) -> bool:
    """Whether all results of a run are there: the model is moved in last."""
    return (Path(run) / MODEL).is_file()


def _check_config(config: Any) -> None:
    """Raise unless everything is there that an evaluation goes by."""
    require_integer(config["training"]["steps"], "training steps")
    require_integer(config["training"]["seed"], "training seed", least=0)
    require_image_shape(config["sample_shape"])
    for text in (config["data"]["source"], config["sample_kind"]):
        if not isinstance(text, str):
            raise ValueError(f"expected a text, got {text!r}")


def require_same_kind(run: str | Path, config: Mapping[str, Any], dataset: data.Dataset) -> None:
    """Raise ``ValueError`` unless these samples are such as the run was trained on."""
    trained, given = (
        f"{kind} of {shape[0]}×{shape[1]} values"
        for kind, shape in (
            (config["sample_kind"], config["sample_shape"]),
            (dataset.kind, dataset.shape),
        )
    )
    if trained != given:
        raise ValueError(
            f"{run} was trained on {trained}, these are {given}: give it data of the same kind "
            "and size (see --as)"
        )


def free_folder(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


@contextmanager
def results_of(run: Path) -> Iterator[Path]:
    """A folder for results, which are moved into the run when they are complete, the model last.

    The checkpoint they replace is removed then.
    """
    tidy(run)
    folder = run / RESULTS
    folder.mkdir()
    try:
        yield folder
        for file in folder.rglob("*"):
            fsync(file)
        for child in sorted(folder.iterdir(), key=lambda path: path.name == MODEL):
            there = run / child.name
            if there.is_dir():  # from a move that was cut off
                shutil.rmtree(there)
            os.replace(child, there)
        fsync(run)
    finally:
        tidy(run)


def tidy(run: Path) -> None:
    """Remove what a run does not need: results that are not complete, a checkpoint if they are."""
    shutil.rmtree(run / RESULTS, ignore_errors=True)
    if is_complete(run):
        (run / CHECKPOINT).unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Plain data, for people and programs."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_write(path) as part:
        part.write_text(text + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Rows of numbers under the names of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
