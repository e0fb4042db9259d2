"""Randomness that depends on a seed alone, whatever was drawn before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from ipvae_snn._utils.checks import require_seed


@contextmanager
def seeded(
    seed: int | None,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Iterator[None]:
    """Run a block with torch's random state set from ``seed``, and put the old state back after.

    Covers the global generators of the CPU and of ``device``, and ``generator`` where an estimator
    has one of its own. ``seed=None`` changes nothing.

    >>> with seeded(7):
    ...     a = torch.rand(3)
    >>> _ = torch.rand(5)
    >>> with seeded(7):
    ...     b = torch.rand(3)
    >>> bool((a == b).all())
    True
    """
    if seed is None:
        yield
        return
    seed = require_seed(seed)
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    own_state = None if generator is None else generator.get_state()
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        with torch.cuda.device(device) if on_cuda else nullcontext():
            if on_cuda:
                torch.cuda.manual_seed(seed)
            if generator is not None:
                generator.manual_seed(seed)
            try:
                yield
            finally:
                if generator is not None and own_state is not None:
                    generator.set_state(own_state)


def combine(*parts: int | str) -> int:
    """One seed from several numbers or words; another one if any of them changes.

    >>> combine(7, "spikes", 0) == combine(7, "spikes", 0) != combine(7, "spikes", 1)
    True
    """
    told = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1
