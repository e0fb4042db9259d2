"""Poisson counts by the fastest exact sampler available."""

import torch
from torch import Tensor

from ipvae_snn.kernels import native


def poisson(rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Integer counts z ~ Poisson(rate), in the shape and dtype of ``rate``.

    Uses the compiled sampler of :mod:`~ipvae_snn.kernels.native` for float32 on the CPU, else
    ``torch.poisson``. For one seed the two give different draws of the same distribution.

    Args:
        rate: expected counts, in [0, e¹⁶].
        generator: source of randomness; ``None`` for torch's global one.

    >>> counts = poisson(torch.full((1000, 64), 2.5), torch.Generator().manual_seed(0))
    >>> print(f"{counts.mean():.1f} {counts.var():.1f}")
    2.5 2.5
    """
    if torch.compiler.is_compiling():
        on_cpu = rate.dtype == torch.float32 and rate.device.type == "cpu"
        # An exported program must run without this package, and so without its operations.
        if on_cpu and native.available() and not is_exporting():
            spk: Tensor = _traced_poisson(rate, native.draw_keys(1, generator))
            return spk
    elif native.supports_tensors(rate):
        return native.poisson(rate, native.draw_keys(1, generator))
    return torch.poisson(rate, generator=generator)


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing; False in releases of torch that cannot tell."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


@torch.library.custom_op("ipvae_snn::poisson", mutates_args=())
def _traced_poisson(rate: Tensor, key: Tensor) -> Tensor:
    """The compiled sampler as one operation in a graph of ``torch.compile``."""
    return native.poisson(rate, key)


@_traced_poisson.register_fake
def _(rate: Tensor, key: Tensor) -> Tensor:
    return torch.empty_like(rate, memory_format=torch.contiguous_format)
