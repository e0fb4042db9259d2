"""Counts by the fastest exact sampler available, also where torch.compile traces."""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels import native


def poisson(rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Integer counts z ~ Poisson(rate), in the shape and dtype of ``rate``.

    Uses the compiled sampler of :mod:`~ipvae_snn.kernels.native` for float32 on the CPU, else
    ``torch.poisson``. For one seed the two give different draws of the same distribution.

    Args:
        rate: expected counts, in [0, e¹⁶].
        generator: source of randomness; ``None`` for torch's global one, or that of a seeded block.

    >>> counts = poisson(torch.full((1000, 64), 2.5), torch.Generator().manual_seed(0))
    >>> print(f"{counts.mean():.1f} {counts.var():.1f}")
    2.5 2.5
    """
    if generator is None and _is_traced():
        drawn: Tensor = torch.ops.ipvae_snn.poisson(rate)
        return drawn
    generator = source(generator, rate.device)
    if native.supports_tensors(rate):
        return native.poisson(rate, native.draw_keys(1, generator))
    return torch.poisson(rate, generator=generator)


def binomial(count: Tensor, share: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Integer counts z ~ Binomial(count, share), for tensors of one shape; see :func:`poisson`."""
    if generator is None and _is_traced():
        drawn: Tensor = torch.ops.ipvae_snn.binomial(count, share)
        return drawn
    return torch.binomial(count, share, generator=source(generator, share.device))


def _is_traced() -> bool:
    # An exported program must run without this package, and so without its operations.
    return torch.compiler.is_compiling() and not is_exporting()


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing; False in releases of torch that cannot tell."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


# Operations in graphs of torch.compile, which would otherwise draw from torch's global generator
# also in a seeded block. The tag says that two calls with equal arguments are two draws.
_library = torch.library.Library("ipvae_snn", "DEF")
_draws: dict[str, Any] = {
    "poisson(Tensor rate) -> Tensor": poisson,
    "binomial(Tensor count, Tensor share) -> Tensor": binomial,
}
for _schema, _draw in _draws.items():
    _name = _library.define(_schema, tags=(torch.Tag.nondeterministic_seeded,))
    _library.impl(_name, _draw, "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"ipvae_snn::{_schema.partition('(')[0]}",
        lambda *given: torch.empty_like(given[-1], memory_format=torch.contiguous_format),
        lib=_library,
    )
