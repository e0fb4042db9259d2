"""The random states of a training: to be kept, and to be put back."""

from typing import Any

import torch

from ipvae_snn._utils.seeding import combine
from ipvae_snn.models.base import BaseModel


def random_state(model: BaseModel) -> dict[str, Any]:
    """States of all generators that training draws from, as tensors on the CPU."""
    device, own = model.like.device, model.generator
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if own is not None:
        state["estimator"] = own.get_state()
    return state


def set_random_state(model: BaseModel, state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave; what it lacks stays as it is.

    Raises:
        ValueError: it is damaged.
    """
    device, own = model.like.device, model.generator
    try:
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        if own is not None and "estimator" in state:
            own.set_state(state["estimator"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the random state cannot be put back: {error}") from error


def seed_rank(model: BaseModel, seed: int, iteration: int, rank: int) -> None:
    """Random states of a process for itself, so that no two draw the same for other samples."""
    own = combine(seed, iteration, rank)
    torch.manual_seed(own)
    generator = model.generator
    if generator is not None:
        generator.manual_seed(own)
