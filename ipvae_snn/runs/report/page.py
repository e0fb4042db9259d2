"""The HTML report of a run: metrics, findings, figures, and trials to step through."""

import base64
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from ipvae_snn import diagnostics
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import atomic_write, require_inside
from ipvae_snn.models.base import BaseModel
from ipvae_snn.runs import folder
from ipvae_snn.runs.report.trial import trials
from ipvae_snn.version import __version__

NAME = "report.html"
FIGURES = {
    "dictionary": "Features, the most used first",
    "reconstructions": "Inputs, and reconstructions from the spikes of one timestep and from rates",
    "convergence": "R² and zeros of held-out samples at each timestep",
    "training": "Training: R² and zeros, loss, learning rate and β against iterations",
    "tuning": "Settings tried after training: spikes, and distance from a perfect code without any",
    "raster": "Spikes for one sample",
    "membranes": "Membranes of some active neurons",
}
PNG, MAX_FIGURE = b"\x89PNG\r\n\x1a\n", 2**24
"""How a PNG file begins, and the bytes of one that goes into the page."""
SUMMARY = (
    ("R²", "r2", ".3f"),
    ("R², rates", "r2_map", ".3f"),
    ("zeros", "zeros", ".1%"),
    ("lifetime sparsity", "lifetime_sparsity", ".3f"),
    ("spikes per sample", "spikes", ".1f"),
)
OPTIONAL = {"spikes"}
"""Of these, what models that emit no counts lack, and files of earlier versions."""


def write_report(
    run: str | Path,
    model: BaseModel,
    x: Tensor,
    config: Mapping[str, Any],
    *,
    num_steps: int = 120,
    samples: int = 6,
    seed: int = 0,
) -> Path:
    """Write ``report.html`` into a run folder, atomically; an older report is replaced.

    The page is self-contained: it loads nothing from the network.

    Args:
        run: the folder; its ``metrics.json`` and ``figures`` go into the page.
        model: the model of the run.
        x: held-out samples, shape (N, M), that the findings are based on.
        config: ``config.json`` of the run, as read by :func:`ipvae_snn.runs.read_config`.
        num_steps: timesteps to step through.
        samples: how many of x can be stepped through.
        seed: seed of the spikes.

    Raises:
        FileNotFoundError, ValueError: the folder lacks ``metrics.json``, or it is damaged; a figure
            is no PNG file of the folder.
    """
    require_integer(num_steps, "num_steps")
    require_integer(samples, "samples")
    run, shape = Path(run), tuple(config["sample_shape"])
    metrics, figures = _read_metrics(run), _figures(run)
    report = diagnostics.check(model, x, shape=shape, samples=len(x), seed=seed)
    stepped = trials(model, x[:samples], shape, num_steps, seed)
    page = files("ipvae_snn.runs.report").joinpath("template.html").read_text(encoding="utf-8")
    fields = {
        "TITLE": html.escape(run.resolve().name),
        "DESCRIPTION": html.escape(str(config.get("description", ""))),
        "SUMMARY": _summary(metrics),
        "RECIPE": _recipe(model, config),
        "VERDICT": _verdict(report),
        "FINDINGS": "\n".join(map(_finding, report.findings)),
        "FIGURES": figures,
        "VERSION": html.escape(__version__),
        # Even inside a string, </ would end the script element.
        "TRIALS": json.dumps(stepped, separators=(",", ":")).replace("<", "\\u003c"),
    }
    # In one pass: what is filled in is not looked at again, whatever it holds.
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: fields[found[1]], page)
    with atomic_write(run / NAME) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # names may be any bytes
    return run / NAME


def _read_metrics(run: Path) -> dict[str, Any]:
    path = run / folder.METRICS
    require_inside(run, path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {run} is not a complete run of train or demo")
    try:
        metrics = folder.read_json(path)
        _summary(metrics)  # fails unless all values that it shows are numbers
        return dict(metrics)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _summary(metrics: dict[str, Any]) -> str:
    steps = metrics["steps"]
    head = "".join(f"<th scope=col>step {html.escape(step)}</th>" for step in steps)
    rows = [f"<tr><td></td>{head}</tr>"]
    for label, name, form in SUMMARY:
        if name in OPTIONAL and any(name not in values for values in steps.values()):
            continue
        cells = "".join(f"<td>{values[name]:{form}}</td>" for values in steps.values())
        rows.append(f"<tr><th scope=row>{label}</th>{cells}</tr>")
    return "\n".join(rows)


def _recipe(model: BaseModel, config: Mapping[str, Any]) -> str:
    training = config["training"]
    entries = {
        "neurons": f"{model.latents:,}",
        "inputs": f"{model.in_features:,}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "recipe": config.get("recipe") or "?",
        "iterations": training.get("iterations", "?"),
        "timesteps in training": training.get("steps", "?"),
        "β": training.get("beta", "?"),
        "seed": training.get("seed", "?"),
        "torch": config.get("torch", "?"),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in entries.items()
    )


def _verdict(report: diagnostics.Report) -> str:
    if report.healthy:
        return "<p class='verdict ok'>Healthy: no problems found.</p>"
    names = ", ".join(finding.name for finding in report.problems)
    return f"<p class='verdict bad'>Problems: {html.escape(names)}.</p>"


def _finding(finding: diagnostics.Finding) -> str:
    explanation = f"<br><em>{html.escape(finding.explanation)}</em>" if finding.explanation else ""
    return (
        f"<tr class={finding.status}><td><span class=mark>{finding.status}</span></td>"
        f"<th scope=row>{html.escape(finding.name)}</th>"
        f"<td>{html.escape(finding.text)}{explanation}</td></tr>"
    )


def _figures(run: Path) -> str:
    elements = []
    for name, caption in FIGURES.items():
        path = run / folder.FIGURES / f"{name}.png"
        require_inside(run, path)
        if path.is_file():
            image = base64.b64encode(_read_png(path)).decode()
            elements.append(
                f"<figure><img alt='{caption}' src='data:image/png;base64,{image}'>"
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return "\n".join(elements)


def _read_png(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FIGURE + 1)
    if not content.startswith(PNG) or len(content) > MAX_FIGURE:
        raise ValueError(
            f"{path} is no PNG file of at most {MAX_FIGURE // 2**20} MiB, and goes into no report: "
            "remove it"
        )
    return content
