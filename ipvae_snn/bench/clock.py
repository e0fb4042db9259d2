"""Fair timings on machines that are noisy: everything interleaved, medians, ratios."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import snntorch
import torch

from ipvae_snn.kernels import native
from ipvae_snn.version import __version__

Work = Callable[[], Any]


def interleaved(
    work: Mapping[str, Work], device: torch.device, repeats: int, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of each piece of work, all run in turn ``repeats`` times."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(warm_up + repeats):
        for name, piece in work.items():
            elapsed = _once(piece, device)
            if repeat >= warm_up:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def one_by_one(piece: Work, device: torch.device, repeats: int) -> list[float]:
    """Seconds of every repeat, sorted: for medians and tails."""
    for _ in range(10):
        piece()
    return sorted(_once(piece, device) for _ in range(repeats))


def _once(piece: Work, device: torch.device) -> float:
    _settle(device)
    start = time.perf_counter()
    piece()
    _settle(device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(piece: Work, device: torch.device) -> int:
    """Most bytes of tensors that ``piece`` holds at a time beyond what was there before."""
    piece()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        piece()
        return torch.cuda.max_memory_allocated(device) - before
    with _silent_errors(), torch.profiler.profile(profile_memory=True) as profile:
        piece()
    recorded = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    level = top = 0
    for event in sorted(recorded, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            # Of what was there before, the profiler knows some sizes from an earlier profile: that
            # it goes is no room for what comes.
            level = max(level + event.nbytes(), 0)
            top = max(top, level)
    return top


@contextmanager
def _silent_errors() -> Iterator[None]:
    """The profiler announces itself on the process's standard error: not while this lasts."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def machine(device: torch.device) -> dict[str, Any]:
    """Where a measurement was made."""
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else _processor(),
        "threads": torch.get_num_threads(),
        "kernels": "CUDA"
        if on_cuda
        else "native"
        if native.available()
        else native.unavailable_reason(),
        "ipvae_snn": __version__,
        "torch": torch.__version__,
        "snntorch": getattr(snntorch, "__version__", "unknown"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
