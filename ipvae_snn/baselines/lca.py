"""LCA: sparse coding by locally competing neurons that do not spike."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn._utils.settings import flag, number
from ipvae_snn.baselines.base import Baseline
from ipvae_snn.models.base import MODELS
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.lateral import weight_of


@MODELS.register("lca")
class LCA(Baseline):
    r"""Locally competitive algorithm: min ½‖x − Φa‖² + λ‖a‖₁ over a, columns of Φ of norm 1.

    .. math::
        u_t &= u_{t−1} + rate · (Φ^T x − u_{t−1} − (G − 1) a_{t−1}) \\
        a_t &= sign(u_t) · max(|u_t| − λ, 0)

    with the same lateral weights G as an IPVAE. Its fixed points are the solutions of the lasso. Φ
    learns from the gradient of the energy at the current a; no gradient flows through time. λ‖a‖₁
    takes the place of the KL: train with ``beta = beta_start = 1``.

    Args:
        in_features, latents: M and K.
        sparsity: λ > 0, the threshold.
        rate: dt / τ in (0, 1].
        nonnegative: a code of no negative values, as rates are.

    Source: Rozell, Johnson, Baraniuk & Olshausen, Neural Computation 20 (2008).

    >>> model = LCA(in_features=16, latents=32, sparsity=0.2)
    >>> model.run(torch.rand(5, 16), num_steps=50, record=("spk",), every=50).spk.shape
    torch.Size([1, 5, 32])
    """

    # Without a KL there is no β to anneal; with features of norm 1 weight decay has no effect.
    recipe: ClassVar[Mapping[str, Any]] = {
        "steps": 40,
        "beta": 1.0,
        "beta_start": 1.0,
        "weight_decay": 0.0,
        "lr": 3e-3,
    }

    sparsity: float = number(1e-12)
    rate: float = number(1e-6, 1)
    nonnegative: bool = flag()

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        sparsity: float = 0.1,
        rate: float = 0.1,
        nonnegative: bool = False,
    ) -> None:
        super().__init__(
            in_features, latents, init_std=float(in_features) ** -0.5, learn_scale=False
        )
        self.sparsity, self.rate, self.nonnegative = sparsity, rate, nonnegative

    @property
    def weight(self) -> Tensor:
        """Φ with columns of norm 1, shape (M, K)."""
        weight = weight_of(self.decoder)
        norm: Tensor = weight.norm(dim=0)
        return weight / norm.clamp(min=1e-12)

    def shared(self) -> Tensor:
        with torch.no_grad():
            return F.gram(self.weight)

    def sense(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x @ self.weight

    def start(self, sensed: Tensor) -> State:
        zero = torch.zeros_like(sensed)
        return State(zero, zero)

    def advance(self, sensed: Tensor, state: State, shared: Tensor) -> tuple[State, Tensor]:
        with torch.no_grad():
            competition = state.spk @ shared - state.spk
            mem = state.mem + self.rate * (sensed - state.mem - competition)
            code = self.mean_code(mem)
        return State(code, mem), self.sparsity * code.abs().sum(-1)

    def mean_code(self, mem: Tensor) -> Tensor:
        """a: the part of u beyond the threshold."""
        return shrink(mem, self.sparsity, self.nonnegative)


def shrink(mem: Tensor, sparsity: float, nonnegative: bool) -> Tensor:
    """The part of u beyond the threshold, on both sides or above."""
    above = (mem.abs() - sparsity).clamp(min=0)
    return above * (mem > 0) if nonnegative else above * mem.sign()
