"""Spiking neurons in the snnTorch manner, and what whole networks of them need."""

from ipvae_snn.neurons.poisson import BIAS, CLAMP, CLAMP_MAX, MEM_INIT_MAX, STEP, IPVAENeuron

__all__ = ["BIAS", "CLAMP", "CLAMP_MAX", "MEM_INIT_MAX", "STEP", "IPVAENeuron"]
