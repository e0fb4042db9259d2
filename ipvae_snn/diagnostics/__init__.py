"""Diagnosis: what is wrong with a model that does not learn, or does not settle.

:func:`check` runs a model on some data and holds what it sees against a list of signatures, each a
:class:`Finding` with a figure, a verdict and advice.
"""

from ipvae_snn.diagnostics.examine import MIN_STEPS, check
from ipvae_snn.diagnostics.report import Finding, Report

FEWEST_STEPS = MIN_STEPS  # the name it had

__all__ = ["MIN_STEPS", "Finding", "Report", "check"]
