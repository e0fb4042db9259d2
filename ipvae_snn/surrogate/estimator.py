"""Base class of all estimators, and what kernels may assume of each."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_instance
from ipvae_snn._utils.registry import Complete, Registry
from ipvae_snn._utils.seeding import seeded
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

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self.checked(name, value))

    def __post_init__(self) -> None:
        """For subclasses: all attributes are set, and so checked, when this is called."""

    def checked(self, name: str, value: Any) -> Any:
        """The value that attribute ``name`` takes when it is set; raises if it is none."""
        if name == "generator" and not isinstance(value, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator or None, got {value!r}")
        return value

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

TRIED_MEM = 2.0
"""A callable is tried at membranes of ± this, in nats."""
TOLERATED_FACTOR = 2.5
"""Between the mean count of a callable and the rate e^u, to either side."""
_CURE = (
    "take one of ipvae_snn.surrogate, such as midpoint(), or extend surrogate.Exact; surrogate "
    "gradients of units with a threshold, such as snntorch.surrogate has, do not count"
)


def require_estimator(spike_grad: Any, like: Tensor) -> None:
    """Raise unless ``spike_grad`` is an :class:`Estimator`, or a callable that acts as one.

    A callable is tried once, with a random state of its own, on membranes (N, K) of ±2 nats. A
    Poisson neuron fires e^u spikes there on average; a unit with a threshold at most one.

    Args:
        spike_grad: what an argument or attribute of that name was given.
        like: a tensor with K values, in the dtype and on the device of the membranes.

    Raises:
        TypeError: no callable, or a class.
        ValueError: a callable that does not map membranes to counts.
    """
    require_instance(spike_grad, "spike_grad")
    if not callable(spike_grad):
        raise TypeError(f"spike_grad must be a callable on tensors, got {spike_grad!r}")
    if isinstance(spike_grad, Estimator) or like.is_meta or torch.compiler.is_compiling():
        return
    features = like.numel()
    mem = like.detach().new_full((2 * max(1, 512 // max(1, features)), features), TRIED_MEM)
    mem[::2] *= -1
    problem = f"spike_grad must map membranes {tuple(mem.shape)} to counts of that shape, "
    try:
        with torch.no_grad(), seeded(0, device=like.device):
            spk = spike_grad(mem.clone())
    except Exception as error:
        raise ValueError(f"{problem}it raised {type(error).__name__}: {error}; {_CURE}") from error
    if not isinstance(spk, Tensor) or spk.shape != mem.shape:
        got = tuple(spk.shape) if isinstance(spk, Tensor) else type(spk).__name__
        raise ValueError(f"{problem}it returned {got}; {_CURE}")
    _require_counts(spk.detach().double())


def _require_counts(spk: Tensor) -> None:
    """Raise unless the spikes at membranes of −2 and 2 nats, in turn, have about their rates."""
    if not bool(torch.isfinite(spk).all() and (spk >= 0).all()):
        raise ValueError(
            "spike_grad must return counts: at membranes of ±2 nats it gave values that are "
            f"negative or not finite; {_CURE}"
        )
    low, high = float(spk[::2].mean()), float(spk[1::2].mean())
    few, many = math.exp(-TRIED_MEM), math.exp(TRIED_MEM)
    if low > TOLERATED_FACTOR * few or not 1 / TOLERATED_FACTOR <= high / many <= TOLERATED_FACTOR:
        raise ValueError(
            "spike_grad is no estimator of counts: a Poisson neuron fires e^mem spikes per "
            f"timestep, {few:.2g} at −2 nats and {many:.2g} at 2; it gave {low:.2g} and {high:.2g} "
            f"on average; {_CURE}"
        )
