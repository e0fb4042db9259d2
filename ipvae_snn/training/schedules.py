"""Schedules: learning rate, weight of the KL, clamp and temperature at each iteration."""

import math
from collections.abc import Mapping

import torch

from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.config import TrainConfig


def linear_ramp(iteration: int, start: float, end: float, length: float) -> float:
    """Linear from ``start`` to ``end`` over ``length`` iterations, then constant.

    >>> [linear_ramp(i, 0.0, 1.0, length=4) for i in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return end if iteration >= length else start + (end - start) * iteration / length


def warmup_cosine(iteration: int, iterations: int, warmup: float, floor: float) -> float:
    """Factor on the learning rate: linear rise over ``warmup``, then half a cosine to ``floor``.

    >>> [round(warmup_cosine(i, 100, warmup=10, floor=0.0), 3) for i in (0, 9, 10, 55, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if iteration < warmup:
        return (iteration + 1) / math.ceil(warmup)
    progress = (iteration - warmup) / max(iterations - warmup, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def apply_schedules(
    model: BaseModel,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    iteration: int,
    final: Mapping[str, float],
) -> dict[str, float]:
    """Set learning rate, clamp and temperature for an iteration.

    Args:
        model: the model, whose settings :meth:`~BaseModel.anneal` sets.
        optimizer: its optimizer.
        config: the recipe.
        iteration: counted from 0.
        final: settings that the model anneals, with their final values.

    Returns:
        ``beta``, ``clamp`` (if the model has one), ``lr`` and ``grad_clip`` of the iteration.
    """
    total = config.iterations
    ramps = {
        "clamp": (config.clamp_start, final.get("clamp", math.inf), config.clamp_ramp),
        "temp": (config.temp_start, config.temp_end, config.temp_ramp),
    }
    settings = {}
    for name in ramps.keys() & final.keys():
        start, end, length = ramps[name]
        start = min(start, end) if name == "clamp" else start
        settings[name] = linear_ramp(iteration, start, end, length * total)
        model.anneal(name, settings[name])
    lr = config.lr * warmup_cosine(
        iteration, total, config.warmup * total, floor=config.lr_end / config.lr
    )
    for group in optimizer.param_groups:
        group["lr"] = lr
    warming_up = iteration < config.warmup * total
    return {
        "beta": linear_ramp(iteration, config.beta_start, config.beta, config.beta_ramp * total),
        **({"clamp": settings["clamp"]} if "clamp" in settings else {}),
        "lr": lr,
        "grad_clip": config.grad_clip * (3 if warming_up else 1),
    }
