"""Amortised inference: one pass of an encoder; all timesteps draw from the same posterior."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn.baselines.base import Baseline
from ipvae_snn.baselines.encoders import make_encoder
from ipvae_snn.baselines.gaussian_code import (
    LOG_STD_BOUND,
    GaussianBaseline,
    bound,
    normal_like,
    standard_kl,
)
from ipvae_snn.models.base import MODELS
from ipvae_snn.models.likelihoods import Likelihood
from ipvae_snn.neurons.base import State
from ipvae_snn.surrogate import midpoint, require_estimator

LOG_RATE_CLAMP = 5.0
"""Upper bound of log rates, as in an IPVAE."""


@MODELS.register("gaussian-vae")
class GaussianVAE(GaussianBaseline):
    r"""Variational autoencoder: (μ, ξ) = encoder(x), z ~ N(μ, e^{2ξ}), prior N(0, 1).

    Timesteps are independent draws from one posterior; train with ``steps=1``. The KL of every
    timestep is the full KL to the prior, so that ``beta=1`` gives the evidence lower bound.

    Args:
        in_features, latents, init_std, decoder, likelihood: as in :class:`Baseline`.
        relu: rectified draws: the code is gain · max(z, 0), with a learned gain per neuron.
        encoder: ``"linear"``, ``"mlp"`` or ``"conv"``. Its ``width`` and ``image_shape`` are as in
            :func:`~ipvae_snn.baselines.encoders.make_encoder`.

    Source: Kingma & Welling 2014; Rezende et al. 2014.

    >>> model = GaussianVAE(in_features=16, latents=8, encoder="mlp", width=32)
    >>> model.run(torch.rand(5, 16), num_steps=1).kl.shape
    torch.Size([1, 5])
    """

    recipe: ClassVar[Mapping[str, Any]] = {"steps": 1, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        encoder: str = "mlp",
        relu: bool = False,
        init_std: float = 1e-2,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        **encoder_options: Any,
    ) -> None:
        parts: Any = {"decoder": decoder, "likelihood": likelihood}
        super().__init__(in_features, latents, relu=relu, init_std=init_std, **parts)
        self.encoder = make_encoder(encoder, in_features, 2 * latents, **encoder_options)

    def sense(self, x: Tensor) -> Tensor:
        """(μ, ξ) of the encoder, ξ inside ±2."""
        mean, log_std = self.encoder(x).tensor_split(2, -1)
        return torch.cat([mean, bound(log_std, LOG_STD_BOUND)], -1)

    def start(self, sensed: Tensor) -> State:
        return State(self.code(sensed[:, : self.latents]), sensed)

    def advance(self, sensed: Tensor, state: State, shared: None) -> tuple[State, Tensor]:
        mean, log_std = sensed.tensor_split(2, -1)
        z = mean + log_std.exp() * normal_like(mean)
        return State(self.code(z), sensed), standard_kl(mean, log_std)


@MODELS.register("poisson-vae")
class PoissonVAE(Baseline):
    r"""P-VAE: u = u₀ + encoder(x), z ~ Poisson(e^u), prior Poisson(e^{u₀}).

    The encoder gives the log of the factor between the rates and those of the prior; the KL is
    :func:`~ipvae_snn.functional.poisson_kl`. Timesteps are independent draws, as in
    :class:`GaussianVAE`.

    Args:
        in_features, latents, init_std, decoder, likelihood: as in :class:`Baseline`.
        encoder, width, image_shape: as in :class:`GaussianVAE`.
        spike_grad: estimator of the gradient through counts; default ``midpoint()``.

    Source: Vafaii, Galor & Yates, Poisson Variational Autoencoder, NeurIPS 2024.

    >>> model = PoissonVAE(in_features=16, latents=8, encoder="linear")
    >>> model.run(torch.rand(5, 16), num_steps=1, record="mem").mem.shape
    torch.Size([1, 5, 8])
    """

    recipe: ClassVar[Mapping[str, Any]] = {"steps": 1, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        encoder: str = "mlp",
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        init_std: float = 1e-2,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        **encoder_options: Any,
    ) -> None:
        super().__init__(
            in_features, latents, init_std=init_std, decoder=decoder, likelihood=likelihood
        )
        self.encoder = make_encoder(encoder, in_features, latents, **encoder_options)
        self.mem_init = nn.Parameter(torch.empty(latents).uniform_(-3, -2))
        self.spike_grad = midpoint() if spike_grad is None else spike_grad

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "spike_grad":
            require_estimator(value, self.mem_init)
            if not isinstance(value, nn.Module):
                self._modules.pop(name, None)  # else PyTorch takes modules only after a module
        super().__setattr__(name, value)

    emits_counts, clamp = True, LOG_RATE_CLAMP

    def sense(self, x: Tensor) -> Tensor:
        """u, the log rates."""
        return F.soft_clamp(self.mem_init + self.encoder(x), LOG_RATE_CLAMP)

    def start(self, sensed: Tensor) -> State:
        return State(torch.zeros_like(sensed), sensed)

    def advance(self, sensed: Tensor, state: State, shared: None) -> tuple[State, Tensor]:
        sample = getattr(self.spike_grad, "sample", self.spike_grad)
        spk = self.spike_grad(sensed) if self.training else sample(sensed)
        return State(spk, sensed), F.poisson_kl(sensed, self.mem_init).sum(-1)

    def mean_code(self, mem: Tensor) -> Tensor:
        """The rates e^u."""
        return mem.exp()
