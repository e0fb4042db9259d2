"""Measuring a run's model, and the table that tells it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from ipvae_snn import data
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import atomic_folder
from ipvae_snn.data.sources import Part, Samples
from ipvae_snn.metrics.evaluation import Evaluation, evaluate
from ipvae_snn.models.base import BaseModel
from ipvae_snn.runs.figures import SHOWN_SAMPLES, save_figures
from ipvae_snn.runs.folder import open_run, require_same_kind, write_json


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
    require_integer(num_steps, "steps")
    require_integer(samples, "samples", least=2)
    model, config = open_run(run, device)
    require_same_kind(run, config, dataset)
    if len(dataset.test) < 2:
        raise ValueError(f"at least 2 samples are needed, got {len(dataset.test)}")
    with atomic_folder(out) as folder:
        x, result = measured(model, dataset.test, samples, num_steps, seed, progress)
        write_json(folder / "metrics.json", {"data": dataset.description, **result.summary()})
        save_figures(
            folder / "figures", model, x, dataset.shape, result,
            trained_steps=config["training"]["steps"], seed=seed,
        )  # fmt: skip
    close(result, out, started, say)
    return result


def measured(
    model: BaseModel,
    test: Tensor | Samples,
    samples: int,
    num_steps: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Evaluation]:
    """Evaluate so many of the held-out samples; those that pictures show, and the result."""
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
    """So many samples from all over a set, which may be sorted; all of them if there are no more.

    >>> pick(torch.arange(5.0), 9, seed=0)
    tensor([0., 1., 2., 3., 4.])
    """
    if count >= len(samples):
        return samples
    shuffle = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(samples), generator=shuffle)[:count]
    if isinstance(samples, Tensor):
        return samples[rows]
    return Part(samples, rows)


def read(samples: Tensor | Samples, count: int | None = None) -> Tensor:
    """The first samples, all by default, as a tensor.

    >>> read(torch.eye(3), 2).shape
    torch.Size([2, 3])
    """
    if isinstance(samples, Tensor):
        return samples[:count]
    return samples.read(torch.arange(len(samples))[:count])


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


def close(result: Evaluation, out: str | Path, started: float, say: Callable[[str], None]) -> None:
    """Say how it ended."""
    say(table(result))
    say(f"took {time.monotonic() - started:.0f} s; pictures in {Path(out) / 'figures'}")
