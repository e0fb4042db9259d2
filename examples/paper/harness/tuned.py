"""The iP-VAE after ``ipvae_snn.tune``, on the validation split."""

from ipvae_snn import evaluate, tune
from ipvae_snn.runs import pick
from ipvae_snn.training import Tuning

from harness.datasets import load
from harness.recipes import trained
from harness.setup import Setup

MIN_ZEROS = 0.85
"""That tuning on digits keeps."""


def tuned(
    setup: Setup, data: str, seed: int, *, times: float = 1.0, min_zeros: float | None = None
) -> Tuning:
    """The trained iP-VAE tuned at up to so many ``times`` its spikes."""
    model, x = trained(setup, data, "iP", seed), load(setup, data).validation.to(setup.device)
    steps = setup.amount(400, quick=40)
    budget = None
    if times != 1:
        part = pick(x, setup.amount(200, quick=10), seed=0)
        budget = times * evaluate(model, part, steps).at(steps)["spikes"]
    return tune(
        model,
        x,
        spikes_per_sample=budget,
        min_zeros=None if setup.quick else min_zeros,  # quick models cannot keep it
        num_steps=steps,
        trials=setup.amount(24, quick=2),
    )
