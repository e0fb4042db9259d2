"""Gain and thresholds of integrate-and-fire neurons, chosen on data."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import metrics
from ipvae_snn.checks import require_finite, require_float, require_whole
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.network import GraphNetwork
from ipvae_snn.export.graphs.pieces import Portable, require_reset
from ipvae_snn.model import IPVAE

GAINS = {"subtract": (0.35, 0.5, 0.7, 1.0), "zero": (0.15, 0.25, 0.35, 0.5)}
THRESHOLDS = {"subtract": (2.0, 4.0, 8.0, 16.0), "zero": (1.0, 16.0, 32.0)}
RETURNS = {"subtract": (-1.0,), "zero": (0.0, 0.5, 1.0)}  # and the threshold on top
SAME = 0.002  # of R²: the sparser of two such settings is taken
LAST = 8  # timesteps that R² is averaged over


def calibrate(
    model: IPVAE,
    data: Tensor,
    reset: str = "subtract",
    *,
    num_steps: int = 64,
    progress: bool = False,
) -> Portable:
    """Choose input gain, thresholds and self-return for the portable form, on data.

    Every setting of a grid is run for ``num_steps`` timesteps. The one whose spikes of a single
    timestep reconstruct best is taken, R² averaged over the last 8; among equals, the one with the
    fewest spikes. The factor on the decoder is the least-squares one.

    Args:
        model: a trained model.
        data: samples (N, M) like those the model will see; a hundred are enough.
        reset: the reset of the toolchain: ``"subtract"`` (sinabs) or ``"zero"`` (norse, NIR).
            Under zero reset a neuron emits at most one spike per timestep, so that the gain trades
            resolution against range.
        num_steps: timesteps that the membranes have to settle.
        progress: show a progress bar.

    Returns:
        For ``to_nir(model, "portable", portable=...)``.

    Raises:
        TypeError: ``model`` is no IPVAE.
        ValueError: bad data, or no setting under which the neurons stay bounded.

    >>> from ipvae_snn import IPVAE, export
    >>> portable = export.calibrate(IPVAE(16, 8, init_std=0.5), torch.rand(9, 16), num_steps=8)
    >>> portable.reset, portable.self_return == portable.threshold - 1
    ('subtract', True)
    """
    if not isinstance(model, IPVAE):
        raise TypeError(f"model must be an IPVAE, got {type(model).__name__}")
    require_reset(reset)
    require_float(data, "data")
    if data.ndim != 2 or data.shape[1] != model.in_features or not len(data):
        raise ValueError(f"data must have shape (N, {model.in_features}), got {tuple(data.shape)}")
    require_finite(data, "data")
    require_whole(num_steps, "num_steps", least=LAST)
    data = data.detach().cpu().float()
    best: list[tuple[float, float, Portable]] = []
    for setting in tqdm(list(_grid(reset)), disable=not progress, desc="calibrating"):
        score = _score(model, data, setting, num_steps)
        if score is not None:
            best.append(score)
    if not best:
        raise ValueError("no gain and threshold keeps the neurons bounded: train the model first")
    top = max(r2 for r2, _, _ in best)
    return min((s for s in best if s[0] >= top - SAME), key=lambda s: s[1])[2]


def _grid(reset: str) -> Iterator[Portable]:
    for gain, threshold, more in itertools.product(GAINS[reset], THRESHOLDS[reset], RETURNS[reset]):
        yield Portable(reset, gain, threshold, threshold + more)


def _score(
    model: IPVAE, x: Tensor, setting: Portable, num_steps: int
) -> tuple[float, float, Portable] | None:
    """R² and spikes of a setting, with the decoder scaled; ``None`` where spikes run away."""
    network = GraphNetwork(to_nir(model, "portable", portable=setting), setting.reset)
    shown, spikes = [], []
    for t, (spk, out) in enumerate(network.unroll(x, num_steps)):
        if t % LAST == 0 and not float(spk.max()) < 1e4:
            return None
        if t >= num_steps - LAST:
            shown.append(out)
            spikes.append(float(spk.sum(1).mean()))
    x_hat = torch.stack(shown)
    norm = float(x_hat.square().sum())
    if not np.isfinite(norm):
        return None
    decode = float((x_hat * x).sum()) / norm if norm > 0 else 1.0
    decode = decode if decode > 0 else 1.0
    r2 = float(metrics.r2(x.expand_as(x_hat), decode * x_hat))
    return r2, float(np.mean(spikes)), Portable(**{**vars(setting), "decode": decode})
