"""Checkpoint files: all state that a training needs to resume exactly."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_finite, require_integer
from ipvae_snn._utils.storage import read_content, write_content
from ipvae_snn.models.base import PARTS
from ipvae_snn.models.local_rule import LocalRule
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.version import __version__

FORMAT, FORMAT_VERSION = "ipvae_snn.checkpoint", 2
KEYS = {
    "config": dict,
    "model": dict,
    "data": str,
    "iteration": int,
    "weights": dict,
    "optimizer": dict,
    "random": list,
    "history": list,
}
"""Entries of a checkpoint and their types."""
SOMETIMES = {"r2_val"}
"""Values that not every row of the history has."""
CHANGEABLE = ("device", "lr", "log_every", "checkpoint_every", "progress")
"""Fields of the config that may change on resume."""
EARLIER = {"missing": False, "rule": "backprop", "target_rate": 0.0}
EARLIER_MODEL = {"scale": 1.0, "halvings": 0}
"""Fields of the config, and options of models, that earlier checkpoints lack, as they were."""


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint with the entries of :data:`KEYS`, atomically.

    Raises:
        OSError: writing failed; an old file at ``path`` is unchanged.
    """
    made_with = {"ipvae_snn": __version__, "torch": str(torch.__version__)}
    write_content(path, FORMAT, FORMAT_VERSION, {**content, "made_with": made_with})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; never runs code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or written by a newer release.
    """
    content = read_content(path, FORMAT, FORMAT_VERSION, writer="train or fit")
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: its {key} is missing or not a {kind.__name__}")
    try:
        _check_values(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return content


def _check_values(content: Mapping[str, Any]) -> None:
    rows = content["history"]
    for row in rows:
        complete = isinstance(row, dict) and {"iteration", "loss"} <= row.keys()
        alike = complete and row.keys() ^ rows[0].keys() <= SOMETIMES
        if not alike or any(type(value) not in (int, float) for value in row.values()):
            raise ValueError("its history is not a list of rows of numbers")
    iteration = require_integer(content["iteration"], "its iteration", least=0)
    if iteration > require_integer(content["config"].get("iterations"), "its iterations"):
        raise ValueError(f"its iteration is {iteration} of {content['config']['iterations']}")
    states = content["random"]
    if not states or not all(isinstance(state, dict) and "cpu" in state for state in states):
        raise ValueError("its random states are missing")


def _completed(name: str, value: Any) -> Any:
    """An option with those defaults that the release that wrote it did not have yet."""
    registry = PARTS.get(name)
    known = registry is not None and isinstance(value, dict) and value.get("name") in registry
    return registry.to_config(registry.from_config(value)) if registry and known else value


def _with_earlier(saved: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a saved model, with those that it lacks and ``model`` has."""
    return {**{name: EARLIER_MODEL[name] for name in EARLIER_MODEL if name in model}, **saved}


def require_same_training(
    path: str | Path,
    content: Mapping[str, Any],
    config: TrainConfig,
    model: Mapping[str, Any],
    data: str,
) -> None:
    """Raise ``ValueError`` unless a checkpoint has this recipe, model and data fingerprint."""
    # Checkpoints of version 1 lack some options of the model. Initial weights do not matter.
    options = content["model"].keys() | (model.keys() if content["version"] > 1 else set())
    options -= {"class", "init_std"}
    recipe = [name for name in asdict(config) if name not in CHANGEABLE]
    for kind, names, saved, current in (
        ("training", recipe, {**EARLIER, **content["config"]}, asdict(config)),
        ("model", ["class", *sorted(options)], _with_earlier(content["model"], model), model),
    ):
        for name in names:
            if _completed(name, saved.get(name)) != current.get(name):
                raise ValueError(
                    f"{path} is of a {kind} with {name} = {saved.get(name)}, this one has "
                    f"{current.get(name)}: use the same, or another file"
                )
    if content["data"] != data:
        raise ValueError(
            f"{path} is of a training on other data (fingerprint {content['data']}, these have "
            f"{data}): use the same data, or start a new training"
        )


def restore(
    path: str | Path,
    content: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load weights and optimizer state; if they do not fit, ``ValueError`` and no change."""
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
    """Raise unless the saved state is complete, finite, and has the settings of this one."""
    saved, own = content["optimizer"], optimizer.state_dict()
    saved_groups, own_groups = (
        [{**group, "lr": 0} for group in state["param_groups"]] for state in (saved, own)
    )
    if saved_groups != own_groups:
        raise ValueError("its optimizer has other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters if content["iteration"] else ()):
        if not parameter.requires_grad and number not in saved["state"]:
            continue  # it never learned
        shapes = _kept_of(parameter, optimizer)
        state = saved["state"][number] if shapes else {}
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} of its optimizer has shape {tuple(state[name].shape)}")
            require_finite(state[name], f"{name} of its optimizer")
        if "step" in shapes and not 1 <= float(state["step"]) <= content["iteration"]:
            raise ValueError(f"its optimizer has made {float(state['step']):g} steps")


def _kept_of(parameter: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what an optimizer keeps of a parameter that has learned."""
    if isinstance(optimizer, LocalRule):
        of_features = parameter is optimizer.features
        return {"moment": tuple(optimizer.moment.shape)} if of_features else {}
    shape = tuple(parameter.shape)
    return {"step": (), "exp_avg": shape, "exp_inf": shape}
