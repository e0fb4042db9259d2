"""The adjoint in compiled code."""

from ctypes import byref, c_int32, c_int64
from dataclasses import replace

import torch
from torch import Tensor

from ipvae_snn.kernels import native
from ipvae_snn.kernels.adjoint import CHUNK, Adjoint
from ipvae_snn.kernels.native import LANES, SLOPES, at, walker
from ipvae_snn.kernels.spec import UnrollSpec

SPARSE_BELOW = 0.4
"""Share of neurons that spike above which the gradient of G is a dense product."""
BLOCK = 2**17
"""Elements of (rows, K) that go through the timesteps together, so as to stay in the caches."""
MIN_ROWS = 64


class NativeAdjoint:
    """The adjoint of :class:`~ipvae_snn.kernels.plain.PlainAdjoint`, a block of rows at a time."""

    def __init__(self, spec: UnrollSpec, saved: tuple[Tensor, Tensor], needed: set[str]) -> None:
        self.spec, self.saved, self.needed = spec, saved, needed

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        batch, latents = self.spec.mem.shape
        blocks = -(-batch // max(BLOCK // latents, MIN_ROWS))
        rows = -(-batch // blocks)
        gram_grad = native.padded(torch.zeros_like(self.spec.gram))
        parts = [self._rows(slice(a, a + rows), grads, gram_grad) for a in range(0, batch, rows)]
        if blocks == 1:
            return parts[0]
        found = {name: torch.cat([p[name] for p in parts], -2) for name in ("drive", "spk", "mem")}
        for name in ("step", "bias", "rest"):
            found[name] = torch.stack([p[name] for p in parts]).sum(0)
        return found | {"gram": parts[-1]["gram"]}

    def _rows(
        self, rows: slice, grads: dict[str, Tensor | None], gram_grad: Tensor
    ) -> dict[str, Tensor]:
        spec, (mems, counts) = self.spec, self.saved
        part = replace(spec, drive=spec.drive[..., rows, :], spk=spec.spk[rows], mem=spec.mem[rows])
        of_rows = {
            name: None if g is None else g[rows] if name.startswith("last") else g[:, rows]
            for name, g in grads.items()
        }
        saved = mems[:, rows], counts[:, rows]
        return _RowsAdjoint(part, saved, self.needed, gram_grad)(of_rows)


class _RowsAdjoint(Adjoint):
    """The adjoint of some rows; of the saved, each timestep is contiguous."""

    def __init__(
        self, spec: UnrollSpec, saved: tuple[Tensor, Tensor], needed: set[str], gram_grad: Tensor
    ) -> None:
        rows, latents = spec.mem.shape
        super().__init__(spec, saved, needed, gram_grad.shape[1], gram_grad)
        self.threads = torch.get_num_threads()
        self.push = torch.empty_like(spec.mem)
        self.bias_sums = spec.empty(self.threads, self.stride).zero_()
        self.step_sums = torch.zeros(rows, dtype=torch.float64)
        self.lists = spec.empty(self.threads, LANES, CHUNK * rows, 2)
        self.spiked: dict[int, int] = {}
        self.dynamics, self.kernels = native.dynamics_of(spec), native.kernels()
        self.gram = native.padded(spec.gram)
        self.work = spec.empty(self.threads, self.stride + 2 * latents)
        self.arguments = native.Backward(
            rows=rows, latents=latents, stride=self.stride,
            count_bytes=self.counts.element_size(), slope_kind=SLOPES.index(spec.slope),
            gram=at(self.gram), work=at(self.work), bias_grad=at(self.bias_sums),
            step_sum=at(self.step_sums), threads=self.threads,
        )  # fmt: skip

    def _prepare(self) -> None:
        changing = self.spec.drive.ndim == 3
        self.walk_mem, self.walk_counts = walker(self.mems), walker(self.counts)
        self.walk_drive, self.walk_drive_grad = (
            walker(d) if changing else walker(d.expand(2, *d.shape))  # expanded: of stride 0
            for d in (self.spec.drive, self.drive_grad)
        )
        self.walk_half = walker(self.half)
        self.walk_quad, self.walk_kl = walker(self.quad_grad), walker(self.kl_grad)

    def _slope(self, t: int) -> Tensor | None:
        return super()._slope(t) if self.spec.slope == "own" else None

    def _step(self, t: int, slope: Tensor | None) -> None:
        spec, p = self.spec, self.arguments
        spk_grad = None if self.spk_grad is None else self.spk_grad.contiguous()
        slope = None if slope is None else slope.contiguous()
        self.push = torch.empty_like(self.product) if t == 0 else self.push
        mem, counts, quad = self.walk_mem, self.walk_counts, self.walk_quad
        p.mem, p.counts, p.quad_grad, p.kl_grad = mem(t), counts(t), quad(t), self.walk_kl(t)
        if t:
            p.mem_before, p.counts_before, p.quad_grad_before = (
                mem(t - 1),
                counts(t - 1),
                quad(t - 1),
            )
        else:
            p.mem_before, p.counts_before, p.quad_grad_before = at(spec.mem), None, None
            p.first_spk = at(spec.spk)
        p.drive, p.drive_grad = self.walk_drive(t), self.walk_drive_grad(t)
        p.product, p.slope, p.spk_grad = at(self.product), at(slope), at(spk_grad)
        p.carry, p.push = at(self.carry), at(self.push)
        p.half_push = self.walk_half(self._slot(t - 1))
        self.spiked[t - 1] = self.kernels.ipvae_backward(byref(self.dynamics), byref(p))

    def _add_gram(self, first: int, last: int) -> None:
        counts, half = self.counts[first:last], self.half[: last - first]
        steps, rows, latents = counts.shape
        spiked = sum(self.spiked.get(t, 0) for t in range(first, last))
        if spiked > SPARSE_BELOW * counts.numel():
            super()._add_gram(first, last)
            return
        self.kernels.ipvae_gram_gradient(
            c_int64(steps), c_int64(rows), c_int64(latents), c_int64(self.stride), at(counts),
            c_int64(counts.stride(0)), c_int32(counts.element_size()), at(half),
            at(self.gram_grad), at(self.lists), c_int32(self.threads),
        )  # fmt: skip

    def _finish(self) -> dict[str, Tensor]:
        self.bias_sum = self.bias_sums.sum(0)[: self.spec.mem.shape[1]]
        self.step_sum = self.step_sums.sum()
        return super()._finish()
