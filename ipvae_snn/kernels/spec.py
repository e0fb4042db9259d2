"""Input and output of an unroll: the records that all kernels share."""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

INPUTS = ("drive", "gram", "spk", "mem", "step_size", "bias", "mem_rest")
"""The tensors of a spec that gradients flow to."""
OUTPUTS = ("spk", "mem", "quad", "kl", "last_spk", "last_mem")
"""The tensors of a result."""
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def has_bfloat16() -> bool:
    """Whether this processor multiplies numbers in bfloat16; taken to be so where it is no x86."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass
class UnrollSpec:
    """T timesteps of inference for B samples and K neurons.

    Attributes:
        drive: d, (B, K), or (T, B, K) where the input changes.
        gram: G, (K, K); symmetric where ``quad`` is recorded.
        spk, mem: initial state, (B, K).
        step_size: α, a scalar tensor.
        bias, mem_rest: b, and the membrane that the leak pulls to, (K,).
        lateral_scale: factor on the lateral inhibition.
        leak, clamp: as in :func:`ipvae_snn.functional.membrane_step`.
        estimator: draws the counts (``sample``) and weighs their gradient (``slope``).
        law: of the counts: ``"poisson"``, ``"rounded"``, or ``"own"``, drawn by the estimator.
        slope: of the gradient: ``"midpoint"``, ``"rate"``, ``"own"``, computed by the estimator, or
            ``"none"``, no gradient through the draw.
        kl_form: as in :func:`ipvae_snn.functional.poisson_kl`.
        steps: T.
        fields: what to record, of ``spk``, ``mem``, ``quad`` and ``kl``.
        every: record each n-th timestep of ``spk`` and ``mem``.
        save: save membranes and counts for the backward pass.
        precision: of the products with G: ``"float32"``, or faster and less accurate: ``"tf32"``
            (CUDA; float32 elsewhere) and ``"bfloat16"``.
        saved_dtype: of the saved counts; ``None``: see :meth:`count_dtype`.
        recompute_inhibition: on a GPU, recompute zG in each timestep of the backward pass. Costs a
            product each, and keeps gradients exact where rates explode up to the clamp.
        row_ids: int64, (B,): row numbers that the draws of compiled kernels depend on, such as
            seeds of samples; ``None`` for 0 … B − 1.
    """

    drive: Tensor
    gram: Tensor
    spk: Tensor
    mem: Tensor
    step_size: Tensor
    bias: Tensor
    mem_rest: Tensor
    lateral_scale: float
    leak: float
    clamp: float | Tensor
    estimator: Any
    law: str = "own"
    slope: str = "own"
    kl_form: str = "exact"
    steps: int = 1
    fields: tuple[str, ...] = ()
    every: int = 1
    save: bool = False
    precision: str = "float32"
    saved_dtype: torch.dtype | None = None
    recompute_inhibition: bool = False
    row_ids: Tensor | None = None

    def drive_at(self, t: int) -> Tensor:
        return self.drive[t] if self.drive.ndim == 3 else self.drive

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.mem.dtype, device=self.mem.device)

    def draw(self, mem: Tensor) -> Tensor:
        """Counts for finite membranes."""
        spk: Tensor = (self.estimator.sample if self.law == "own" else self.estimator.draw)(mem)
        return spk

    def product(self, *, backward: bool = False) -> Callable[[Tensor], Tensor]:
        """The function z ↦ zG in the precision of this spec, or ``backward`` p ↦ pGᵀ."""
        gram = self.gram.mT if backward else self.gram
        if self.precision == "bfloat16":
            low = gram.bfloat16()
            return lambda rows: (rows.bfloat16() @ low).to(rows.dtype)
        if self.precision == "tf32" and gram.device.type == "cuda":
            return lambda rows: _tf32_product(rows, gram)
        return lambda rows: rows @ gram

    def output_buffer(self, name: str) -> Tensor | None:
        """Output buffer of a recorded field, else None."""
        if name not in self.fields:
            return None
        if name in ("quad", "kl"):
            return self.empty(self.steps, len(self.mem))
        return self.empty(self.steps // self.every, *self.mem.shape)

    def count_dtype(self) -> torch.dtype:
        """The smallest dtype for saved counts: at the clamp, one Poisson count in 10¹³ exceeds it.

        One byte up to clamp 5, two up to 10. A count that exceeds the dtype is saved as its
        maximum. The counts of an estimator with a law of its own are saved as they are.
        """
        if self.saved_dtype is not None:
            return self.saved_dtype
        if self.law == "own":
            return self.mem.dtype
        rate = math.exp(self.clamp)
        top = rate + 8.7 * math.sqrt(rate)
        return next(
            (d for d in (torch.uint8, torch.int16) if top <= torch.iinfo(d).max), torch.int32
        )


@dataclass
class UnrollResult:
    """The recorded fields (else None), the last state, and what was saved for the backward pass.

    ``quad``, (T, B), is z·(zG/2 − d), the part of the Gaussian negative log-likelihood that
    depends on spikes. ``saved``: membranes and counts of all timesteps, (T, B, K), or None.
    """

    spk: Tensor | None
    mem: Tensor | None
    quad: Tensor | None
    kl: Tensor | None
    last_spk: Tensor
    last_mem: Tensor
    saved: tuple[Tensor, Tensor] | None = None


def _tf32_product(rows: Tensor, gram: Tensor) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return rows @ gram
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def to_count_dtype(spk: Tensor, dtype: torch.dtype) -> Tensor:
    """Counts in a dtype of :meth:`UnrollSpec.count_dtype`, at most its largest value."""
    if dtype.is_floating_point:
        return spk.to(dtype)
    return spk.clamp(max=torch.iinfo(dtype).max).to(dtype)
