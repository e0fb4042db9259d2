"""Chooses gain and thresholds of integrate-and-fire neurons on data."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn.export.constants import linear_gaussian, samples
from ipvae_snn.export.graphs.competition import Competition, Matrix
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.maps import map_constants
from ipvae_snn.export.graphs.network import RUNAWAY, GraphNetwork
from ipvae_snn.export.graphs.poisson import Portable, require_reset
from ipvae_snn.models.convolutional import ConvIPVAE

GAIN_FACTOR, THRESHOLD_FACTOR, SELF_RETURN_CHANGE = 2**0.5, 2.0, 0.5
"""Moves of the search."""
TOLERANCE = 0.002
"""Settings whose R² differ by less count as equal: the one with the fewest spikes is taken."""
MAX_ROUNDS = 12
AIM = 0.8
"""Fraction of the model's own R² below which calibration warns."""


def calibrate(
    model: Any,
    data: Tensor,
    reset: str = "subtract",
    *,
    num_steps: int = 128,
    progress: bool = False,
) -> Portable:
    """Choose input gain, thresholds and self-return for the portable form, on data.

    Hill climbing: from the default (with zero reset also from the higher thresholds of subtract
    reset), it changes the gain by √2, thresholds by 2 and the self-return by ½ of diag(G), as long
    as single timesteps reconstruct better. The score is the R² of the third or the last quarter of
    ``num_steps``, whichever is lower, so that settings that drift lose. Among equal settings it
    takes the one with the fewest spikes. The factor on the decoder is the least-squares one.

    Args:
        model: a trained :class:`~ipvae_snn.IPVAE` or :class:`~ipvae_snn.models.ConvIPVAE`.
        data: samples (N, M), or images (N, C, H, W), like those the model will see; a hundred are
            enough.
        reset: the reset of the toolchain: ``"subtract"`` (sinabs) or ``"zero"`` (norse, NIR). With
            zero reset a neuron emits at most one spike per timestep, so that the gain trades
            resolution against range.
        num_steps: timesteps of a trial, at least 8.
        progress: show a progress bar.

    Returns:
        What ``to_nir(model, "portable", portable=...)`` takes.

    Raises:
        TypeError: ``model`` is neither of them.
        ValueError: bad data, or the neurons run away at every setting.

    Warns:
        UserWarning: R² stays below 80% of the model's own.

    >>> from ipvae_snn import IPVAE, export
    >>> model = IPVAE(16, 8, init_std=0.5, form="published")
    >>> portable = export.calibrate(model, torch.rand(9, 16), num_steps=8)
    >>> portable.reset, portable.self_return == portable.threshold - 1
    ('subtract', True)
    """
    competition: Competition
    if isinstance(model, ConvIPVAE):
        require_float(data, "data")
        maps = map_constants(model, tuple(data.shape[1:]))
        require_finite(data, "data")
        data, competition = data.detach().cpu().float(), maps.competition
    else:
        constants = linear_gaussian(model)
        data = torch.from_numpy(samples(data, len(constants.weight), "data")).float()
        competition = Matrix(constants.gram)
    require_reset(reset)
    num_steps = require_integer(num_steps, "num_steps", least=8)
    tried: dict[Portable, _Score] = {}
    with progress_bar(None, "calibrating", shown=progress, unit="setting") as bar:
        for best in _starts(competition, reset):
            for _ in range(MAX_ROUNDS):
                candidates = [best, *_neighbours(best)]
                for setting in candidates:
                    if setting not in tried:
                        tried[setting] = _score(model, data, setting, num_steps)
                        bar.update()
                previous, best = best, max(candidates, key=lambda setting: tried[setting].r2)
                if tried[best].r2 <= tried[previous].r2 + TOLERANCE / 2:
                    break
    top = max(score.r2 for score in tried.values())
    if top == -torch.inf:
        raise ValueError("no gain and threshold keeps the neurons bounded: train the model first")
    _warn_below_aim(model, data, top, num_steps)
    good = [setting for setting, score in tried.items() if score.r2 >= top - TOLERANCE]
    chosen = min(good, key=lambda setting: tried[setting].spikes)
    return replace(chosen, decode=tried[chosen].decode)


@dataclass(frozen=True)
class _Score:
    r2: float = -torch.inf
    spikes: float = torch.inf
    decode: float = 1.0


def _starts(competition: Competition, reset: str) -> Iterator[Portable]:
    default, safe = (Portable.default(kind, competition) for kind in (reset, "subtract"))
    yield default
    if reset == "zero":
        excess = default.self_return - default.threshold
        yield replace(default, threshold=safe.threshold, self_return=safe.threshold + excess)


def _neighbours(setting: Portable) -> Iterator[Portable]:
    """Settings one move away, within bounds; with the threshold the self-return changes, so that a
    spike costs the same."""
    for factor in (GAIN_FACTOR, 1 / GAIN_FACTOR):
        if 0.01 < setting.gain * factor < 1.01:
            yield replace(setting, gain=round(setting.gain * factor, 6))
    excess = setting.self_return - setting.threshold
    for factor in (THRESHOLD_FACTOR, 1 / THRESHOLD_FACTOR):
        threshold = setting.threshold * factor
        if 0.9 < threshold < 1e4:
            yield replace(setting, threshold=threshold, self_return=threshold + excess)
    if setting.reset == "zero":
        for change in (SELF_RETURN_CHANGE, -SELF_RETURN_CHANGE):
            if -1.1 < excess + change < 1.6:
                yield replace(setting, self_return=setting.self_return + change)


def _score(model: Any, x: Tensor, setting: Portable, num_steps: int) -> _Score:
    """R² of a setting with the least-squares decoder; −∞ if spikes run away."""
    shape = tuple(x.shape[1:])
    graph = to_nir(model, "portable", portable=setting, input_shape=shape)
    network = GraphNetwork(graph, setting.reset)
    outputs, spikes = [], 0.0
    for t, (spk, out) in enumerate(network.unroll(x, num_steps)):
        if not float(spk.max()) < RUNAWAY:
            return _Score()
        if t >= num_steps // 2:
            outputs.append(out)
            spikes += float(spk.sum())
    if isinstance(model, ConvIPVAE):
        x = torch.pixel_unshuffle(x, model.stride[0])  # as the graph returns them
    x, x_hat = x.flatten(1), torch.stack(outputs).flatten(2)
    norm = float(x_hat.square().sum())
    decode = float((x_hat * x).sum()) / norm if norm > 0 else 0.0
    if decode <= 0:
        return _Score()
    halves = (decode * x_hat).tensor_split(2)
    r2 = min(float(metrics.r2(x.expand_as(half), half)) for half in halves)
    return _Score(r2, spikes, decode)


def _warn_below_aim(model: Any, x: Tensor, r2: float, num_steps: int) -> None:
    with torch.no_grad():
        inputs = x.to(model.decoder.weight)
        state = model.run(inputs, num_steps, record=(), seed=0).state
        own = float(metrics.r2(x.flatten(1), model.decode(state.spk).cpu().float().flatten(1)))
    if r2 < AIM * own and own > 0:
        warnings.warn(
            f"the portable form reconstructs with R² {r2:.3f} at best, the model itself with "
            f"{own:.3f}: see export.report",
            stacklevel=3,
        )
