"""Runs: train, evaluate, and a folder that holds everything one needs to look at and go on from.

A run folder holds ``model.pt``, ``config.json``, ``history.csv``, ``metrics.json`` and
``figures/*.png``. It appears when it is complete, and never before.
"""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import data, surrogate
from ipvae_snn.checks import require_device, require_whole
from ipvae_snn.evaluation import Evaluation, evaluate
from ipvae_snn.figures import save_figures
from ipvae_snn.files import whole_folder
from ipvae_snn.model import IPVAE
from ipvae_snn.seeding import seeded
from ipvae_snn.training import TrainConfig, fit
from ipvae_snn.version import __version__

TRAIN_PATCHES = 40_000


@dataclass
class RunConfig:
    """What a run was made with; ``config.json``."""

    data: dict[str, Any]
    model: dict[str, Any]
    training: TrainConfig = field(default_factory=TrainConfig)
    eval_steps: int = 1000
    eval_samples: int = 500

    def __post_init__(self) -> None:
        require_whole(self.eval_steps, "evaluation steps")
        require_whole(self.eval_samples, "samples", least=2)


def train_run(
    out: str | Path,
    dataset: data.Dataset,
    config: RunConfig,
    *,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Train on ``dataset``, evaluate on its held-out samples, write the run folder ``out``.

    Raises:
        ValueError: ``out`` exists, or an option is out of range; nothing is written then.
    """
    started = time.monotonic()
    device = require_device(config.training.device)
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples must be held out, got {len(dataset.test)}")
    with whole_folder(out) as folder:
        options = dict(config.model)
        options["spike_grad"] = surrogate.from_config(options["spike_grad"])
        with seeded(config.training.seed):
            model = IPVAE(in_features=dataset.train.shape[1], **options)
        history = fit(model, dataset.train, config.training)
        x = pick(dataset.test, config.eval_samples, config.training.seed).to(device)
        result = evaluate(model, x, config.eval_steps, seed=config.training.seed, progress=progress)
        model.save(folder / "model.pt")
        _write_json(
            folder / "config.json",
            {
                "ipvae_snn": __version__,
                "torch": torch.__version__,
                "sample_shape": list(dataset.shape),
                "sample_kind": dataset.kind,
                "description": dataset.description,
                **asdict(config),
            },
        )
        _write_csv(folder / "history.csv", history)
        _write_json(folder / "metrics.json", result.summary())
        save_figures(
            folder / "figures", model, x, dataset.shape, result,
            trained_steps=config.training.steps, history=history, seed=config.training.seed,
        )  # fmt: skip
    _close(result, out, started, say)
    return result


def open_run(run: str | Path, device: str = "cpu") -> tuple[IPVAE, dict[str, Any]]:
    """The model and ``config.json`` of a run folder; raises what :func:`read_config` does."""
    config = read_config(run)
    return IPVAE.load(Path(run) / "model.pt", device=device), config


def read_config(run: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a run folder, without its model.

    Raises:
        FileNotFoundError: no such folder, or it is no run folder.
        ValueError: a file in it is damaged.
    """
    run = Path(run)
    path = run / "config.json"
    if not path.is_file() or not (run / "model.pt").is_file():
        raise FileNotFoundError(
            f"{run} is no run folder: expected model.pt and config.json in it, as train writes them"
        )
    try:
        config = json.loads(path.read_text())
        _check_config(config)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return dict(config)


def _check_config(config: Any) -> None:
    """Raise unless everything is there that an evaluation goes by."""
    require_whole(config["training"]["steps"], "training steps")
    require_whole(config["training"]["seed"], "training seed", least=0)
    for side in config["sample_shape"]:
        require_whole(side, "sample_shape")
    for text in (config["data"]["source"], config["sample_kind"]):
        if not isinstance(text, str):
            raise ValueError(f"expected a text, got {text!r}")


def evaluate_run(
    run: str | Path,
    dataset: data.Dataset,
    out: str | Path,
    *,
    num_steps: int = 1000,
    samples: int = 500,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Evaluate the model of a run on held-out samples; write metrics and figures to ``out``.

    Raises:
        ValueError: the samples have another size than those the run was trained on.
    """
    started = time.monotonic()
    require_whole(num_steps, "steps")
    require_whole(samples, "samples", least=2)
    model, config = open_run(run, device)
    require_same_kind(run, config, dataset)
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples are needed, got {len(dataset.test)}")
    x = pick(dataset.test, samples, seed).to(device)
    with whole_folder(out) as folder:
        result = evaluate(model, x, num_steps, seed=seed, progress=progress)
        _write_json(folder / "metrics.json", {"data": dataset.description, **result.summary()})
        save_figures(
            folder / "figures", model, x, dataset.shape, result,
            trained_steps=config["training"]["steps"], seed=seed,
        )  # fmt: skip
    _close(result, out, started, say)
    return result


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


def pick(samples: Tensor, count: int, seed: int) -> Tensor:
    """So many samples from all over a set, which may be sorted; all of them if there are no more.

    >>> pick(torch.arange(5.0), 9, seed=0)
    tensor([0., 1., 2., 3., 4.])
    """
    if count >= len(samples):
        return samples
    shuffle = torch.Generator().manual_seed(seed)
    return samples[torch.randperm(len(samples), generator=shuffle)[:count]]


def free_folder(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def table(result: Evaluation) -> str:
    """The closing table of a run: metrics at the reported steps."""
    steps = result.reported_steps()
    rows = (
        ("R²", "r2", ".3f"),
        ("R², rates", "r2_map", ".3f"),
        ("MSE", "mse", ".2f"),
        ("zeros", "zeros", ".1%"),
        ("lifetime sparsity", "lifetime_sparsity", ".3f"),
        ("population sparsity", "population_sparsity", ".3f"),
    )
    lines = ["held-out samples    " + "".join(f"{f'step {t}':>11}" for t in steps)]
    for label, name, form in rows:
        lines.append(f"{label:<20}" + "".join(f"{result.at(t)[name]:>11{form}}" for t in steps))
    converged = result.convergence_step
    where = f"at step {converged}" if converged else f"not within {result.num_steps} steps"
    lines.append(f"converged {where}; {result.parameters:,} parameters")
    return "\n".join(lines)


def _close(result: Evaluation, out: str | Path, started: float, say: Callable[[str], None]) -> None:
    say(table(result))
    say(f"took {time.monotonic() - started:.0f} s; pictures in {Path(out) / 'figures'}")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _write_csv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
