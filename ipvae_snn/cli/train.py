"""The command ``train``: starts or resumes a run, in one process or under ``torchrun``."""

import argparse
import inspect
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.checks import require_device, require_integer, require_seed
from ipvae_snn._utils.files import exclusive_lock, require_free_folder
from ipvae_snn._utils.options import given
from ipvae_snn._utils.seeding import seeded
from ipvae_snn._utils.text import printable
from ipvae_snn.cli.options import RESUMABLE, estimators, models, training_options
from ipvae_snn.models import MapModel
from ipvae_snn.models.base import MODELS, make_model
from ipvae_snn.recipes import Recipe, by_rule, find, suited
from ipvae_snn.runs import (
    TRAIN_PATCHES,
    RunConfig,
    is_complete,
    recorded_data,
    resume_run,
    train_run,
)
from ipvae_snn.runs.folder import read_recipe, remove_leftovers
from ipvae_snn.training import Stopped
from ipvae_snn.training.distributed import is_silent_rank, join_process_group


def train(arguments: argparse.Namespace) -> None:
    """Train a model and write its run folder."""
    try:
        if arguments.resume is not None:
            _resume(arguments)
        else:
            _start(arguments)
    except Stopped as stopped:
        run = arguments.out or arguments.resume
        stopped.advice = f"resume with: ipvae-snn train --resume {run}"
        raise


def _start(arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        raise ValueError("name the data to train on with --data: natural, digits, mnist or a path")
    _choose_decoder(arguments)
    for name, value in arguments.defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.budget is not None and arguments.iterations is not None:
        raise ValueError(
            "--budget and --iterations both say how long to train: leave out one of them"
        )
    if not is_silent_rank():
        require_free_folder(arguments.out)
    # Validates options before data is read, of which the kind is not known yet.
    kind = "images" if arguments.treat in IMAGE_TREATMENTS else "samples"
    _run_config(arguments, _recipe(arguments, kind), arguments.device)
    source = {
        "source": arguments.data,
        "treat": arguments.treat,
        "data_dir": arguments.data_dir,
        "stream": arguments.stream,
        "axis": arguments.axis,
    }
    with join_process_group(arguments.device) as device:
        dataset = _load(source, arguments.samples, arguments.seed)
        recipe = _recipe(arguments, dataset.kind)
        config = _run_config(arguments, recipe, device)
        _say(f"recipe: {recipe.name}, {_reason(arguments, dataset.kind)}")
        train_run(arguments.out, dataset, config, say=_say, **_process_options(arguments))


WHOLE_IMAGES = {"treat": "images", "model": "conv-ipvae", "eval_steps": 256, "samples": 32}
"""What ``--decoder conv`` stands for, where nothing else is said; crops take longer."""


IMAGE_TREATMENTS = ("images", "colour")


def _choose_decoder(arguments: argparse.Namespace) -> None:
    of_maps = [name for name, cls in MODELS.items() if issubclass(cls, MapModel)]
    asked = arguments.decoder == "conv" or arguments.model in of_maps
    if not asked and arguments.treat not in IMAGE_TREATMENTS:
        return
    if arguments.decoder == "linear" or arguments.model not in (None, *of_maps):
        raise ValueError(f"whole images need --decoder conv, and --model {' or '.join(of_maps)}")
    if arguments.treat not in (None, "auto", *IMAGE_TREATMENTS):
        raise ValueError(f"--decoder conv takes whole images, not --as {arguments.treat}")
    arguments.treat = None if arguments.treat == "auto" else arguments.treat
    for name, value in WHOLE_IMAGES.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _resume(arguments: argparse.Namespace) -> None:
    given_names = {name for name in arguments.defaults if getattr(arguments, name) is not None}
    refused = sorted(given_names.difference(RESUMABLE))
    if refused:
        raise ValueError(
            f"--{refused[0].replace('_', '-')} cannot be given with --resume: a resumed run keeps "
            "the options that it was started with"
        )
    run = arguments.resume
    if is_complete(run):
        if not is_silent_rank():
            with exclusive_lock(run):
                remove_leftovers(run)
        _say(f"{run} is complete: there is nothing to resume")
        return
    content, config = read_recipe(run)
    source = recorded_data(run, content, arguments.data, arguments.data_dir)
    with join_process_group(arguments.device or config.training.device) as device:
        dataset = _load(source, config.eval_samples, config.training.seed)
        resume_run(
            run,
            dataset,
            lr=arguments.lr,
            device=device,
            checkpoint_every=arguments.checkpoint_every,
            say=_say,
            **_process_options(arguments),
        )


def _load(source: dict[str, Any], samples: int, seed: int) -> data.Dataset:
    dataset = data.load(
        source["source"],
        treat=source.get("treat", "auto"),
        data_dir=source.get("data_dir", "."),
        patches=(TRAIN_PATCHES, samples),
        seed=seed,
        stream=source.get("stream"),
        axis=source.get("axis"),
    )
    _say(f"data: {printable(dataset.description)}")
    return dataset


def _process_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "progress": not (arguments.quiet or is_silent_rank()),
        "workers": require_integer(arguments.workers or 0, "--workers", least=0),
    }


