"""A simple, slow iterative Poisson VAE in numpy, independent of the package.

Residual form (the prediction error passes through the decoder at every timestep), two draws of
spikes per timestep (one is fed back, the other reconstructs), counts from exponential arrival times
with a soft indicator. It follows the published program and shares no code with ``ipvae_snn``.
"""

import numpy as np

TEMP = 0.01


def soft_clamp(v, c):
    return c - np.logaddexp(0, c - np.maximum(v, -8))


def arrival_counts(rate, rng):
    """Sum of cubic indicators of exponential arrival times; nearly integer for a small TEMP."""
    max_count = int(rate.max() + 8 * np.sqrt(rate.max()) + 12)
    times = np.cumsum(rng.exponential(size=(*rate.shape, max_count)), axis=-1) / rate[..., None]
    w = np.clip(((1 - times) / TEMP + 1) / 2, 0, 1)
    return (3 * w**2 - 2 * w**3).sum(-1)


def infer(x, weight, sigma, mem_init, bias, step, clamp, num_steps, rng):
    """R² and portion of zeros of each sample, both of shape (num_steps, B)."""
    mem = np.tile(mem_init, (len(x), 1))
    fed_back = np.zeros_like(mem)
    r2, zeros = [], []
    total = ((x - x.mean(1, keepdims=True)) ** 2).sum(1)
    for _ in range(num_steps):
        error = (x - fed_back @ weight.T) / sigma**2
        change = step * (error @ weight - bias)
        mem = soft_clamp(mem + soft_clamp(change, clamp), clamp)
        rate = np.exp(mem)
        fed_back = arrival_counts(rate, rng)
        spk = arrival_counts(rate, rng)
        r2.append(1 - ((x - spk @ weight.T) ** 2).sum(1) / total)
        zeros.append((spk < 0.5).mean(1))
    return np.array(r2), np.array(zeros)
