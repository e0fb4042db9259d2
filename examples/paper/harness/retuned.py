"""The iP-VAE with three numbers set after training: tonic inhibition, inhibition by spikes and the
size of a spike."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ipvae_snn import IPVAE

from harness.datasets import load
from harness.measure import evaluated
from harness.recipes import trained
from harness.setup import Setup

Terms = tuple[float, float, float]


@torch.no_grad()
def retuned(setup: Setup, data: str, seed: int, terms: Terms) -> IPVAE:
    """The trained iP-VAE with other inhibition and smaller spikes.

    With Φ/c, b/c, α·c and u₀ + log c, membranes move as before, and c spikes stand for one, with
    1/√c of the noise. The smooth clamp starts to act at a few spikes per timestep: it is raised so
    that it leaves the larger counts alone, and since it no longer damps them, α is halved.

    Args:
        terms: tonic inhibition to add, nats per timestep; ``lateral_scale``; c.
    """
    more_bias, lateral_scale, fineness = terms
    model = trained(setup, data, "iP", seed)
    assert isinstance(model, IPVAE)
    neuron, shift = model.neuron, math.log(fineness)
    model.weight.div_(fineness)
    neuron.log_bias.copy_((neuron.log_bias.exp() + more_bias).log() - shift)
    neuron.log_step.add_(shift - math.log(2))
    neuron.mem_init.add_(shift)
    neuron.lateral_scale = lateral_scale
    neuron.clamp = 10.0
    return model


def best_terms(
    setup: Setup,
    data: str,
    seed: int,
    terms: Iterable[Terms],
    score: Callable[[dict[str, Any]], float],
) -> Terms:
    """The terms whose metrics have the lowest score, on training samples."""
    x, steps = load(setup, data).train, setup.amount(600, quick=5)

    def scored(chosen: Terms) -> float:
        model = retuned(setup, data, seed, chosen)
        return score(evaluated(setup, model, x, steps, samples=200)["last"])

    return min(terms, key=scored)
