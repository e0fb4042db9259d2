"""Spiking neurons in the snnTorch manner, and what whole networks of them need."""

from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.poisson import (
    BIAS,
    CLAMP,
    CLAMP_MAX,
    MEM_INIT_MAX,
    MEM_INIT_RANGE,
    STEP,
    IPVAENeuron,
)

__all__ = [
    "BIAS",
    "CLAMP",
    "CLAMP_MAX",
    "MEM_INIT_MAX",
    "MEM_INIT_RANGE",
    "STEP",
    "IPVAENeuron",
    "State",
]
