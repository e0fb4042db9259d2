"""A run from its first iteration, or from where it was interrupted, to its results."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ipvae_snn import data, surrogate
from ipvae_snn.checks import require_device
from ipvae_snn.evaluation import Evaluation, evaluate
from ipvae_snn.figures import save_figures
from ipvae_snn.files import exclusive, remove_made, to_be_made, whole_folder
from ipvae_snn.model import IPVAE
from ipvae_snn.runs.folder import (
    CHECKPOINT,
    CONFIG,
    MODEL,
    RunConfig,
    describe,
    is_complete,
    move_in,
    read_recipe,
    require_same_kind,
    write_csv,
    write_json,
)
from ipvae_snn.runs.measure import SHOWN, close, pick, read
from ipvae_snn.seeding import seeded
from ipvae_snn.training import fit
from ipvae_snn.training.keeper import History
from ipvae_snn.training.processes import World

RESULTS = ".results.part"


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
    out, world, made = Path(out), World(), []
    require_device(config.training.device)
    _require_test(dataset)
    if world.leads:
        made = to_be_made(out)
        with whole_folder(out) as folder:
            write_json(folder / CONFIG, describe(config, dataset))
    return _carry_on(out, dataset, config, made, world, say, progress, workers)


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
    if is_complete(run):
        raise ValueError(f"{run} is complete: there is nothing to go on with")
    content, config = read_recipe(run)
    require_same_kind(run, content, dataset)
    _require_test(dataset)
    others = {"lr": lr, "device": device, "checkpoint_every": checkpoint_every}
    changed: Any = {name: value for name, value in others.items() if value is not None}
    recipe = replace(config.training, progress=progress, **changed)
    config = replace(config, training=recipe)
    return _carry_on(run, dataset, config, [], World(), say, progress, workers)


def _require_test(dataset: data.Dataset) -> None:
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples must be held out, got {len(dataset.test)}")


def _carry_on(
    run: Path,
    dataset: data.Dataset,
    config: RunConfig,
    made: Sequence[Path],
    world: World,
    say: Callable[[str], None],
    progress: bool,
    workers: int,
) -> Evaluation | None:
    started = time.monotonic()
    with exclusive(run if world.leads else None):
        try:
            model, history = _trained(run, dataset, config, workers)
        except Exception:
            if not (run / CHECKPOINT).exists():  # it failed before there was anything to keep
                remove_made(made)
            raise
        if not world.leads:
            return None
        recipe = config.training
        x = pick(dataset.test, config.eval_samples, recipe.seed)
        x = x.to(recipe.device) if isinstance(x, Tensor) else x
        result = evaluate(model, x, config.eval_steps, seed=recipe.seed, progress=progress)
        results = run / RESULTS
        shutil.rmtree(results, ignore_errors=True)
        try:
            results.mkdir()
            write_csv(results / "history.csv", history)
            write_json(results / "metrics.json", result.summary())
            save_figures(
                results / "figures", model, read(x, SHOWN).to(recipe.device), dataset.shape, result,
                trained_steps=recipe.steps, history=history, seed=recipe.seed,
            )  # fmt: skip
            model.save(results / MODEL)
            move_in(results, run)
        finally:
            shutil.rmtree(results, ignore_errors=True)
    close(result, run, started, say)
    return result


def _trained(
    run: Path, dataset: data.Dataset, config: RunConfig, workers: int
) -> tuple[IPVAE, History]:
    options = dict(config.model)
    options["spike_grad"] = surrogate.from_config(options["spike_grad"])
    with seeded(config.training.seed):
        model = IPVAE(in_features=dataset.shape[0] * dataset.shape[1], **options)
    history = fit(
        model, dataset.train, config.training, checkpoint=run / CHECKPOINT, workers=workers
    )
    return model, history
