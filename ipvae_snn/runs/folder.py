"""Run folders: their files, and how they are read and written.

A run folder holds ``config.json`` from the start, ``checkpoint.pt`` and ``figures/training.png``
while the training runs, and ``model.pt``, ``history.csv``, ``metrics.json`` and ``figures/*.png``
once it is complete.
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from ipvae_snn import data
from ipvae_snn._utils.checks import require_image_shape, require_integer, require_seed
from ipvae_snn._utils.files import atomic_write, fsync, require_inside
from ipvae_snn.models.base import MODELS, load_model
from ipvae_snn.runs.origin import WITHOUT_FILES, seal
from ipvae_snn.training import TrainConfig, seconds_of
from ipvae_snn.version import __version__

TRAIN_PATCHES = 40_000
VALIDATION = 100
CONFIG, MODEL, CHECKPOINT = "config.json", "model.pt", "checkpoint.pt"
METRICS, FIGURES, EVALUATIONS = "metrics.json", "figures", "evaluations"
STAGING = ".results.part"
"""Subfolder where results are written before they are moved into the run folder."""
MAX_JSON = 2**24
"""Bytes of a JSON file that is read."""
MAX_EVALUATION = 2**20
"""Timesteps, and samples, of an evaluation that a run may ask for."""


@dataclass
class RunConfig:
    """The options of a run, as saved in ``config.json``.

    Attributes:
        data: arguments of :func:`ipvae_snn.data.load`.
        model: registered name of the model, and its options.
        training: how the model is trained.
        eval_steps: timesteps of the evaluation.
        eval_samples: held-out samples to evaluate, at most.
        validation: training samples that are not trained on, and whose R² the history has; at most
            a twentieth of all, and none of runs of earlier versions.
        recipe: name of the recipe that model and training were taken from.
        budget: time to train for, such as ``"5min"``; kept as seconds. A new run measures how
            many iterations fit, and trains for these in place of ``training.iterations``.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    training: TrainConfig = field(default_factory=TrainConfig)
    eval_steps: int = 1000
    eval_samples: int = 500
    validation: int = VALIDATION
    recipe: str | None = None
    budget: str | float | None = None

    def __post_init__(self) -> None:
        require_integer(self.validation, "validation samples", least=0)
        require_integer(self.eval_steps, "evaluation steps")
        require_integer(self.eval_samples, "samples", least=2)
        if max(self.eval_steps, self.eval_samples) > MAX_EVALUATION:
            raise ValueError(
                f"evaluation steps and samples must be at most {MAX_EVALUATION:,}, got "
                f"{self.eval_steps:,} and {self.eval_samples:,}"
            )
        if self.budget is not None:
            self.budget = seconds_of(self.budget)


def describe(config: RunConfig, dataset: data.Dataset) -> dict[str, Any]:
    """The content of ``config.json``."""
    return {
        "ipvae_snn": __version__,
        "torch": torch.__version__,
        "sample_shape": list(dataset.shape),
        "sample_kind": dataset.kind,
        "description": dataset.description,
        **asdict(config),
        **({} if config.data.get("source") in WITHOUT_FILES else {"seal": seal(config.data)}),
    }


def open_run(run: str | Path, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load the model and ``config.json`` of a run folder; raises what :func:`read_config` does."""
    config = read_config(run)
    return load_model(Path(run) / MODEL, device=device), config


def read_config(run: str | Path, complete: bool = True) -> dict[str, Any]:
    """Read the ``config.json`` of a run folder.

    Args:
        run: the folder.
        complete: require that the run is complete.

    Raises:
        FileNotFoundError: not a run folder, or the run is not complete.
        ValueError: the file is damaged, or a file of the run is a link out of its folder.
    """
    run = Path(run)
    path = run / CONFIG
    for name in (CONFIG, MODEL, CHECKPOINT, METRICS, FIGURES, EVALUATIONS):
        require_inside(run, run / name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder: expected one of train or demo, with a {CONFIG}"
        )
    if complete and not is_complete(run):
        raise FileNotFoundError(
            f"{run} is not complete, its training was interrupted or still runs: resume it with "
            f"ipvae-snn train --resume {run}"
        )
    try:
        config = read_json(path)
        _check_config(config)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return dict(config)


def read_recipe(run: str | Path) -> tuple[dict[str, Any], RunConfig]:
    """Read the ``config.json`` of a run, complete or not, as it is and as a :class:`RunConfig`.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: the file is damaged.
    """
    content = read_config(run, complete=False)
    try:
        config = RunConfig(
            data=dict(content["data"]),
            model={
                **MODELS.find(content["model"].get("name", "ipvae")).earlier,
                **content["model"],
            },
            training=TrainConfig(**content["training"]),
            eval_steps=content["eval_steps"],
            eval_samples=content["eval_samples"],
            validation=content.get("validation", 0),
            recipe=content.get("recipe"),
            budget=content.get("budget"),
        )
    except KeyError as error:
        raise ValueError(f"{Path(run) / CONFIG} is damaged: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{Path(run) / CONFIG} is damaged: {error}") from error
    return content, config


def is_complete(run: str | Path) -> bool:
    """Whether a run folder holds all results: ``model.pt`` is moved in last."""
    return (Path(run) / MODEL).is_file()


def _check_config(config: Any) -> None:
    """Raise unless all values that commands on a run read are valid."""
    require_integer(config["training"]["steps"], "training steps")
    require_seed(config["training"]["seed"])
    require_image_shape(config["sample_shape"])
    source = config["data"]
    for text in (source["source"], source.get("data_dir", ""), config["sample_kind"]):
        if not isinstance(text, str):
            raise ValueError(f"expected a string, got {text!r}")


def require_same_kind(run: str | Path, config: Mapping[str, Any], dataset: data.Dataset) -> None:
    """Raise ``ValueError`` unless the samples have the kind and shape that the run trained on."""
    trained, given = (
        f"{kind} of {shape[0]}×{shape[1]} values"
        for kind, shape in (
            (config["sample_kind"], config["sample_shape"]),
            (dataset.kind, dataset.shape),
        )
    )
    if trained != given:
        raise ValueError(
            f"{run} was trained on {trained}, these are {given}: use data of the same kind and "
            "size (see --as)"
        )


def free_folder(path: Path) -> Path:
    """The first of ``path``, path-2, path-3, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


@contextmanager
def staged_results(run: Path) -> Iterator[Path]:
    """Yield a folder for results; if the block raises nothing, move them into the run folder.

    The model is moved last, and then the checkpoint removed.
    """
    remove_leftovers(run)
    folder = run / STAGING
    folder.mkdir()
    try:
        yield folder
        for file in folder.rglob("*"):
            fsync(file)
        for child in sorted(folder.iterdir(), key=lambda path: path.name == MODEL):
            target = run / child.name
            if child.is_dir() or target.is_dir():
                _remove(target)  # moved by a process that was killed before it moved the model
            os.replace(child, target)
        fsync(run)
    finally:
        remove_leftovers(run)


def remove_leftovers(run: Path) -> None:
    """Remove incomplete results; remove the checkpoint if the run is complete."""
    _remove(run / STAGING)
    if is_complete(run):
        (run / CHECKPOINT).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a folder with its content, or a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises ``ValueError`` if it is none, too large, or has NaN."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise ValueError(f"it has {size:,} bytes, expected at most {MAX_JSON:,}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, expected finite numbers")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as indented JSON, atomically."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows of numbers; the header are all their names, and what a row lacks is empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
