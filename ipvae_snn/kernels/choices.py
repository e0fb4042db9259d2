"""Which form of a product is the faster one on this machine: measured once, and kept.

A product with spikes may be a sum over those that occurred or a dense product, and one of the
backward pass may be BLAS's or that of the compiled kernels. Which is faster depends on caches,
vector units and sizes. On first use some hundredths of a second are spent to find out, for each
class of sizes: rows and neurons rounded to a power of 2. The answers lie beside the compiled
kernels in the cache folder, ``choices-*.json``, so that a machine keeps them, and with them the
last bit of its results. Spikes of given weights never depend on them. ``IPVAE_SNN_MEASURE=0`` takes
those of one processor instead (AMD EPYC, Zen 4); delete the file to measure again.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from ipvae_snn._utils.files import atomic_write
from ipvae_snn._utils.machine import processor
from ipvae_snn._utils.private import private_folder, read_private
from ipvae_snn.kernels import native
from ipvae_snn.kernels.adjoint import CHUNK

SWITCH = "IPVAE_SNN_MEASURE"
ACTIVE = 0.15
"""Share of neurons that spike in what is measured, as in trained models."""
REPEATS = 5
WAIT = 60
"""Seconds to wait for another process that measures: one answer for all."""
HAND_OVER = 15e-6
"""Seconds that Python takes for a timestep that compiled code does not go on to by itself."""
MOST_ROWS, MOST_NEURONS = 256, 2048
"""Larger problems behave as these do."""


class Choices(NamedTuple):
    """What is faster, for a class of sizes.

    Attributes:
        lateral: share of neurons that spike above which zG of a team of rows is a dense product.
        decoder: share of counts that are not 0 below which a sum over them beats BLAS.
        gram_gradient: the same for the gradient of G.
        own_product: whether compiled code makes the products of the backward pass.
    """

    lateral: float = 0.5
    decoder: float = 0.25
    gram_gradient: float = 0.4
    own_product: bool = False


def choices(rows: int, latents: int) -> Choices:
    """Those for spikes (rows, latents) in float32 on the CPU, with the present threads."""
    sizes = _class_of(rows, MOST_ROWS), _class_of(latents, MOST_NEURONS)
    return _choices(*sizes, torch.get_num_threads())


def _class_of(size: int, most: int) -> int:
    return min(most, 1 << (max(size, 1) - 1).bit_length())


@cache
def _choices(rows: int, latents: int, threads: int) -> Choices:
    default = Choices(own_product=latents <= 256)
    if os.environ.get(SWITCH, "1") == "0" or not native.available():
        return default
    name = f"{rows} × {latents}, {threads} threads"
    try:
        path = private_folder("XDG_CACHE_HOME", ".cache") / f"choices-{_fingerprint()}.json"
        with FileLock(path.with_suffix(".lock"), timeout=WAIT):
            kept = _read(path)
            if name not in kept:
                with torch.autocast("cpu", enabled=False):
                    kept[name] = _measured(rows, latents)
                with atomic_write(path) as unfinished:
                    unfinished.write_text(json.dumps({k: v._asdict() for k, v in kept.items()}))
                path.chmod(0o600)  # else it is not trusted when it is read
            return kept[name]
    except (OSError, RuntimeError):  # nowhere to keep them: what is measured could change
        return default


def _fingerprint() -> str:
    """Of the compiled kernels and the processor."""
    built = Path(native.library()._name).name
    return hashlib.sha256(f"{built} {processor()}".encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Choices]:
    """What was kept; nothing if the file is missing or damaged."""
    try:
        found = json.loads(read_private(path) or b"{}")
        kept = {name: Choices(**values) for name, values in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return kept if all(map(_is_valid, kept.values())) else {}


def _is_valid(kept: Choices) -> bool:
    *shares, own = kept
    return isinstance(own, bool) and all(
        isinstance(share, float) and 0 <= share <= 1 for share in shares
    )


@torch.no_grad()
def _measured(rows: int, latents: int) -> Choices:
    """By timing; draws no random numbers, so that no generator moves."""
    options: Any = {"dtype": torch.float32, "device": "cpu"}
    generator = torch.Generator("cpu").manual_seed(0)
    full = torch.rand(rows, latents, generator=generator, **options)
    spk = (full < ACTIVE).float()
    gram = native.padded(torch.rand(latents, latents, generator=generator, **options))
    out, chunk, gradient = full.clone(), full.repeat(CHUNK, 1), torch.zeros_like(gram)
    counts = spk.to(torch.uint8).expand(CHUNK, -1, -1).contiguous()
    factor = native.padded(full).expand(CHUNK, -1, -1).contiguous()
    events = torch.empty(torch.get_num_threads(), native.LANES, CHUNK * rows, 2, **options)
    square, gradient_square = gram[:, :latents], gradient[:, :latents]
    dense, summed, own, by_spikes, by_product = _seconds(
        lambda: torch.mm(full, square, out=out),
        lambda: native.sum_rows(spk, gram, out, dense_above=1.0),
        lambda: native.sum_rows(full, gram, out, dense_above=0.0),
        lambda: native.add_gram_gradient(counts, factor, gradient, events),
        lambda: gradient_square.addmm_(chunk.mT, chunk),
    )

    def share(of_dense: float, of_spikes: float) -> float:
        """Up to which the spikes are faster, whose time grows in proportion."""
        return round(min(0.95, ACTIVE * of_dense / of_spikes), 3)

    return Choices(
        lateral=share(own, summed),
        decoder=share(dense, summed),
        gram_gradient=share(by_product, by_spikes),
        own_product=own < dense + HAND_OVER,
    )


def _seconds(*works: Callable[[], Tensor | None]) -> list[float]:
    """The shortest of some runs of each, in turn."""
    best = [math.inf] * len(works)
    for _ in range(1 + REPEATS):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best
