"""The backward pass of an unroll, for all kernels; it recomputes what was not saved."""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels.spec import UnrollSpec

CHUNK, LONGEST_CHUNK, CHUNK_SIZE = 4, 16, 2**17
"""Timesteps whose terms of the gradient of G are summed by one product; more of small problems."""


def slope_of(estimator: Any, spk: Tensor, rate: Tensor) -> Tensor:
    """w of an estimator, in the shape and dtype of ``rate``, as C reads it.

    Raises:
        TypeError, ValueError: what a user's ``slope`` returned is no tensor, or does not broadcast.
    """
    return _validated(estimator, "slope", estimator.slope(spk, rate), rate, broadcast=True)


def draw_of(spec: UnrollSpec, mem: Tensor) -> Tensor:
    """Counts for finite membranes, in their dtype.

    Raises:
        TypeError, ValueError: a user's ``draw`` or ``sample`` returned no tensor, or another shape.
    """
    method = "sample" if spec.law == "own" else "draw"
    return _validated(spec.estimator, method, spec.draw(mem), mem)


def _validated(
    estimator: Any, method: str, value: Any, like: Tensor, broadcast: bool = False
) -> Tensor:
    prefix = f"{method}() of {type(estimator).__name__} must return"
    if not isinstance(value, Tensor):
        raise TypeError(f"{prefix} a tensor, it gave {type(value).__name__}")
    try:
        shape = torch.broadcast_shapes(value.shape, like.shape) if broadcast else value.shape
    except RuntimeError:
        shape = value.shape
    if shape != like.shape:
        raise ValueError(
            f"{prefix} shape (B, K) = {tuple(like.shape)}, it gave {tuple(value.shape)}"
        )
    return value.to(like).expand_as(like)


