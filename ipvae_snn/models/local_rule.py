r"""Learning by what each synapse sees: no back-propagation through time.

Inference runs without a gradient. What it settles on, the rates λ = e^u of the last timesteps, is
then taken as constant, and the expected NLL of Poisson counts with these rates is what learns:

.. math::
    L = \tfrac12 Σ_m Λ_m \big[ (x − Φλ)_m^2 + (Φ^2 λ)_m \big] + Σ_m \log σ_m \qquad
    ΔΦ_{mk} ∝ Λ_m \big[ (x − Φλ)_m λ_k − Φ_{mk} λ_k \big]

The bracket is Hebb's rule with a decay: the error of pixel m, which is what neurons that carry the
residual would fire, times the rate of neuron k, less the weight in proportion to that rate (the
variance of the counts is their mean). All of it is at hand at the synapse from k to m. The natural
form multiplies by σ_m², local to the pixel, and by (E + ε)⁻¹ with the second moments
E = ⟨λλᵀ⟩ + diag⟨λ⟩. E_jk is a running mean of what the lateral synapse from j to k sees; its
inverse is not local.

log σ relaxes to the size of the error, u₀ to the log of the mean rate; the step α stays. With a
``target_rate``, the tonic inhibition b of each neuron rises while it fires more, and falls while it
fires less, so that a silent neuron becomes easier to excite.

Another decoder f or likelihood learns by −∂ log p(x | f(z)) / ∂θ at the counts of the last
timesteps (:meth:`ipvae_snn.IPVAE.settled_loss`): gradients flow back through the layers of the
decoder, but not through time. The natural form belongs to the linear decoder; others take Adamax.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn.functional import PATCH, free_energy
from ipvae_snn.models.residual import expected_nll

DECAY = 0.99
"""Of the running mean of the second moments, per iteration."""
RIDGE = 0.05
"""ε, in counts² per neuron."""
RELATIVE = {"log_scale": 0.5, "mem_init": 0.2, "log_bias": 0.2}
"""Learning rates relative to that of Φ."""
BURST, SHRINK = 1e4, 0.9
"""Mean of λ² + λ beyond which a batch teaches nothing, and what features shrink by: membranes whose
feedback is too strong oscillate, and such rates would spoil the running mean for long."""
LEAST_RATE = 1e-4
"""Added to the mean rate, in spikes, before its logarithm."""


def columns(weight: Tensor) -> Tensor:
    """A weight (M, K) of a flat decoder, or (K, C, ...) of features of maps, as (·, K); a view."""
    return weight if weight.ndim == 2 else weight.flatten(1).mT


def learned_by_rule(model: Any) -> dict[str, nn.Parameter]:
    """The parameters that the rule moves, by what they are; those that are not frozen."""
    lateral = model.neuron.lateral
    scale = model.raw_log_scale if hasattr(model, "raw_log_scale") else lateral.log_scale
    named = {
        "weight": model.decoder.weight, "log_scale": scale, "mem_init": model.neuron.mem_init,
        "log_bias": model.neuron.log_bias,
    }  # fmt: skip
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, nn.Parameter) and value.requires_grad
    }


class LocalRule(torch.optim.Optimizer):
    """Moves parameters by the natural form of the gradients of :func:`local_loss`.

    It keeps the running mean of E with the features, as ``"moment"``, and nothing of the others.

    Args:
        model: linear and Gaussian.
        shape: of a sample.
        lr: learning rate of Φ, the share of the way to the best features for the present rates.
    """

    def __init__(self, model: Any, shape: tuple[int, ...], lr: float) -> None:
        self.model = model
        self.scale = PATCH / prod(shape)
        self.places = prod(model.code_shape(shape[1:])[1:]) if len(shape) > 1 else 1
        self.pixels = prod(shape[1:])
        self.features: nn.Parameter = model.decoder.weight
        self.moment = nn.Parameter(model.like.new_zeros(model.latents, model.latents))
        """Always zero; its gradient is E of a batch, so that ranks average it with the others."""
        groups = [
            {"params": [value], "name": name} for name, value in learned_by_rule(model).items()
        ]
        super().__init__([*groups, {"params": [self.moment], "name": "moment"}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            (parameter,), name, lr = group["params"], group["name"], group["lr"]
            if parameter.grad is None or name == "moment":
                continue
            if name == "weight":
                self._learn_features(parameter, lr)
                continue
            # The Fisher information of log σ is 2 for each pixel.
            fisher = 2 * self.scale * self.pixels if name == "log_scale" else 1.0
            parameter.sub_(lr * RELATIVE[name] * (parameter.grad / fisher).clamp(-1, 1))

    def _learn_features(self, weight: Tensor, lr: float) -> None:
        assert self.moment.grad is not None
        assert weight.grad is not None
        state, now = self.state[weight], self.moment.grad
        if now.trace() > BURST * self.scale * self.places * len(now):
            weight.mul_(SHRINK)  # the rates are no code: they jump up and down, out of control
            state.setdefault("moment", torch.eye(len(now)).to(now))
            return
        state["moment"] = moment = state["moment"].lerp(now, 1 - DECAY) if state else now.clone()
        ridge = RIDGE * self.scale * self.places
        root = torch.linalg.cholesky(moment + ridge * torch.eye(len(moment)).to(moment))
        step = torch.cholesky_solve(columns(weight.grad).mT, root).mT
        if self.model.log_scale is not None:
            variance = (2 * self.model.log_scale).exp()
            step = step * variance.repeat_interleave(len(step) // len(variance)).unsqueeze(-1)
        columns(weight).sub_(lr * step)


def local_loss(
    model: Any, x: Tensor, rate: Tensor, precision: Tensor, moment: Tensor, target_rate: float
) -> Tensor:
    """A scalar whose gradients are what the rule moves parameters by.

    Args:
        model: linear and Gaussian, in ``train()`` mode.
        x: inputs (B, ...).
        rate: e^u that inference settled on, (L, B, K) or (L, B, K, h, w), without a graph.
        precision: of each value, (B, ...) or (1, ...), 0 where nothing was seen.
        moment: of the :class:`LocalRule`.
        target_rate: spikes per neuron and timestep that b is to bring about; 0: b stays.
    """
    rows = model.code_rows(rate).flatten(0, 1)
    moments = (rows.mT @ rows + rows.sum(0).diag()) / (len(rate) * len(x))
    log_scale = model.log_scale
    if log_scale is not None:
        log_scale = log_scale.view(-1, *(1,) * (x.ndim - 2))
    residual, spread = x - model.reconstruct(rate, x), model.spread(rate, x)
    nll = expected_nll(residual, spread, log_scale, precision)
    size, mean = model.size_of(x), rows.mean(0)
    loss: Tensor = free_energy(nll, torch.zeros_like(nll), 0.0, size)
    loss = loss + (moment * moments).sum() * (PATCH / size)
    return loss + of_neurons(model.neuron, mean, target_rate)


def of_neurons(neuron: Any, mean: Tensor, target_rate: float, rests: bool = True) -> Tensor:
    """Zero, with the gradients of b and, if it ``rests`` there, of u₀, from the mean rates (K,)."""
    loss = mean.new_zeros(())
    if rests:
        # Of u₀ that of KL(λ | e^u₀), in its natural form.
        loss = _moved(neuron.mem_init, lambda u: 1 - (_like(u, mean) + LEAST_RATE) / u.exp())
    if target_rate:
        loss = loss + _moved(neuron.log_bias, lambda b: 1 - _like(b, mean) / target_rate)
    return loss


def _moved(parameter: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """Zero, with this gradient."""
    value = parameter.detach()
    return ((parameter - value) * gradient(value)).sum()


def _like(parameter: Tensor, rate: Tensor) -> Tensor:
    """Mean rates (K,) in the shape of a parameter: of each neuron, or of all."""
    return rate if parameter.ndim else rate.mean()
