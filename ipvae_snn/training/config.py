"""How a model is trained."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_choice,
    require_flag,
    require_integer,
    require_number,
    require_seed,
)
from ipvae_snn.kernels.spec import PRECISIONS, Precision

Rule = Literal["backprop", "local"]
RULES: tuple[Rule, ...] = get_args(Rule)
MAX_BATCH = 2**20
MIN_INTEGERS = {
    **dict.fromkeys(("iterations", "batch", "steps", "log_every", "checkpoint_every"), 1),
    "burn_in": 0,
}
"""Lower bounds of the fields that are integers."""
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("warmup", "beta_ramp", "clamp_ramp", "temp_ramp"), (0, 1)),
    **dict.fromkeys(("lr_end", "weight_decay", "beta", "beta_start"), (0, math.inf)),
    **dict.fromkeys(("temp_start", "temp_end"), (1e-6, 1)),
    "target_rate": (0, math.inf),
    "lr": (1e-12, 100),
    "grad_clip": (1e-12, math.inf),
    "clamp_start": (F.MEM_FLOOR + 1, math.inf),
}
"""Lower and upper bounds of the other numbers."""


@dataclass
class TrainConfig:
    """How a model is trained; the defaults learn whitened natural patches in about a minute.

    :data:`ipvae_snn.recipes.RECIPES` has better values for longer trainings, and the paper's, with
    the options of the model that go with them. Ramps are fractions of ``iterations``. A short run
    needs a higher learning rate than the paper's, and a β that reaches its full value only after
    the dictionary has been learned. Source: arXiv 2410.19315, appendix.

    Attributes:
        iterations: optimizer steps.
        batch: samples per optimizer step.
        steps: T, timesteps per sample.
        burn_in: first timesteps whose NLL does not count, in 0 … T − 1. Errors are large while
            inference converges, and a learned σ that covers them is too large for the later
            timesteps; without them the code is finer.
        lr: peak learning rate of Adamax.
        lr_end: learning rate at the end of the cosine.
        warmup: fraction of the iterations over which the learning rate rises.
        weight_decay: L2 penalty on all parameters.
        grad_clip: maximum global norm of the gradient; three times that during the warm-up.
        beta: final weight of the KL.
        beta_start: weight of the KL at the first iteration.
        beta_ramp: fraction of the iterations over which β rises linearly.
        clamp_start: clamp at the first iteration; it rises to the clamp of the model. Without this
            ramp, rates explode before the dictionary is learned.
        clamp_ramp: fraction of the iterations over which the clamp rises linearly.
        temp_start: initial temperature of a relaxed estimator; it falls linearly.
        temp_end: final temperature of a relaxed estimator.
        temp_ramp: fraction of the iterations over which the temperature falls.
        seed: seed of batches and spikes.
        device: ``"cpu"``, ``"cuda"``, ...
        rule: ``"backprop"``, through the timesteps and the counts, by Adamax; or ``"local"``, by
            what each synapse sees, for an IPVAE or a ConvIPVAE, see
            :mod:`ipvae_snn.models.local_rule`. β and weight decay have no part in it, the step α
            stays, and ``lr`` wants to be near 0.1; with a decoder or a likelihood of one's own it
            is Adamax without gradients through time, and ``lr`` that of Adamax.
        target_rate: by the local rule, the spikes per neuron and timestep that a learned tonic
            inhibition b brings about; 0 leaves b as it is.
        missing: NaN in the data are values that were not seen, in training and validation. For
            an IPVAE or a ConvIPVAE; a likelihood of one's own has to be one of independent pixels.
        precision: precision of the products with the lateral weights G. See
            :attr:`IPVAE.precision`.
        log_every: iterations between rows of the history.
        checkpoint_every: iterations between checkpoints. :func:`fit` writes none by default.
        progress: show a progress bar.
    """

    iterations: int = 1200
    batch: int = 50
    steps: int = 16
    burn_in: int = 0
    lr: float = 2e-2
    lr_end: float = 1e-5
    warmup: float = 0.005
    weight_decay: float = 3e-4
    grad_clip: float = 300.0
    beta: float = 24.0
    beta_start: float = 1e-4
    beta_ramp: float = 1.0
    clamp_start: float = 2.0
    clamp_ramp: float = 0.1
    temp_start: float = 1.0
    temp_end: float = 0.01
    temp_ramp: float = 0.5
    seed: int = 0
    device: str = "cpu"
    rule: Rule = "backprop"
    target_rate: float = 0.0
    missing: bool = False
    precision: Precision = "float32"
    log_every: int = 20
    checkpoint_every: int = 500
    progress: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in MIN_INTEGERS:
            require_integer(value, name, MIN_INTEGERS[name])
        if name in RANGES:
            require_number(value, name, *RANGES[name])
        if name == "seed":
            require_seed(value)
        if name == "missing":
            require_flag(value, name)
        if name == "rule":
            require_choice(value, name, RULES)
        if name == "batch" and value > MAX_BATCH:
            raise ValueError(f"batch must be at most {MAX_BATCH:,}, got {value}")
        if name == "precision" and value not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {value!r}")
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        if self.burn_in >= self.steps:
            raise ValueError(f"burn_in must be below steps = {self.steps}, got {self.burn_in}")
