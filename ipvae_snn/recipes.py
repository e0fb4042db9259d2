"""Recipes: the options of a model and of its training, as plain data under a name.

To change what a recipe trains, change its entry in :data:`RECIPES`; what it does not state is the
default of the model or of :class:`~ipvae_snn.TrainConfig`.

>>> import torch
>>> from ipvae_snn import fit, recipes
>>> recipe = recipes.find("natural").changed(latents=32, iterations=2, batch=8, progress=False)
>>> model = recipe.make_model(in_features=256)
>>> _ = fit(model, torch.randn(20, 256), recipe.config())
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ipvae_snn._utils.checks import require_integer
from ipvae_snn.models import MODELS
from ipvae_snn.models.base import BaseModel, make_model
from ipvae_snn.training import TrainConfig

__all__ = ["OTHER_RULES", "RECIPES", "Recipe", "by_rule", "find", "suited"]

TRAINING = tuple(entry.name for entry in fields(TrainConfig))
"""Values with these names are of the training; all others are options of the model."""


@dataclass(frozen=True)
class Recipe:
    """What a model is made with, and how it is trained.

    Attributes:
        name: what it is called.
        about: what it is for, in one line.
        model: the registered name of the model.
        options: arguments of the model's constructor, as ``config.json`` holds them.
        training: fields of :class:`~ipvae_snn.TrainConfig`.

    Raises:
        ValueError: no such model, or a value that is neither of the model nor of the training.

    >>> recipe = find("natural").changed(clamp=3.0, lr=1e-3)
    >>> recipe.make_model(16).neuron.clamp, recipe.config().lr
    (3.0, 0.001)
    """

    name: str
    about: str
    model: str = "ipvae"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in sorted({*self.training} - {*TRAINING} | {*self.options} - self._arguments()):
            raise ValueError(
                f"the recipe {self.name} cannot set {name!r}: it sets fields of TrainConfig and "
                f"options of the model {self.model}"
            )

    def _arguments(self) -> set[str]:
        """Names of the options that the model takes, or might pass on."""
        parameters = inspect.signature(MODELS.find(self.model)).parameters
        passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return {*parameters, *(self.options if passed_on else ())} - {"in_features", "channels"}

    def changed(self, **values: Any) -> "Recipe":
        """The recipe with other values: fields of ``TrainConfig``, or options of the model.

        If ``steps`` is given and ``burn_in`` is not, the burn-in keeps its share of the timesteps.
        """
        training = {name: value for name, value in values.items() if name in TRAINING}
        options = {name: value for name, value in values.items() if name not in TRAINING}
        if "steps" in training and "burn_in" not in training and self.training.get("burn_in"):
            steps = require_integer(training["steps"], "steps")
            share = self.training["burn_in"] / self.training.get("steps", TrainConfig.steps)
            training["burn_in"] = int(share * steps)
        return replace(
            self,
            options={**self.options, **options},
            training={**self.training, **training},
        )

    def config(self) -> TrainConfig:
        """The values of the training, checked; raises what :class:`~ipvae_snn.TrainConfig` does."""
        return TrainConfig(**self.training)

    def model_options(self) -> dict[str, Any]:
        """All arguments of the constructor but ``in_features``; the β of a model is the training's.

        >>> find("natural").model_options()["bias"], find("natural").model_options()["latents"]
        (0.4, 512)
        """
        options = {"latents": MODELS.find(self.model).usual_latents, **self.options}
        if "beta" in inspect.signature(MODELS.find(self.model)).parameters:
            options["beta"] = self.config().beta
        return options

    def make_model(self, in_features: int) -> BaseModel:
        """A new model for samples of ``in_features`` values; raises what its constructor does.

        For a convolutional model they are the channels.
        """
        options = {MODELS.find(self.model).size_argument: in_features, **self.model_options()}
        model: BaseModel = make_model(MODELS.find(self.model), options)
        return model


_PUBLISHED = {"form": "published", "kl_form": "published", "clamp": 10.0, "init_std": 1e-4}
_PUBLISHED_TRAINING = {
    "warmup": 0.005, "lr_end": 1e-5, "weight_decay": 3e-4,
    "beta_start": 1e-4, "beta_ramp": 0.1, "clamp_start": 2.0, "clamp_ramp": 0.1,
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "natural",
            "whitened patches of photographs",
            options={
                "form": "exact", "clamp": 10.0, "lateral_scale": 0.85, "bias": 0.4,
                "learn_bias": False,
            },
            training={"iterations": 9000, "batch": 100, "steps": 16, "lr": 2e-2, "beta": 8.0},
        ),
        Recipe(
            "mnist",
            "small images in [0, 1], with σ = 1, so that the squared error counts",
            options={
                "form": "exact", "clamp": 10.0, "step": 0.5, "lateral_scale": 0.86,
                "learn_scale": False, "bias": 0.011, "learn_bias": False,
            },
            training={
                "iterations": 13_500, "batch": 25, "steps": 32, "burn_in": 16, "lr": 1e-2,
                "weight_decay": 0.0, "grad_clip": 3000.0,
                "beta": 0.005, "beta_start": 0.0, "beta_ramp": 0.3,
            },
        ),
        Recipe(
            "mnist-network",
            "small images in [0, 1], by a network of one hidden layer under a Bernoulli law",
            options={
                "form": "published", "step": 1.0, "bias": 0.05, "learn_bias": False,
                "decoder": {"name": "network"}, "likelihood": {"name": "bernoulli"},
            },
            training={
                "rule": "local", "iterations": 4000, "batch": 50, "steps": 16, "burn_in": 8,
                "lr": 1e-2, "lr_end": 1e-4, "weight_decay": 0.0,
            },
        ),
        # The authors' 300 epochs of 103,000 patches, and 400 of 60,000 digits. They drew relaxed
        # counts: spike_grad {"name": "eat", "indicator": "sigmoid"}, at several times the cost.
        Recipe(
            "published-natural",
            "patches as the authors trained them, but with exact counts",
            options=_PUBLISHED,
            training={
                **_PUBLISHED_TRAINING, "iterations": 155_000, "batch": 200, "steps": 16,
                "lr": 5e-3, "grad_clip": 300.0, "beta": 24.0,
            },
        ),
        Recipe(
            "published-mnist",
            "MNIST as the authors trained it, but with exact counts",
            options=_PUBLISHED,
            training={
                **_PUBLISHED_TRAINING, "iterations": 240_000, "batch": 100, "steps": 128,
                "lr": 2e-3, "grad_clip": 3000.0, "beta": 128.0,
            },
        ),
        Recipe(
            "fast",
            "patches in about a minute, as in the demo",
            options={
                "form": "exact", "clamp": 8.0, "lateral_scale": 0.85, "bias": 0.3,
                "learn_bias": False,
            },
            training={"iterations": 1800, "beta": 16.0, "lr": 3e-2},
        ),
    )
}  # fmt: skip
"""The recipes of the IPVAE."""
SUITED = {"patches": "natural", "samples": "mnist"}
"""The recipe of the IPVAE for each kind of :class:`~ipvae_snn.data.Dataset`."""
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "patches": {},
    "images": {},
    "samples": {"steps": 32, "beta": 32.0, "lr": 5e-3, "grad_clip": 3000.0},
}
"""What other models are trained with, by kind, where their class attribute ``recipe`` is silent."""


_LOCAL = {"rule": "local", "lr": 0.1, "lr_end": 0.01, "weight_decay": 0.0, "batch": 50}
OTHER_RULES: dict[tuple[str, str], dict[str, Any]] = {
    ("natural", "local"): {
        **_LOCAL, "iterations": 4000, "lr": 0.15, "steps": 24, "burn_in": 16, "bias": 0.05,
        "learn_bias": True, "target_rate": 1.4,
    },
    ("mnist", "local"): {
        **_LOCAL, "iterations": 4000, "steps": 48, "burn_in": 40, "bias": 0.06, "step": 0.1,
        "scale": 0.25, "lateral_scale": 1.0,
    },
    ("conv-ipvae", "backprop"): {
        "rule": "backprop", "iterations": 4000, "steps": 16, "burn_in": 0, "lr": 1e-2,
        "lr_end": 1e-5, "weight_decay": 3e-4, "beta": 1.0, "bias": 0.2, "init_std": 1e-2,
        "lateral_scale": 0.85, "step": 0.2,
    },
}  # fmt: skip
"""What recipes become for a rule of learning that is not their own, by the names of both."""


def by_rule(recipe: Recipe, rule: str | None) -> Recipe:
    """A recipe for another rule of learning than its own; ``None`` leaves it.

    >>> by_rule(find("natural"), "local").name, by_rule(find("natural"), "backprop").name
    ('natural-local', 'natural')

    Raises:
        ValueError: the recipe has no form for this rule.
    """
    if rule in (None, recipe.training.get("rule", TrainConfig.rule)):
        return recipe
    if (recipe.name, rule) not in OTHER_RULES:
        known = ", ".join(name for name, other in OTHER_RULES if other == rule) or "none"
        raise ValueError(
            f"the recipe {recipe.name} is not for the rule {rule!r}: those that are: {known}"
        )
    changed = recipe.changed(**OTHER_RULES[recipe.name, str(rule)])
    return replace(changed, name=f"{recipe.name}-{rule}")


def find(name: str) -> Recipe:
    """The recipe of this name; ``ValueError`` that lists all if there is none."""
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def suited(kind: str, model: str = "ipvae") -> Recipe:
    """The recipe for a kind of data and a model.

    Args:
        kind: ``"patches"`` or ``"samples"``, as :attr:`ipvae_snn.data.Dataset.kind` says.
        model: its registered name. A model other than the IPVAE has a recipe of its own, which
            takes the model's name and what its class attribute ``recipe`` states, of both the
            model and the training.

    >>> suited("samples").name, suited("patches", "lca").training["steps"]
    ('mnist', 40)
    """
    if model == "ipvae":
        return RECIPES[SUITED[kind]]
    own = MODELS.find(model).recipe
    return Recipe(model, f"{kind}, for {model}", model).changed(**{**OTHER_MODELS[kind], **own})
