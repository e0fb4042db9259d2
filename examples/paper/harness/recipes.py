"""The models by name, and the hyperparameters each is trained with on each data set."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, baselines, fit, recipes
from ipvae_snn._utils.files import atomic_write
from ipvae_snn.training import iterations_within

from harness.datasets import load
from harness.setup import Setup, write_json

Make = Callable[..., nn.Module]


def _with_encoder(cls: Make, kind: str, **fixed: Any) -> Make:
    def make(pixels: int, latents: int, shape: tuple[int, int], **options: Any) -> nn.Module:
        return cls(pixels, latents, encoder=kind, image_shape=shape, **fixed, **options)

    return make


def _plain(cls: Make, **fixed: Any) -> Make:
    def make(pixels: int, latents: int, shape: tuple[int, int], **options: Any) -> nn.Module:
        return cls(pixels, latents, **fixed, **options)

    return make


FAMILIES: dict[str, Make] = {
    "iP": _plain(IPVAE),
    "iG": _plain(baselines.IGVAE),
    "iG-relu": _plain(baselines.IGVAE, relu=True),
    "LCA": _plain(baselines.LCA),
    "P-linear": _with_encoder(baselines.PoissonVAE, "linear"),
    "P-mlp": _with_encoder(baselines.PoissonVAE, "mlp"),
    "P-conv": _with_encoder(baselines.PoissonVAE, "conv"),
    "G-linear": _with_encoder(baselines.GaussianVAE, "linear"),
    "G-mlp": _with_encoder(baselines.GaussianVAE, "mlp"),
    "G-conv": _with_encoder(baselines.GaussianVAE, "conv"),
    "G-relu-conv": _with_encoder(baselines.GaussianVAE, "conv", relu=True),
    "ia": _plain(baselines.IterativeAmortisedVAE),
    "sa": _with_encoder(baselines.SemiAmortisedVAE, "mlp"),
}
ONE_PASS = tuple(name for name in FAMILIES if name[:2] in ("P-", "G-"))
"""Amortised models: their timesteps are draws from one posterior."""
HEADLINE = ("iP", "iP-tuned", "iP-finer", "iG-relu", "LCA", "G-linear")
"""Models with several seeds: the claims of the pages are about these."""


def _of_library(name: str) -> dict[str, Any]:
    """The values of one of the library's recipes; how long it trains is a matter of the budget."""
    recipe = recipes.find(name)
    values = {**recipe.options, **recipe.training}
    del values["iterations"]
    return values


# Defaults, which RECIPES overrides. LCA has no KL, so no β and no ramp, and normalises its
# features, so no weight decay.
_LCA = {"steps": 40, "beta": 1.0, "beta_start": 1.0, "weight_decay": 0.0, "lr": 3e-3}
_ENCODER = {"steps": 1, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}
_HYBRID = {"steps": 8, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}
BASIC: dict[str, dict[str, Any]] = {
    "LCA": _LCA,
    **{name: _ENCODER for name in ONE_PASS},
    "ia": _HYBRID,
    "sa": _HYBRID,
}
_ITERATIVE = {"burn_in": 16, "batch": 50, "beta_ramp": 0.3, "weight_decay": 0.0, "lr": 5e-3}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "patches": {
        "iP": _of_library("natural"),
        "": {"batch": 100},
        "iG": {"beta": 8.0, "lr": 5e-3},
        "iG-relu": {"beta": 8.0, "lr": 5e-3},
        "LCA": {"sparsity": 0.7},
    },
    "mnist": {
        "iP": _of_library("mnist"),
        "": {"batch": 100},
        "iG": {**_ITERATIVE, "steps": 32, "beta": 16.0},
        "iG-relu": {**_ITERATIVE, "steps": 32, "beta": 16.0},
        "LCA": {"sparsity": 0.2, "nonnegative": True},
    },
    "speech": {
        "iP": {**_of_library("natural"), **_ITERATIVE, "steps": 32, "beta": 32.0},
        "": {"batch": 50},
        "iG": {**_ITERATIVE, "burn_in": 8, "beta": 8.0},
        "iG-relu": {**_ITERATIVE, "burn_in": 8, "beta": 8.0},
        "LCA": {"sparsity": 0.1, "nonnegative": True, "steps": 20},
    },
}  # fmt: skip
CHOICES = Path(__file__).parent.parent / "results" / "choices.json"
"""What ``choices.py`` found on the validation split: options by data set and model."""
_TRAIN_FIELDS = {f.name for f in fields(TrainConfig)}


