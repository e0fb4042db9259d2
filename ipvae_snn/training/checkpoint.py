"""Checkpoints: all that a training needs to go on as if nothing had happened, in one file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ipvae_snn._utils.checks import require_finite, require_integer
from ipvae_snn._utils.storage import read_content, write_content
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.version import __version__

FORMAT, FORMAT_VERSION = "ipvae_snn.checkpoint", 2
KEYS = {
    "config": dict, "model": dict, "data": str, "iteration": int, "weights": dict,
    "optimizer": dict, "random": list, "history": list,
}  # fmt: skip
MAY_DIFFER = ("device", "lr", "log_every", "checkpoint_every", "progress")
"""Parts of a recipe that may be others when a training goes on."""


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; its keys are those of :data:`KEYS`.

    Raises:
        OSError: it cannot be written; what was at ``path`` stays.
    """
    made_with = {"ipvae_snn": __version__, "torch": str(torch.__version__)}
    write_content(path, FORMAT, FORMAT_VERSION, {**content, "made_with": made_with})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What :func:`write_checkpoint` wrote, on the CPU; never runs code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, or written by a newer version.
    """
    content = read_content(path, FORMAT, FORMAT_VERSION, writer="train, or fit,")
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: its {key} is missing, or no {kind.__name__}")
    try:
        _check_parts(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return content


def _check_parts(content: Mapping[str, Any]) -> None:
    rows = content["history"]
    plain = all(
        isinstance(row, dict) and row.keys() == rows[0].keys() and {"iteration", "loss"} <= {*row}
        and all(type(value) in (int, float) for value in row.values())
        for row in rows
    )  # fmt: skip
    if not plain:
        raise ValueError("its history is no list of rows of numbers")
    iteration = require_integer(content["iteration"], "its iteration", least=0)
    if iteration > require_integer(content["config"].get("iterations"), "its iterations"):
        raise ValueError(f"its iteration is {iteration} of {content['config']['iterations']}")
    states = content["random"]
    if not states or not all(isinstance(state, dict) and "cpu" in state for state in states):
        raise ValueError("its random states are missing")


def require_same_training(
    path: str | Path,
    content: Mapping[str, Any],
    config: TrainConfig,
    model: Mapping[str, Any],
    data: str,
) -> None:
    """Raise ``ValueError`` unless a checkpoint is of this recipe, this model and these data."""
    for name, value in asdict(config).items():
        if name not in MAY_DIFFER and content["config"].get(name) != value:
            raise ValueError(
                f"{path} is of a training with {name} = {content['config'].get(name)}, this one "
                f"has {value}: give it the same, or another file"
            )
    known = content["model"]
    # Version 1 did not hold all options.
    names = {*known} if content["version"] == 1 else {*known, *model}
    for name in ("class", *sorted(names - {"class", "init_std"})):  # all weights are put in place
        if known.get(name) != model.get(name):
            raise ValueError(
                f"{path} is of a model with {name} = {known.get(name)}, this one has "
                f"{model.get(name)}: give it the same, or another file"
            )
    if content["data"] != data:
        raise ValueError(
            f"{path} was learned from other data ({content['data']}; these are {data}): give it "
            "the same, or start a new training"
        )


def restore(
    path: str | Path,
    content: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put weights and optimizer of a checkpoint in place; ``ValueError`` if they do not fit."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        for name, value in content["weights"].items():
            if name in before and value.dtype != before[name].dtype:
                raise ValueError(f"{name} is {value.dtype}, not {before[name].dtype}")
            require_finite(value, name)
        model.load_state_dict(content["weights"])
        _check_optimizer(content, optimizer)
        optimizer.load_state_dict(content["optimizer"])
    except (ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        model.load_state_dict(before)
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the model: {reason}") from error


def _check_optimizer(content: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raise unless the optimizer of a checkpoint has all that this one is to have, and finite."""
    saved, own = content["optimizer"], optimizer.state_dict()
    others = [{**group, "lr": 0} for group in saved["param_groups"]]
    if others != [{**group, "lr": 0} for group in own["param_groups"]]:
        raise ValueError("its optimizer has other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters if content["iteration"] else ()):
        parts = saved["state"][number]
        for name, shape in (
            ("step", ()),
            ("exp_avg", parameter.shape),
            ("exp_inf", parameter.shape),
        ):
            if parts[name].shape != shape:
                raise ValueError(f"{name} of its optimizer has shape {tuple(parts[name].shape)}")
            require_finite(parts[name], f"{name} of its optimizer")
        if not 1 <= float(parts["step"]) <= content["iteration"]:
            raise ValueError(f"its optimizer has made {float(parts['step']):g} steps")
