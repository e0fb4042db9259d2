"""Shared by the experiments: options, cached results, data sets, training recipes and figures."""

from harness.datasets import Samples, load
from harness.figures import COLOURS, LABELS, figure, finish
from harness.measure import codes, evaluated, probe
from harness.recipes import FAMILIES, trained
from harness.setup import Setup, parse

__all__ = [
    "COLOURS",
    "FAMILIES",
    "LABELS",
    "Samples",
    "Setup",
    "codes",
    "evaluated",
    "figure",
    "finish",
    "load",
    "parse",
    "probe",
    "trained",
]
