"""What an unroll is given and what it returns: plain records that all kernels share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

INPUTS = ("drive", "gram", "spk", "mem", "step", "bias", "rest")
"""The tensors of a spec."""
OUTPUTS = ("spk", "mem", "quad", "kl", "last_spk", "last_mem")
"""The tensors of a result."""
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass
class UnrollSpec:
    """T timesteps of inference for B samples and K neurons.

    Attributes:
        drive: d, (B, K), or (T, B, K) where the input changes.
        gram: G, (K, K), symmetric.
        spk, mem: state to start from, (B, K).
        step: α, the step size, a scalar tensor.
        bias, rest: b and the membrane that a leak pulls to, (K,).
        scale: factor on the lateral inhibition.
        leak, clamp: as in :func:`ipvae_snn.functional.membrane_step`.
        estimator: draws the counts (``sample``), and weighs their gradient (``slope``).
        law: ``"poisson"`` or ``"rounded"`` where the counts are known to be so, else ``"own"``.
        slope: ``"midpoint"`` or ``"rate"`` where the weight of the gradient is known to be that,
            ``"none"`` where no gradient is to pass the draw, else ``"own"``.
        kl_form: as in :func:`ipvae_snn.functional.poisson_kl`.
        steps: T.
        fields: what to return, of ``spk``, ``mem``, ``quad`` and ``kl``.
        every: return each n-th timestep of ``spk`` and ``mem``.
        keep: save what the backward pass needs.
        precision: of the products with G: ``"float32"``, or to trade accuracy for speed ``"tf32"``
            (CUDA only, elsewhere as float32) and ``"bfloat16"``.
        counts: dtype of saved counts; None for :meth:`count_dtype` to choose.
        careful: exact gradients in explosions too, at one more product per timestep.
        row_ids: int64, (B,): the row numbers that the draws of compiled kernels depend on, such as
            seeds of samples; None for 0 … B − 1.
    """

    drive: Tensor
    gram: Tensor
    spk: Tensor
    mem: Tensor
    step: Tensor
    bias: Tensor
    rest: Tensor
    scale: float
    leak: float
    clamp: float | Tensor
    estimator: Any
    law: str = "own"
    slope: str = "own"
    kl_form: str = "exact"
    steps: int = 1
    fields: tuple[str, ...] = ()
    every: int = 1
    keep: bool = False
    precision: str = "float32"
    counts: torch.dtype | None = None
    careful: bool = False
    row_ids: Tensor | None = None

    def drive_at(self, t: int) -> Tensor:
        return self.drive[t] if self.drive.ndim == 3 else self.drive

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.mem.dtype, device=self.mem.device)

    def draw(self, mem: Tensor) -> Tensor:
        """Spikes for membranes that are known to be finite."""
        spk: Tensor = (self.estimator.sample if self.law == "own" else self.estimator.draw)(mem)
        return spk

    def product(self) -> Callable[[Tensor], Tensor]:
        """z ↦ zG in the precision asked for."""
        if self.precision == "bfloat16":
            low = self.gram.bfloat16()
            return lambda rows: (rows.bfloat16() @ low).to(rows.dtype)
        if self.precision == "tf32" and self.gram.device.type == "cuda":
            return lambda rows: _tf32(rows, self.gram)
        return lambda rows: rows @ self.gram

    def output(self, name: str) -> Tensor | None:
        """Output buffer of a recorded field, else None."""
        if name not in self.fields:
            return None
        if name in ("quad", "kl"):
            return self.empty(self.steps, len(self.mem))
        return self.empty(self.steps // self.every, *self.mem.shape)

    def count_dtype(self) -> torch.dtype:
        """The smallest type that holds every count of a clamped rate but once in 10¹³.

        One byte up to clamp 5, two up to 10. A larger count is saved as the maximum of the type,
        never wrapped around. An estimator with a law of its own may emit anything.
        """
        if self.counts is not None:
            return self.counts
        if self.law == "own":
            return self.mem.dtype
        rate = math.exp(self.clamp)
        top = rate + 8.7 * math.sqrt(rate)
        return next(
            (d for d in (torch.uint8, torch.int16) if top <= torch.iinfo(d).max), torch.int32
        )


@dataclass
class UnrollResult:
    """What an unroll returns: the fields asked for (else None), the last state, what was saved.

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


def _tf32(rows: Tensor, gram: Tensor) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return rows @ gram
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def to_count_dtype(spk: Tensor, dtype: torch.dtype) -> Tensor:
    """Counts in a type of :meth:`UnrollSpec.count_dtype`, at most its largest value."""
    if dtype.is_floating_point:
        return spk.to(dtype)
    return spk.clamp(max=torch.iinfo(dtype).max).to(dtype)
