"""Tables as text: a row for each model, means over seeds with their standard deviation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.figures import LABELS

Column = tuple[str, Callable[[Mapping[str, Any]], float | None], str]
"""A title, a number of one run (None: it has none), and its format."""


def last(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """A metric at the last timestep."""
    return lambda run: run["last"].get(name)


R2: Column = ("R²", last("r2"), ".3f")
RATES: Column = ("rates", last("r2_map"), ".3f")
ERROR: Column = ("error", last("mse_per_dim"), ".2f")
ZEROS: Column = ("zeros", last("zeros"), ".3f")
SPIKES: Column = ("spikes", last("spikes"), ".0f")
DISTANCE: Column = ("dist.", last("rate_distortion_distance"), ".3f")
PARAMETERS: Column = ("parameters", lambda run: run["parameters"], ",.0f")
TRAINED: tuple[Column, Column] = (
    ("samples", lambda run: run["trained_on"], ",.0f"),
    ("CPU s", lambda run: run["cpu_seconds"], ".0f"),
)


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[Column]) -> str:
    """One line for each label, from the runs of all its seeds; "±" is their standard deviation.

    Labels that are names of models are written out.
    """
    cells = [["", *(title for title, _, _ in columns)]]
    for label, runs in rows.items():
        line = [LABELS.get(label, label)]
        for _, number, form in columns:
            values = [number(run) for run in runs]
            line.append("" if None in values else spread(values, form))
        cells.append(line)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in cells
    )


def spread(values: Sequence[Any], form: str) -> str:
    """The mean, and the standard deviation if there are several values that differ.

    >>> spread([1.0, 3.0], ".1f"), spread([2], ".0f")
    ('2.0 ±1.0', '2')
    """
    mean, deviation = float(np.mean(values)), float(np.std(values))
    return f"{mean:{form}}" + (f" ±{deviation:{form}}" if deviation else "")
