"""An animation of one trial: input, reconstruction, raster and membranes, frame by frame."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import animation
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ipvae_snn._utils.files import atomic_write
from ipvae_snn.plotting.frame import GREY, array, counts, darken, indices, text_colour
from ipvae_snn.plotting.membranes import membranes
from ipvae_snn.plotting.spikes import raster

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


def animate(  # noqa: PLR0913
    path: str | Path,
    spk: Any,
    mem: Any,
    x_hat: Any,
    shape: tuple[int, int],
    *,
    x: Any = None,
    neurons: Any = None,
    every: int = 1,
    fps: int = 12,
    dark: bool = False,
    dpi: int = 100,
) -> Path:
    """Write an animation of one trial: input, reconstruction, raster and membranes.

    Args:
        path: ``.gif``, or ``.mp4`` if ffmpeg is installed; written atomically.
        spk, mem: counts and membranes of the trial, shape (T, K) each.
        x_hat: reconstruction at every timestep, shape (T, M).
        shape: (H, W) of an image, H · W = M.
        x: the input, shape (M,), or (T, M) if it changes; ``None`` leaves it out.
        neurons: indices of the neurons in the raster, from the bottom up; default the 60 with most
            spikes, most active first. The membranes are those of the six with the highest peaks.
        every: timesteps per frame.
        fps: frames per second.
        dark: light text on a dark background.
        dpi: pixels per inch; a frame is 9 × 4 inches.

    Raises:
        ValueError: shapes that do not fit, or a suffix other than .gif and .mp4.
        RuntimeError: .mp4 without ffmpeg.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"path must end in .gif or .mp4, got {path.name}")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise RuntimeError("an .mp4 needs ffmpeg on the PATH: install it, or write a .gif")
    if every < 1 or fps <= 0:
        raise ValueError(f"every must be at least 1 and fps above 0, got {every} and {fps}")
    trial = _TrialFigure(spk, mem, x_hat, x, shape, neurons, dark)
    frames = [*range(every - 1, len(trial.spk), every)]
    if not frames:
        raise ValueError(f"every must be at most the {len(trial.spk)} timesteps, got {every}")
    with atomic_write(path) as temporary:
        animated = animation.FuncAnimation(trial.figure, trial.show, frames=frames, blit=False)
        # The writers choose the format by the suffix, which the temporary file lacks.
        suffixed = temporary.with_suffix(path.suffix)
        try:
            animated.save(suffixed, writer=WRITERS[path.suffix], fps=fps, dpi=dpi)
            suffixed.replace(temporary)
        finally:
            suffixed.unlink(missing_ok=True)
    return path


class _TrialFigure:
    """The figure of an animation; :meth:`show` updates it to a timestep."""

    def __init__(
        self,
        spk: Any,
        mem: Any,
        x_hat: Any,
        x: Any,
        shape: tuple[int, int],
        neurons: Any,
        dark: bool,
    ) -> None:
        self.spk = counts(spk, "T", "K")
        steps, latents = self.spk.shape
        mem = array(mem, "mem", steps, latents)
        images = {"reconstruction": _images(x_hat, "x_hat", steps, shape)}
        if x is not None:
            images = {"input": _images(x, "x", steps, shape), **images}
        most_active = np.argsort(-self.spk.sum(0), kind="stable")[:60]
        rows = indices(most_active if neurons is None else neurons, latents, "neurons")
        highest = [rows[i] for i in np.argsort(-mem[:, rows].max(0))[:6]]

        self.figure = Figure(figsize=(9, 4), layout="constrained")
        grid = self.figure.add_gridspec(2, 3, width_ratios=(1, 2.4, 0.01))
        first = next(iter(images.values()))  # all images share the grey levels of the first
        peak = float(np.abs(first).max())
        low = 0.0 if float(first.min()) >= 0 else -peak
        self.images = []
        for row, (title, frames) in enumerate(images.items()):
            ax = self.figure.add_subplot(grid[row if len(images) > 1 else slice(None), 0])
            shown = ax.imshow(frames[0], cmap="gray", vmin=low, vmax=peak or 1.0)
            self.images.append((shown, frames))
            ax.set_title(title, fontsize="medium")
            if dark:
                darken(ax)
            ax.set_xticks([])
            ax.set_yticks([])
        dots, traces = (self.figure.add_subplot(grid[row, 1]) for row in (0, 1))
        if dark:
            darken(dots)
            darken(traces)
        raster(self.spk, order=rows, ax=dots)
        membranes(mem, neurons=highest, ax=traces)
        dots.set_xlabel("")
        for ax in (dots, traces):
            legend = ax.get_legend()
            assert legend is not None
            legend.remove()
            ax.set_xlim(0.5, steps + 0.5)
        points = dots.collections[0]
        assert isinstance(points, PathCollection)
        self.points = points
        self.times = np.asarray(points.get_offsets())[:, 0]
        self.sizes = points.get_sizes().copy()
        self.lines = [(line, np.array(line.get_ydata())) for line in traces.lines]
        self.cursors = [ax.axvline(0, color=GREY, lw=0.8) for ax in (dots, traces)]
        colour = text_colour(dots)
        self.title = dots.set_title("", loc="left", fontsize="medium", color=colour)

    def show(self, t: int) -> list[Any]:
        """Update the figure to timestep t + 1; later spikes and membranes are hidden."""
        for shown, frames in self.images:
            shown.set_data(frames[t])
        self.points.set_sizes(np.where(self.times <= t + 1, self.sizes, 0))
        for line, values in self.lines:
            line.set_ydata(np.where(np.arange(len(values)) <= t, values, np.nan))
        for cursor in self.cursors:
            cursor.set_xdata([t + 1, t + 1])
        self.title.set_text(f"timestep {t + 1}, spikes: {self.spk[t].sum():.0f}")
        return []


def _images(values: Any, name: str, steps: int, shape: tuple[int, int]) -> NDArray[Any]:
    """Images (T, H, W), from shape (T, M), or (M,) or (1, M) for one that does not change."""
    pixels = shape[0] * shape[1]
    sizes = np.shape(values)
    expected = (pixels,) if len(sizes) == 1 else (1 if sizes[:1] == (1,) else steps, pixels)
    images = array(values, name, *expected)
    return np.broadcast_to(images, (steps, pixels)).reshape(-1, *shape)
