"""Metrics of a spiking code: its quality, the tuning of its neurons, its cost on a chip."""

from ipvae_snn.metrics.cost import LayerCost, Synops, synops
from ipvae_snn.metrics.photographs import entropy, psnr, ssim
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
from ipvae_snn.metrics.signals import radial_spectrum, spike_triggered
from ipvae_snn.metrics.tuning import (
    by_selectivity,
    by_tuning,
    by_use,
    feature_phase,
    feature_tuning,
    orientation_tuning,
    selectivity,
)

__all__ = [
    "LayerCost",
    "Synops",
    "by_selectivity",
    "by_tuning",
    "by_use",
    "convergence_step",
    "entropy",
    "feature_phase",
    "feature_tuning",
    "lifetime_sparsity",
    "mse",
    "mse_per_dim",
    "orientation_tuning",
    "population_sparsity",
    "probe_accuracy",
    "psnr",
    "r2",
    "r2_per_sample",
    "radial_spectrum",
    "rate_distortion_distance",
    "selectivity",
    "spike_triggered",
    "ssim",
    "synops",
    "treves_rolls",
    "zeros",
]
