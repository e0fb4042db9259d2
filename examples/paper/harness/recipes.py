"""The models by name, and the hyperparameters each is trained with on each data set."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, baselines, fit
from ipvae_snn._utils.files import atomic_write

from harness.datasets import load
from harness.setup import Setup

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

# Defaults, which RECIPES overrides. Encoders need a small learning rate; LCA has no KL, so no β and
# no ramp, and normalises its features, so no weight decay.
_ENCODER = {"steps": 1, "beta": 1.0, "lr": 2e-3, "iterations": 8000, "beta_ramp": 0.3}
_CONV = {**_ENCODER, "iterations": 1500}
_LCA = {
    "steps": 40, "beta": 1.0, "beta_start": 1.0, "weight_decay": 0.0, "lr": 3e-3,
    "iterations": 1500,
}  # fmt: skip
_HYBRID = {"steps": 8, "beta": 1.0, "lr": 2e-3, "iterations": 2000, "beta_ramp": 0.3}
BASIC: dict[str, dict[str, Any]] = {
    "LCA": _LCA,
    **{name: _ENCODER for name in ONE_PASS},
    **{name: _CONV for name in FAMILIES if name.endswith("conv")},
    "ia": _HYBRID,
    "sa": _HYBRID,
}
_MNIST = {
    "steps": 32, "burn_in": 16, "batch": 50, "beta": 16.0, "beta_ramp": 0.3, "weight_decay": 0.0,
}  # fmt: skip
_SPEECH = {
    "steps": 16, "burn_in": 8, "batch": 50, "beta": 8.0, "beta_ramp": 0.3, "weight_decay": 0.0,
    "lr": 5e-3,
}  # fmt: skip
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "patches": {
        "iP": {
            "form": "published", "iterations": 8000, "lr": 1e-2, "batch": 100, "beta": 24.0,
        },
        "iG": {"iterations": 1500, "lr": 5e-3, "batch": 100, "beta": 8.0},
        "iG-relu": {"iterations": 1500, "lr": 5e-3, "batch": 100, "beta": 8.0},
        "LCA": {"sparsity": 0.5, "batch": 100},
        "": {"batch": 100},
    },
    "mnist": {
        # With σ = 1, β is the price of a nat in units of squared error.
        "iP": {
            # b acts as a threshold, like LCA's λ; weaker inhibition makes up for what it subtracts.
            **_MNIST, "form": "published", "learn_scale": False, "step": 0.5, "beta": 0.01,
            "beta_start": 0.0, "bias": 0.02, "learn_bias": False, "lateral_scale": 0.75,
            "lr": 5e-3, "iterations": 24_000,
        },
        "iG": {**_MNIST, "iterations": 1000, "lr": 5e-3},
        "iG-relu": {**_MNIST, "iterations": 1000, "lr": 5e-3},
        "LCA": {"sparsity": 0.2, "nonnegative": True, "beta": 1.0},
        "": {"batch": 100, "beta": 0.5},  # per timestep, as 16 over 32 timesteps
    },
    "speech": {
        "iP": {
            **_SPEECH, "form": "published", "steps": 32, "burn_in": 16, "beta": 32.0,
            "iterations": 1500,
        },
        "iG": {**_SPEECH, "lr": 2e-3, "iterations": 700},
        "iG-relu": {**_SPEECH, "iterations": 700},
        "LCA": {"sparsity": 0.1, "nonnegative": True, "steps": 20, "iterations": 400},
        "P-conv": {"lr": 5e-3, "weight_decay": 0.0, "iterations": 1200},
        "G-conv": {"iterations": 1200},
        "ia": {"iterations": 600},
        "sa": {"lr": 5e-3, "iterations": 1000},
        "": {"batch": 50},
    },
}  # fmt: skip
_TRAIN_FIELDS = {f.name for f in fields(TrainConfig)}


def settings(setup: Setup, data: str, name: str, **changes: Any) -> dict[str, Any]:
    """Everything that a trained model depends on: its options and its training config."""
    recipes = RECIPES[data]
    given = {**BASIC.get(name, {}), **recipes[""], **recipes.get(name, {}), **changes}
    given.setdefault("grad_clip", 300.0 if data == "patches" else 3000.0)
    if setup.quick:
        given.update(iterations=6, batch=10, steps=min(given.get("steps", 16), 4))
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
    return {"data": data, "model": name, "options": options, "training": training}


def trained(setup: Setup, data: str, name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of ``FAMILIES``, trained by its recipe with some ``changes``, or read from the cache.

    Args:
        data: name of the data set.
        name: name of the model.
        seed: seed of the initial weights, the batches and the spikes.
        changes: fields of ``TrainConfig``, or options of the model.
    """
    wanted = settings(setup, data, name, seed=seed, **changes)
    samples, options, training = load(setup, data), wanted["options"], wanted["training"]
    torch.manual_seed(seed)
    model = FAMILIES[name](samples.train.shape[1], shape=samples.shape, **options)
    defaults = asdict(TrainConfig())
    changed = {k: v for k, v in asdict(training).items() if v != defaults[k] and k != "progress"}
    described = {**wanted, "training": changed, "options": repr(options)}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    path = setup.cache / "models" / f"{data}-{name}-{key}.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, map_location=setup.device, weights_only=True))
        return model.to(setup.device).eval()
    print(f"training {name} on {data} {changes or ''}", flush=True)
    with torch.enable_grad():  # callers may be under no_grad
        fit(model, samples.train, training)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return model
