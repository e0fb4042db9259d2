"""The command ``train``: a new run, or one that goes on; alone, or one of several processes."""

import argparse
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.checks import require_device, require_integer, require_number, require_seed
from ipvae_snn._utils.files import exclusive_lock, require_free_folder
from ipvae_snn.cli.options import PATCH_DEFAULTS, SAMPLE_DEFAULTS, WITH_RESUME
from ipvae_snn.functional import MEM_FLOOR
from ipvae_snn.neurons.poisson import CLAMP_MAX
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
    given = {n for n in arguments.defaults if getattr(arguments, n) is not None}
    if given - WITH_RESUME:
        name = min(given - WITH_RESUME).replace("_", "-")
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
    chosen = ("steps", "burn_in", "beta", "iterations", "batch", "lr")
    defaults = PATCH_DEFAULTS if kind == "patches" else SAMPLE_DEFAULTS
    given = {n: getattr(arguments, n) for n in chosen if getattr(arguments, n) is not None}
    return RunConfig(
        data={
            "source": resolved(arguments.data),
            "treat": arguments.treat,
            "data_dir": resolved(arguments.data_dir),
            "stream": arguments.stream,
        },
        model={
            "latents": require_integer(arguments.latents, "latents"),
            "clamp": require_number(arguments.clamp, "clamp", MEM_FLOOR + 1, CLAMP_MAX),
            "spike_grad": {"name": arguments.estimator},
        },
        training=TrainConfig(
            **{**defaults, **given},
            seed=require_seed(arguments.seed),
            device=str(require_device(device)),
            precision=arguments.precision,
            checkpoint_every=arguments.checkpoint_every,
            progress=not arguments.quiet,
        ),
        eval_steps=arguments.eval_steps,
        eval_samples=arguments.samples,
    )
