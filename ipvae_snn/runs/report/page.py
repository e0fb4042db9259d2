"""The page of a run: summary, findings, pictures, and trials to step through."""

import base64
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from ipvae_snn import diagnostics
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import atomic_write
from ipvae_snn.models.base import BaseModel
from ipvae_snn.runs.report.trial import trials
from ipvae_snn.version import __version__

NAME = "report.html"
PICTURES = {
    "dictionary": "Features, the most used first",
    "reconstructions": "What the spikes say of an input, at some timesteps and from rates",
    "convergence": "Held-out samples against timesteps",
    "training": "Training",
    "raster": "Spikes for one sample",
    "membranes": "Membranes of some active neurons",
}
SUMMARY = (
    ("R²", "r2", ".3f"), ("R², rates", "r2_map", ".3f"), ("zeros", "zeros", ".1%"),
    ("lifetime sparsity", "lifetime_sparsity", ".3f"),
)  # fmt: skip


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
    """Write ``report.html`` into a run folder, whole or not at all; an older one is replaced.

    The page holds everything it shows and asks the network for nothing.

    Args:
        run: the folder; its ``metrics.json`` and ``figures`` go into the page.
        model: of the run.
        x: held-out samples, shape (N, M): the findings are on all of them, and the first
            ``samples`` can be stepped through.
        config: ``config.json`` of the run, as :func:`ipvae_snn.runs.read_config` gives it.
        num_steps: timesteps to step through.
        seed: of the spikes.

    Raises:
        FileNotFoundError, ValueError: the folder lacks ``metrics.json``, or it is damaged.
    """
    require_integer(num_steps, "num_steps")
    require_integer(samples, "samples")
    run, shape = Path(run), tuple(config["sample_shape"])
    figures = _metrics(run)
    findings = diagnostics.check(model, x, shape=shape, samples=len(x), seed=seed)
    stepped = trials(model, x[:samples], shape, num_steps, seed)
    template = files("ipvae_snn.runs.report").joinpath("template.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(run.resolve().name),
        "DESCRIPTION": html.escape(str(config.get("description", ""))),
        "SUMMARY": _summary(figures),
        "RECIPE": _recipe(model, config),
        "VERDICT": _verdict(findings),
        "FINDINGS": "\n".join(_finding(finding) for finding in findings.findings),
        "PICTURES": "\n".join(_pictures(run)),
        "VERSION": html.escape(__version__),
        # A script element ends at the first </, wherever it stands.
        "TRIALS": json.dumps(stepped, separators=(",", ":")).replace("</", "<\\/"),
    }
    for name, text in parts.items():
        template = template.replace(f"{{{{{name}}}}}", text)
    with atomic_write(run / NAME) as temporary:
        temporary.write_text(template, encoding="utf-8")
    return run / NAME


def _metrics(run: Path) -> dict[str, Any]:
    path = run / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder that train wrote")
    try:
        found = json.loads(path.read_text())
        for step in found["steps"].values():
            for _, name, form in SUMMARY:
                format(step[name], form)
        return dict(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _summary(found: dict[str, Any]) -> str:
    steps = found["steps"]
    head = "".join(f"<th scope=col>step {html.escape(step)}</th>" for step in steps)
    rows = [f"<tr><td></td>{head}</tr>"]
    for label, name, form in SUMMARY:
        cells = "".join(f"<td>{values[name]:{form}}</td>" for values in steps.values())
        rows.append(f"<tr><th scope=row>{label}</th>{cells}</tr>")
    return "\n".join(rows)


def _recipe(model: BaseModel, config: Mapping[str, Any]) -> str:
    training = config["training"]
    shown = {
        "neurons": f"{model.latents:,}",
        "inputs": f"{model.in_features:,}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "iterations": training.get("iterations", "?"),
        "timesteps in training": training.get("steps", "?"),
        "β": training.get("beta", "?"),
        "seed": training.get("seed", "?"),
        "torch": config.get("torch", "?"),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in shown.items()
    )


def _verdict(report: diagnostics.Report) -> str:
    if report.healthy:
        return "<p class='verdict ok'>Healthy: no signature of a model that went wrong.</p>"
    names = ", ".join(finding.name for finding in report.problems)
    return f"<p class='verdict bad'>To look at: {html.escape(names)}.</p>"


def _finding(finding: diagnostics.Finding) -> str:
    mark = "ok" if finding.healthy else "follows" if finding.follows else "problem"
    more = f"follows from {finding.follows}" if finding.follows else finding.advice
    said = "" if finding.healthy else f"<br><em>{html.escape(more)}</em>"
    return (
        f"<tr class={mark}><td><span class=mark>{mark}</span></td>"
        f"<th scope=row>{html.escape(finding.name)}</th>"
        f"<td>{html.escape(finding.text)}{said}</td></tr>"
    )


def _pictures(run: Path) -> list[str]:
    found = []
    for name, caption in PICTURES.items():
        path = run / "figures" / f"{name}.png"
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            found.append(
                f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>"
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return found
