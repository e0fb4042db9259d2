"""Likelihoods: what a reconstruction explains of an input, and what it leaves.

Each is the law of an input x, (B, M), given the decoder's output η, (B, M): its ``nll`` in nats,
its ``score`` ∂ log p / ∂η, which becomes a current by the decoder's transposed Jacobian, its
``curvature`` −∂² log p / ∂η², which the variance of counts costs, and its ``mean`` E[x | η]. The
linear Gaussian model does not come here: it has a quadratic form.

Where −log p is quadratic in the counts, as for the Gaussian under a linear decoder, the estimator
``midpoint`` is unbiased. Elsewhere the gradient that it gives of the expected NLL is off, the more
the more a single spike changes η. By sums over all counts, at rates from 0.1 to 2, a change of 0.5
(1.0) makes it off by at most 0.5% (2%) for Bernoulli pixels, 4% (8%) for negative binomial counts,
and 3% (22%) for Student's t with ν = 4; for Poisson counts the part e^η of the score is weighed by
(φ / 2) coth (φ / 2), with the change φ: 2% (8%) too much.
"""

import inspect
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_flag, require_integer, require_number
from ipvae_snn._utils.registry import Recorded, Registry
from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels.sampler import poisson
from ipvae_snn.models.residual import pixel_noise

LARGEST_LOG_RATE = 30.0
"""Nats, beyond which the log rate of counts is taken for this: e^η stays a number of float32."""


class Likelihood(Recorded, nn.Module):
    """The law of an input given the output of a decoder; a subclass gives ``nll`` and ``mean``.

    One whose pixels are independent given η gives ``each`` in place of ``nll``, as
    :class:`OfPixels`: inputs may then lack values.
    """

    @abstractmethod
    def nll(self, x: Tensor, eta: Tensor) -> Tensor:
        """−log p(x | η), summed over pixels, in nats; (B, M) each to (B,)."""

    def require(self, x: Tensor) -> None:
        """Raise ``ValueError`` unless x are inputs that this law can have; default: any."""

    def draw(self, eta: Tensor) -> Tensor:
        """x ~ p(x | η), shape of η, from the generator of the present block; without a graph."""
        raise TypeError(f"{type(self).__name__} does not say how to draw: give it a method draw")

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """E[x | η], shape of η."""

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        """∂ log p / ∂η, (B, M), differentiable; default by autograd of ``nll``."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            eta = eta if eta.requires_grad else eta.detach().requires_grad_()
            nll = self.nll(x, eta).sum()
            (slope,) = torch.autograd.grad(nll, eta, create_graph=learning)
        return -slope

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        """−∂² log p / ∂η² of each pixel, (B, M); default by autograd of ``score``."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            eta = eta if eta.requires_grad else eta.detach().requires_grad_()
            score = self.score(x, eta).sum()
            (slope,) = torch.autograd.grad(score, eta, create_graph=learning)
        return -slope


class OfPixels(Likelihood):
    """A likelihood of pixels that are independent given η; a subclass gives ``each``, ``mean``."""

    @abstractmethod
    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        """−log p of each pixel, in nats, (B, M)."""

    def nll(self, x: Tensor, eta: Tensor) -> Tensor:
        return self.each(x, eta).sum(-1)


class Scaled(OfPixels):
    """A likelihood whose pixels have a scale σ each, learned or fixed."""

    raw_log_scale: Tensor | None

    def _make_scale(self, in_features: int, learn_scale: bool, scale: float) -> None:
        in_features = require_integer(in_features, "in_features")
        learned = require_flag(learn_scale, "learn_scale")
        self.register_parameter("raw_log_scale", F.raw_log_scale(in_features, learned, scale))

    @property
    def log_scale(self) -> Tensor | None:
        """log σ of each pixel, (M,); ``None`` where σ = 1 stays."""
        raw = self.raw_log_scale
        return None if raw is None else F.bound_log_scale(raw)


def _require_values(x: Tensor, right: Tensor, likelihood: Likelihood, expected: str) -> None:
    if not bool(right.all()):
        wrong = float(x[~right].flatten()[0])
        raise ValueError(
            f"{type(likelihood).__name__} is a law of {expected}, got x with {wrong:g}"
        )


def _generator(like: Tensor) -> torch.Generator | None:
    return source(None, like.device)


def _gamma(shape: Tensor) -> Tensor:
    """Draws of Gamma(shape, 1)."""
    return torch._standard_gamma(shape, generator=_generator(shape))


