"""Learning: the recipe of the paper as schedules around one loop, which may be interrupted."""

from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.fit import fit
from ipvae_snn.training.health import ADVICE, Diverged
from ipvae_snn.training.interrupts import Stopped
from ipvae_snn.training.schedules import linear_ramp, warmup_cosine

__all__ = ["ADVICE", "Diverged", "Stopped", "TrainConfig", "fit", "linear_ramp", "warmup_cosine"]
