"""Common style of all figures: a colour and a label for each model, legends and grids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from harness.setup import Setup

# Okabe-Ito palette; the encoders of one family share a colour and differ in line style.
COLOURS = {
    "iP": "#0072B2", "iP-tuned": "#0072B2", "iP-finer": "#0072B2",
    "iG": "#D55E00", "iG-relu": "#E69F00", "LCA": "#000000",
    "P-linear": "#56B4E9", "P-mlp": "#56B4E9", "P-conv": "#56B4E9",
    "G-linear": "#CC79A7", "G-mlp": "#CC79A7", "G-conv": "#CC79A7", "G-relu-conv": "#CC79A7",
    "ia": "#009E73", "sa": "#808080",
}  # fmt: skip
DASHES = {"linear": ":", "mlp": "--", "conv": "-"}
LABELS = {
    "iP": "iP-VAE", "iP-tuned": "iP-VAE, tuned", "iP-finer": "iP-VAE, finer",
    "iG": "iG-VAE", "iG-relu": "iG-relu-VAE", "LCA": "LCA",
    "P-linear": "P-VAE, linear", "P-mlp": "P-VAE, MLP", "P-conv": "P-VAE, conv",
    "G-linear": "VAE, linear", "G-mlp": "VAE, MLP", "G-conv": "VAE, conv",
    "G-relu-conv": "VAE-relu, conv", "ia": "iterative-amortised", "sa": "semi-amortised",
}  # fmt: skip


def style(name: str) -> dict[str, Any]:
    """Colour, line style and label of a model's line."""
    width = 2.4 if name == "iP" else 1.5
    dash = DASHES.get(name.rsplit("-", 1)[-1], "-")
    return {"color": COLOURS[name], "ls": dash, "lw": width, "label": LABELS[name]}


@contextmanager
def figure(
    setup: Setup, rows: int = 1, columns: int = 1, *, name: str = "", size: tuple[float, float]
) -> Iterator[np.ndarray]:
    """Axes (rows, columns) of a figure that is saved when the block ends."""
    drawn = Figure(figsize=size, layout="constrained")
    yield drawn.subplots(rows, columns, squeeze=False)
    path = setup.out / f"{setup.name}{'_' + name if name else ''}.png"
    drawn.savefig(path, dpi=130, bbox_inches="tight")
    print(f"picture: {path}")


def plain_log(axis: Axis) -> None:
    """Plain decimal labels instead of powers of ten, for an axis of about two decades."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter("{x:g}")


def finish(
    ax: Axes, *, x: str, y: str, title: str = "", legend: str | None = "best", columns: int = 1
) -> None:
    """Axis labels, title, light grid and legend; hides the top and right spines."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize=8, loc=legend, ncols=columns)