def settings(setup: Setup, data: str, name: str, **changes: Any) -> dict[str, Any]:
    """Everything that a trained model depends on: its options and its training config.

    Without ``iterations`` it trains for as many as fit into ``seconds``, by default those of the
    setup; they are measured once, and kept in the cache.
    """
    by_model, seconds = RECIPES[data], changes.pop("seconds", setup.seconds)
    given = {**BASIC.get(name, {}), **by_model[""], **by_model.get(name, {})}
    if setup.name != "choices":  # which does not start from what it found before
        given |= chosen().get(data, {}).get(name, {})
    given |= changes
    given.setdefault("grad_clip", 300.0 if data == "patches" else 3000.0)
    if setup.quick:
        given.update(
            iterations=60 if name == "iP" else 6, batch=10, steps=min(given.get("steps", 16), 4)
        )
        given["burn_in"] = min(given.get("burn_in", 0), given["steps"] - 1)
        given["latents"] = min(given.get("latents", 512), 24)
        if "width" in given:
            given["width"] = min(given["width"], 32)
    training = TrainConfig(
        device=setup.device,
        progress=not setup.quick,
        **{k: v for k, v in given.items() if k in _TRAIN_FIELDS},
    )
    options = {k: v for k, v in given.items() if k not in _TRAIN_FIELDS}
    options.setdefault("latents", 512)
    if name == "sa":
        options["beta"] = training.beta
    wanted = {"data": data, "model": name, "options": options, "training": training}
    if "iterations" not in given:
        found = setup.cell(
            f"{data}-{name}-{seconds:g}s-{_key({**wanted, 'training': replace(training, seed=0)})}",
            lambda: {"iterations": _iterations(setup, wanted, seconds)},
            experiment="budgets",
        )
        training.iterations = found["iterations"]
    return wanted


@cache
def chosen() -> dict[str, dict[str, dict[str, Any]]]:
    """The content of ``CHOICES``; nothing where there is none yet."""
    return json.loads(CHOICES.read_text())["chosen"] if CHOICES.is_file() else {}


def _iterations(setup: Setup, wanted: dict[str, Any], seconds: float) -> int:
    """As many as fit, at the speed of a twentieth of the training: spikes change the speed."""
    training, train = replace(wanted["training"], progress=False), load(setup, wanted["data"]).train
    with torch.enable_grad():
        first = iterations_within(seconds, _made(setup, wanted), train, training)
    pilot = replace(training, iterations=max(10, first // 20))
    return max(
        1, round(seconds / _timed(setup, _made(setup, wanted), wanted, pilot) * pilot.iterations)
    )


def _timed(setup: Setup, model: nn.Module, wanted: dict[str, Any], training: TrainConfig) -> float:
    """Train, and return the seconds of CPU time it took, whatever else the machine is doing."""
    started = time.process_time()
    with torch.enable_grad():  # callers may be under no_grad
        fit(model, load(setup, wanted["data"]).train, training)
    return time.process_time() - started


def _made(setup: Setup, wanted: dict[str, Any]) -> nn.Module:
    samples = load(setup, wanted["data"])
    torch.manual_seed(wanted["training"].seed)
    make = FAMILIES[wanted["model"]]
    return make(samples.train.shape[1], shape=samples.shape, **wanted["options"])


def _key(wanted: dict[str, Any]) -> str:
    """A hash of all that makes a difference."""
    defaults = asdict(TrainConfig())
    changed = {
        k: v
        for k, v in asdict(wanted["training"]).items()
        if v != defaults[k] and k not in ("progress", "device")
    }
    described = {**wanted, "training": changed, "options": repr(sorted(wanted["options"].items()))}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def log_of(setup: Setup, wanted: dict[str, Any]) -> Path:
    """Where the cache has what a training took, beside its weights."""
    return setup.cache / "models" / f"{wanted['data']}-{wanted['model']}-{_key(wanted)}.json"


def trained(setup: Setup, data: str, name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of ``FAMILIES``, trained by its recipe with some ``changes``, or read from the cache.

    Args:
        data: name of the data set.
        name: name of the model.
        seed: seed of the initial weights, the batches and the spikes.
        changes: fields of ``TrainConfig``, options of the model, or ``seconds``, its budget.
    """
    wanted = settings(setup, data, name, seed=seed, **changes)
    model = _made(setup, wanted)
    path = log_of(setup, wanted).with_suffix(".pt")
    if path.is_file():
        model.load_state_dict(torch.load(path, map_location=setup.device, weights_only=True))
        return model.to(setup.device).eval()
    print(f"training {name} on {data} {changes or ''}", flush=True)
    seconds = _timed(setup, model, wanted, wanted["training"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(log_of(setup, wanted), {"cpu_seconds": seconds})
    with atomic_write(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return model
