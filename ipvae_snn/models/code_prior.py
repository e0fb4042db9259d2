"""A prior of settled codes: what the model is to draw from, and to be judged by.

The membrane that inference starts from is the prior of its first timestep alone; each later one has
the last posterior for a prior. So a draw from it is no code of anything. A :class:`CodePrior` is
fitted to codes after training, in closed form, and makes the model a generative one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_choice,
    require_finite,
    require_float,
    require_instance,
    require_integer,
)
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn._utils.npz_files import read_npz, write_npz
from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels.sampler import poisson
from ipvae_snn.models.base import BaseModel
from ipvae_snn.models.map_model import MapModel

KINDS = "gamma", "poisson"
SETTLED, AVERAGED = 128, 16
"""Timesteps before the code, and those that its rates are averaged over."""
LEAST_RATE = 1e-6
"""Of the prior, in spikes: a neuron that never fired may yet fire."""
LARGEST_SHAPE = 1e6
"""Of a gamma law: beyond it, counts are Poisson but for rounding."""
ROWS = 500
"""Samples that are inferred together."""
PROPOSED, LEAST_PROPOSED, RAISED = 32, 1e-4, 0.1
"""Rates that codes are proposed by, the least of all, and that of some of them."""
NEAR, CENTRES = 0.7, 64
"""Share of proposals near codes of the round before, and how many of these are kept."""


class Sampled(NamedTuple):
    """Draws from the model: inputs (N, M), the counts (N, K) behind them, and classes (N,)."""

    x: Tensor
    spk: Tensor
    label: Tensor


class Bound(NamedTuple):
    """Lower bound of log p(x) of each sample, in nats, and its standard error; (B,) each."""

    log_likelihood: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class CodePrior:
    r"""Counts of settled codes: of each class, independent neurons with a law each.

    .. math::
        p(z) = Σ_c π_c ∏_k NB(z_k; mean = r_{ck}, shape = a_{ck}), \quad
        NB = ∫ Poisson(z; λ) Gamma(λ; mean = r, shape = a) dλ

    The Poisson law is the limit of large a. Fitted by moments: r is the mean of the rates e^u over
    samples, a = r² / Var[e^u].

    Attributes:
        rate: r, (C, K), in spikes per timestep.
        shape: a, (C, K).
        weight: π, (C,).
        labels: int64 (C,), the label of each class.
    """

    rate: Tensor
    shape: Tensor
    weight: Tensor
    labels: Tensor
    version: ClassVar[int] = 1

    @classmethod
    def fit(
        cls,
        model: BaseModel,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        kind: str = "gamma",
        num_steps: int = SETTLED,
        seed: int | None = None,
    ) -> "CodePrior":
        """The prior of the codes of samples.

        Args:
            model: trained, with flat Poisson counts: an IPVAE, or the amortised P-VAE.
            x: samples it learned from, (N, M).
            labels: integers (N,); each label becomes a class of its own. Default: one class, 0.
            kind: ``"gamma"`` for Gamma–Poisson counts, or ``"poisson"``.
            num_steps: timesteps of inference before the code.
            seed: of the spikes.

        Raises:
            TypeError, ValueError: another model, wrong shapes, a class with fewer than two samples.

        >>> from ipvae_snn import IPVAE
        >>> model = IPVAE(16, 8)
        >>> prior = CodePrior.fit(model, torch.rand(20, 16), torch.arange(20) % 2, num_steps=8)
        >>> prior.sample(model, 5, label=1).x.shape
        torch.Size([5, 16])
        """
        _require_counts(model)
        require_choice(kind, "kind", KINDS)
        labels = _labels(labels, x)
        rates = code_rates(model, x, num_steps, seed).double()
        found, of_sample = labels.unique(return_inverse=True)
        counts = of_sample.bincount()
        if counts.min() < 2:
            raise ValueError(
                "each label needs at least two samples, to have a variance: leave out those with "
                f"label {found[counts < 2].tolist()}"
            )
        classes = [rates[of_sample == number] for number in range(len(found))]
        rate = torch.stack([part.mean(0) for part in classes]).clamp(min=LEAST_RATE)
        variance = torch.stack([part.var(0) for part in classes]).clamp(min=1e-12)
        shape = (rate.square() / variance).clamp(max=LARGEST_SHAPE)
        if kind == "poisson":
            shape = torch.full_like(shape, LARGEST_SHAPE)
        weight = counts / len(labels)
        return cls(rate.float().cpu(), shape.float().cpu(), weight.float(), found)

    def log_prob(self, spk: Tensor) -> Tensor:
        """log p(z) of counts (..., K), in nats, (...)."""
        z = spk.double().unsqueeze(-2)
        rate, shape = self.rate.double().to(z.device), self.shape.double().to(z.device)
        total = rate + shape
        each = (
            torch.lgamma(z + shape) - torch.lgamma(shape) - torch.lgamma(z + 1)
            + shape * torch.log(shape / total) + z * torch.log(rate / total)
        )  # fmt: skip
        poissonian = z * rate.log() - rate - torch.lgamma(z + 1)
        each = torch.where(shape >= LARGEST_SHAPE, poissonian, each)
        weight = self.weight.double().to(z.device)
        return torch.logsumexp(each.sum(-1) + weight.log(), -1)

    @torch.no_grad()
    def sample(
        self,
        model: BaseModel,
        count: int,
        *,
        label: int | None = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> Sampled:
        """Draw codes, and what the model makes of them.

        Args:
            model: that the prior was fitted to.
            count: N.
            label: of the class; default: drawn for each.
            noise: whether x is drawn from p(x | z), with the noise of pixels, or is E[x | z].
            seed: of the draws.

        Raises:
            ValueError: no such label, or a model of another size.
            TypeError: noise of a likelihood that does not draw.
        """
        self.require_fitting(model)
        require_integer(count, "count")
        device = model.like.device
        with model.seeded(seed):
            generator = source(None, device)
            weight = self.weight.double().to(device)
            if label is not None:
                weight = (self.labels == label).double().to(device)
                if not bool(weight.any()):
                    raise ValueError(f"label must be one of {self.labels.tolist()}, got {label}")
            number = torch.multinomial(weight, count, replacement=True, generator=generator)
            rate, shape = (part.to(device)[number] for part in (self.rate, self.shape))
            gamma = torch._standard_gamma(shape, generator=generator) / shape
            rate = torch.where(shape >= LARGEST_SHAPE, rate, rate * gamma)
            spk = poisson(rate.to(model.like.dtype), generator)
            x = model.observed(spk) if noise else model.decode(spk)
        return Sampled(x, spk, self.labels.to(device)[number])

    @torch.no_grad()
    def log_likelihood(
        self,
        model: BaseModel,
        x: Tensor,
        draws: int = 1000,
        *,
        rounds: int = 4,
        num_steps: int = SETTLED,
        seed: int | None = None,
    ) -> Bound:
        r"""Importance-weighted lower bound of log p(x) = log Σ_z p(z) p(x | z).

        .. math::
            \log \frac{1}{S} Σ_s \frac{p(x | z_s) p(z_s)}{q(z_s)}, \quad z_s ∼ q

        The first q is a mixture of Poisson laws, with the rates of settled timesteps. Each round
        adds to it what lies about the best codes of the round before; the draws of the last one are
        the bound's. So E[bound] ≤ log p(x), and it rises with the draws and the rounds. The
        standard error is that of the mean weight, to first order; it is too small where a few draws
        have all the weight.

        Args:
            model: with flat Poisson counts; the prior was fitted to it, or learned with it.
            x: (B, M).
            draws: S of each round, at least 2.
            rounds: of draws, at least 1.
            num_steps: timesteps of inference before the first rates.
            seed: of all draws.

        Raises:
            TypeError, ValueError: another model, or one of another size; wrong x.

        Source: Burda et al., "Importance weighted autoencoders", 2016; Cappé et al., "Population
        Monte Carlo", 2004.
        """
        self.require_fitting(model)
        require_integer(draws, "draws", least=2)
        require_integer(rounds, "rounds")
        bounds, errors = [], []
        with eval_mode(model), model.seeded(seed):
            for row, rates in zip(x, _rates_over_time(model, x, num_steps), strict=True):
                proposal = Proposal(rates.clamp(min=LEAST_PROPOSED))
                for number in range(rounds):
                    spk = proposal.draw(draws)
                    nll = model.nll_of(spk, row.to(model.like).expand(draws, -1))
                    log_p = self.log_prob(spk) - nll.double()
                    log_weight = log_p - proposal.log_prob(spk)
                    if number + 1 < rounds:
                        proposal.refine(spk, log_weight)
                bound = torch.logsumexp(log_weight, 0) - math.log(draws)
                bounds.append(bound)
                errors.append((log_weight - bound).exp().std() / math.sqrt(draws))
        return Bound(torch.stack(bounds), torch.stack(errors))

    def save(self, path: str | Path) -> None:
        """Write to an ``.npz`` file, whole or not at all; it holds numbers alone."""
        names = ("rate", "shape", "weight", "labels")
        content = {name: getattr(self, name).numpy() for name in names}
        write_npz(path, "CodePrior", self.version, content)

    @classmethod
    def load(cls, path: str | Path) -> "CodePrior":
        """Read what :meth:`save` wrote; runs no code from the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or damaged.
        """
        content = read_npz(path, "CodePrior", cls.version)
        rate, shape, weight, labels = (
            np.asarray(content.get(name)) for name in ("rate", "shape", "weight", "labels")
        )
        floats = all(part.dtype == np.float32 for part in (rate, shape, weight))
        if (
            not floats or rate.ndim != 2 or not rate.size or shape.shape != rate.shape
            or weight.shape != rate.shape[:1] or labels.shape != weight.shape
            or labels.dtype.kind != "i" or not all((p > 0).all() for p in (rate, shape, weight))
            or not np.isfinite(rate).all() or not np.isfinite(shape).all()
            or not np.isfinite(weight).all()
        ):  # fmt: skip
            raise ValueError(f"{path} is damaged: it does not hold a prior of codes")
        return cls(
            torch.from_numpy(rate), torch.from_numpy(shape), torch.from_numpy(weight),
            torch.from_numpy(labels.astype(np.int64)),
        )  # fmt: skip

    def require_fitting(self, model: Any) -> None:
        """Raise unless the prior was fitted to such a model."""
        _require_counts(model)
        if model.latents != self.rate.shape[1]:
            raise ValueError(
                f"the prior is of {self.rate.shape[1]} neurons, the model has {model.latents}"
            )


def _require_counts(model: Any) -> None:
    require_instance(model, "model", BaseModel)
    if not model.emits_counts or isinstance(model, MapModel):
        raise TypeError(
            "model must have flat Poisson counts, as an IPVAE or a PoissonVAE has, got "
            f"{type(model).__name__}"
        )


class Proposal:
    """Codes to weigh: Poisson about rates, and steps of ±1 about codes that had the weight.

    Args:
        rates: of a few timesteps, (J, K); a quarter of them are raised to at least ``RAISED``, as a
            code that q hardly ever proposes would have a weight without bound.
    """

    def __init__(self, rates: Tensor) -> None:
        self.rates, self.centres = rates.clone(), rates[:0]
        self.rates[::4].clamp_(min=RAISED / max(1.0, rates.shape[1] / 8))
        self.jump = min(0.3, 2 / rates.shape[1])

    def draw(self, count: int) -> Tensor:
        """Counts (S, K)."""
        generator, near = self._generator(), int(NEAR * count) if len(self.centres) else 0
        turn = torch.arange(count - near, device=self.rates.device) % len(self.rates)
        spk = poisson(self.rates[turn], generator)
        if not near:
            return spk
        index = torch.randint(
            len(self.centres), (near,), generator=generator, device=self.rates.device
        )
        base = self.centres[index]
        u = torch.rand(base.shape, generator=generator, device=base.device, dtype=base.dtype)
        up, down = u < self.jump / 2, (u > 1 - self.jump / 2) & (base > 0)
        return torch.cat([spk, base + up.to(base) - down.to(base)])

    def log_prob(self, spk: Tensor) -> Tensor:
        """log q of counts (S, K), float64."""
        of_rates = torch.stack(
            [(spk * rate.log() - rate - torch.lgamma(spk + 1)).double().sum(-1)
             for rate in self.rates]
        )  # fmt: skip
        far = torch.logsumexp(of_rates, 0) - math.log(len(self.rates))
        if not len(self.centres):
            return far
        near = torch.logsumexp(
            torch.stack([self._about(centre, spk) for centre in self.centres]), 0
        ) - math.log(len(self.centres))
        return torch.logaddexp(far + math.log(1 - NEAR), near + math.log(NEAR))

    def refine(self, spk: Tensor, log_weight: Tensor) -> None:
        """Take codes that had the weight as centres of the next round."""
        chosen = torch.multinomial(
            torch.softmax(log_weight, 0), CENTRES, replacement=True, generator=self._generator()
        )
        self.centres = spk[chosen].unique(dim=0)

    def _about(self, centre: Tensor, spk: Tensor) -> Tensor:
        """log of the probability of a step from a centre to counts, (S,)."""
        step = (spk - centre).double()
        stay = torch.where(centre > 0, 1 - self.jump, 1 - self.jump / 2).double().log()
        moved = torch.where(step.abs() == 1, math.log(self.jump / 2), -math.inf)
        return torch.where(step == 0, stay, moved).sum(-1)

    def _generator(self) -> torch.Generator | None:
        return source(None, self.rates.device)


def _rates_over_time(model: BaseModel, x: Tensor, num_steps: int) -> Iterator[Tensor]:
    """For each sample the rates of timesteps after ``num_steps``, four apart, (J, K)."""
    require_integer(num_steps, "num_steps")
    require_float(x, "x")
    for part in x.split(ROWS):
        state = model.run(part, num_steps, record=()).state
        out = model.run(part, 4 * PROPOSED, record=("mem",), every=4, state=state)
        yield from out.mem.exp().unbind(1)


@torch.no_grad()
def code_rates(
    model: BaseModel, x: Tensor, num_steps: int = SETTLED, seed: int | None = None
) -> Tensor:
    """Rates of settled codes, (B, K): e^u averaged over the timesteps after ``num_steps``."""
    require_integer(num_steps, "num_steps")
    require_float(x, "x")
    found = []
    with eval_mode(model), model.seeded(seed):
        for part in x.split(ROWS):
            state = model.run(part, num_steps, record=()).state
            out = model.run(part, AVERAGED, record=("mem",), state=state)
            found.append(out.mem.exp().mean(0))
    return torch.cat(found)


@torch.no_grad()
def interpolate(
    model: BaseModel, a: Tensor, b: Tensor, points: int = 8, *, num_steps: int = SETTLED,
    seed: int | None = None,
) -> Tensor:  # fmt: skip
    """What lies between inputs: reconstructions from log rates on the straight line between theirs.

    Args:
        model: trained.
        a, b: (B, M) each.
        points: P, the ends included.
        num_steps, seed: of the inference.

    Returns:
        (P, B, M).

    Raises:
        TypeError, ValueError: another model, different shapes, fewer than two points.
    """
    _require_counts(model)
    require_integer(points, "points", least=2)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    first, last = (code_rates(model, x, num_steps, seed).log() for x in (a, b))
    share = torch.linspace(0, 1, points).to(first).view(-1, 1, 1)
    return model.decode(torch.lerp(first, last, share).exp())


def _labels(labels: Any, x: Tensor) -> Tensor:
    """Labels (N,) as int64; zeros where there are none."""
    require_float(x, "x")
    require_finite(x, "x")
    if labels is None:
        return torch.zeros(len(x), dtype=torch.int64)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be a tensor of integers, got {labels!r}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape ({len(x)},), got {tuple(labels.shape)}")
    return labels.to(torch.int64).cpu()
