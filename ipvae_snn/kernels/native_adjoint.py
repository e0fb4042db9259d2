"""The backward pass of an unroll in compiled C."""

from ctypes import byref
from dataclasses import replace

import torch
from torch import Tensor

from ipvae_snn.kernels import native
from ipvae_snn.kernels.adjoint import CHUNK, Adjoint
from ipvae_snn.kernels.native import LANES, pointer, timestep_addresses
from ipvae_snn.kernels.spec import UnrollSpec

SPARSE_BELOW = 0.4
"""Share of neurons that spike, up to which the gradient of G is summed over spikes."""
BLOCK = 2**17
"""Elements of (rows, K) that go backward through all timesteps together: they fit the caches."""
MIN_ROWS = 64


class NativeAdjoint:
    """Gradients as those of :class:`~ipvae_snn.kernels.plain.PlainAdjoint`, by blocks of rows."""

    def __init__(self, spec: UnrollSpec, saved: tuple[Tensor, Tensor], needed: set[str]) -> None:
        self.spec, self.saved, self.needed = spec, saved, needed

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        batch, latents = self.spec.mem.shape
        n_blocks = max(1, -(-batch // max(BLOCK // latents, MIN_ROWS)))
        rows = max(1, -(-batch // n_blocks))
        gram_grad = native.padded(torch.zeros_like(self.spec.gram))
        blocks = [
            self._block(slice(a, a + rows), grads, gram_grad) for a in range(0, batch or 1, rows)
        ]
        if n_blocks == 1:
            return blocks[0]
        joined = {
            name: torch.cat([block[name] for block in blocks], -2)
            for name in ("drive", "spk", "mem")
        }
        for name in ("step_size", "bias", "mem_rest"):
            joined[name] = torch.stack([block[name] for block in blocks]).sum(0)
        return joined | {"gram": blocks[-1]["gram"]}

    def _block(
        self, rows: slice, grads: dict[str, Tensor | None], gram_grad: Tensor
    ) -> dict[str, Tensor]:
        spec, (mems, counts) = self.spec, self.saved
        block = replace(
            spec, drive=spec.drive[..., rows, :], spk=spec.spk[rows], mem=spec.mem[rows]
        )
        block_grads = {
            name: None if g is None else g[rows] if name.startswith("last") else g[:, rows]
            for name, g in grads.items()
        }
        saved = mems[:, rows], counts[:, rows]
        return _BlockAdjoint(block, saved, self.needed, gram_grad)(block_grads)


class _BlockAdjoint(Adjoint):
    """The backward pass of a block of rows; each timestep of the saved values is contiguous."""

    def __init__(
        self, spec: UnrollSpec, saved: tuple[Tensor, Tensor], needed: set[str], gram_grad: Tensor
    ) -> None:
        rows, latents = spec.mem.shape
        super().__init__(spec, saved, needed, gram_grad.shape[1], gram_grad)
        self.threads = torch.get_num_threads()
        self.product_input = torch.empty_like(spec.mem)
        self.bias_sums = spec.empty(self.threads, self.stride).zero_()
        self.step_sums = torch.zeros(rows, dtype=torch.float64)
        self.events = spec.empty(self.threads, LANES, CHUNK * rows, 2)
        self.spiked: dict[int, int] = {}
        """Neurons that spiked, by timestep, over all rows."""
        self.dynamics, self.library = native.dynamics_of(spec), native.library()
        self.gram = native.padded(spec.gram)
        self.work = spec.empty(self.threads, self.stride + 2 * latents)
        self.arguments = native.Backward(
            rows=rows,
            latents=latents,
            stride=self.stride,
            count_bytes=self.counts.element_size(),
            **native.slope_of_kind(spec.slope, spec.estimator),
            gram=pointer(self.gram),
            work=pointer(self.work),
            bias_grad=pointer(self.bias_sums),
            step_sum=pointer(self.step_sums),
            threads=self.threads,
        )

    def _prepare(self) -> None:
        changing = self.spec.drive.ndim == 3
        self.mem_at, self.counts_at = timestep_addresses(self.mems), timestep_addresses(self.counts)
        self.drive_at, self.drive_grad_at = (
            timestep_addresses(d if changing else d.expand(2, *d.shape))  # expanded: of stride 0
            for d in (self.spec.drive, self.drive_grad)
        )
        self.gram_factor_at = timestep_addresses(self.gram_factor)
        self.quad_grad_at = timestep_addresses(self.quad_grad)
        self.kl_grad_at = timestep_addresses(self.kl_grad)

    def _slope(self, t: int) -> Tensor | None:
        return super()._slope(t) if self.spec.slope == "own" else None

    def _timestep(self, t: int, slope: Tensor | None) -> None:
        spec, p = self.spec, self.arguments
        spk_grad = None if self.spk_grad is None else self.spk_grad.contiguous()
        slope = None if slope is None else slope.contiguous()
        self.product_input = torch.empty_like(self.product) if t == 0 else self.product_input
        mem, counts, quad_grad = self.mem_at, self.counts_at, self.quad_grad_at
        p.mem, p.counts, p.quad_grad, p.kl_grad = (
            mem(t),
            counts(t),
            quad_grad(t),
            self.kl_grad_at(t),
        )
        if t:
            p.mem_before, p.counts_before = mem(t - 1), counts(t - 1)
            p.quad_grad_before = quad_grad(t - 1)
        else:
            p.mem_before, p.counts_before, p.quad_grad_before = pointer(spec.mem), None, None
            p.first_spk = pointer(spec.spk)
        p.drive, p.drive_grad = self.drive_at(t), self.drive_grad_at(t)
        p.product, p.slope, p.spk_grad = pointer(self.product), pointer(slope), pointer(spk_grad)
        p.mem_grad, p.product_input = pointer(self.mem_grad), pointer(self.product_input)
        p.gram_factor = self.gram_factor_at(self._slot(t - 1))
        self.spiked[t - 1] = self.library.ipvae_backward(byref(self.dynamics), byref(p))

    def _add_gram_grad(self, first: int, last: int) -> None:
        counts, factor = self.counts[first:last], self.gram_factor[: last - first]
        spiked = sum(self.spiked.get(t, 0) for t in range(first, last))
        if spiked > SPARSE_BELOW * counts.numel():
            super()._add_gram_grad(first, last)
            return
        self.library.ipvae_gram_gradient(
            *counts.shape,
            self.stride,
            pointer(counts),
            counts.stride(0),
            counts.element_size(),
            pointer(factor),
            pointer(self.gram_grad),
            pointer(self.events),
            self.threads,
        )

    def _finish(self) -> dict[str, Tensor]:
        self.bias_sum = self.bias_sums.sum(0)[: self.spec.mem.shape[1]]
        self.step_sum = self.step_sums.sum()
        return super()._finish()
