"""Pictures: tensors and an optional Axes in, Axes out.

============================  ====================================================================
:func:`raster`,               spike counts: one trial, many trials of a few neurons
:func:`trials`
:func:`membranes`,            traces with their rates; what pushed and held a membrane, step by
:func:`currents`              step
:func:`spike_triggered`       what goes on around a spike
:func:`dictionary`,           images: features, samples and what the spikes say of them
:func:`mosaic`,
:func:`reconstructions`
:func:`gram`,                 lateral weights, and the competitors of one neuron
:func:`competition`
:func:`convergence`,          curves
:func:`rate_distortion`,
:func:`spectra`,
:func:`training`,
:func:`tuning`
:func:`animate`               a film of one trial
============================  ====================================================================

Nothing here changes Matplotlib's global settings. Without ``ax`` a new pyplot figure is made;
:func:`canvas` makes Axes that pyplot does not know of, light or dark. What is drawn suits the
ground it is drawn on. Colours are those of Okabe and Ito, and viridis, which colour-blind readers
can tell apart.
"""

from ipvae_snn.plotting.animation import animate
from ipvae_snn.plotting.competition import competition, gram
from ipvae_snn.plotting.curves import convergence, rate_distortion, spectra, training
from ipvae_snn.plotting.frame import BLUE, GREEN, GREY, ORANGE, PALETTE, canvas, darken
from ipvae_snn.plotting.images import dictionary, mosaic, reconstructions
from ipvae_snn.plotting.membranes import currents, membranes
from ipvae_snn.plotting.spikes import raster, spike_triggered, trials, tuning

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "animate",
    "canvas",
    "competition",
    "convergence",
    "currents",
    "darken",
    "dictionary",
    "gram",
    "membranes",
    "mosaic",
    "raster",
    "rate_distortion",
    "reconstructions",
    "spectra",
    "spike_triggered",
    "training",
    "trials",
    "tuning",
]
