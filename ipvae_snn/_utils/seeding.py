"""Seeds: blocks with their own random state, and seeds derived from several values."""

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
    """Seed torch's generators for a block, and restore their states after it.

    Covers the global generators of the CPU and of ``device``, and ``generator``, such as that of an
    estimator. ``seed=None`` changes nothing.

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
    """Hash several numbers or strings to one seed.

    >>> combine(7, "spikes", 0) == combine(7, "spikes", 0) != combine(7, "spikes", 1)
    True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
