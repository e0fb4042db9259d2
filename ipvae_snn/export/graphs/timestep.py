"""The timestep of a graph, in the unit of its time constants."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ipvae_snn._utils.checks import require_number
from ipvae_snn.export.graphs.graph_fragment import FORMAT, said
from ipvae_snn.export.graphs.node_steps import TIME_CONSTANTS

_ROUNDING = 1e-5
"""By how much, relative to dt, a rounded τ may fall below the dt that it was made from."""


def timestep_of(graph: Any, nodes: Mapping[str, Any], dt: float | None) -> float:
    """The timestep to run a graph with: ``dt``, or 1.

    Euler's method follows a node only if no time constant is shorter than a timestep; it rings
    below, and runs away below half a timestep. Graphs that this package exported are taken as they
    are: there, a timestep is the unit of time, and such a membrane is that of the model.

    Args:
        graph: a ``nir.NIRGraph``.
        nodes: its nodes, flattened.
        dt: in the unit of the graph's time constants; ``None`` if that is a timestep.

    Raises:
        TypeError, ValueError: ``dt`` is no positive number, is not 1 for a graph of this package,
            or is longer than a time constant.
    """
    step = 1.0 if dt is None else require_number(dt, "dt", least=1e-30)
    if said(graph, "format") != FORMAT:
        seconds = "if time constants are in seconds, pass dt in seconds, too, such as dt=1e-4"
        require_resolved(nodes, step, seconds if dt is None else "pass a shorter dt")
    elif step != 1:
        raise ValueError(
            f"dt must be left out, got {dt}: this package exported the graph, with a timestep as "
            "its unit of time"
        )
    return step


def require_resolved(nodes: Mapping[str, Any], step: float, advice: str) -> None:
    """Raise ``ValueError``, with ``advice``, if a positive τ of a node is shorter than ``step``."""
    found = []
    for name, node in nodes.items():
        for field in TIME_CONSTANTS:
            values = np.asarray(getattr(node, field, math.inf))
            if values.dtype.kind in "fiub" and (values > 0).any():
                found.append((float(values[values > 0].min()), name, field))
    tau, name, field = min(found, default=(math.inf, "", ""))
    if tau < step * (1 - _ROUNDING):
        raise ValueError(
            f"node {name!r} ({type(nodes[name]).__name__}) has {field} = {tau:g}, shorter than the "
            f"timestep, dt = {step:g}: {advice}"
        )
