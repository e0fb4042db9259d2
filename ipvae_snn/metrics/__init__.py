"""What a spiking code is measured by: how good it is, and what it costs on a chip."""

from ipvae_snn.metrics.cost import LayerCost, Synops, synops
from ipvae_snn.metrics.quality import (
    convergence_step,
    lifetime_sparsity,
    mse,
    mse_per_dim,
    population_sparsity,
    probe_accuracy,
    r2,
    r2_per_sample,
    rate_distortion_distance,
    treves_rolls,
    zeros,
)

__all__ = [
    "LayerCost",
    "Synops",
    "convergence_step",
    "lifetime_sparsity",
    "mse",
    "mse_per_dim",
    "population_sparsity",
    "probe_accuracy",
    "r2",
    "r2_per_sample",
    "rate_distortion_distance",
    "synops",
    "treves_rolls",
    "zeros",
]
