"""Measurements as a table and as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ipvae_snn.plotting import BLUE, GREEN, GREY, ORANGE

Row = Mapping[str, Any]
KINDS = ("training", "inference")
ELSEWHERE = {
    "AMD EPYC, Zen 4, 2 threads": (1.15, 0.93, 0.72, 0.67),
    "Xeon, Skylake, 2 threads, 0.1.0": (2.10, 1.70, 2.00, 1.60),
}
"""Time over that of the dense products: training steps of both shapes, then inference."""
AXES = {
    "steps": "timesteps T",
    "batch": "batch B",
    "latents": "latents K",
    "rate": "spikes per neuron and timestep",
}


def table(result: Mapping[str, Any]) -> str:
    """The headline measurements as text."""
    m = result["machine"]
    lines = [
        f"{m['device']}, {m['threads']} threads; kernels: {m['kernels']}; products in "
        f"{result['precision']}",
        f"ipvae_snn {m['ipvae_snn']}, torch {m['torch']}, snntorch {m['snntorch']}, "
        f"Python {m['python']}",
        "",
        _head("training step", "ms", "/ floor", "/ plain", "/ publ.", "MB", "B/tbk"),
    ]
    for row in result["training"]:
        lines.append(
            f"{_shape(row):34s}{1e3 * row['ours']:9.2f}{row['to_floor']:9.2f}"
            f"{row['to_plain']:9.2f}{row['to_published']:9.3f}{row['peak_bytes'] / 1e6:9.1f}"
            f"{row['added_bytes_per_tbk']:9.2f}"
        )
        if "gradient_error" in row:
            lines.append(f"  error in the decoder's gradient: {row['gradient_error']:.2%}")
    lines += ["", _head("inference timestep", "ms", "/ floor", "/ plain", "", "MB", "4 T: MB")]
    for row in result["inference"]:
        lines.append(
            f"{_shape(row):34s}{1e3 * row['ours']:9.3f}{row['to_floor']:9.2f}"
            f"{row['to_plain']:9.2f}{'':9s}{row['peak_bytes'] / 1e6:9.2f}"
            f"{row['peak_bytes_at_4_times_the_steps'] / 1e6:9.2f}"
        )
    lines += ["", _head("streaming timestep, B 1", "ms", "99%", "dense", "faster")]
    for row in result["streaming"]:
        name = f"M {row['in_features']}, K {row['latents']}, {row['active']:.1%} active"
        lines.append(
            f"{name:34s}{1e3 * row['ours']:9.3f}{1e3 * row['p99']:9.3f}"
            f"{1e3 * row['floor']:9.3f}{row['times_faster']:8.1f}×"
        )
    lines += _other_lines(result)
    lines += [
        "",
        "floor: the dense products alone (three per training timestep, one per inference "
        "timestep);",
        "plain: the same network step by step in PyTorch; publ.: in its published form, by pixels;",
        "B/tbk: bytes that one more timestep, sample and neuron add.",
        "",
        *_elsewhere(),
    ]
    return "\n".join(lines)


def _other_lines(result: Mapping[str, Any]) -> list[str]:
    """Short calls, evaluation, and the models without fused kernels."""
    calls, evaluated = result["calls"], result["evaluation"]
    lines = ["", _head(f"one call, B 1, K {calls['latents']}", "ms")]
    names = ("run", "push", "push of a frame", "push of 100 timesteps")
    lines += [f"{name:34s}{1e3 * calls[name]:9.3f}" for name in names]
    lines += ["", _head("evaluate", "s", "/ run")]
    times = f"{evaluated['ours']:9.2f}{evaluated['to_inference']:9.2f}"
    lines.append(f"{_shape(evaluated):34s}{times}")
    lines += ["", _head("other models", "train ms", "/ floor", "run ms", "/ floor")]
    for name, row in result["models"].items():
        cells = (f"{1e3 * row[k]['ours']:9.2f}{row[k]['to_floor']:9.2f}" for k in KINDS)
        lines.append(f"{name:34s}" + "".join(cells))
    return [*lines, "floor here: as many passes of the decoder, forward and backward."]


def _elsewhere() -> list[str]:
    """The headline ratios as they were measured on other machines."""
    lines = [_head("/ floor elsewhere", "patches", "MNIST", "run", "run")]
    for name, ratios in ELSEWHERE.items():
        lines.append(f"{name:34s}" + "".join(f"{ratio:9.2f}" for ratio in ratios))
    return lines


def _head(name: str, *columns: str) -> str:
    return f"{name:34s}" + "".join(f"{column:>9s}" for column in columns)


def _shape(row: Row) -> str:
    return f"M {row['in_features']}, K {row['latents']}, T {row['steps']}, B {row['batch']}"


def picture(result: Mapping[str, Any]) -> Figure:
    """Times against T, B, K and firing rate, and of one stimulus; ratios of the headlines."""
    figure = Figure(figsize=(15, 9.5), layout="constrained")
    m = result["machine"]
    figure.suptitle(f"{m['device']}, {m['threads']} threads, torch {m['torch']}", fontsize=11)
    above, below = list(figure.subfigures(2, 1, height_ratios=(2, 1)))  # type: ignore[arg-type]
    axes = above.subplots(2, len(AXES))
    for column, (name, label) in enumerate(AXES.items()):
        _sweep(axes[0, column], result["training_sweeps"], name, label, per_run=True)
        _sweep(axes[1, column], result["inference_sweeps"], name, label, per_run=False)
    axes[0, 0].set_ylabel("training, ms per timestep")
    axes[1, 0].set_ylabel("inference, ms per timestep")
    axes[0, 0].legend(frameon=False, fontsize=8)
    events, headlines = below.subplots(1, 2)
    _events(events, result["streaming"])
    _headlines(headlines, result)
    return figure


def _sweep(ax: Axes, rows: Sequence[Row], name: str, label: str, *, per_run: bool) -> None:
    """Times per timestep against ``name``; those of training rows are of all timesteps."""
    chosen = [row for row in rows if row["varied"] == name]
    x = [row[name] for row in chosen]
    for key, colour, text in (
        ("plain", GREY, "plain PyTorch"),
        ("floor", ORANGE, "dense products alone"),
        ("ours", BLUE, "ipvae_snn"),
    ):
        y = [1e3 * row[key] / (row["steps"] if per_run else 1) for row in chosen]
        ax.loglog(x, y, "o-", color=colour, label=text, markersize=4)
    ax.set_ylim(bottom=0.5 * ax.get_ylim()[0], top=2 * ax.get_ylim()[1])
    ax.set_xlabel(label)
    _format_axes(ax)


def _events(ax: Axes, rows: Sequence[Row]) -> None:
    for latents in sorted({row["latents"] for row in rows}):
        chosen = [row for row in rows if row["latents"] == latents]
        if len(chosen) < 2:
            continue
        x = [row["active"] * latents for row in chosen]
        median, tail, floor = (
            [1e3 * row[key] for row in chosen] for key in ("ours", "p99", "floor")
        )
        ax.loglog(x, median, "o-", color=BLUE, label="ipvae_snn, median", markersize=4)
        ax.loglog(x, tail, "^:", color=BLUE, label="99th percentile", markersize=4)
        ax.loglog(x, floor, "-", color=ORANGE, label="dense product")
        ax.set_title(f"one stimulus, K {latents}", fontsize=10)
    ax.set_xlabel("neurons that spiked in the timestep")
    ax.set_ylabel("ms per timestep")
    ax.legend(frameon=False, fontsize=8)
    _format_axes(ax)


def _headlines(ax: Axes, result: Mapping[str, Any]) -> None:
    bars = [(f"{kind}, {_shape(row)}", row["to_floor"]) for kind in KINDS for row in result[kind]]
    for place, (_, ratio) in enumerate(bars):
        ax.barh(place, ratio, color=GREEN if ratio <= 1 else BLUE, height=0.6)
        ax.text(ratio, place, f" {ratio:.2f}", va="center", fontsize=9)
    ax.axvline(1, color=ORANGE)
    ax.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15 * max(1.0, *(ratio for _, ratio in bars)))
    ax.set_xlabel("time / time of the dense products alone")
    ax.spines[["top", "right"]].set_visible(False)


def _format_axes(ax: Axes) -> None:
    """Plain numbers at the ticks of logarithmic axes: 1, 2, 5, or powers of 10 on a wide range."""
    for axis in (ax.xaxis, ax.yaxis):
        wide = np.ptp(np.log10(axis.get_view_interval())) > 2.2
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
