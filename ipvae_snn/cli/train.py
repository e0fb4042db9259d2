"""The command ``train``: a new run, or one that goes on; alone, or one of several processes."""

import argparse
import inspect
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.checks import require_device, require_integer, require_seed
from ipvae_snn._utils.files import exclusive_lock, require_free_folder
from ipvae_snn._utils.options import given
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.cli.options import KIND_DEFAULTS, WITH_RESUME, models, recipe_options
from ipvae_snn.models.base import MODELS, make_model
from ipvae_snn.runs import (
    TRAIN_PATCHES,
    RunConfig,
    is_complete,
    resume_run,
    train_run,
)
from ipvae_snn.runs.folder import read_recipe, tidy
from ipvae_snn.training import Stopped, TrainConfig
from ipvae_snn.training.distributed import is_silent_rank, joined


def train(arguments: argparse.Namespace) -> None:
    """Train a model, write its run folder."""
    try:
        if arguments.resume is not None:
            _resume(arguments)
        else:
            _start(arguments)
    except Stopped as stopped:
        run = arguments.out or arguments.resume
        stopped.advice = f"go on with: ipvae-snn train --resume {run}"
        raise


def _start(arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        raise ValueError("name what to train on with --data: natural, digits, mnist or a path")
    for name, value in arguments.defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if not is_silent_rank():
        require_free_folder(arguments.out)
    _config(arguments, "samples", arguments.device)  # options are refused before data is read
    known = {
        "source": arguments.data, "treat": arguments.treat, "data_dir": arguments.data_dir,
        "stream": arguments.stream,
    }  # fmt: skip
    with joined(arguments.device) as device:
        dataset = _load(known, arguments.samples, arguments.seed)
        config = _config(arguments, dataset.kind, device)
        train_run(arguments.out, dataset, config, say=_say, **_how(arguments))


def _resume(arguments: argparse.Namespace) -> None:
    asked = {n for n in arguments.defaults if getattr(arguments, n) is not None}
    if asked - WITH_RESUME:
        name = min(asked - WITH_RESUME).replace("_", "-")
        raise ValueError(
            f"--{name} cannot be given with --resume: a run goes on with what it began with"
        )
    run = arguments.resume
    if is_complete(run):
        if not is_silent_rank():
            with exclusive_lock(run):
                tidy(run)
        _say(f"{run} is complete: there is nothing to go on with")
        return
    _, config = read_recipe(run)
    known = dict(config.data)
    for name, value in (("source", arguments.data), ("data_dir", arguments.data_dir)):
        if value is not None:
            known[name] = value
    with joined(arguments.device or config.training.device) as device:
        dataset = _load(known, config.eval_samples, config.training.seed)
        resume_run(
            run, dataset, lr=arguments.lr, device=device,
            checkpoint_every=arguments.checkpoint_every, say=_say, **_how(arguments),
        )  # fmt: skip


def _load(known: dict[str, Any], samples: int, seed: int) -> data.Dataset:
    dataset = data.load(
        known["source"],
        treat=known.get("treat", "auto"),
        data_dir=known.get("data_dir", "."),
        patches=(TRAIN_PATCHES, samples),
        seed=seed,
        stream=known.get("stream"),
    )
    _say(f"data: {dataset.description}")
    return dataset


def _how(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "progress": not (arguments.quiet or is_silent_rank()),
        "workers": require_integer(arguments.workers or 0, "--workers", least=0),
    }


def _say(text: str) -> None:
    if not is_silent_rank():
        print(text)


def resolved(source: str | Path) -> str:
    """A path from the root, so that a run knows its data from any folder; names stay names."""
    named = str(source) in data.NAMES or not Path(source).exists()
    return str(source) if named else str(Path(source).resolve())


def _config(arguments: argparse.Namespace, kind: str, device: str) -> RunConfig:
    training = TrainConfig(
        **{**recipe_of(arguments.model, kind), **given(arguments, recipe_options())},
        seed=require_seed(arguments.seed),
        device=str(require_device(device)),
        progress=not arguments.quiet,
    )
    return RunConfig(
        data={
            "source": resolved(arguments.data),
            "treat": arguments.treat,
            "data_dir": resolved(arguments.data_dir),
            "stream": arguments.stream,
        },
        model=_model_options(arguments, training),
        training=training,
        eval_steps=arguments.eval_steps,
        eval_samples=arguments.samples,
    )


def recipe_of(model: str, kind: str) -> dict[str, Any]:
    """Values of the recipe that suit a model and a kind of data."""
    own = MODELS.find(model).recipe
    return {**KIND_DEFAULTS[kind], **own} if own else dict(KIND_DEFAULTS[kind])


def _model_options(arguments: argparse.Namespace, training: TrainConfig) -> dict[str, Any]:
    """The model of ``config.json``: its name, and all options of its class that are plain data."""
    cls, family = MODELS.find(arguments.model), models()
    options = {o.name: o.default for o in family.options[arguments.model]}
    options |= family.given(arguments, arguments.model)
    takes = inspect.signature(cls).parameters
    if "spike_grad" in takes:
        options["spike_grad"] = {"name": arguments.estimator}
    elif arguments.estimator != "midpoint":
        raise ValueError(f"--estimator belongs to models with spikes, not to {arguments.model}")
    if "beta" in takes:
        options["beta"] = training.beta
    latents = require_integer(arguments.latents, "latents")
    with seeded(0):  # options are refused before data is read: a model of the least size
        make_model(cls, {"in_features": 1, "latents": 1, **options})
    return {"name": arguments.model, "latents": latents, **options}
