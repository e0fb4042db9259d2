"""Training: one loop with the schedules of the paper, checkpoints, several processes; tuning."""

from ipvae_snn.training.budget import iterations_within, seconds_of
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.fit import fit
from ipvae_snn.training.health import ADVICE, Diverged
from ipvae_snn.training.schedules import linear_ramp, warmup_cosine
from ipvae_snn.training.signals import Stopped
from ipvae_snn.training.tuning import Knobs, Tuning, retuned, tune

__all__ = [
    "ADVICE",
    "Diverged",
    "Knobs",
    "Stopped",
    "TrainConfig",
    "Tuning",
    "fit",
    "iterations_within",
    "linear_ramp",
    "retuned",
    "seconds_of",
    "tune",
    "warmup_cosine",
]
