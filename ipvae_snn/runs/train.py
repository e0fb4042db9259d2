"""Training runs: start or resume a training, evaluate the model, and write the run folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import data
from ipvae_snn._utils.checks import require_device
from ipvae_snn._utils.files import (
    exclusive_lock,
    missing_folders,
    remove_empty_folders,
    remove_partial_files,
    require_free_folder,
)
from ipvae_snn._utils.seeding import combine, make_generator, seeded
from ipvae_snn._utils.storage import AllocationLimit
from ipvae_snn._utils.text import printable
from ipvae_snn.data.sources import Part, Samples, as_samples
from ipvae_snn.metrics.evaluation import Evaluation
from ipvae_snn.models.base import MODELS, BaseModel, make_model
from ipvae_snn.models.whitening import WHITENINGS
from ipvae_snn.runs.figures import TRAINING, LivePicture, save_figures
from ipvae_snn.runs.folder import (
    CHECKPOINT,
    CONFIG,
    FIGURES,
    MODEL,
    RunConfig,
    describe,
    is_complete,
    read_recipe,
    require_same_kind,
    staged_results,
    write_csv,
    write_json,
)
from ipvae_snn.runs.measure import evaluate_held_out, print_summary
from ipvae_snn.runs.whole_images import KIND, fit_whitening, require_model_for, whitened
from ipvae_snn.training import fit, iterations_within, seconds_of
from ipvae_snn.training.batches import share
from ipvae_snn.training.checkpoint import read_checkpoint
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
    """Train on ``dataset``, evaluate on its held-out samples, and write the run folder ``out``.

    The folder gets its configuration and a first checkpoint at the start, and a picture of the
    training while it runs; it is complete once it holds ``model.pt``. :func:`resume_run` completes
    it after an interruption.

    Args:
        out: folder to make; may exist if it is empty.
        dataset: samples to train on and to hold out.
        config: options of the run.
        say: called with each line of the summary.
        progress: show progress bars.
        workers: processes that read streamed samples.

    Returns:
        The evaluation; None on ranks above 0 of a distributed training.

    Raises:
        ValueError: ``out`` exists, or an option is out of range; nothing is written then.
        Stopped: a signal was received and a checkpoint written.
        FloatingPointError, OSError, ConnectionError: as for :func:`~ipvae_snn.fit`.
    """
    group = ProcessGroup()
    require_device(config.training.device)
    _require_test_samples(dataset)
    require_model_for(dataset.kind, MODELS.find(config.model.get("name", "ipvae")))
    share(config.training.batch, group.rank, group.size)
    if config.budget is not None:
        if group.is_main:
            require_free_folder(out)
        config = _within_budget(Path(out), dataset, config, say, workers)
    with _new_run_folder(Path(out), dataset, config, group):
        return _train_and_evaluate(Path(out), dataset, config, group, say, progress, workers)


def _within_budget(
    run: Path,
    dataset: data.Dataset,
    config: RunConfig,
    say: Callable[[str], None],
    workers: int,
) -> RunConfig:
    """The options with as many iterations as fit into the budget."""
    assert config.budget is not None
    model = _initial_model(run, dataset, config)
    dataset = whitened(dataset, model, "train")
    count = iterations_within(config.budget, model, dataset.train, config.training, workers=workers)
    say(
        f"budget: {count:,} iterations, as many as fit into {seconds_of(config.budget):g} s of "
        "training; evaluation and figures come after"
    )
    return replace(config, training=replace(config.training, iterations=count))


@contextmanager
def _new_run_folder(
    run: Path, dataset: data.Dataset, config: RunConfig, group: ProcessGroup
) -> Iterator[None]:
    """Make and lock a run folder; remove it again if the block fails before a checkpoint."""
    created: list[Path] = []
    if group.is_main:
        require_free_folder(run)
        created = missing_folders(run)
        run.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(run if group.is_main else None):
            if group.is_main:
                require_free_folder(run)  # again: another process may have had the lock before
                remove_partial_files(run / CONFIG)
                write_json(run / CONFIG, describe(config, dataset))
            try:
                yield
            except Exception:
                if group.is_main and not ((run / CHECKPOINT).exists() or is_complete(run)):
                    (run / CONFIG).unlink(missing_ok=True)
                raise
    except Exception:
        remove_empty_folders(created)
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
    """Resume an interrupted run from its last checkpoint, and complete it.

    Args:
        run: folder of :func:`train_run`.
        dataset: the data it was started on.
        lr, device, checkpoint_every: new values for the rest of the run, if not None.
        say, progress, workers: as for :func:`train_run`.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: it is complete or damaged, or was started on other data.
        What :func:`train_run` raises.
    """
    run = Path(run)
    content, config = read_recipe(run)
    require_same_kind(run, content, dataset)
    _require_test_samples(dataset)
    options = {"lr": lr, "device": device, "checkpoint_every": checkpoint_every}
    changed: Any = {name: value for name, value in options.items() if value is not None}
    recipe = replace(config.training, progress=progress, **changed)
    config, group = replace(config, training=recipe), ProcessGroup()
    with exclusive_lock(run if group.is_main else None):
        if is_complete(run):
            raise ValueError(f"{run} is complete: there is nothing to resume")
        saved = content["training"]
        if group.is_main and any(saved.get(name) != value for name, value in changed.items()):
            # Save new values, so that the next resume uses them too.
            write_json(run / CONFIG, {**content, "training": {**saved, **changed}})
        return _train_and_evaluate(run, dataset, config, group, say, progress, workers)


def _require_test_samples(dataset: data.Dataset) -> None:
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples must be held out, got {len(dataset.test)}")


def _train_and_evaluate(
    run: Path,
    dataset: data.Dataset,
    config: RunConfig,
    group: ProcessGroup,
    say: Callable[[str], None],
    progress: bool,
    workers: int,
) -> Evaluation | None:
    started, recipe = time.monotonic(), config.training
    model = _initial_model(run, dataset, config)
    dataset = whitened(dataset, model, "train", "test")
    train, validation = _split_validation(dataset.train, config.validation, recipe.seed)
    picture = run / FIGURES / TRAINING
    if group.is_main:
        remove_partial_files(picture)
        say(f"the training so far, redrawn every few seconds: {printable(str(picture))}")
    history = fit(
        model,
        train,
        recipe,
        checkpoint=run / CHECKPOINT,
        workers=workers,
        validation=validation,
        watch=LivePicture(picture, recipe.iterations),
    )
    if not group.is_main:
        return None
    x, result = evaluate_held_out(
        model, dataset.test, config.eval_samples, config.eval_steps, recipe.seed, progress
    )
    try:
        with staged_results(run) as folder:
            write_csv(folder / "history.csv", history)
            write_json(folder / "metrics.json", result.summary())
            save_figures(
                folder / "figures",
                model,
                x,
                dataset.shape,
                result,
                trained_steps=recipe.steps,
                history=history,
                seed=recipe.seed,
            )
            model.save(folder / MODEL)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the results, {error.strerror}; the checkpoint is kept, free some space "
            "and resume from it",
            str(run),
        ) from error
    print_summary(result, run, started, say)
    return result


def _split_validation(
    train: Tensor | Samples, count: int, seed: int
) -> tuple[Tensor | Samples, Tensor | Samples | None]:
    """Samples to train on, and ``count`` random others, at most a twentieth, to validate on."""
    count = min(count, len(train) // 20)
    if not count:
        return train, None
    samples, generator = as_samples(train), make_generator(combine(seed, "validation"))
    order = torch.randperm(len(samples), generator=generator)
    return Part(samples, order[count:].sort().values), Part(samples, order[:count])


def _initial_model(run: Path, dataset: data.Dataset, config: RunConfig) -> BaseModel:
    options, pixels = dict(config.model), dataset.shape[0] * dataset.shape[1]
    name = options.pop("name", "ipvae")
    if dataset.kind == KIND:
        assert isinstance(dataset.train, data.Crops)
        pixels = dataset.train.channels
        options["whitening"] = WHITENINGS.to_config(fit_whitening(dataset))
    saved = run / CHECKPOINT
    limit = AllocationLimit(read_checkpoint(saved)["weights"]) if saved.exists() else nullcontext()
    try:
        cls = MODELS.find(name)
        with seeded(config.training.seed), limit:
            model: BaseModel = make_model(cls, {cls.size_argument: pixels, **options})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"no model can be made from {config.model}: {error}") from error
    return model
