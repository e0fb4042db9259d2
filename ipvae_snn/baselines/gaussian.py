"""iG-VAE and iG-relu-VAE: the predictive-coding siblings, which infer with Gaussian latents."""

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn.base import State
from ipvae_snn.baselines.base import Baseline

MEAN_BOUND, MEAN_STEP_BOUND = 7.0, 7.0
LOG_STD_BOUND, LOG_STD_STEP_BOUND = 2.0, 3.0


class IGVAE(Baseline):
    r"""The iterative Gaussian VAE: natural-gradient descent on (μ, ξ), z ~ N(μ, e^{2ξ}).

    With s = e^ξ, the noise ε of the last draw and the current d − zG of an IPVAE,

    .. math::
        μ_t &= bound_7(μ_{t−1} + bound_7(α_μ s^2 g)), \quad g = ∂(−NLL)/∂z − b \\
        ξ_t &= bound_2(ξ_{t−1} + bound_3(½ α_ξ g ε s)) \\
        z_t &= μ_t + e^{ξ_t} ε_t

    bound_c(v) = c tanh(v / c). The prior of a timestep is the posterior of the one before, as in
    the IPVAE. With ``relu=True``, iG-relu-VAE, the code is gain · max(z, 0), with a gain learned
    per neuron.

    Source: arXiv 2410.19315, its Gaussian siblings; the Fisher information of N(μ, s²) is 1/s²
    for μ and 2 for ξ.

    >>> model = IGVAE(in_features=16, latents=8)
    >>> model.run(torch.rand(5, 16), num_steps=3, record=("spk", "kl")).spk.shape
    torch.Size([3, 5, 8])
    """

    log_gain: Tensor | None

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        relu: bool = False,
        step: float = 0.2,
        init_std: float = 1e-2,
    ) -> None:
        super().__init__(in_features, latents, init_std=init_std)
        self.mem_init = nn.Parameter(torch.zeros(2 * latents))
        self.log_bias = nn.Parameter(torch.full((latents,), -3.0))
        self.log_step = nn.Parameter(torch.full((2,), step).log())
        self.register_parameter("log_gain", nn.Parameter(torch.zeros(latents)) if relu else None)

    def shared(self) -> Tensor:
        return F.gram(self.weight, self.log_scale)

    def start(self, x: Tensor) -> State:
        """(z, (μ, ξ, ε)) at the initial mean, before any draw."""
        mem = self.mem_init.expand(len(x), -1)
        noise = torch.zeros(len(x), self.latents, dtype=x.dtype, device=x.device)
        return State(self._code(mem.tensor_split(2, -1)[0]), torch.cat([mem, noise], -1))

    def advance(self, x: Tensor, state: State, shared: Tensor) -> tuple[State, Tensor]:
        mean, log_std, noise = state.mem.tensor_split(3, -1)
        std = log_std.exp()
        current = F.drive(x, self.weight, self.log_scale) - state.spk @ shared
        current = self._through_code(current, mean + std * noise) - self.log_bias.exp()
        of_mean, of_log_std = self.log_step.exp()
        new_mean = _bound(
            mean + _bound(of_mean * std.square() * current, MEAN_STEP_BOUND), MEAN_BOUND
        )
        change = _bound(0.5 * of_log_std * current * noise * std, LOG_STD_STEP_BOUND)
        new_log_std = _bound(log_std + change, LOG_STD_BOUND)
        fresh = torch.randn_like(mean)
        code = self._code(new_mean + new_log_std.exp() * fresh)
        kl = gaussian_kl(new_mean, new_log_std, mean, log_std).sum(-1)
        return State(code, torch.cat([new_mean, new_log_std, fresh], -1)), kl

    def mean_code(self, mem: Tensor) -> Tensor:
        """E[z], or, with ``relu``, gain · E[max(z, 0)] = gain · (μ Φ(μ/s) + s φ(μ/s))."""
        mean, log_std, _ = mem.tensor_split(3, -1)
        if self.log_gain is None:
            return mean
        std, normal = log_std.exp(), torch.distributions.Normal(0.0, 1.0)
        ratio = mean / std
        return self.log_gain.exp() * (mean * normal.cdf(ratio) + std * normal.log_prob(ratio).exp())

    def _code(self, z: Tensor) -> Tensor:
        return z if self.log_gain is None else self.log_gain.exp() * z.relu()

    def _through_code(self, current: Tensor, z: Tensor) -> Tensor:
        """What a current on the code is on z."""
        return current if self.log_gain is None else self.log_gain.exp() * current * (z > 0)


def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL(N(μ, s²) ‖ N(m, p²)) per element, in nats.

    log(p/s) + (s² + (μ − m)²) / 2p² − ½

    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gaussian_kl(one, zero, zero, zero)
    tensor([0.5000])
    """
    ratio = 2 * (log_std - prior_log_std)
    distance = (mean - prior_mean).square() * (-2 * prior_log_std).exp()
    return 0.5 * (ratio.exp() + distance - 1 - ratio)


def _bound(v: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(v / bound)
