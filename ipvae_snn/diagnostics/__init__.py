"""Diagnosis of models that do not learn or do not converge.

:func:`check` runs a model on some data and tests a list of failure signatures. Each gives a
:class:`Finding` with a figure, a verdict and advice.
"""

from ipvae_snn.diagnostics.examine import MIN_STEPS, check
from ipvae_snn.diagnostics.report import Finding, Report

FEWEST_STEPS = MIN_STEPS  # its former name

__all__ = ["MIN_STEPS", "Finding", "Report", "check"]
