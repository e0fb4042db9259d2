"""iG-VAE and iG-relu-VAE: iterative inference as in the IPVAE, with Gaussian latents."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_number
from ipvae_snn.baselines.gaussian_code import (
    LOG_STD_BOUND,
    GaussianBaseline,
    bound,
    gaussian_kl,
    normal_like,
)
from ipvae_snn.models.base import MODELS
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.poisson import LARGEST

MEAN_BOUND, MEAN_STEP_BOUND = 7.0, 7.0
LOG_STD_STEP_BOUND = 3.0


@MODELS.register("igvae")
class IGVAE(GaussianBaseline):
    r"""The iterative Gaussian VAE: natural-gradient descent on (μ, ξ), z ~ N(μ, e^{2ξ}).

    With s = e^ξ, the noise ε of the last draw and the current d − zG of an IPVAE,

    .. math::
        μ_t &= bound_7(μ_{t−1} + bound_7(α_μ s^2 g)), \quad g = ∂(−NLL)/∂z − b \\
        ξ_t &= bound_2(ξ_{t−1} + bound_3(½ α_ξ g ε s)) \\
        z_t &= μ_t + e^{ξ_t} ε_t

    bound_c(v) = c tanh(v / c). The prior of a timestep is the posterior of the previous one, as in
    the IPVAE. With ``relu=True``, iG-relu-VAE, the code is gain · max(z, 0), with a learned gain
    per neuron.

    Args:
        in_features, latents, init_std: as in :class:`~ipvae_snn.baselines.base.Baseline`.
        relu: rectified draws: the code is gain · max(z, 0), with a learned gain per neuron.
        step: initial step size α of μ and ξ.

    Source: arXiv 2410.19315, the Gaussian variants; the Fisher information of N(μ, s²) is 1/s² for
    μ and 2 for ξ.

    >>> model = IGVAE(in_features=16, latents=8)
    >>> model.run(torch.rand(5, 16), num_steps=3, record=("spk", "kl")).spk.shape
    torch.Size([3, 5, 8])
    """

    recipe: ClassVar[Mapping[str, Any]] = {"beta": 8.0, "lr": 5e-3}

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        relu: bool = False,
        step: float = 0.2,
        init_std: float = 1e-2,
    ) -> None:
        super().__init__(in_features, latents, relu=relu, init_std=init_std)
        self.mem_init = nn.Parameter(torch.zeros(2 * latents))
        self.log_bias = nn.Parameter(torch.full((latents,), -3.0))
        self.log_step = nn.Parameter(
            torch.full((2,), require_number(step, "step", least=1e-6, most=LARGEST)).log()
        )

    def gradient_probe(self) -> nn.Parameter:
        """log b: tonic inhibition affects the NLL through the code alone."""
        return self.log_bias

    def shared(self) -> Tensor:
        return F.gram(self.weight, self.log_scale)

    def sense(self, x: Tensor) -> Tensor:
        """The drive d."""
        return F.drive(x, self.weight, self.log_scale)

    def start(self, sensed: Tensor) -> State:
        """(z, (μ, ξ, ε)) at the initial mean, before any draw."""
        mem = self.mem_init.expand(len(sensed), -1)
        mem = torch.cat([mem, torch.zeros_like(sensed)], -1)
        return State(self.code(mem[:, : self.latents]), mem)

    def advance(self, sensed: Tensor, state: State, shared: Tensor) -> tuple[State, Tensor]:
        mean, log_std, noise = state.mem.tensor_split(3, -1)
        std = log_std.exp()
        current = sensed - state.spk @ shared
        current = self.through_code(current, mean + std * noise) - self.log_bias.exp()
        mean_step, log_std_step = self.log_step.exp()
        mean_change = bound(mean_step * std.square() * current, MEAN_STEP_BOUND)
        new_mean = bound(mean + mean_change, MEAN_BOUND)
        log_std_change = bound(0.5 * log_std_step * current * noise * std, LOG_STD_STEP_BOUND)
        new_log_std = bound(log_std + log_std_change, LOG_STD_BOUND)
        new_noise = normal_like(mean)
        code = self.code(new_mean + new_log_std.exp() * new_noise)
        kl = gaussian_kl(new_mean, new_log_std, mean, log_std).sum(-1)
        return State(code, torch.cat([new_mean, new_log_std, new_noise], -1)), kl