def _say(text: str) -> None:
    if not is_silent_rank():
        print(text)


def absolute_source(source: str | Path) -> str:
    """The absolute form of a path, as saved in ``config.json``; names of data sets stay names."""
    if str(source) in data.NAMES or not Path(source).exists():
        return str(source)
    return str(Path(source).resolve())


def _recipe(arguments: argparse.Namespace, kind: str) -> Recipe:
    """The recipe that was asked for, else the one that suits the model and the kind of data."""
    if arguments.recipe is None:
        return by_rule(suited(kind, arguments.model or "ipvae"), arguments.rule)
    recipe = by_rule(find(arguments.recipe), arguments.rule)
    if arguments.model not in (None, recipe.model):
        raise ValueError(
            f"--recipe {recipe.name} is for --model {recipe.model}, not for {arguments.model}, "
            "which has a recipe of its own: leave out --recipe"
        )
    return recipe


def _reason(arguments: argparse.Namespace, kind: str) -> str:
    """Why a recipe was taken, in words that follow its name."""
    if arguments.recipe is not None:
        return "as asked"
    if arguments.model not in (None, "ipvae"):
        return "that of the model"
    seen = "patches" if kind == "patches" else "small images in [0, 1]"
    return f"because the data are {seen}; --recipe takes another"


def _run_config(arguments: argparse.Namespace, recipe: Recipe, device: str) -> RunConfig:
    values = given(arguments, training_options()) | models().given(arguments, recipe.model)
    if arguments.latents is not None:
        values["latents"] = require_integer(arguments.latents, "latents")
    changed = recipe.changed(
        **values,
        **_estimator(arguments, recipe),
        seed=require_seed(arguments.seed),
        device=str(require_device(device)),
        progress=not arguments.quiet,
    )
    return RunConfig(
        data={
            "source": absolute_source(arguments.data),
            "treat": arguments.treat,
            "data_dir": absolute_source(arguments.data_dir),
            "stream": arguments.stream,
            "axis": arguments.axis,
        },
        training=changed.config(),
        model=_model_config(changed),
        eval_steps=arguments.eval_steps,
        eval_samples=arguments.samples,
        validation=arguments.validation,
        recipe=recipe.name,
        budget=None if arguments.budget is None else " ".join(arguments.budget),
    )


def _estimator(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """The argument ``spike_grad`` of models that have one, as plain data."""
    stated = recipe.options.get("spike_grad", {"name": "midpoint"})
    name = arguments.estimator or stated["name"]
    options = estimators().given(arguments, name)
    if "spike_grad" in inspect.signature(MODELS.find(recipe.model)).parameters:
        return {
            "spike_grad": {**(stated if stated["name"] == name else {}), "name": name, **options}
        }
    if arguments.estimator is not None:
        raise ValueError(f"--estimator is for models with spikes, not for {recipe.model}")
    return {}


def _model_config(recipe: Recipe) -> dict[str, Any]:
    """The model of ``config.json``: its registered name, and its options as plain data."""
    defaults = {option.name: option.default for option in models().options[recipe.model]}
    options = defaults | recipe.model_options()
    latents = options.pop("latents")
    with seeded(0):  # a model with one neuron, which validates the options before data is read
        one = {MODELS.find(recipe.model).size_argument: 1, "latents": 1, **options}
        made = make_model(MODELS.find(recipe.model), one).config()
    # What is recorded is what the model made of the defaults, which later releases may change; but
    # not of its decoder and likelihood, which hold the sizes of the model with one neuron.
    sized = {name: options[name] for name in ("decoder", "likelihood") if name in options}
    recorded = {name: made[name] for name in options} | sized
    return {"name": recipe.model, "latents": latents, **recorded}
