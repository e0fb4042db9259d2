"""Spikes as sound: a click for each, as over a loudspeaker in an electrophysiology laboratory."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_integer, require_number
from ipvae_snn._utils.files import atomic_write

CLICK = 0.003
"""Duration of a click in seconds."""

MAX_SAMPLES = 2**30
"""Bound on the samples of a file: half of what a 16-bit WAV file can hold."""


def save_clicks(
    path: str | Path, spk: Tensor, *, timestep: float = 0.02, rate: int = 44_100
) -> Path:
    """Write the spikes of one neuron as a WAV file: a click for each, 16 bits, one channel.

    The n spikes of timestep t (from 0) click at (t + i/n) · ``timestep`` seconds, i = 0 ... n − 1.

    Args:
        path: file to write, atomically.
        spk: counts, shape (T,).
        timestep: duration of a timestep in seconds.
        rate: samples per second.

    Raises:
        ValueError: not counts of shape (T,), or numbers out of range.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_clicks(Path(folder) / "spikes.wav", torch.tensor([0.0, 2.0, 1.0]))
    ...     with wave.open(str(path)) as sound:
    ...         round(sound.getnframes() / sound.getframerate(), 3)
    0.063
    """
    require_float(spk, "spk")
    timestep = require_number(timestep, "timestep", least=1e-3, most=10)
    rate = require_integer(rate, "rate", least=8000)
    require_number(rate, "rate", most=192_000)
    counts = spk.detach().cpu().double().numpy()
    if counts.ndim != 1 or not len(counts) or not np.isfinite(counts).all() or counts.min() < 0:
        raise ValueError(f"spk must hold counts of one neuron, shape (T,), got {tuple(spk.shape)}")
    if len(counts) * timestep * rate > MAX_SAMPLES or counts.max() > timestep * rate:
        raise ValueError(
            f"spk must fit {MAX_SAMPLES:,} samples of sound with at most one click in each, got "
            f"{len(counts):,} timesteps of {timestep:g} s and counts up to {counts.max():g}"
        )
    samples = np.zeros(int(np.ceil((len(counts) * timestep + CLICK) * rate)))
    click = _click(rate)
    for t, n in enumerate(counts.round().astype(int)):
        for i in range(n):
            start = round((t + i / n) * timestep * rate)
            samples[start : start + len(click)] += click[: len(samples) - start]
    peak = max(float(np.abs(samples).max()), 1.0)
    path = Path(path)
    with atomic_write(path) as temporary, wave.open(str(temporary), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((samples / peak * 32767).astype("<i2").tobytes())
    return path


def _click(rate: int) -> NDArray[np.float64]:
    """A damped wave of 1.5 kHz, loudest at its first sample, so that its onset is sharp."""
    time = np.arange(int(CLICK * rate)) / rate
    wave: NDArray[np.float64] = np.cos(2 * np.pi * 1500 * time) * np.exp(-time / 0.0006)
    return wave