LIKELIHOODS: Registry[Likelihood] = Registry("likelihood", Likelihood)
"""Likelihoods that files can name."""


@LIKELIHOODS.register("gaussian")
class Gaussian(Scaled):
    r"""x ~ N(η, σ²), σ per pixel, learned or fixed.

    .. math::
        −\log p = Σ_i \frac{(x_i − η_i)^2}{2 σ_i^2} + \log σ_i + ½ \log 2π, \quad
        \frac{∂ \log p}{∂ η_i} = \frac{x_i − η_i}{σ_i^2}

    Args:
        in_features: M.
        learn_scale: learn log σ, bounded by :func:`~ipvae_snn.functional.bound_log_scale`.
        scale: σ before it has learned.

    Source: arXiv 2410.19315, where the decoder is linear.

    >>> gaussian = Gaussian(3)  # σ = 1 before it has learned
    >>> gaussian.nll(torch.ones(1, 3), torch.zeros(1, 3))
    tensor([4.2568], grad_fn=<SumBackward1>)
    """

    def __init__(self, in_features: int, learn_scale: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self._make_scale(in_features, learn_scale, scale)

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        log_scale, square = self.log_scale, (x - eta).square()
        if log_scale is not None:
            square = square * torch.exp(-2 * log_scale) + 2 * log_scale
        return 0.5 * square + 0.5 * math.log(2 * math.pi)

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        log_scale = self.log_scale
        return x - eta if log_scale is None else (x - eta) * torch.exp(-2 * log_scale)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        log_scale = self.log_scale
        return (
            torch.ones_like(eta) if log_scale is None else torch.exp(-2 * log_scale).expand_as(eta)
        )

    def mean(self, eta: Tensor) -> Tensor:
        return eta

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        return eta + pixel_noise(eta, self.log_scale)


@LIKELIHOODS.register("student-t")
class StudentT(Scaled):
    r"""x = η + σ t, t of Student's t: pixels that are off by much now and then count less.

    .. math::
        −\log p = Σ_i \frac{ν + 1}{2} \log\Big(1 + \frac{r_i^2}{ν σ_i^2}\Big) + \log σ_i + c, \quad
        \frac{∂ \log p}{∂ η_i} = \frac{(ν + 1) r_i}{ν σ_i^2 + r_i^2}, \quad r = x − η

    Its curvature is negative where |r| > σ √ν: such pixels are taken for outliers.

    Args:
        in_features: M.
        freedom: ν > 0, degrees of freedom; the larger, the nearer to the Gaussian. The mean of x is
            η for ν > 1.
        learn_scale: learn log σ, bounded by :func:`~ipvae_snn.functional.bound_log_scale`.
        scale: σ before it has learned.

    Source: Lange, Little & Taylor, Robust statistical modeling using the t distribution, 1989.

    >>> StudentT(3, freedom=1, learn_scale=False).nll(torch.ones(1, 3), torch.zeros(1, 3))
    tensor([5.5136])
    """

    def __init__(
        self, in_features: int, freedom: float = 4.0, learn_scale: bool = True, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.freedom = require_number(freedom, "freedom", 1e-3, 1e6)
        self._make_scale(in_features, learn_scale, scale)

    def _variance(self) -> Tensor | float:
        return 1.0 if self.log_scale is None else torch.exp(2 * self.log_scale)

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        n, log_scale = self.freedom, self.log_scale
        constant = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(n * math.pi) / 2
        energy = (n + 1) / 2 * torch.log1p((x - eta).square() / (n * self._variance()))
        return energy - constant if log_scale is None else energy + log_scale - constant

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        r = x - eta
        return (self.freedom + 1) * r / (self.freedom * self._variance() + r.square())

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        square, wide = (x - eta).square(), self.freedom * self._variance()
        return (self.freedom + 1) * (wide - square) / (wide + square).square()

    def mean(self, eta: Tensor) -> Tensor:
        return eta

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        noise = pixel_noise(eta, self.log_scale)
        chi_square = 2 * _gamma(torch.full_like(eta, self.freedom / 2))
        return eta + noise * (self.freedom / chi_square).sqrt()


@LIKELIHOODS.register("bernoulli")
class Bernoulli(OfPixels):
    r"""Binary pixels, or grey ones in [0, 1] taken as probabilities: log odds η.

    .. math::
        −\log p = Σ_i \log(1 + e^{η_i}) − x_i η_i, \quad
        \frac{∂ \log p}{∂ η_i} = x_i − \frac{1}{1 + e^{−η_i}}

    Source: Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix C.1.

    >>> Bernoulli().nll(torch.ones(1, 3), torch.zeros(1, 3))  # 3 log 2
    tensor([2.0794])
    """

    def require(self, x: Tensor) -> None:
        _require_values(x, (x >= 0) & (x <= 1), self, "values from 0 to 1")

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        return nn.functional.softplus(eta) - x * eta

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return x - torch.sigmoid(eta)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        p = torch.sigmoid(eta)
        return p * (1 - p)

    def mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        return torch.bernoulli(torch.sigmoid(eta), generator=_generator(eta))


class Counts(OfPixels):
    """A likelihood of counts whose mean is e^η."""

    def require(self, x: Tensor) -> None:
        _require_values(x, x >= 0, self, "counts, which are at least 0")

    def mean(self, eta: Tensor) -> Tensor:
        return eta.clamp(max=LARGEST_LOG_RATE).exp()


@LIKELIHOODS.register("poisson")
class Poisson(Counts):
    r"""Counts, such as events, photons or spikes, of log rate η.

    .. math::
        −\log p = Σ_i e^{η_i} − x_i η_i + \log x_i!, \quad
        \frac{∂ \log p}{∂ η_i} = x_i − e^{η_i}

    Source: McCullagh & Nelder, Generalized Linear Models, 1989, chapter 6.

    >>> Poisson().nll(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))  # 2 + log 2
    tensor([2.6931])
    """

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        return self.mean(eta) - x * eta + torch.lgamma(x + 1)

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return x - self.mean(eta)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        return self.mean(eta)

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        return poisson(self.mean(eta))


@LIKELIHOODS.register("negative-binomial")
class NegativeBinomial(Counts):
    r"""Counts that vary more than Poisson counts of the same mean e^η: variance μ + μ² / r.

    .. math::
        −\log p = Σ_i (x_i + r_i) \log\Big(1 + \frac{e^{η_i}}{r_i}\Big) − x_i (η_i − \log r_i)
        + \log \frac{Γ(r_i)\, x_i!}{Γ(x_i + r_i)}, \quad
        \frac{∂ \log p}{∂ η_i} = x_i − (x_i + r_i) \frac{e^{η_i}}{r_i + e^{η_i}}

    Args:
        in_features: M.
        dispersion: r > 0 of every pixel before it has learned; the larger, the nearer to Poisson.
        learn_dispersion: learn log r of each pixel; otherwise it stays.

    Source: McCullagh & Nelder, Generalized Linear Models, 1989, section 6.2.

    >>> law = NegativeBinomial(2, dispersion=1.0)  # geometric: p = 1 / 2 for a mean of 1
    >>> law.nll(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)) / math.log(2)
    tensor([4.], grad_fn=<DivBackward0>)
    """

    def __init__(
        self, in_features: int, dispersion: float = 1.0, learn_dispersion: bool = True
    ) -> None:
        super().__init__()
        in_features = require_integer(in_features, "in_features")
        dispersion = require_number(dispersion, "dispersion", 1e-3, 1e3)
        learned = require_flag(learn_dispersion, "learn_dispersion")
        value = torch.full((in_features,), math.log(dispersion))
        self.log_dispersion = nn.Parameter(value, requires_grad=learned)
        """log r of each pixel."""

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        r, log_odds = self.log_dispersion.exp(), eta - self.log_dispersion
        normalizer = torch.lgamma(r) + torch.lgamma(x + 1) - torch.lgamma(x + r)
        return (x + r) * nn.functional.softplus(log_odds) - x * log_odds + normalizer

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return x - (x + self.log_dispersion.exp()) * torch.sigmoid(eta - self.log_dispersion)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        p = torch.sigmoid(eta - self.log_dispersion)
        return (x + self.log_dispersion.exp()) * p * (1 - p)

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        r: Tensor = self.log_dispersion.exp()
        return poisson(self.mean(eta) / r * _gamma(r.expand_as(eta)))


@LIKELIHOODS.register("categorical")
class Categorical(OfPixels):
    r"""Labels, one of C, as rows of zeros with a one: logits η. Also counts of C kinds.

    .. math::
        −\log p = −Σ_c x_c \log p_c, \quad p = \text{softmax}(η), \quad
        \frac{∂ \log p}{∂ η_c} = x_c − n p_c, \quad n = Σ_c x_c

    The curvature is n p (1 − p), the diagonal of the second derivatives.

    Args:
        labels: C; the M values are one or several groups of so many.

    Source: McCullagh & Nelder, Generalized Linear Models, 1989, chapter 5.

    >>> x = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    >>> Categorical(4).nll(x, torch.zeros(1, 4))  # log 4
    tensor([1.3863])
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = require_integer(labels, "labels", least=2)

    def require(self, x: Tensor) -> None:
        _require_values(x, x >= 0, self, "labels as ones among zeros, or counts")

    def _groups(self, values: Tensor) -> Tensor:
        """(B, M) as (B, groups, C)."""
        if values.shape[-1] % self.labels:
            raise ValueError(
                f"Categorical of {self.labels} labels needs M a multiple of that, got M = "
                f"{values.shape[-1]}"
            )
        groups: Tensor = values.unflatten(-1, (-1, self.labels))
        return groups

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        return -x * self._groups(eta).log_softmax(-1).flatten(-2)

    def _expected(self, x: Tensor, p: Tensor) -> Tensor:
        return (self._groups(x).sum(-1, keepdim=True) * self._groups(p)).flatten(-2)

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return x - self._expected(x, self.mean(eta))

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        p = self.mean(eta)
        return self._expected(x, p) * (1 - p)

    def mean(self, eta: Tensor) -> Tensor:
        return self._groups(eta).softmax(-1).flatten(-2)

    @torch.no_grad()
    def draw(self, eta: Tensor) -> Tensor:
        p = self._groups(eta).softmax(-1)
        label = torch.multinomial(p.flatten(0, -2), 1, generator=_generator(eta))
        drawn = torch.zeros_like(p).flatten(0, -2).scatter(-1, label, 1.0)
        return drawn.view_as(eta)


@LIKELIHOODS.register("joint")
class Joint(OfPixels):
    """Values of several kinds side by side, such as pixels and a label, independent given η.

    Args:
        parts: one dictionary for each kind, in order: ``name`` in ``LIKELIHOODS``, ``size``, how
            many of the M values it has, and the options of the likelihood.

    >>> law = Joint([{"name": "bernoulli", "size": 6}, {"name": "categorical", "size": 3}])
    >>> law.mean(torch.zeros(1, 9))[0, -4:]
    tensor([0.5000, 0.3333, 0.3333, 0.3333])
    """

    def __init__(self, parts: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.sizes: list[int] = []
        laws: list[Likelihood] = []
        for part in parts:
            if not isinstance(part, dict) or not {"name", "size"} <= part.keys():
                raise TypeError(
                    f"a part of Joint must be a dictionary with name and size, got {part!r}"
                )
            options = {key: value for key, value in part.items() if key != "size"}
            self.sizes.append(require_integer(part["size"], "size"))
            taken = inspect.signature(LIKELIHOODS.find(part["name"])).parameters
            for name in ("in_features", "labels"):  # arguments that are a number of values
                if name in taken:
                    options.setdefault(name, self.sizes[-1])
            laws.append(LIKELIHOODS.from_config(options))
        if not laws:
            raise ValueError("Joint needs at least one part")
        if not all(isinstance(law, OfPixels) for law in laws):
            raise TypeError(
                "the parts of Joint must be likelihoods of pixels, subclasses of OfPixels"
            )
        self.laws = nn.ModuleList(laws)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        if values.shape[-1] != sum(self.sizes):
            raise ValueError(
                f"Joint has parts of {' + '.join(map(str, self.sizes))} values, got "
                f"{values.shape[-1]}"
            )
        parts: tuple[Tensor, ...] = values.split(self.sizes, -1)
        return parts

    def _joined(self, method: str, *values: Tensor) -> Tensor:
        pairs = zip(self.laws, *(self._split(value) for value in values), strict=True)
        return torch.cat([getattr(law, method)(*part) for law, *part in pairs], -1)

    def require(self, x: Tensor) -> None:
        for law, part in zip(self.laws, self._split(x), strict=True):
            law.require(part)  # type: ignore[operator]

    def each(self, x: Tensor, eta: Tensor) -> Tensor:
        return self._joined("each", x, eta)

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return self._joined("score", x, eta)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        return self._joined("curvature", x, eta)

    def mean(self, eta: Tensor) -> Tensor:
        return self._joined("mean", eta)

    def draw(self, eta: Tensor) -> Tensor:
        return self._joined("draw", eta)
