"""Between amortised and iterative inference: estimates refined by a network or by gradients."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_number
from ipvae_snn._utils.settings import number
from ipvae_snn.baselines.encoders import make_encoder
from ipvae_snn.baselines.gaussian_code import (
    LOG_STD_BOUND,
    GaussianBaseline,
    bound,
    normal_like,
    standard_kl,
)
from ipvae_snn.models.base import MODELS
from ipvae_snn.models.generative import DecodedLikelihood
from ipvae_snn.models.likelihoods import Likelihood
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.poisson import LARGEST

MEAN_LIMIT, LOG_STD_LIMIT = 30.0, 3.0
MAX_GRADIENT_NORM = 5.0


class _Refined(GaussianBaseline):
    """``mem`` is (μ, ξ, ε): the next timestep uses the gradient at the draw with noise ε."""

    def shared(self) -> Callable[[Tensor, Tensor], Tensor]:
        """−∂NLL/∂z at codes z, from what :meth:`given` keeps of an input."""
        if self.likelihood is not None:
            decoded = DecodedLikelihood(self.decoder, self.likelihood)
            return lambda x, spk: decoded.given(x).feedback(spk).current
        gram = F.gram(self.weight, self.log_scale)
        return lambda drive, spk: drive - spk @ gram

    def given(self, x: Tensor) -> Tensor:
        """x, or of the linear Gaussian model the drive d."""
        return F.drive(x, self.weight, self.log_scale) if self.likelihood is None else x

    def draw(self, mean: Tensor, log_std: Tensor) -> tuple[State, Tensor]:
        """The state after a new draw, and KL(q ‖ N(0, 1)), (B,)."""
        noise = normal_like(mean)
        code = self.code(mean + log_std.exp() * noise)
        return State(code, torch.cat([mean, log_std, noise], -1)), standard_kl(mean, log_std)

    def gradient(self, current: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """(∂NLL/∂μ, ∂NLL/∂ξ) at the last draw: −current, and the same times ε s."""
        mean, log_std, noise = state.mem.tensor_split(3, -1)
        spread = noise * log_std.exp()
        by_mean = -self.through_code(current, mean + spread)
        return by_mean, by_mean * spread


@MODELS.register("iterative-amortised-vae")
class IterativeAmortisedVAE(_Refined):
    r"""A network that refines its estimate from the input, the estimate and the gradient.

    .. math::
        (m, n, g, h) &= network(x, μ_{t−1}, ξ_{t−1}, norm(∇_μ NLL), norm(∇_ξ NLL)) \\
        μ_t &= σ(g) μ_{t−1} + (1 − σ(g)) m, \quad ξ_t = σ(h) ξ_{t−1} + (1 − σ(h)) n

    and z ~ N(μ_t, e^{2ξ_t}), prior N(0, 1), starting from the prior. The inputs of the network are
    detached: no gradient flows from one refinement to the previous one, so that each is trained to
    improve the estimate it starts from. The KL of every timestep is the full KL to the prior.

    Args:
        in_features, latents, init_std: as in :class:`GaussianBaseline`.
        relu: rectified draws: the code is gain · max(z, 0), with a learned gain per neuron.
        width: neurons per hidden layer of the network.

    Source: Marino, Yue & Mandt, Iterative Amortized Inference, ICML 2018 (gradient encoding with
    the data, normalised inputs, gated updates), with a linear decoder.

    >>> model = IterativeAmortisedVAE(in_features=16, latents=8, width=32)
    >>> model.run(torch.rand(5, 16), num_steps=4, record="kl").kl.shape
    torch.Size([4, 5])
    """

    recipe: ClassVar[Mapping[str, Any]] = {"steps": 8, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        width: int = 512,
        relu: bool = False,
        init_std: float = 1e-2,
    ) -> None:
        super().__init__(in_features, latents, relu=relu, init_std=init_std)
        self.norms = nn.ModuleList(nn.LayerNorm(latents) for _ in range(2))
        self.network = make_encoder("mlp", in_features + 4 * latents, 4 * latents, width=width)

    def sense(self, x: Tensor) -> Tensor:
        """x and the drive d."""
        return torch.cat([x, self.given(x)], -1)

    def start(self, sensed: Tensor) -> State:
        zero = sensed.new_zeros(len(sensed), 3 * self.latents)
        return State(self.code(zero[:, : self.latents]), zero)

    def advance(
        self, sensed: Tensor, state: State, shared: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[State, Tensor]:
        x, drive = sensed.split([self.in_features, self.latents], -1)
        state = State(*(part.detach() for part in state))
        gradients = self.gradient(shared(drive, state.spk).detach(), state)
        normed = (norm(g) for norm, g in zip(self.norms, gradients, strict=True))
        estimate = state.mem[:, : 2 * self.latents]
        update, gate = self.network(torch.cat([x, estimate, *normed], -1)).tensor_split(2, -1)
        mean, log_std = estimate.lerp(update, torch.sigmoid(-gate)).tensor_split(2, -1)
        return self.draw(mean, bound(log_std, LOG_STD_BOUND))


@MODELS.register("semi-amortised-vae")
class SemiAmortisedVAE(_Refined):
    r"""An encoder's estimate, refined by gradient descent on the free energy; learns through both.

    .. math::
        (μ_0, ξ_0) = encoder(x), \quad
        (μ, ξ)_t = (μ, ξ)_{t−1} − step · clip_5(∇_{μ, ξ} [NLL + β KL])

    z ~ N(μ_t, e^{2ξ_t}), prior N(0, 1). Each sample's gradient is clipped to norm 5; the step
    sizes of μ and ξ are learned. The first timestep draws from the encoder's estimate itself.

    Args:
        in_features, latents, init_std, decoder, likelihood: as in :class:`Baseline`.
        relu: rectified draws: the code is gain · max(z, 0), with a learned gain per neuron.
        encoder, width, image_shape: as in :class:`~ipvae_snn.baselines.GaussianVAE`.
        beta: β of the gradient descent; use the β of training.
        step: initial step size.

    Source: Kim, Wiseman, Miller, Sontag & Rush, Semi-Amortized Variational Autoencoders, ICML 2018.
    There the loss is that of the last timestep; here, as in all models of this package, the mean
    over all timesteps.

    >>> model = SemiAmortisedVAE(in_features=16, latents=8, encoder="linear")
    >>> model.run(torch.rand(5, 16), num_steps=4, record="kl").kl.shape
    torch.Size([4, 5])
    """

    recipe: ClassVar[Mapping[str, Any]] = {"steps": 8, "beta": 1.0, "lr": 2e-3, "beta_ramp": 0.3}

    beta: float = number(0.0)

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        encoder: str = "mlp",
        beta: float = 1.0,
        step: float = 0.01,
        relu: bool = False,
        init_std: float = 1e-2,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        **encoder_options: Any,
    ) -> None:
        parts: Any = {"decoder": decoder, "likelihood": likelihood}
        super().__init__(in_features, latents, relu=relu, init_std=init_std, **parts)
        self.encoder = make_encoder(encoder, in_features, 2 * latents, **encoder_options)
        self.beta = beta
        self.log_step = nn.Parameter(
            torch.full((2,), require_number(step, "step", least=1e-6, most=LARGEST)).log()
        )

    def sense(self, x: Tensor) -> Tensor:
        """The encoder's (μ, ξ), and what is given."""
        mean, log_std = self.encoder(x).tensor_split(2, -1)
        return torch.cat([mean, bound(log_std, LOG_STD_BOUND), self.given(x)], -1)

    def start(self, sensed: Tensor) -> State:
        """An empty ``mem``, by which the first timestep knows to draw from the estimate."""
        mean = sensed[:, : self.latents]
        return State(self.code(mean), mean[:, :0])

    def advance(
        self, sensed: Tensor, state: State, shared: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[State, Tensor]:
        if not state.mem.shape[-1]:
            return self.draw(*sensed[:, : 2 * self.latents].tensor_split(2, -1))
        mean, log_std, _ = state.mem.tensor_split(3, -1)
        current = shared(sensed[:, 2 * self.latents :], state.spk)
        by_mean, by_log_std = self.gradient(current, state)
        by_mean = by_mean + self.beta * mean
        by_log_std = by_log_std + self.beta * torch.expm1(2 * log_std)
        norm = torch.cat([by_mean, by_log_std], -1).norm(dim=-1, keepdim=True)
        clip = (MAX_GRADIENT_NORM / norm.clamp(min=1e-12)).clamp(max=1)
        mean_step, log_std_step = self.log_step.exp()
        return self.draw(
            bound(mean - mean_step * clip * by_mean, MEAN_LIMIT),
            bound(log_std - log_std_step * clip * by_log_std, LOG_STD_LIMIT),
        )
