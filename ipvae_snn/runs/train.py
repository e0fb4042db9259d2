"""A run from its first iteration, or from where it was interrupted, to its results."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.checks import require_device
from ipvae_snn._utils.files import (
    exclusive_lock,
    missing_folders,
    remove_empty_folders,
    remove_partial_files,
    require_free_folder,
)
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.metrics.evaluation import Evaluation
from ipvae_snn.models.base import MODELS, BaseModel, make_model
from ipvae_snn.runs.figures import save_figures
from ipvae_snn.runs.folder import (
    CHECKPOINT,
    CONFIG,
    MODEL,
    RunConfig,
    describe,
    is_complete,
    read_recipe,
    require_same_kind,
    results_of,
    write_csv,
    write_json,
)
from ipvae_snn.runs.measure import close, measured
from ipvae_snn.training import fit
from ipvae_snn.training.batches import share
from ipvae_snn.training.checkpointer import History
from ipvae_snn.training.distributed import ProcessGroup


def train_run(
    out: str | Path,
    dataset: data.Dataset,
    config: RunConfig,
    *,
    say: Callable[[str], None] = print,
    progress: bool = True,
    workers: int = 0,
) -> Evaluation | None:
    """Train on ``dataset``, evaluate on its held-out samples, write the run folder ``out``.

    The folder appears at the start with its configuration, a checkpoint follows at once, and it is
    complete when ``model.pt`` is there. Interrupted at any time, it is for :func:`resume_run`.

    Returns:
        The evaluation; None in processes of a distributed training that do not lead it.

    Raises:
        ValueError: ``out`` exists, or an option is out of range; nothing is written then.
        Stopped: a signal asked to, and a checkpoint is written.
        FloatingPointError, OSError, ConnectionError: as :func:`~ipvae_snn.fit`.
    """
    out, world = Path(out), ProcessGroup()
    require_device(config.training.device)
    _require_test(dataset)
    share(config.training.batch, world.rank, world.size)
    made: list[Path] = []
    if world.leads:
        require_free_folder(out)
        made = missing_folders(out)
        out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(out if world.leads else None):
            return _begin(out, dataset, config, world, say, progress, workers)
    except Exception:
        remove_empty_folders(made)
        raise


def _begin(
    out: Path,
    dataset: data.Dataset,
    config: RunConfig,
    world: ProcessGroup,
    say: Callable[[str], None],
    progress: bool,
    workers: int,
) -> Evaluation | None:
    if world.leads:
        require_free_folder(out)  # another one may have been quicker; from here on it is ours
        remove_partial_files(out / CONFIG)
        write_json(out / CONFIG, describe(config, dataset))
    try:
        return _carry_on(out, dataset, config, world, say, progress, workers)
    except Exception:
        if world.leads and not ((out / CHECKPOINT).exists() or is_complete(out)):
            (out / CONFIG).unlink(missing_ok=True)  # there is nothing to go on with
        raise


def resume_run(
    run: str | Path,
    dataset: data.Dataset,
    *,
    lr: float | None = None,
    device: str | None = None,
    checkpoint_every: int | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
    workers: int = 0,
) -> Evaluation | None:
    """Go on with a run that was interrupted, from its last checkpoint to its results.

    Args:
        run: folder that :func:`train_run` made.
        dataset: what it was trained on.
        lr, device, checkpoint_every: others than the run began with, if not None.

    Raises:
        FileNotFoundError: no run folder.
        ValueError: it is complete, damaged, or was trained on other data.
        What :func:`train_run` raises.
    """
    run = Path(run)
    content, config = read_recipe(run)
    require_same_kind(run, content, dataset)
    _require_test(dataset)
    others = {"lr": lr, "device": device, "checkpoint_every": checkpoint_every}
    changed: Any = {name: value for name, value in others.items() if value is not None}
    recipe = replace(config.training, progress=progress, **changed)
    config, world = replace(config, training=recipe), ProcessGroup()
    with exclusive_lock(run if world.leads else None):
        if is_complete(run):
            raise ValueError(f"{run} is complete: there is nothing to go on with")
        known = content["training"]
        if world.leads and any(known.get(name) != value for name, value in changed.items()):
            # The folder tells what it is made with, and the next to go on goes on with that.
            write_json(run / CONFIG, {**content, "training": {**known, **changed}})
        return _carry_on(run, dataset, config, world, say, progress, workers)


def _require_test(dataset: data.Dataset) -> None:
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples must be held out, got {len(dataset.test)}")


def _carry_on(
    run: Path,
    dataset: data.Dataset,
    config: RunConfig,
    world: ProcessGroup,
    say: Callable[[str], None],
    progress: bool,
    workers: int,
) -> Evaluation | None:
    started, recipe = time.monotonic(), config.training
    model, history = _trained(run, dataset, config, workers)
    if not world.leads:
        return None
    x, result = measured(
        model, dataset.test, config.eval_samples, config.eval_steps, recipe.seed, progress
    )
    try:
        with results_of(run) as folder:
            write_csv(folder / "history.csv", history)
            write_json(folder / "metrics.json", result.summary())
            save_figures(
                folder / "figures", model, x, dataset.shape, result,
                trained_steps=recipe.steps, history=history, seed=recipe.seed,
            )  # fmt: skip
            model.save(folder / MODEL)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the results, {error.strerror}; the training is kept, make room and go "
            "on from it",
            str(run),
        ) from error
    close(result, run, started, say)
    return result


def _trained(
    run: Path, dataset: data.Dataset, config: RunConfig, workers: int
) -> tuple[BaseModel, History]:
    options, pixels = dict(config.model), dataset.shape[0] * dataset.shape[1]
    try:
        cls = MODELS.find(options.pop("name", "ipvae"))
        with seeded(config.training.seed):
            model = make_model(cls, {"in_features": pixels, **options})
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"no model can be made of {config.model}: {error}") from error
    history = fit(
        model, dataset.train, config.training, checkpoint=run / CHECKPOINT, workers=workers
    )
    return model, history
