"""Convolutional LCA: sparse coding of whole images by neurons that do not spike."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_finite, require_integer
from ipvae_snn._utils.settings import flag, number
from ipvae_snn.baselines.lca import shrink
from ipvae_snn.kernels import convolution
from ipvae_snn.kernels.convolution import to_cells
from ipvae_snn.models import run_output
from ipvae_snn.models.base import MODELS
from ipvae_snn.models.map_model import MapModel
from ipvae_snn.models.whitening import Whitening
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.lateral import remake_weights


@MODELS.register("conv-lca")
class ConvLCA(MapModel):
    r"""min ½‖x − Σ_k φ_k ∗ a_k‖² + λ‖a‖₁ over a, features φ_k of norm 1 that may lie anywhere.

    .. math::
        u_t &= u_{t−1} + rate · (Φ^T (x − Φ a_{t−1}) − u_{t−1} + a_{t−1}) \\
        a_t &= sign(u_t) · max(|u_t| − λ, 0)

    The decoder of a :class:`~ipvae_snn.models.ConvIPVAE`, its borders and its codes' shape. Φ
    learns from the gradient of the energy at the current a; no gradient flows through time.

    Args:
        channels, latents, kernel_size, stride, dimensions, whitening: as in ``ConvIPVAE``.
        sparsity, rate, nonnegative: as in :class:`~ipvae_snn.baselines.LCA`.

    Source: Rozell, Johnson, Baraniuk & Olshausen 2008; convolutional as in Zeiler et al. 2010.

    >>> model = ConvLCA(channels=1, latents=8, kernel_size=6, stride=2)
    >>> model.run(torch.rand(5, 1, 20, 31), num_steps=50, record=("spk",), every=50).spk.shape
    torch.Size([1, 5, 8, 12, 18])
    """

    takes_graph = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "iterations": 1000, "batch": 4, "steps": 40, "lr": 3e-3, "beta": 1.0, "beta_start": 1.0,
        "weight_decay": 0.0,
    }  # fmt: skip

    sparsity: float = number(1e-12)
    rate: float = number(1e-6, 1)
    nonnegative: bool = flag()

    def __init__(
        self,
        channels: int,
        latents: int,
        kernel_size: int | tuple[int, ...] = 16,
        stride: int | tuple[int, ...] = 4,
        *,
        dimensions: int = 2,
        sparsity: float = 0.5,
        rate: float = 0.05,
        nonnegative: bool = False,
        whitening: Whitening | None = None,
    ) -> None:
        super().__init__(
            channels, latents, kernel_size, stride, dimensions=dimensions, init_std=1.0,
            learn_scale=False, whitening=whitening,
        )  # fmt: skip
        self.sparsity, self.rate, self.nonnegative = sparsity, rate, nonnegative

    def _features(self) -> Tensor:
        """Features of norm 1."""
        features = super()._features()
        norm: Tensor = features.flatten(1).norm(dim=1).clamp(min=1e-12)
        return features / norm[:, None, None, None]

    def mean_code(self, mem: Tensor) -> Tensor:
        """a: the part of u beyond the threshold."""
        return shrink(mem, self.sparsity, self.nonnegative)

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = run_output.RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
        graph: bool | None = None,
    ) -> Any:
        """Infer x for a number of timesteps: as ``ConvIPVAE.run``; ``kl`` is λ‖a‖₁."""
        x, num_steps = self._require_x(x, num_steps)
        require_integer(every, "every")
        fields = run_output.check_fields(record)
        size = x.shape[-self.dimensions :]
        shape = (x.shape[-self.dimensions - 2], *self.code_shape(size))
        if state is not None:
            state = run_output.require_state(state, shape, like=self.like)
        with torch.set_grad_enabled(self.keeps_graph(graph, x)):
            remake_weights(self.decoder)
            self.require_together()
            zero = x.new_zeros(shape)
            start = State(zero, zero) if state is None else state
            values, last = self._infer(x, num_steps, fields, every, start)
        require_finite(last.mem, "the membranes", "take a smaller rate")
        return run_output.make_run(values, last)

    def _infer(
        self, x: Tensor, num_steps: int, fields: Sequence[str], every: int, state: State
    ) -> tuple[dict[str, Tensor], State]:
        size, changing = x.shape[-self.dimensions :], x.ndim == self.dimensions + 3
        weight = to_cells(self._features(), self._s)
        mask = to_cells(x.new_ones(self.channels, *self._flat_size(size)), self._s)
        dictionary = convolution.Dictionary(weight.detach(), mask)
        constant = F.nll_constant(self.channels, None) * prod(size)
        code, mem = (self._flat(part).movedim(1, -1) for part in state)
        recorded: dict[str, list[Tensor]] = {name: [] for name in fields}
        cells = to_cells(self._flat(x if changing else x[None]), self._s)
        for t in range(num_steps):
            frame = cells[t if changing else 0]
            with torch.no_grad():
                current = dictionary.project(frame - dictionary.decode(code))
                mem = mem + self.rate * (current - mem + code)
                code = self.mean_code(mem)
            if (t + 1) % every:
                continue
            for name, rows in recorded.items():
                if name == "nll":
                    residual = frame - mask * convolution.decode(code, weight)
                    rows.append(0.5 * residual.square().flatten(1).sum(1) + constant)
                elif name == "kl":
                    rows.append(self.sparsity * code.abs().flatten(1).sum(1))
                else:
                    rows.append(self._outside(code if name == "spk" else mem))
        empty = {"nll": (0, len(x)), "kl": (0, len(x)), "spk": (0, *state.spk.shape)}
        values = {
            name: torch.stack(rows) if rows else x.new_empty(empty.get(name, empty["spk"]))
            for name, rows in recorded.items()
        }
        return values, State(self._outside(code), self._outside(mem))

    def _outside(self, part: Tensor) -> Tensor:
        """A state of the kernels, (B, h, w, K), as the model gives it."""
        return self._unflat(part.movedim(-1, 1))
