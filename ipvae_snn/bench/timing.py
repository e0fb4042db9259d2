"""Fair timings on a noisy machine: all work interleaved, medians and ratios; peak memory.

``torch.utils.benchmark.Timer`` runs a statement twice untimed before each timed block. Interleaved
one run at a time, that triples the work and times it with warm caches.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import snntorch
import torch

from ipvae_snn._utils.machine import processor
from ipvae_snn.kernels import native
from ipvae_snn.version import __version__

Work = Callable[[], Any]


def interleaved(
    work: Mapping[str, Work], device: torch.device, repeats: int, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of each work, all run in turn ``repeats`` times."""
    seconds = all_seconds(work, device, repeats, warm_up)
    return {name: statistics.median(values) for name, values in seconds.items()}


def all_seconds(
    work: Mapping[str, Work], device: torch.device, repeats: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds of every repeat of each work, ascending; the first ``warm_up`` rounds are dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(warm_up + repeats):
        for name, run in work.items():
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: sorted(values[warm_up:]) for name, values in seconds.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Work, device: torch.device) -> int:
    """Peak of the tensor memory that ``work`` allocates, in bytes above what was allocated before.

    The first run is not measured.
    """
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _silenced_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            # Tensors from before the profile may be freed in it, which makes no room for new ones.
            level = max(level + event.nbytes(), 0)
            peak = max(peak, level)
    return peak


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Discard what the profiler's C++ code writes to the standard error of the process."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, the kernels and the versions of a measurement."""
    on_cuda = device.type == "cuda"
    kernels = "native" if native.available() else native.unavailable_reason()
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else processor(),
        "threads": torch.get_num_threads(),
        "kernels": "CUDA" if on_cuda else kernels,
        "ipvae_snn": __version__,
        "torch": torch.__version__,
        "snntorch": getattr(snntorch, "__version__", "unknown"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
