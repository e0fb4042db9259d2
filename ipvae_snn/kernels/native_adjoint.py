"""The backward pass of an unroll in compiled C."""

from ctypes import byref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels import native
from ipvae_snn.kernels.adjoint import Adjoint
from ipvae_snn.kernels.choices import choices
from ipvae_snn.kernels.native import LANES, pointer, timestep_addresses
from ipvae_snn.kernels.spec import UnrollSpec

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
        self.threads, self.choices = torch.get_num_threads(), choices(rows, latents)
        self.product_input = torch.empty_like(spec.mem)
        self.product_buffer = torch.empty_like(spec.mem)
        self.bias_sums = spec.empty(self.threads, self.stride).zero_()
        self.step_sums = torch.zeros(rows, dtype=torch.float64)
        self.events = spec.empty(self.threads, LANES, self.chunk * rows, 2)
        self.spiked: dict[int, int] = {}
        """Neurons that spiked, by timestep, over all rows."""
        self.tape: Any = None
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

    def _backward(self, first: int, last: int, grads: dict[str, Tensor | None]) -> None:
        if first < last and self._on_tape(grads):
            self._along_tape(first, last)
        else:
            super()._backward(first, last, grads)

    def _product(self) -> Tensor:
        if self.spec.precision == "bfloat16":
            return super()._product()
        # Into memory that is in the caches already.
        return torch.mm(self.product_input, self.spec.gram.mT, out=self.product_buffer)

    def _on_tape(self, grads: dict[str, Tensor | None]) -> bool:
        """Whether compiled code takes several timesteps: no gradient comes in between."""
        recorded = any(grads[name] is not None for name in ("spk", "mem", "last_spk"))
        possible = self.spec.slope != "own" and self.spec.precision == "float32" and not recorded
        return possible and self.choices.own_product

    def _along_tape(self, first: int, last: int) -> None:
        if self.tape is None:
            self.tape = self._make_tape()
        self.tape.first, self.tape.last = first, last
        self.spiked[first - 1] = self.library.ipvae_backward_tape(
            byref(self.dynamics), byref(self.arguments), byref(self.tape)
        )

    def _make_tape(self) -> Any:
        """What compiled code needs to go through all timesteps."""
        spec, p, changing = self.spec, self.arguments, self.spec.drive.ndim == 3
        self.product_input = self.product_input.contiguous()
        p.mem_before, p.first_spk = pointer(spec.mem), pointer(spec.spk)
        p.mem_grad, p.product_input = pointer(self.mem_grad), pointer(self.product_input)
        symmetric = "quad" in spec.fields
        self.tape_parts = (  # whose memory it points to
            self.gram if symmetric else native.padded(spec.gram.mT),
            spec.empty(self.threads, native.TEAM, self.stride + spec.mem.shape[1]),
        )
        gram, work = self.tape_parts
        return native.Tape(
            step=self.mems.stride(0),
            drive_step=spec.drive.stride(0) if changing else 0,
            drive_grad_step=self.drive_grad.stride(0) if changing else 0,
            slots=len(self.gram_factor),
            mem=pointer(self.mems),
            drive=pointer(spec.drive),
            gram=pointer(gram),
            counts=pointer(self.counts),
            quad_grad=pointer(self.quad_grad),
            kl_grad=pointer(self.kl_grad),
            drive_grad=pointer(self.drive_grad),
            gram_factor=pointer(self.gram_factor),
            product=pointer(self.product_buffer),
            work=pointer(work),
        )

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
        if spiked > self.choices.gram_gradient * counts.numel():
            super()._add_gram_grad(first, last)
        else:
            native.add_gram_gradient(counts, factor, self.gram_grad, self.events)

    def _finish(self) -> dict[str, Tensor]:
        self.bias_sum = self.bias_sums.sum(0)[: self.spec.mem.shape[1]]
        self.step_sum = self.step_sums.sum()
        return super()._finish()
