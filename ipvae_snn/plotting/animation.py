"""A trial that unfolds: reconstruction, raster and membranes, timestep by timestep."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ipvae_snn._utils.files import atomic_write
from ipvae_snn.plotting.frame import GREY, array, counts, darken, indices, ink
from ipvae_snn.plotting.membranes import membranes
from ipvae_snn.plotting.spikes import raster

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


def animate(
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
    """Write a film of one trial: what is shown, what the spikes say of it, raster and membranes.

    Args:
        path: ``.gif``, or ``.mp4`` where ffmpeg is installed; written whole or not at all.
        spk, mem: counts and membranes of the trial, shape (T, K) each.
        x_hat: reconstruction at every timestep, shape (T, M).
        shape: (H, W) of an image.
        x: what was shown: shape (M,), or (T, M) where it changes; ``None`` to leave it out.
        neurons: rows of the raster, from the bottom up; default the 60 with most spikes, most
            active below. The six highest membranes among them are drawn.
        every: timesteps per frame.
        fps: frames per second.
        dark: dark ground.
        dpi: pixels per inch; a film is 9 × 4 inches.

    Raises:
        ValueError: shapes that do not fit, or another ending than .gif and .mp4.
        RuntimeError: .mp4 without ffmpeg.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"path must end in .gif or .mp4, got {path.name}")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise RuntimeError("an .mp4 needs ffmpeg on the PATH: install it, or write a .gif")
    if every < 1 or fps <= 0:
        raise ValueError(f"every must be at least 1 and fps above 0, got {every} and {fps}")
    film = _Film(spk, mem, x_hat, x, shape, neurons, dark)
    frames = [*range(every - 1, len(film.spk), every)]
    if not frames:
        raise ValueError(f"every must be at most the {len(film.spk)} timesteps, got {every}")
    with atomic_write(path) as temporary:
        moving = animation.FuncAnimation(film.figure, film.show, frames=frames, blit=False)
        # The writers go by the ending, and the temporary file has another.
        part = temporary.with_suffix(path.suffix)
        try:
            moving.save(part, writer=WRITERS[path.suffix], fps=fps, dpi=dpi)
            part.replace(temporary)
        finally:
            part.unlink(missing_ok=True)
    return path


class _Film:
    """The figure of a film, and how it looks at a timestep."""

    def __init__(
        self, spk: Any, mem: Any, x_hat: Any, x: Any, shape: tuple[int, int], neurons: Any,
        dark: bool,
    ) -> None:  # fmt: skip

        self.spk, mem = counts(spk, "T", "K"), array(mem, "mem", "T", "K")
        self.images = _images(x_hat, "x_hat", len(self.spk), shape)
        shown = None if x is None else _images(x, "x", len(self.spk), shape)
        if mem.shape != self.spk.shape:
            raise ValueError(
                f"spk and mem must have the same shape, got {self.spk.shape} and {mem.shape}"
            )
        most = np.argsort(-self.spk.sum(0), kind="stable")[:60]
        rows = indices(most if neurons is None else neurons, self.spk.shape[1], "neurons")
        self.figure = Figure(figsize=(9, 4), layout="constrained")
        grid = self.figure.add_gridspec(2, 3, width_ratios=(1, 2.4, 0.01))
        self.pictures = []
        stills = [("reconstruction", self.images)]
        if shown is not None:
            stills.insert(0, ("input", shown))
        first = stills[0][1]  # grey levels go by what was shown
        peak = float(np.abs(first).max())
        low = 0.0 if float(first.min()) >= 0 else -peak
        for row, (title, frames) in enumerate(stills):
            place = grid[row, 0] if len(stills) > 1 else grid[:, 0]
            ax = self.figure.add_subplot(place)
            picture = ax.imshow(frames[0], cmap="gray", vmin=low, vmax=peak or 1.0)
            ax.set_title(title, fontsize="medium")
            self._plain(ax, dark)
            self.pictures.append((picture, frames))
        dots, traces = (self.figure.add_subplot(grid[row, 1]) for row in (0, 1))
        for ax in (dots, traces):
            if dark:
                darken(ax)
        raster(self.spk, order=rows, ax=dots)
        dots.set_xlabel("")
        highest = [rows[i] for i in np.argsort(-mem[:, rows].max(0))[:6]]
        membranes(mem, neurons=highest, ax=traces)
        for drawn in (dots.get_legend(), traces.get_legend()):
            if drawn is not None:
                drawn.remove()
        dots.set_xlim(0.5, len(self.spk) + 0.5)
        traces.set_xlim(0.5, len(self.spk) + 0.5)
        points = dots.collections[0]
        assert isinstance(points, PathCollection)
        self._points = points
        self._offsets = np.asarray(self._points.get_offsets())
        self._sizes = self._points.get_sizes().copy()
        self._lines = [(line, np.array(line.get_ydata())) for line in traces.lines]
        self._now = [ax.axvline(0, color=GREY, lw=0.8) for ax in (dots, traces)]
        self._title = dots.set_title("", loc="left", fontsize="medium", color=ink(dots))

    @staticmethod
    def _plain(ax: Axes, dark: bool) -> None:
        if dark:
            darken(ax)
        ax.set_xticks([])
        ax.set_yticks([])

    def show(self, t: int) -> list[Any]:
        """The figure after timestep t + 1."""
        for picture, frames in self.pictures:
            picture.set_data(frames[t])
        self._points.set_sizes(np.where(self._offsets[:, 0] <= t + 1, self._sizes, 0))
        for line, values in self._lines:
            line.set_ydata(np.where(np.arange(len(values)) <= t, values, np.nan))
        for line in self._now:
            line.set_xdata([t + 1, t + 1])
        self._title.set_text(f"timestep {t + 1}, spikes: {self.spk[t].sum():.0f}")
        return []


def _images(values: Any, name: str, steps: int, shape: tuple[int, int]) -> NDArray:
    """(T, H, W), from (T, M) or, for what does not change, (M,)."""
    given = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    images = array(given[None] if given.ndim == 1 else given, name, "T", "M")
    if len(images) == 1:
        images = np.repeat(images, steps, axis=0)
    if images.shape != (steps, shape[0] * shape[1]):
        raise ValueError(
            f"{name} must have shape ({steps}, {shape[0] * shape[1]}), got {given.shape}"
        )
    return images.reshape(-1, *shape)
