"""How many iterations fit into a given time, measured on a copy of the model."""

import copy
import math
import re
import time
from dataclasses import replace
from typing import Any

from torch import Tensor

from ipvae_snn._utils.checks import require_number
from ipvae_snn.data.sources import Samples
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.fit import fit

SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}
"""Length of each unit of time."""
MEASURED_SHARE, MAX_MEASURED = 0.02, 3.0
"""The last trial takes this share of the budget, and at most so many seconds."""
FIRST_TRIAL, MAX_TRIAL = 4, 1024
"""Iterations of the first trial, in which kernels are built, too, and of the longest."""
TRIAL_LR = 1e-3
"""Highest learning rate of a trial: its schedules are so short that a higher one could diverge."""


def seconds_of(budget: str | float) -> float:
    """A time in seconds: text with its unit, s, min or h; or a number of seconds.

    >>> [seconds_of(text) for text in ("90s", "5min", "40 min", "1.5h")]
    [90.0, 300.0, 2400.0, 5400.0]

    Raises:
        TypeError: neither text nor a number.
        ValueError: no such time, or it is 0 or infinite.
    """
    if not isinstance(budget, str):
        return require_number(budget, "budget", least=1e-3)
    found = re.fullmatch(r"\s*(\d+|\d*\.\d+)\s*([a-z]*)\s*", budget.lower())
    if not found or found[2] not in SECONDS or not 0 < float(found[1]) < math.inf:
        unit = ", with its unit" if found and not found[2] else ""
        raise ValueError(
            f"budget must be a time such as 90s, 5min or 2h{unit}, got {budget.strip()!r}"
        )
    return float(found[1]) * SECONDS[found[2]]


def iterations_within(
    budget: str | float,
    model: BaseModel,
    data: Tensor | Samples,
    config: TrainConfig | None = None,
    *,
    workers: int = 0,
) -> int:
    """How many iterations of :func:`~ipvae_snn.fit` fit into a time.

    A copy of the model is trained for a few iterations, which are timed one by one; what is spent
    on that counts. The model, and what it will draw, stay as they are. Later iterations may take
    longer, if the machine gets busy. Under ``torchrun`` the ranks measure together, and agree on
    the slowest.

    Args:
        budget: time to train for, such as ``"5min"``, or seconds.
        model, data, config, workers: those of the training; its ``iterations`` do not matter.

    Raises:
        ValueError: not even one iteration fits.
        What :func:`~ipvae_snn.fit` and :func:`seconds_of` raise.

    >>> import torch
    >>> from ipvae_snn import IPVAE
    >>> config = TrainConfig(batch=4, steps=2)
    >>> iterations_within("1s", IPVAE(16, 8), torch.rand(32, 16), config) > 10
    True
    """
    seconds, started, group = seconds_of(budget), time.perf_counter(), ProcessGroup()
    require_model(model)
    config = config or TrainConfig()
    config, trial = replace(config, lr=min(config.lr, TRIAL_LR)), FIRST_TRIAL
    while True:
        begun = time.perf_counter()
        each = _seconds_per_iteration(model, data, replace(config, iterations=trial), workers)
        now = time.perf_counter()
        each, took, spent = (
            group.max(round(1e9 * value)) / 1e9 for value in (each, now - begun, now - started)
        )
        enough = took >= min(MEASURED_SHARE * seconds, MAX_MEASURED) or trial >= MAX_TRIAL
        if (trial > FIRST_TRIAL and enough) or spent > seconds / 4:
            break
        trial *= 2
    count = int((seconds - spent) / each)
    if count < 1:
        raise ValueError(
            f"a budget of {seconds:g} s is too short: measuring took {spent:.2g} s, and an "
            f"iteration takes {each:.2g} s"
        )
    return count


def _seconds_per_iteration(
    model: BaseModel, data: Tensor | Samples, config: TrainConfig, workers: int
) -> float:
    """Mean time between the backward passes of a short training of a copy of the model."""
    copied = copy.deepcopy(model)
    learned = [weight for weight in copied.parameters() if weight.requires_grad]
    times: list[list[float]] = [[] for _ in learned]

    def noted(row: list[float]) -> Any:
        return lambda weight: row.append(time.perf_counter())

    for weight, row in zip(learned, times, strict=True):
        weight.register_post_accumulate_grad_hook(noted(row))
    fit(copied, data, replace(config, progress=False), workers=workers)
    marks = max(times, key=len)  # of a weight that every loss depends on
    return (marks[-1] - marks[0]) / (len(marks) - 1)
