"""Random states of a training: saved to checkpoints, restored, or seeded per rank."""

from typing import Any

import torch

from ipvae_snn._utils.seeding import combine
from ipvae_snn.models.base import BaseModel


def random_state(model: BaseModel) -> dict[str, Any]:
    """States of torch's generators and of the model's own, as tensors on the CPU."""
    device, generator = model.like.device, model.generator
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if generator is not None:
        state["estimator"] = generator.get_state()
    return state


def set_random_state(model: BaseModel, state: dict[str, Any]) -> None:
    """Restore a state of :func:`random_state`; generators that it lacks stay unchanged.

    Raises:
        ValueError: the state is damaged.
    """
    device, generator = model.like.device, model.generator
    try:
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        if generator is not None and "estimator" in state:
            generator.set_state(state["estimator"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the random state cannot be restored: {error}") from error


def seed_rank(model: BaseModel, seed: int, iteration: int, rank: int) -> None:
    """Seed the generators of one rank, so that ranks draw different spikes."""
    rank_seed = combine(seed, iteration, rank)
    torch.manual_seed(rank_seed)
    if model.generator is not None:
        model.generator.manual_seed(rank_seed)
