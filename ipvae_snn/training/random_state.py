"""Random states of a training: saved to checkpoints, restored, or seeded per rank."""

from typing import Any

import torch

from ipvae_snn._utils.seeding import combine, reseed, source
from ipvae_snn.models.base import BaseModel


def random_state(model: BaseModel) -> dict[str, Any]:
    """States of the generators that a training draws from, as tensors on the CPU."""
    return {name: generator.get_state() for name, generator in _generators(model).items()}


def set_random_state(model: BaseModel, state: dict[str, Any]) -> None:
    """Restore a state of :func:`random_state`; generators that it lacks stay unchanged.

    Raises:
        ValueError: the state is damaged.
    """
    generators = _generators(model)
    state = dict(state)
    try:
        if "estimator" in state and "estimator" not in generators:
            # Of an earlier release, where nothing but the estimator drew.
            state[model.like.device.type] = state.pop("estimator")
        for name in ("cpu", *(generators.keys() & state.keys())):
            generators[name].set_state(state[name])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the random state cannot be restored: {error}") from error


def seed_rank(model: BaseModel, seed: int, iteration: int, rank: int) -> None:
    """Seed the generators of one rank, so that ranks draw different spikes."""
    for generator in _generators(model).values():
        reseed(generator, combine(seed, iteration, rank))


def _generators(model: BaseModel) -> dict[str, torch.Generator]:
    """By their names in files: of the present block, else torch's and the model's own."""
    device = model.like.device
    generators = {"cpu": source(None, "cpu") or torch.default_generator}
    if device.type == "cuda":
        generators["cuda"] = source(None, device) or torch.cuda.default_generators[device.index]
    own = source(model.generator, device)
    if own is not None and own not in generators.values():
        generators["estimator"] = own
    return generators
