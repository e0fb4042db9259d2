"""``tune``: sets five numbers of a trained model for the best code within a budget of spikes.

Learning moves them for the objective of some tens of timesteps. What a code is worth, and costs,
after hundreds of timesteps is another question, which is answered here by measuring.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_integer, require_number, require_seed
from ipvae_snn._utils.dtypes import wide
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn.data.sources import Samples, as_samples
from ipvae_snn.metrics.quality import r2_of, rate_distortion_distance, zeros_of
from ipvae_snn.models import IPVAE, ConvIPVAE
from ipvae_snn.models.neuron_model import NeuronModel
from ipvae_snn.neurons import CLAMP_MAX
from ipvae_snn.neurons.lateral import derives_weights

WINDOW = 16
"""The last timesteps of a measurement, over whose single draws metrics are averaged."""
MIN_BIAS = 1e-6
"""Least tonic inhibition, as in the constructor, nats per timestep."""
MAX_CLAMP = 10.0
"""Clamp in nats beyond which none is raised: that of the paper."""
LEVELS = (0.0, 0.5, 1.0, 1.5)
"""Finenesses to try, as powers of the ratio of the budget to the present spikes."""
MAX_RATIO = 8.0
"""Of the ratio that is so raised, or of its inverse."""
SMALLEST_BUDGET = 1e-9
"""Spikes per sample and timestep: none, for what is divided by it."""
FIRST_MOVES = {"threshold": 0.5, "gain": 0.1, "step": 0.35, "clamp": 1.0}
"""First moves of the search: of the threshold in units of the mean ½ ``lateral_scale`` diag G, of
gain and step as natural logarithms, of the clamp in nats."""
LIMITS = {"gain": (0.25, 4.0), "step": (0.25, 2.0)}
"""Of the factors: a smaller step would hardly converge within the timesteps measured."""
SMALLEST_MOVE = 1 / 4
"""Portion of the first moves below which the search ends."""


@dataclass(frozen=True)
class Knobs:
    """What :func:`retuned` changes, relative to a model; the defaults change nothing.

    Attributes:
        threshold: tonic inhibition to add to b, nats per timestep; b stays at least 1e-6.
        gain: factor on the lateral inhibition. Below 1 it makes up for what a threshold takes off
            the counts.
        step: factor on the step size α. Smaller steps average over more draws.
        clamp: nats to add to the clamp.
        fineness: c, counts that stand for one of before.
    """

    threshold: float = 0.0
    gain: float = 1.0
    step: float = 1.0
    clamp: float = 0.0
    fineness: float = 1.0


class Quality(NamedTuple):
    """Of single draws: R², portion of zeros, and spikes per sample and timestep; means."""

    r2: float
    zeros: float
    spikes: float

    @property
    def distance(self) -> float:
        """√((1 − R²)² + (1 − zeros)²), lower is better."""
        return rate_distortion_distance(self.r2, self.zeros)

    def as_dict(self) -> dict[str, float]:
        return {**self._asdict(), "distance": self.distance}


class Candidate(NamedTuple):
    """Knobs that were tried, and what they gave on the samples to choose on."""

    knobs: Knobs
    quality: Quality


@dataclass(frozen=True)
class Goal:
    """What is asked for: the least distance, or error where zeros are bounded, within a budget.

    Attributes:
        budget: spikes per sample and timestep, at most.
        min_zeros: portion of zeros, at least; None: the distance weighs zeros against R².
    """

    budget: float
    min_zeros: float | None = None

    def cost(self, quality: Quality) -> float:
        """What is to be small where the bounds are kept."""
        return quality.distance if self.min_zeros is None else 1 - quality.r2

    def excess(self, quality: Quality) -> float:
        """By how much the bounds are exceeded: the sum of the logarithms of the ratios."""
        ratios = [quality.spikes / self.budget]
        if self.min_zeros is not None:
            ratios.append((1 - quality.zeros) / (1 - self.min_zeros))
        return sum(max(0.0, math.log(ratio)) for ratio in ratios if ratio > 0)

    def score(self, quality: Quality) -> float:
        return self.cost(quality) + self.excess(quality)

    def is_met(self, quality: Quality) -> bool:
        """Whether the bounds are kept by a code that says anything of its input."""
        return self.excess(quality) == 0 and quality.r2 > 0


@dataclass(frozen=True)
class Tuning:
    """The result of :func:`tune`.

    Attributes:
        model: the tuned model, in ``eval()`` mode; a new one.
        knobs: how it differs from the one given.
        goal: the bounds that it keeps on the samples to choose on.
        candidates: all that was tried, in that order, on the samples to choose on. The first is the
            model as it was given.
        before, after: of the model as given and of the tuned one, on the validation samples.
        options: the other arguments, and the number of samples of both parts.
    """

    model: NeuronModel
    knobs: Knobs
    goal: Goal
    candidates: tuple[Candidate, ...]
    before: Quality
    after: Quality
    options: dict[str, int]

    @property
    def chosen(self) -> Candidate:
        """The candidate that became :attr:`model`."""
        return next(c for c in self.candidates if c.knobs == self.knobs)

    def front(self) -> list[Candidate]:
        """The Pareto front: candidates with a lower distance than all with fewer spikes."""
        best: list[Candidate] = []
        for candidate in sorted(
            self.candidates, key=lambda c: (c.quality.spikes, c.quality.distance)
        ):
            if not best or candidate.quality.distance < best[-1].quality.distance:
                best.append(candidate)
        return best

    def summary(self) -> dict[str, Any]:
        """The content of ``tune.json``."""

        def row(candidate: Candidate) -> dict[str, float]:
            return {**vars(candidate.knobs), **candidate.quality.as_dict()}

        return {
            "knobs": vars(self.knobs),
            "budget": self.goal.budget,
            "min_zeros": self.goal.min_zeros,
            **self.options,
            "validation": {"before": self.before.as_dict(), "after": self.after.as_dict()},
            "front": [row(candidate) for candidate in self.front()],
            "candidates": [row(candidate) for candidate in self.candidates],
        }

    def __str__(self) -> str:
        before, after, knobs = self.before, self.after, self.knobs
        lines = [f"{'validation samples':<20}{'before':>11}{'after':>11}"]
        for label, name, form in (
            ("R²", "r2", ".3f"), ("zeros", "zeros", ".1%"), ("distance", "distance", ".3f"),
            ("spikes per sample", "spikes", ".1f"),
        ):  # fmt: skip
            a, b = getattr(before, name), getattr(after, name)
            lines.append(f"{label:<20}{a:>11{form}}{b:>11{form}}")
        lines.append(
            f"threshold {knobs.threshold:+.3g} nats, gain × {knobs.gain:.3g}, "
            f"step × {knobs.step:.3g}, clamp {knobs.clamp:+.3g} nats, "
            f"counts × {knobs.fineness:.3g}"
        )
        return "\n".join(lines)


@torch.no_grad()
def retuned(model: NeuronModel, knobs: Knobs) -> NeuronModel:
    r"""A copy of a linear Gaussian model, flat or convolutional, with other settings.

    It is in ``eval()`` mode.

    .. math::
        Φ ← Φ / c \quad b ← (b + threshold) / c \quad leak ← leak / c \quad
        α ← step · c · α \quad u_0 ← u_0 + \log c \quad clamp ← clamp + \log c

    The fineness c is a change of units: with c times the spikes, the drive α d and the inhibition
    α z G of a membrane are what they were, and the noise of the counts is 1/√c of what it was. The
    variance term, the cost of that noise, becomes 1/c of what it was by itself.

    Raises:
        TypeError, ValueError: see :func:`tune`; a setting leaves its range.

    >>> model = IPVAE(16, 8, step=0.2)
    >>> finer = retuned(model, Knobs(fineness=2.0))
    >>> round(finer.neuron.log_step.exp().item(), 3), round(finer.clamp - model.clamp, 3)
    (0.4, 0.693)
    """
    _require_tunable(model)
    made: Any = copy.deepcopy(model).eval()
    neuron, shift = made.neuron, math.log(knobs.fineness)
    bias = (neuron.log_bias.exp() + knobs.threshold).clamp(min=MIN_BIAS)
    made.decoder.weight.div_(knobs.fineness)
    neuron.log_bias.copy_(bias.log() - shift)
    neuron.log_step.add_(shift + math.log(knobs.step))
    neuron.mem_init.add_(shift)
    neuron.leak /= knobs.fineness
    neuron.lateral_scale *= knobs.gain
    neuron.clamp += shift + knobs.clamp
    tuned: NeuronModel = made
    return tuned


def _require_tunable(model: Any) -> None:
    """Raise unless the model is one whose code can be rescaled."""
    if not isinstance(model, IPVAE | ConvIPVAE) or getattr(model, "decoded", None) is not None:
        own = " with a decoder or likelihood of its own" if isinstance(model, IPVAE) else ""
        raise TypeError(
            f"model must be an IPVAE with a linear decoder and Gaussian pixels, got a "
            f"{type(model).__name__}{own}: only its code can be rescaled"
        )
    if any(derives_weights(module) for module in model.modules()):
        raise ValueError(
            "weights of the model are computed from others: make them permanent first, by "
            "prune.remove or parametrize.remove_parametrizations of torch.nn.utils"
        )


def tune(
    model: NeuronModel,
    x: Tensor | Samples,
    *,
    spikes_per_sample: float | None = None,
    min_zeros: float | None = None,
    num_steps: int = 400,
    samples: int = 200,
    trials: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> Tuning:
    """Tune the threshold, gain, step size, clamp and fineness of a trained model, by measuring.

    x is split at random in two: one part to choose on, one to validate. Every candidate runs for
    ``num_steps`` timesteps on the same samples, with the same seed; what counts are the single
    draws of the last 16 of them. A pattern search moves one setting after the other, doubles a move
    that helps, and halves all moves after each round. Candidates above a bound are charged for the
    logarithm of the excess. What is no better on the validation part than the model given, which
    keeps the bounds, is not taken.

    Args:
        model: an IPVAE with a linear decoder and Gaussian pixels, or a ConvIPVAE; stays as it is.
        x: samples it learned from, (N, M) or (N, C, H, W), N ≥ 4, not those it will be tested on.
        spikes_per_sample: budget of spikes per sample and timestep, summed over neurons; without
            it, as many as now. Then counts stay as fine as they are; with a budget finer or coarser
            ones are tried, too.
        min_zeros: portion of zeros to keep at least; then R² alone is maximised. Default: minimise
            the distance √((1 − R²)² + (1 − zeros)²).
        num_steps: T, timesteps of a measurement.
        samples: how many to choose on, and as many others to validate, at most.
        trials: candidates for each fineness, at most; of these there are up to four with a budget.
        seed: seed of the split and of the spikes.
        progress: show a progress bar.

    Raises:
        TypeError: another model, or x is no floating-point tensor.
        ValueError: wrong shapes, numbers out of range, or bounds that no candidate keeps; the
            message says what can be had.

    >>> from ipvae_snn import TrainConfig, fit
    >>> model, x = IPVAE(16, 8), torch.rand(40, 3) @ torch.randn(3, 16)
    >>> _ = fit(model, x, TrainConfig(iterations=60, batch=20, steps=8, beta=1, progress=False))
    >>> result = tune(model, x, num_steps=30, trials=5)
    >>> result.after.distance <= result.before.distance, len(result.candidates)
    (True, 5)
    """
    _require_tunable(model)
    if spikes_per_sample is not None:
        require_number(spikes_per_sample, "spikes_per_sample", least=SMALLEST_BUDGET)
    if min_zeros is not None:
        require_number(min_zeros, "min_zeros", least=0, most=0.9999)
    for name, value in (("num_steps", num_steps), ("trials", trials)):
        require_integer(value, name)
    require_integer(samples, "samples", least=2)
    choosing, validating = _split(model, x, samples, require_seed(seed))
    finenesses = [1.0]
    with progress_bar(None, "tuning", shown=progress, unit="candidate") as bar:
        trial = _Trial(model, choosing, num_steps, seed, bar.update)
        present = trial(Knobs())
        budget = present.spikes if spikes_per_sample is None else float(spikes_per_sample)
        goal = Goal(max(budget, SMALLEST_BUDGET), min_zeros)
        if spikes_per_sample is not None and present.spikes > 0:
            ratio = min(max(budget / present.spikes, 1 / MAX_RATIO), MAX_RATIO)
            finenesses = list(dict.fromkeys(ratio**power for power in LEVELS))
        bar.total = trials * len(finenesses)
        _search(trial, goal, finenesses, trials)
    knobs = _best(trial, goal)
    before, after = (trial.measure(each, validating) for each in (Knobs(), knobs))
    if goal.is_met(present) and goal.cost(after) >= goal.cost(before):
        knobs, after = Knobs(), before
    options = {
        "num_steps": num_steps,
        "choosing": len(choosing),
        "validating": len(validating),
        "trials": trials,
        "seed": seed,
    }
    candidates = tuple(Candidate(*item) for item in trial.measured.items())
    return Tuning(retuned(model, knobs), knobs, goal, candidates, before, after, options)


def _split(
    model: NeuronModel, x: Tensor | Samples, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Samples to choose on, and others to validate, with device and dtype of the weights."""
    source = as_samples(x, "x")
    count = len(source)
    if not model.takes_samples(source.shape) or count < 4:
        raise ValueError(
            f"x must have shape {model.expected_samples()} with N ≥ 4, got {(count, *source.shape)}"
        )
    rows = torch.randperm(count, generator=make_generator(seed))
    part = min(samples, count // 2)
    choosing, validating = (source.read(r).to(model.like) for r in rows[: 2 * part].split(part))
    return choosing, validating


class _Trial:
    """Measures candidates, each once.

    Args:
        model: the model to tune.
        x: samples to choose on.
        num_steps: T.
        seed: seed of the spikes.
        observe: called after each new candidate.
    """

    def __init__(
        self, model: NeuronModel, x: Tensor, num_steps: int, seed: int, observe: Callable[[], Any]
    ) -> None:
        self.model, self.x, self.num_steps, self.seed = model, x, num_steps, seed
        self.observe = observe
        self.measured: dict[Knobs, Quality] = {}
        half = 0.5 * model.neuron.lateral_scale * _mean_diagonal(model)
        self.moves = {**FIRST_MOVES, "threshold": FIRST_MOVES["threshold"] * half}

    def __call__(self, knobs: Knobs) -> Quality:
        if knobs not in self.measured:
            self.measured[knobs] = self.measure(knobs, self.x)
            self.observe()
        return self.measured[knobs]

    @torch.no_grad()
    def measure(self, knobs: Knobs, x: Tensor) -> Quality:
        """Quality of the single draws of the last timesteps, mean over them."""
        model, state = retuned(self.model, knobs), None
        recorded = min(WINDOW, self.num_steps)
        with model.seeded(self.seed):
            if recorded < self.num_steps:
                state = model.run(x, self.num_steps - recorded, record=()).state
            spk = model.run(x, recorded, record=("spk",), state=state).spk
        x_hat = model.reconstruct(spk.flatten(0, 1), x).unflatten(0, spk.shape[:2])
        spk = spk.flatten(2)
        return Quality(
            r2=float(r2_of(x.flatten(1), x_hat.flatten(2)).mean()),
            zeros=float(zeros_of(spk).mean()),
            spikes=float(wide(spk).sum(-1).mean()),
        )

    def allows(self, knobs: Knobs) -> bool:
        """Whether the settings are in the ranges of the search, and of the model."""
        factors = all(low <= getattr(knobs, name) <= high for name, (low, high) in LIMITS.items())
        neuron = self.model.neuron
        clamp = neuron.clamp + knobs.clamp  # in the units of the counts of before
        clamps = 0 <= clamp <= max(MAX_CLAMP, neuron.clamp)
        in_model = clamp + math.log(knobs.fineness) <= CLAMP_MAX
        return factors and clamps and in_model and neuron.leak <= knobs.fineness


@torch.no_grad()
def _mean_diagonal(model: NeuronModel) -> float:
    """Of G, in nats per spike; of a convolutional model far from borders."""
    if not isinstance(model, ConvIPVAE):
        return float(model.neuron.gram().diagonal().mean())
    log_scale = torch.zeros(1) if model.log_scale is None else model.log_scale
    pixels = model.decoder.weight.square().flatten(2).sum(-1)  # (K, C)
    return float((pixels * (-2 * log_scale).exp()).sum(1).mean())


def _search(trial: _Trial, goal: Goal, finenesses: list[float], trials: int) -> None:
    """Pattern search at each fineness, from the best of the last one, while they get better."""
    best = Knobs()
    for fineness in finenesses:
        start = replace(best, fineness=fineness)
        if not trial.allows(start):
            break
        found = _pattern_search(trial, goal, start, trials)
        if fineness != 1 and goal.score(trial(found)) >= goal.score(trial(best)):
            break
        best = found


def _pattern_search(trial: _Trial, goal: Goal, best: Knobs, trials: int) -> Knobs:
    """The best knobs that moves of one setting at a time lead to, within so many trials."""
    already = len(trial.measured) - (best in trial.measured)

    def improves(knobs: Knobs) -> bool:
        exhausted = len(trial.measured) - already >= trials and knobs not in trial.measured
        if exhausted or not trial.allows(knobs):
            return False
        return goal.score(trial(knobs)) < goal.score(trial(best))

    scale = 1.0
    while scale >= SMALLEST_MOVE:
        for name, first in trial.moves.items():
            for direction in (1, -1):
                move = start = direction * scale * first
                while improves(moved := _moved(best, name, move)):
                    best, move = moved, 2 * move
                if move != start:  # it helped: the other direction leads back
                    break
        scale /= 2
    return best


def _moved(knobs: Knobs, name: str, move: float) -> Knobs:
    """One setting moved: threshold and clamp by a sum, gain and step by a factor."""
    value = getattr(knobs, name)
    return replace(knobs, **{name: value * math.exp(move) if name in LIMITS else value + move})


def _best(trial: _Trial, goal: Goal) -> Knobs:
    """The best candidate that keeps the bounds; ``ValueError`` if none does."""
    useful = {knobs: quality for knobs, quality in trial.measured.items() if quality.r2 > 0}
    met = [knobs for knobs, quality in useful.items() if goal.is_met(quality)]
    if met:
        return min(met, key=lambda knobs: goal.cost(trial.measured[knobs]))
    if not useful:
        raise ValueError(
            f"no setting of {len(trial.measured)} reconstructs x with R² above 0: train the model "
            "first"
        )
    near = min(useful.values(), key=goal.excess)
    zeros = "" if goal.min_zeros is None else f" with {goal.min_zeros:.1%} zeros"
    raise ValueError(
        f"a budget of {goal.budget:.4g} spikes per sample and timestep{zeros} cannot be met: the "
        f"nearest of {len(trial.measured)} settings with R² above 0 takes {near.spikes:.4g} with "
        f"{near.zeros:.1%} zeros; ask for no less"
    )
