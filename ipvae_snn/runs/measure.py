"""Evaluation of a run on held-out samples, and the table of its metrics."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from ipvae_snn import data
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import atomic_folder
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn.data.sources import Part, Samples
from ipvae_snn.metrics.evaluation import Evaluation, evaluate
from ipvae_snn.models.base import BaseModel
from ipvae_snn.runs.figures import SHOWN_SAMPLES, save_figures
from ipvae_snn.runs.folder import open_run, require_same_kind, write_json
from ipvae_snn.runs.whole_images import whitened


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

    Args:
        run: the run folder.
        dataset: its ``test`` samples are evaluated.
        out: folder to write, new or empty.
        num_steps: T.
        samples: how many samples to evaluate, at most.
        seed: seed of the choice of samples and of the spikes.
        device: ``"cpu"``, ``"cuda"``, ...
        say: called with each line of the summary.
        progress: show a progress bar.

    Raises:
        ValueError: the samples are of another kind or size than those the run was trained on.
    """
    started = time.monotonic()
    require_integer(num_steps, "steps")
    require_integer(samples, "samples", least=2)
    model, config = open_run(run, device)
    require_same_kind(run, config, dataset)
    dataset = whitened(dataset, model, "test")
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples are needed, got {len(dataset.test)}")
    with atomic_folder(out) as folder:
        x, result = evaluate_held_out(model, dataset.test, samples, num_steps, seed, progress)
        write_json(folder / "metrics.json", {"data": dataset.description, **result.summary()})
        steps = config["training"]["steps"]
        figures = folder / "figures"
        save_figures(figures, model, x, dataset.shape, result, trained_steps=steps, seed=seed)
    print_summary(result, out, started, say)
    return result


def evaluate_held_out(
    model: BaseModel,
    test: Tensor | Samples,
    samples: int,
    num_steps: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Evaluation]:
    """Evaluate up to ``samples`` of the test samples; returns a few for figures, and the result."""
    device = model.weight.device
    x = pick(test, samples, seed)
    x = x.to(device) if isinstance(x, Tensor) else x
    result = evaluate(model, x, num_steps, seed=seed, progress=progress)
    return read(x, SHOWN_SAMPLES).to(device), result


@overload
def pick(samples: Tensor, count: int, seed: int) -> Tensor: ...
@overload
def pick(samples: Samples, count: int, seed: int) -> Samples: ...
def pick(samples: Tensor | Samples, count: int, seed: int) -> Tensor | Samples:
    """``count`` random samples of a set, or all of them if it has no more.

    >>> pick(torch.arange(5.0), 9, seed=0)
    tensor([0., 1., 2., 3., 4.])
    """
    if count >= len(samples):
        return samples
    generator = make_generator(seed)
    rows = torch.randperm(len(samples), generator=generator)[:count]
    return samples[rows] if isinstance(samples, Tensor) else Part(samples, rows)


def read(samples: Tensor | Samples, count: int | None = None) -> Tensor:
    """The first ``count`` samples as a tensor, by default all.

    >>> read(torch.eye(3), 2).shape
    torch.Size([2, 3])
    """
    if isinstance(samples, Tensor):
        return samples[:count]
    return samples.read(torch.arange(len(samples))[:count])


def table(result: Evaluation) -> str:
    """A table of the metrics at the reported timesteps, as text."""
    steps = result.reported_steps()
    rows = (
        ("R²", "r2", ".3f"),
        ("R², rates", "r2_map", ".3f"),
        ("MSE", "mse", ".2f"),
        ("zeros", "zeros", ".1%"),
        ("lifetime sparsity", "lifetime_sparsity", ".3f"),
        ("population sparsity", "population_sparsity", ".3f"),
        ("spikes per sample", "spikes", ".1f"),
    )
    lines = [f"{'held-out samples':<20}" + "".join(f"{f'step {t}':>11}" for t in steps)]
    for label, name, form in rows:
        if name in result.curves:
            lines.append(f"{label:<20}" + "".join(f"{result.at(t)[name]:>11{form}}" for t in steps))
    step = result.convergence_step
    converged = f"converged at step {step}" if step else f"not converged in {steps[-1]} steps"
    lines.append(f"{converged}; {result.parameters:,} parameters")
    return "\n".join(lines)


def print_summary(
    result: Evaluation, out: str | Path, started: float, say: Callable[[str], None]
) -> None:
    """Pass the table, the duration and the folder of the figures to ``say``."""
    say(table(result))
    say(f"took {time.monotonic() - started:.0f} s; figures in {Path(out) / 'figures'}")
