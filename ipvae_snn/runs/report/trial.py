"""Trials timestep by timestep, as the compact data that the page of a run embeds."""

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.models.base import BaseModel

ROWS, TRACES = 60, 6
"""Number of neurons in a raster, and of membranes below it."""


@torch.no_grad()
def trials(
    model: BaseModel, x: Tensor, shape: tuple[int, int], num_steps: int, seed: int
) -> list[dict[str, Any]]:
    """Input, reconstructions, spikes and membranes of each sample, as plain data.

    Images are grey levels in 0 … 255, with the same range for an input and its reconstructions;
    counts are limited to 255; membranes are in nats.
    """
    out = model.run(x, num_steps, record=("spk", "mem"), seed=seed)
    x_hat, spk, mem = model.reconstruct(out.spk, x), out.spk, out.mem
    if x.ndim > 2:  # whole images, whose neurons are those of all places
        shape, x, x_hat = (x.shape[-2], x.shape[-1]), x.flatten(1), x_hat.flatten(2)
        spk, mem = (code.movedim(2, -1).flatten(2) for code in (spk, mem))
    return [
        _trial(x[i], x_hat[:, i], spk[:, i], mem[:, i, : spk.shape[-1]], shape)
        for i in range(len(x))
    ]


def _trial(
    x: Tensor, x_hat: Tensor, spk: Tensor, mem: Tensor, shape: tuple[int, int]
) -> dict[str, Any]:
    codes = spk.abs()  # baselines have negative codes, too
    rows = metrics.by_use(codes)[:ROWS]
    traces = rows[mem[:, rows].amax(0).argsort(descending=True)[:TRACES]]
    peak = float(x.abs().max().clamp(min=1e-12))
    low = 0.0 if float(x.min()) >= 0 else -peak
    r2 = metrics.r2_per_sample(x.expand_as(x_hat), x_hat)
    return {
        "steps": len(spk),
        "shape": list(shape),
        "input": _base64(_grey(x, low, peak)),
        "frames": _base64(_grey(x_hat, low, peak)),
        "neurons": rows.tolist(),
        "counts": _base64(codes[:, rows].clamp(max=255)),
        "traces": traces.tolist(),
        "mem": [[round(float(u), 2) for u in mem[:, k]] for k in traces],
        "spikes": codes.sum(1).int().tolist(),
        "r2": [round(float(value), 3) for value in r2],
    }


def _grey(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1) * 255


def _base64(values: Tensor) -> str:
    """Values in 0 … 255 as bytes in base64."""
    integers = values.detach().cpu().numpy().round().astype(np.uint8)
    return base64.b64encode(integers.tobytes()).decode()
