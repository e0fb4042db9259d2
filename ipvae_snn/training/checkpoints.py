"""Checkpoints: all that a training needs to go on as if nothing had happened, in one file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ipvae_snn.baselines import Baseline
from ipvae_snn.checks import require_finite
from ipvae_snn.model import IPVAE
from ipvae_snn.storage import read_content, write_content
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.health import unsound_weights
from ipvae_snn.version import __version__

FORMAT, FORMAT_VERSION = "ipvae_snn.checkpoint", 1
KEYS = {
    "config": dict, "model": dict, "data": str, "iteration": int, "weights": dict,
    "optimizer": dict, "random": list, "history": list,
}  # fmt: skip
MAY_DIFFER = ("device", "lr", "log_every", "checkpoint_every", "progress")
"""Parts of a recipe that may be others when a training goes on."""


def describe_model(model: IPVAE | Baseline) -> dict[str, Any]:
    """What a model is, in plain data, to be compared with another."""
    sizes = {
        "in_features": model.in_features,
        "latents": model.latents,
        "dtype": str(model.weight.dtype).removeprefix("torch."),
    }
    try:
        options = model.config() if isinstance(model, IPVAE) else {}
    except TypeError:  # an estimator of the user's own has no name
        options = {}
    return {"class": type(model).__name__, **sizes, **options}


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
    if not all(isinstance(row, dict) for row in content["history"]):
        raise ValueError(f"{path} is damaged: its history is no list of rows")
    total = content["config"].get("iterations")
    if not isinstance(total, int) or not 0 <= content["iteration"] <= total:
        raise ValueError(f"{path} is damaged: iteration {content['iteration']} of {total}")
    return content


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
    for name in ("class", *sorted({*known, *model})):
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


def put_back(
    path: str | Path,
    content: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put weights and optimizer of a checkpoint in place; ``ValueError`` if they do not fit."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["optimizer"])
        bad = unsound_weights(model)
        if bad:
            raise ValueError(bad)
        for parameter, state in optimizer.state.items():
            for value in state.values():
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{tuple(value.shape)} for a weight {tuple(parameter.shape)}")
                require_finite(value, "the state of its optimizer")
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        model.load_state_dict(before)
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the model: {reason}") from error
