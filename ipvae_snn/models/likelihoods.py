"""Likelihoods: what a reconstruction explains of an input, and what it leaves.

Each is the law of an input x, (B, M), given the decoder's output η, (B, M): its ``nll`` in nats,
its ``score`` ∂ log p / ∂η, which becomes a current by the decoder's transposed Jacobian, its
``curvature`` −∂² log p / ∂η², which the variance of counts costs, and its ``mean`` E[x | η]. The
linear Gaussian model does not come here: it has a quadratic form.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_flag, require_integer
from ipvae_snn._utils.registry import Recorded, Registry


class Likelihood(Recorded, nn.Module):
    """The law of an input given the output of a decoder; a subclass gives ``nll`` and ``mean``."""

    @abstractmethod
    def nll(self, x: Tensor, eta: Tensor) -> Tensor:
        """−log p(x | η), summed over pixels, in nats; (B, M) each to (B,)."""

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


LIKELIHOODS: Registry[Likelihood] = Registry("likelihood", Likelihood)
"""Likelihoods that files can name."""


@LIKELIHOODS.register("gaussian")
class Gaussian(Likelihood):
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
    tensor([4.2568], grad_fn=<AddBackward0>)
    """

    raw_log_scale: Tensor | None

    def __init__(self, in_features: int, learn_scale: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        in_features = require_integer(in_features, "in_features")
        learned = require_flag(learn_scale, "learn_scale")
        self.register_parameter("raw_log_scale", F.raw_log_scale(in_features, learned, scale))

    @property
    def log_scale(self) -> Tensor | None:
        raw = self.raw_log_scale
        return None if raw is None else F.bound_log_scale(raw)

    def nll(self, x: Tensor, eta: Tensor) -> Tensor:
        return F.gaussian_nll(x - eta, self.log_scale)

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


@LIKELIHOODS.register("bernoulli")
class Bernoulli(Likelihood):
    r"""Binary pixels, or grey ones in [0, 1] taken as probabilities: log odds η.

    .. math::
        −\log p = Σ_i \log(1 + e^{η_i}) − x_i η_i, \quad
        \frac{∂ \log p}{∂ η_i} = x_i − \frac{1}{1 + e^{−η_i}}

    Source: Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix C.1.

    >>> Bernoulli().nll(torch.ones(1, 3), torch.zeros(1, 3))  # 3 log 2
    tensor([2.0794])
    """

    def nll(self, x: Tensor, eta: Tensor) -> Tensor:
        return (nn.functional.softplus(eta) - x * eta).sum(-1)

    def score(self, x: Tensor, eta: Tensor) -> Tensor:
        return x - torch.sigmoid(eta)

    def curvature(self, x: Tensor, eta: Tensor) -> Tensor:
        p = torch.sigmoid(eta)
        return p * (1 - p)

    def mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)
