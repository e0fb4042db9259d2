"""Gain and thresholds of integrate-and-fire neurons, chosen on data."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import metrics
from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.network import RUNAWAY, GraphNetwork
from ipvae_snn.export.graphs.poisson import Constants, Portable, require_reset
from ipvae_snn.models.ipvae import IPVAE

STEP = 2**0.5, 2.0, 0.5
"""Moves of the search: factors on gain and threshold, and what is added to the self-return."""
SAME = 0.002  # of R²: the sparser of two such settings is taken
ROUNDS = 12
AIM = 0.8  # of the R² of the model: below, a warning is due


def calibrate(
    model: IPVAE,
    data: Tensor,
    reset: str = "subtract",
    *,
    num_steps: int = 128,
    progress: bool = False,
) -> Portable:
    """Choose input gain, thresholds and self-return for the portable form, on data.

    A search by steps: from the default (and, under zero reset, from thresholds as high as those of
    subtract reset, too) it doubles and halves thresholds, changes the gain by √2 and the
    self-return by ½ of diag(G), as long as the spikes of single timesteps reconstruct better. R²
    counts over the second half of ``num_steps``, the worse one of its two parts, so that what
    drifts away loses. Among equals the setting with the fewest spikes is taken; the factor on the
    decoder is the least-squares one.

    Args:
        model: a trained model.
        data: samples (N, M) like those the model will see; a hundred are enough.
        reset: the reset of the toolchain: ``"subtract"`` (sinabs) or ``"zero"`` (norse, NIR).
            Under zero reset a neuron emits at most one spike per timestep, so that the gain trades
            resolution against range.
        num_steps: timesteps that the membranes have to settle, at least 8.
        progress: show a progress bar.

    Returns:
        For ``to_nir(model, "portable", portable=...)``.

    Raises:
        TypeError: ``model`` is no IPVAE.
        ValueError: bad data, or no setting under which the neurons stay bounded.

    Warns:
        UserWarning: R² stays below 80% of the model's own.

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
    num_steps = require_integer(num_steps, "num_steps", least=8)
    data = data.detach().cpu().float()
    tried: dict[Portable, _Score] = {}
    with tqdm(disable=not progress, desc="calibrating", unit="setting") as bar:
        for start in _starts(model, reset):
            best = start
            for _ in range(ROUNDS):
                around = [best, *_neighbours(best)]
                for setting in around:
                    if setting not in tried:
                        tried[setting] = _score(model, data, setting, num_steps)
                        bar.update()
                before, best = best, max(around, key=lambda setting: tried[setting].r2)
                if tried[best].r2 <= tried[before].r2 + SAME / 2:
                    break
    top = max(score.r2 for score in tried.values())
    if top == -torch.inf:
        raise ValueError("no gain and threshold keeps the neurons bounded: train the model first")
    _warn_below_aim(model, data, top, num_steps)
    good = [setting for setting, score in tried.items() if score.r2 >= top - SAME]
    chosen = min(good, key=lambda setting: tried[setting].spikes)
    return replace(chosen, decode=tried[chosen].decode)


@dataclass(frozen=True)
class _Score:
    r2: float = -torch.inf
    spikes: float = torch.inf
    decode: float = 1.0


def _starts(model: IPVAE, reset: str) -> Iterator[Portable]:
    gram = Constants.of(model.neuron).gram
    default, safe = Portable.default(reset, gram), Portable.default("subtract", gram)
    yield default
    if reset == "zero":
        kept = default.self_return - default.threshold
        yield replace(default, threshold=safe.threshold, self_return=safe.threshold + kept)


def _neighbours(setting: Portable) -> Iterator[Portable]:
    """Settings a step away, within sensible bounds; thresholds keep what a spike costs."""
    by_gain, by_threshold, more = STEP
    for factor in (by_gain, 1 / by_gain):
        if 0.01 < setting.gain * factor < 1.01:
            yield replace(setting, gain=round(setting.gain * factor, 6))
    kept = setting.self_return - setting.threshold
    for factor in (by_threshold, 1 / by_threshold):
        threshold = setting.threshold * factor
        if 0.9 < threshold < 1e4:
            yield replace(setting, threshold=threshold, self_return=threshold + kept)
    if setting.reset == "zero":
        for change in (more, -more):
            if -1.1 < kept + change < 1.6:
                yield replace(setting, self_return=setting.self_return + change)


def _score(model: IPVAE, x: Tensor, setting: Portable, num_steps: int) -> _Score:
    """How well a setting reconstructs, with the decoder scaled; −∞ where spikes run away."""
    network = GraphNetwork(to_nir(model, "portable", portable=setting), setting.reset)
    shown, spikes = [], 0.0
    for t, (spk, out) in enumerate(network.unroll(x, num_steps)):
        if not float(spk.max()) < RUNAWAY:
            return _Score()
        if t >= num_steps // 2:
            shown.append(out)
            spikes += float(spk.sum())
    x_hat = torch.stack(shown)
    norm = float(x_hat.square().sum())
    decode = float((x_hat * x).sum()) / norm if norm > 0 else 0.0
    if decode <= 0:
        return _Score()
    halves = (decode * x_hat).tensor_split(2)
    r2 = min(float(metrics.r2(x.expand_as(half), half)) for half in halves)
    return _Score(r2, spikes, decode)


def _warn_below_aim(model: IPVAE, x: Tensor, r2: float, num_steps: int) -> None:
    with torch.no_grad():
        inputs = x.to(model.decoder.weight)
        state = model.run(inputs, num_steps, record=(), seed=0).state
        own = float(metrics.r2(x, model.decode(state.spk).cpu().float()))
    if r2 < AIM * own and own > 0:
        warnings.warn(
            f"the portable form reconstructs with R² {r2:.3f} at best, the model itself with "
            f"{own:.3f}: see export.report",
            stacklevel=3,
        )