class Adjoint:
    """Gradients of a spec's tensors, from the saved values and the gradients of the result.

    Membrane u_t and count z_t of each timestep are saved. With ū, z̄, h̄ the adjoints of membrane,
    count and membrane change h, c_t the gradient of ``quad`` and w_t the slope of the draw,

        z̄_t = −c_t d_t + p_t Gᵀ,   p_t = c_t z_t − α h̄_{t+1}      (one product per timestep)
        ū_t += w_t z̄_t,            Ḡ = Σ_t z_tᵀ (c_t z_t / 2 − α h̄_{t+1})

    h_t itself, needed for the gradient of α and where a clamp saturates, follows from u_t and
    u_{t−1}. Source: derived from arXiv 2410.19315, section 3.

    A subclass gives :meth:`_timestep`. It goes backward from ``mem_grad``, ū_t, and ``product``,
    p_t Gᵀ, and leaves ū_{t−1} in ``mem_grad``, p_{t−1} in ``product_input``, and
    c_{t−1} z_{t−1} / 2 − α h̄_t in ``gram_factor``.
    """

    def __init__(
        self,
        spec: UnrollSpec,
        saved: tuple[Tensor, Tensor],
        needed: set[str],
        stride: int | None = None,
        gram_grad: Tensor | None = None,
    ) -> None:
        rows, latents = spec.mem.shape
        self.spec, (self.mems, self.counts) = spec, saved
        self.needed = needed
        self.stride = latents if stride is None else stride
        self.chunk = min(max(CHUNK, CHUNK_SIZE // max(rows * latents, 1)), LONGEST_CHUNK)
        self.gram_factor = spec.empty(min(self.chunk, spec.steps), rows, self.stride)
        self.gram_factor[..., latents:] = 0
        self.product = spec.mem
        self.mem_grad = torch.zeros_like(spec.mem)
        self.product_input = spec.mem
        self.drive_grad = torch.zeros_like(spec.drive)
        # Adjoints of several blocks of rows may add to one gradient of G.
        if gram_grad is None:
            gram_grad = spec.empty(latents, self.stride).zero_()
        self.gram_grad = gram_grad
        self.bias_sum = torch.zeros_like(spec.bias)
        self.step_sum = spec.mem.new_zeros((), dtype=torch.float64)
        self.spk_grad: Tensor | None = None

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Gradients of the spec's tensors by name, from those of the result by name."""
        spec = self.spec
        self.quad_grad, self.kl_grad = (
            self.mem_grad.new_zeros(spec.steps, len(spec.mem)) if g is None else g.contiguous()
            for g in (grads["quad"], grads["kl"])
        )
        self._prepare()
        last = spec.steps - 1
        self.product_input = self.quad_grad[last, :, None] * self.counts[last]
        latents = self.product_input.shape[1]
        self.gram_factor[self._slot(last), :, :latents] = self.product_input / 2
        self._add_mem_grad(last, grads)
        self.product_by = spec.product(backward=True)
        # The factors of timesteps a to b − 1 come from the backward passes of a + 1 to b.
        for first in range(last // self.chunk * self.chunk, -1, -self.chunk):
            self._backward(first + 1, min(first + self.chunk, last) + 1, grads)
            if "gram" in self.needed:
                self._add_gram_grad(first, min(first + self.chunk, spec.steps))
        self._backward(0, 1, grads)
        return self._finish()

    def _backward(self, first: int, last: int, grads: dict[str, Tensor | None]) -> None:
        """Go backward through timesteps ``last`` − 1 to ``first``."""
        for t in range(last - 1, first - 1, -1):
            self.spk_grad = self._recorded_grad("spk", t, grads)
            self.product = self._product()
            self._timestep(t, self._slope(t))
            self._add_mem_grad(t - 1, grads)

    def _product(self) -> Tensor:
        """p_t Gᵀ."""
        return self.product_by(self.product_input)

    def _finish(self) -> dict[str, Tensor]:
        spec = self.spec
        gram_grad = self.gram_grad[:, : spec.gram.shape[1]]
        # Spikes of the initial state. On a GPU, asking whether there are any would wait for it.
        if spec.spk.device.type != "cpu" or bool(spec.spk.any()):
            gram_grad += spec.spk.mT @ self.product_input
        return {
            "drive": self.drive_grad,
            "gram": gram_grad,
            "spk": self.product_input @ spec.gram.mT
            if "spk" in self.needed
            else self.product_input,
            "mem": self.mem_grad,
            "step_size": (self.step_sum / spec.step_size).to(spec.step_size.dtype),
            "bias": -spec.step_size * self.bias_sum,
            "mem_rest": spec.step_size * spec.leak * self.bias_sum,
        }

    def _slope(self, t: int) -> Tensor | None:
        """w_t, or None where no gradient passes the draw."""
        if self.spec.slope == "none":
            return None
        rate = self.mems[t].exp()
        return slope_of(self.spec.estimator, self.counts[t].to(rate.dtype), rate)

    def _slot(self, t: int) -> int:
        """Where ``gram_factor`` has timestep t."""
        return t % self.chunk % len(self.gram_factor)

    def _drive_grad(self, t: int) -> Tensor:
        return self.drive_grad[t] if self.spec.drive.ndim == 3 else self.drive_grad

    def _recorded_grad(self, name: str, t: int, grads: dict[str, Tensor | None]) -> Tensor | None:
        """Gradient of the recorded spikes or membranes of timestep t, if any."""
        grad: Tensor | None = None
        recorded, last, every = grads[name], grads[f"last_{name}"], self.spec.every
        if recorded is not None and t >= 0 and (t + 1) % every == 0:
            grad = recorded[t // every]
        if last is not None and t == self.spec.steps - 1:
            grad = last if grad is None else grad + last
        return grad

    def _add_mem_grad(self, t: int, grads: dict[str, Tensor | None]) -> None:
        grad = self._recorded_grad("mem", t, grads)
        if grad is not None:
            self.mem_grad = (self.mem_grad + grad).contiguous()

    def _prepare(self) -> None:
        """Called once, before the first timestep, when the gradients are known."""

    def _timestep(self, t: int, slope: Any) -> None:
        """Go backward through timestep t, and add its terms to the gradients."""
        raise NotImplementedError

    def _add_gram_grad(self, first: int, last: int) -> None:
        """Add the terms of timesteps ``first`` to ``last`` − 1 to the gradient of G."""
        counts = self.counts[first:last]
        latents = counts.shape[-1]
        factor = self.gram_factor[: last - first, :, :latents]
        spk, grad = counts.to(factor.dtype), self.gram_grad[:, :latents]
        grad.addmm_(spk.flatten(0, 1).mT, factor.flatten(0, 1))
