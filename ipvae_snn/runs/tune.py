"""Tuning of a run: a run folder of its own for the tuned model."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import atomic_folder, require_inside
from ipvae_snn.runs.figures import save_figures, save_tuning_figure
from ipvae_snn.runs.folder import (
    CONFIG,
    FIGURES,
    METRICS,
    MODEL,
    open_run,
    read_recipe,
    require_same_kind,
    write_json,
)
from ipvae_snn.runs.measure import evaluate_held_out, print_summary
from ipvae_snn.runs.whole_images import whitened
from ipvae_snn.training import Tuning, tune

TUNE = "tune.json"
COPIED = "history.csv", f"{FIGURES}/training.png"
"""Of the training, which tuning does not change."""


def tune_run(
    run: str | Path,
    dataset: data.Dataset,
    out: str | Path,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    progress: bool = True,
    **options: Any,
) -> Tuning:
    """Tune the model of a run on its training samples; write the result as a run folder ``out``.

    The folder holds what that of a training does, ``tune.json`` with the settings, the split and
    all candidates, and ``figures/tuning.png``. Held-out samples are evaluated once, when all is
    chosen. The run itself stays as it is.

    Args:
        run: the run folder.
        dataset: its data; ``train`` is tuned on, ``test`` evaluated.
        out: folder to write, new or empty.
        device: ``"cpu"``, ``"cuda"``, ...
        say: called with each line of the summary.
        progress: show progress bars.
        options: of :func:`~ipvae_snn.training.tune`.

    Raises:
        ValueError: ``dataset`` has samples of another kind or size; what ``tune`` raises.
        TypeError: the model is not one that can be tuned.
    """
    started, run = time.monotonic(), Path(run)
    model, content = open_run(run, device)
    _, config = read_recipe(run)
    require_same_kind(run, content, dataset)
    dataset = whitened(dataset, model, "train", "test")
    require_integer(len(dataset.test), "the number of held-out samples", least=2)
    with atomic_folder(out) as folder:
        result = tune(model, dataset.train, progress=progress, **options)
        say(str(result))
        recipe = config.training
        x, held_out = evaluate_held_out(
            result.model,
            dataset.test,
            config.eval_samples,
            config.eval_steps,
            recipe.seed,
            progress,
        )
        write_json(folder / CONFIG, {**content, "tuned": vars(result.knobs)})
        write_json(folder / TUNE, {"run": run.resolve().name, **result.summary()})
        write_json(folder / METRICS, held_out.summary())
        save_figures(
            folder / FIGURES,
            result.model,
            x,
            dataset.shape,
            held_out,
            trained_steps=recipe.steps,
            seed=recipe.seed,
        )
        save_tuning_figure(folder / FIGURES / "tuning.png", result)
        _copy_training(run, folder)
        result.model.save(folder / MODEL)
    print_summary(held_out, out, started, say)
    return result


def _copy_training(run: Path, folder: Path) -> None:
    for name in COPIED:
        require_inside(run, run / name)
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
