"""The figures of a run, as PNG files; one of them is redrawn while the training runs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import plotting
from ipvae_snn._utils.files import atomic_write
from ipvae_snn.metrics.evaluation import Evaluation
from ipvae_snn.models import MapModel
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training import Tuning

RASTER_STEPS, RASTER_NEURONS, SHOWN_SAMPLES = 120, 200, 8
TRAINING = "training.png"
LIVE_INTERVAL, LIVE_SHARE = 3.0, 0.02
"""Least seconds between two drawings of a training, and the most of its time that they take."""


@contextmanager
def figure_file(
    path: Path, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    # LaTeX, where a user has chosen it, may be missing, or fail on signs such as ²: that would end
    # a finished training.
    with rc_context({"text.usetex": False}) if rcParams["text.usetex"] else nullcontext():
        figure = Figure(figsize=size, layout=layout)
        yield figure
        figure.savefig(path, dpi=130, format="png")


@contextmanager
def _png(path: Path, size: tuple[float, float]) -> Iterator[Axes]:
    with figure_file(path, size) as figure:
        yield figure.subplots()


def save_training(
    path: Path, history: Sequence[Mapping[str, float]], iterations: int | None = None
) -> None:
    """Draw R² and zeros, loss, learning rate and β of a training.

    Args:
        path: PNG file to write.
        history: history of the training (:func:`~ipvae_snn.training.fit`), so far.
        iterations: all that there will be: the end of the axis.
    """
    # To find margins for every drawing would take it half as long again.
    margins = {"left": 0.14, "right": 0.87, "bottom": 0.07, "top": 0.95, "hspace": 0.1}
    heights: Any = {"height_ratios": (4, 3, 2), "gridspec_kw": margins}
    with figure_file(path, (6.5, 7.2), layout=None) as figure:
        quality, loss, schedules = figure.subplots(3, 1, sharex=True, **heights)
        plotting.training(history, ax=quality)
        plotting.loss(history, ax=loss)
        plotting.schedules(history, ax=schedules)
        for ax in (quality, loss):
            ax.set_xlabel("")
        quality.set_xlim(0, iterations or history[-1]["iteration"])
        quality.set_title("Single draws, at the last of the trained timesteps")


class LivePicture:
    """Keeps a picture of a training up to date while it runs: a ``watch`` of ``fit``.

    It is written whole, every few seconds and in at most 2% of the time. What cannot be drawn or
    written is left out: no training ends for it.

    Args:
        path: PNG file; it is replaced.
        iterations: of the training: the end of the axis.

    >>> watch = LivePicture("training.png", iterations=1200)
    >>> fit(model, x, TrainConfig(iterations=1200), watch=watch)  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, iterations: int | None = None) -> None:
        self.path, self.iterations = Path(path), iterations
        self._due = time.monotonic() + LIVE_INTERVAL

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Draw the history, if it is time to."""
        started = time.monotonic()
        if started < self._due:
            return
        with suppress(Exception):
            self.path.parent.mkdir(exist_ok=True)
            with atomic_write(self.path) as temporary:
                save_training(temporary, history, self.iterations)
        ended = time.monotonic()
        self._due = ended + max(LIVE_INTERVAL, (ended - started) / LIVE_SHARE)


def save_figures(
    folder: Path,
    model: BaseModel,
    x: Tensor,
    shape: tuple[int, int],
    result: Evaluation,
    *,
    trained_steps: int | None = None,
    history: Sequence[Mapping[str, float]] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw dictionary, raster, membranes, convergence, reconstructions and training.

    Args:
        folder: folder of the PNG files; made if it does not exist.
        model: the model, in ``eval()`` mode.
        x: held-out samples, shape (N, M); the first few are shown.
        shape: (H, W) of a sample.
        result: evaluation of the model (:func:`~ipvae_snn.metrics.evaluation.evaluate`).
        trained_steps: T of the training, marked in the convergence figure.
        history: history of the training (:func:`~ipvae_snn.training.fit`).
        seed: seed of the spikes.

    Returns:
        All PNG files of the folder, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x = x[:SHOWN_SAMPLES]
    steps = [t for t in result.reported_steps() if t > 1] or [1]
    with torch.no_grad():
        start = model.run(x, RASTER_STEPS, record=("spk", "mem"), seed=seed)
        last = model.run(x, result.num_steps, record=("mem",), every=result.num_steps, seed=seed)
        x_hat = {
            f"step {t}": model.reconstruct(model.run(x, t, record=(), seed=seed).state.spk, x)
            for t in steps
        }
        rates = model.mean_code(last.mem[-1])
        x_hat[f"rates, {result.num_steps}"] = model.reconstruct(rates, x)
    feature: tuple[int, ...] = shape
    sample: tuple[int, ...] = shape
    if isinstance(model, MapModel):  # its features are smaller, its neurons those of all places
        sample = tuple(x.shape[1:])
        feature = (model.channels, *model.kernel_size)
        start = start._replace(**{n: _by_place(getattr(start, n)) for n in ("spk", "mem")})
        x, x_hat = x.flatten(1), {name: values.flatten(1) for name, values in x_hat.items()}
    codes = start.spk.abs()  # baselines have negative codes, too: dots show magnitudes
    typical = int(codes.sum((0, 2)).median(0).indices)  # the sample with the median spike count
    spk, mem = codes[:, typical], start.mem[:, typical, : codes.shape[-1]]
    active = torch.argsort(spk.sum(0), descending=True)[:RASTER_NEURONS]

    with _png(folder / "dictionary.png", (9, 9.4)) as ax:
        spikes, weight = codes.sum((0, 1)), model.weight.detach()
        spikes = spikes.view(-1, model.latents).sum(0)
        norm = weight.square().sum(0)
        use = spikes / spikes.sum().clamp(min=1) + norm / norm.sum()
        order = torch.argsort(use, descending=True)
        plotting.dictionary(weight, feature, order=order[:400].tolist(), ax=ax)
        ax.set_title(f"Features of {min(400, model.latents)} of {model.latents} neurons")
    with _png(folder / "raster.png", (9, 4.8)) as ax:
        plotting.raster(spk[:, active], ax=ax)
        ax.set_ylabel("neuron, most active first")
        ax.set_title(
            f"Spikes for one sample: the {len(active)} most active of {spk.shape[1]:,} neurons"
        )
    with _png(folder / "membranes.png", (9, 4)) as ax:
        plotting.membranes(
            mem, neurons=active[[0, 2, 5, 10, 20]].tolist() if len(active) > 20 else None, ax=ax
        )
        ax.set_title("Membranes of some active neurons")
    with _png(folder / "convergence.png", (6.5, 4.2)) as ax:
        curves = {
            "R², spikes of one timestep": result.curves["r2"],
            "portion of zeros": result.curves["zeros"],
            "R², rates": result.curves["r2_map"],
        }
        plotting.convergence(curves, mark=trained_steps, ax=ax)
        ax.set_title("Held-out samples")
    columns, ratio = len(x_hat) + 1, sample[-2] / sample[-1]
    with _png(folder / "reconstructions.png", (1.1 * columns, 1.1 * len(x) * ratio + 0.4)) as ax:
        plotting.reconstructions(x, x_hat, sample, scale=scale_of(x), ax=ax)
    if history:
        save_training(folder / TRAINING, history)
    return sorted(folder.glob("*.png"))


def scale_of(x: Tensor) -> str:
    """How images are shown: on the scale of pixels, if all are on it, else each on its own."""
    return "unit" if float(x.min()) >= 0 and float(x.max()) <= 1 else "each"


def _by_place(code: Tensor) -> Tensor:
    """Codes (T, B, K, h, w) as those of h w K neurons, the K of a place side by side."""
    return code.movedim(2, -1).flatten(2)


def save_tuning_figure(path: Path, result: Tuning) -> None:
    """Draw what was tried, on the samples to choose on, with the model before and after."""
    pairs = [(c.quality.spikes, c.quality.distance) for c in result.candidates]
    chosen = result.chosen.quality
    marks = {"before": pairs[0], "after": (chosen.spikes, chosen.distance)}
    with _png(path, (6.5, 4.4)) as ax:
        plotting.trade_off(pairs, marks=marks, budget=result.goal.budget, ax=ax)
        ax.set_title(f"Settings tried after training, {result.options['choosing']} samples")
