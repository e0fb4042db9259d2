"""Base class of all estimators, and what kernels may assume of each."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float
from ipvae_snn._utils.registry import Complete, Registry
from ipvae_snn.kernels.sampler import poisson

LOG_RATE_MAX = 16.0
LOG_RATE_MIN = -30.0


class Assumptions(NamedTuple):
    """What kernels may assume of an estimator.

    Attributes:
        law: of the counts: ``"poisson"``, ``"rounded"``, or ``"own"``, drawn by the estimator.
        slope: the weight w of the backward pass: ``"midpoint"``, ``"rate"``, ``"none"`` (no
            gradient), or ``"own"``, computed by the estimator's ``slope``.
    """

    law: str
    slope: str


def bounded_log_rate(mem: Tensor) -> Tensor:
    """u in at least float32, bounded so that counts and rates are finite in its own dtype."""
    top = min(LOG_RATE_MAX, math.log(torch.finfo(mem.dtype).max) - 0.5)
    return (mem if mem.dtype == torch.float64 else mem.float()).clamp(LOG_RATE_MIN, top)


def rate_of(mem: Tensor) -> Tensor:
    """Rate λ = e^u in spikes per timestep, in at least float32, finite for every finite u."""
    return bounded_log_rate(mem).exp()


def require_membrane(mem: Tensor) -> None:
    """Raise unless ``mem`` is a floating-point tensor without NaN and infinity."""
    require_float(mem, "mem")
    require_finite(mem, "mem")


@dataclass
class Estimator(Complete):
    """Base class: a generator, and integer counts from ``sample``.

    ``law`` and ``slope_kind`` are those of :class:`Assumptions`. A subclass that overrides
    ``draw``, ``sample`` or ``slope`` without setting them gets ``"own"``: kernels then call it.
    """

    law: ClassVar[str] = "poisson"
    slope_kind: ClassVar[str] = "none"
    generator: torch.Generator | None = field(
        default=None, repr=False, compare=False, kw_only=True, metadata={"saved": False}
    )

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        if "law" not in own and {"draw", "sample"} & own.keys():
            cls.law = "own"
        if "slope_kind" not in own and "slope" in own:
            cls.slope_kind = "own"

    def __post_init__(self) -> None:
        if not isinstance(self.generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator or None, got {self.generator!r}")

    def assumptions(self, training: bool) -> Assumptions | None:
        """What kernels may assume in ``train()`` or ``eval()`` mode.

        ``None`` if the estimator must be called in every timestep.
        """
        return None if training else Assumptions(self.law, "none")

    def sample(self, mem: Tensor) -> Tensor:
        """Integer counts z ~ Poisson(e^mem), in the dtype of ``mem``, without gradient."""
        require_membrane(mem)
        return self.draw(mem)

    def draw(self, mem: Tensor) -> Tensor:
        """:meth:`sample` without validation, for finite membranes."""
        with torch.no_grad():
            return poisson(rate_of(mem), self.generator).to(mem.dtype)


ESTIMATORS: Registry[Any] = Registry("estimator", Estimator)
"""Estimators by the names they have in files and on the command line."""
