"""The iP-VAE with numbers set after learning: a threshold, its gain, and what a spike is worth."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ipvae_snn import IPVAE

from lab.bench import Lab
from lab.measure import evaluated
from lab.sets import load
from lab.zoo import trained

Terms = tuple[float, float, float]


@torch.no_grad()
def retold(lab: Lab, data: str, seed: int, terms: Terms) -> IPVAE:
    """The trained iP-VAE, after a change of its inhibition and of what a spike is worth.

    With Φ/c, b/c, α·c and u₀ + log c every step of a membrane is what it was, and c spikes say what
    one said, with 1/√c of the noise. The clamp is smooth, and begins to bend at a few spikes: it is
    set out of the way of finer counts, and as it no longer slows them down, steps are halved.

    Args:
        terms: more tonic inhibition, nats per timestep; ``lateral_scale``; c.
    """
    more_bias, lateral_scale, fineness = terms
    model = trained(lab, data, "iP", seed)
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
    lab: Lab, data: str, seed: int, terms: Iterable[Terms], score: Callable[[dict[str, Any]], float]
) -> Terms:
    """Those with the lowest score of their metrics, on samples that the model was trained with."""
    x, steps = load(lab, data).train, lab.few(600, 5)

    def scored(chosen: Terms) -> float:
        model = retold(lab, data, seed, chosen)
        return score(evaluated(lab, model, x, steps, samples=200)["last"])

    return min(terms, key=scored)
