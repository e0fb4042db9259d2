"""Back through the timesteps, for every kernel: what the saved needs not hold is recomputed."""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels.spec import UnrollSpec

CHUNK = 4
"""Timesteps whose share in the gradient of G is added up by one product."""


class Adjoint:
    """Gradients of a spec, from its saved and the gradients of what it returned.

    Of each timestep the saved has membrane u_t and count z_t. With ū, z̄, h̄ the adjoints of
    membrane, count and step, c_t the gradient of the likelihood and w_t the weight of the draw,

        z̄_t = −c_t d_t + p_t G,    p_t = c_t z_t − α h̄_{t+1}      (one product per timestep)
        ū_t += w_t z̄_t,            Ḡ = Σ_t z_tᵀ (c_t z_t / 2 − α h̄_{t+1})

    h_t itself, where α or a saturated clamp ask for it, is had back from u_t and u_{t−1}. Source:
    derived from arXiv 2410.19315, section 3.
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
        self.half = spec.empty(min(CHUNK, spec.steps), rows, self.stride)
        self.half[..., latents:] = 0
        self.product = spec.mem
        self.carry = torch.zeros_like(spec.mem)
        self.push = spec.mem
        self.drive_grad = torch.zeros_like(spec.drive)
        # Several adjoints may add to one gradient of G.
        if gram_grad is None:
            gram_grad = spec.empty(latents, self.stride).zero_()
        self.gram_grad = gram_grad
        self.bias_sum = torch.zeros_like(spec.bias)
        self.step_sum = spec.mem.new_zeros((), dtype=torch.float64)
        self.spk_grad: Tensor | None = None

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Gradients of the spec's tensors by name; ``grads`` are those of the outcome's."""
        spec, slope_of = self.spec, self._slope
        self.quad_grad, self.kl_grad = (
            self.carry.new_zeros(spec.steps, len(spec.mem)) if g is None else g.contiguous()
            for g in (grads["quad"], grads["kl"])
        )
        self._prepare()
        last = spec.steps - 1
        self.push = self.quad_grad[last, :, None] * self.counts[last]
        self.half[self._slot(last), :, : self.push.shape[1]] = self.push / 2
        self._add_mem_grad(last, grads)
        product = spec.product()
        for t in range(last, -1, -1):
            if t % CHUNK == 0 and "gram" in self.needed:
                self._add_gram(t, min(t + CHUNK, spec.steps))
            self.spk_grad = self._recorded("spk", t, grads)
            self.product = product(self.push)
            self._step(t, slope_of(t))
            self._add_mem_grad(t - 1, grads)
        return self._finish()

    def _finish(self) -> dict[str, Tensor]:
        spec = self.spec
        gram_grad = self.gram_grad[:, : spec.gram.shape[1]]
        # Spikes before the first step, whose h̄ is in push; a GPU is not asked whether there are.
        if spec.spk.device.type != "cpu" or bool(spec.spk.any()):
            gram_grad += spec.spk.mT @ self.push
        return {
            "drive": self.drive_grad,
            "gram": gram_grad,
            "spk": self.push @ spec.gram if "spk" in self.needed else self.push,
            "mem": self.carry,
            "step": (self.step_sum / spec.step).to(spec.step.dtype),
            "bias": -spec.step * self.bias_sum,
            "rest": spec.step * spec.leak * self.bias_sum,
        }

    def _slope(self, t: int) -> Tensor | None:
        """w_t, or None where no gradient passes the draw."""
        if self.spec.slope == "none":
            return None
        return self.spec.estimator.slope(self.counts[t].to(self.mems.dtype), self.mems[t].exp())

    def _slot(self, t: int) -> int:
        return t % CHUNK % len(self.half)

    def _drive_grad(self, t: int) -> Tensor:
        return self.drive_grad[t] if self.spec.drive.ndim == 3 else self.drive_grad

    def _recorded(self, name: str, t: int, grads: dict[str, Tensor | None]) -> Tensor | None:
        """Gradient that reaches the spikes or membrane of timestep t from outside, if any."""
        found: Tensor | None = None
        stack, last, every = grads[name], grads[f"last_{name}"], self.spec.every
        if stack is not None and t >= 0 and (t + 1) % every == 0:
            found = stack[t // every]
        if last is not None and t == self.spec.steps - 1:
            found = last if found is None else found + last
        return found

    def _add_mem_grad(self, t: int, grads: dict[str, Tensor | None]) -> None:
        grad = self._recorded("mem", t, grads)
        if grad is not None:
            self.carry = (self.carry + grad).contiguous()

    def _prepare(self) -> None:
        """Called once, when all that the steps need is there."""

    def _step(self, t: int, slope: Any) -> None:
        """Take ``carry`` and ``push`` from timestep t to t − 1, and add t's gradients up."""
        raise NotImplementedError

    def _add_gram(self, first: int, last: int) -> None:
        """Add the share of timesteps ``first`` to ``last`` − 1 to the gradient of G."""
        counts = self.counts[first:last]
        spk, half = counts.to(self.half.dtype), self.half[: last - first, :, : counts.shape[-1]]
        grad = self.gram_grad[:, : counts.shape[-1]]
        grad.addmm_(spk.flatten(0, 1).mT, half.flatten(0, 1))
