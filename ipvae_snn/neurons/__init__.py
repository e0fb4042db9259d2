"""Spiking neurons with snnTorch's calling contract, and tools for whole networks of them."""

from ipvae_snn.kernels.loop import State
from ipvae_snn.neurons.lateral import ConvLateral, Recurrent
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
    "ConvLateral",
    "IPVAENeuron",
    "Recurrent",
    "State",
]
