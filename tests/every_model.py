"""The baselines, for tests of what all models do alike."""

from ipvae_snn.baselines import (
    IGVAE,
    LCA,
    GaussianVAE,
    IterativeAmortisedVAE,
    PoissonVAE,
    SemiAmortisedVAE,
)

BASELINES = (IGVAE, LCA, GaussianVAE, PoissonVAE, IterativeAmortisedVAE, SemiAmortisedVAE)


def make_baselines(in_features, latents):
    """Functions that make each of them, by the names of their classes."""
    return {cls.__name__: (lambda cls=cls: cls(in_features, latents)) for cls in BASELINES}
