"""Figures: take tensors and an optional Axes, return the Axes.

============================  ====================================================================
:func:`raster`,               spike counts: one trial, or many trials of a few neurons
:func:`trials`
:func:`membranes`,            membrane traces with their rates; the currents that moved one
:func:`currents`              membrane
:func:`spike_triggered`       averages around a spike
:func:`dictionary`,           images: features, samples and their reconstructions
:func:`mosaic`,
:func:`reconstructions`
:func:`gram`,                 lateral weights, and the competitors of one neuron
:func:`competition`
:func:`convergence`,          curves
:func:`rate_distortion`,
:func:`spectra`,
:func:`trade_off`,
:func:`training`,
:func:`loss`,
:func:`schedules`,
:func:`tuning`
:func:`photograph`,           whole images: the spikes at each place, the orientation that wins
:func:`activity`,
:func:`orientations`,         and of features the orientations and phases; spikes of some places
:func:`tiling`, :func:`places`
:func:`animate`               an animation of one trial
============================  ====================================================================

Matplotlib's global settings stay untouched. Without ``ax`` a new pyplot figure is made;
:func:`canvas` makes Axes outside pyplot, light or dark. Text and lines take colours that are
legible on the background of the Axes. All colours are safe for colour-blind readers: the palette of
Okabe and Ito, and viridis.
"""

from ipvae_snn.plotting.animation import animate
from ipvae_snn.plotting.competition import competition, gram
from ipvae_snn.plotting.curves import (
    convergence,
    loss,
    rate_distortion,
    schedules,
    spectra,
    trade_off,
    training,
)
from ipvae_snn.plotting.frame import BLUE, GREEN, GREY, ORANGE, PALETTE, canvas, darken
from ipvae_snn.plotting.images import dictionary, mosaic, reconstructions
from ipvae_snn.plotting.membranes import currents, membranes
from ipvae_snn.plotting.photographs import activity, orientations, photograph, tiling
from ipvae_snn.plotting.spikes import places, raster, spike_triggered, trials, tuning

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "activity",
    "animate",
    "canvas",
    "competition",
    "convergence",
    "currents",
    "darken",
    "dictionary",
    "gram",
    "loss",
    "membranes",
    "mosaic",
    "orientations",
    "photograph",
    "places",
    "raster",
    "rate_distortion",
    "reconstructions",
    "schedules",
    "spectra",
    "spike_triggered",
    "tiling",
    "trade_off",
    "training",
    "trials",
    "tuning",
]
