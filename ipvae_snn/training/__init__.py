"""Training: one loop with the schedules of the paper, checkpoints, and several processes."""

from ipvae_snn.training.budget import iterations_within, seconds_of
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.fit import fit
from ipvae_snn.training.health import ADVICE, Diverged
from ipvae_snn.training.schedules import linear_ramp, warmup_cosine
from ipvae_snn.training.signals import Stopped

__all__ = [
    "ADVICE",
    "Diverged",
    "Stopped",
    "TrainConfig",
    "fit",
    "iterations_within",
    "linear_ramp",
    "seconds_of",
    "warmup_cosine",
]
