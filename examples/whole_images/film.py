"""A film as spikes: membranes go on from frame to frame.

A photograph stands still, drifts by a pixel per frame to its edge, and is cut to another one.
Each frame stays for one timestep, or for more, so that codes have to follow what moves. R² is that
of the whitened frame, decoded from the counts of its last timestep.

    python examples/whole_images/film.py                        # learns from scikit-image's
    python examples/whole_images/film.py --run runs/photos      # of train --decoder conv
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.figure import Figure
from photograph import model_of, photographs
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn import metrics
from ipvae_snn.models import ConvIPVAE, ImageStream

SIZE = (128, 192)
TIMESTEPS = {1: "#56B4E9", 4: "#0072B2", 16: "#000000"}
"""Per frame, with their colours; frames of the last are shown."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--run", type=Path, help="run folder of train --decoder conv, or a model")
    parser.add_argument("--budget", default="6min", help="time to train for (default: 6min)")
    parser.add_argument("--frames", type=int, default=80, help="of each scene (default: 80)")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("film.png"))
    arguments = parser.parse_args()
    arguments.photographs = 2
    if arguments.quick:
        arguments.frames = 4
    return arguments


def scenes(images: list[Tensor], frames: int) -> list[Tensor]:
    """One photograph still, the same one drifting, and the next; from the middle of each."""
    first, second = (x[:, (x.shape[1] - SIZE[0]) // 2 :][:, : SIZE[0]] for x in images)
    still = [first[..., : SIZE[1]]] * frames
    last = first.shape[2] - SIZE[1]
    starts = [min(t, last) for t in range(1, frames + 1)]
    drifting = [first[..., start : start + SIZE[1]] for start in starts]
    return [*still, *drifting, *[second[..., : SIZE[1]]] * frames]


def watched(model: ConvIPVAE, film: list[Tensor], timesteps: int) -> dict[str, list[Any]]:
    """What each frame decodes to, its R², and spikes per pixel and timestep."""
    assert model.whitening is not None
    stream = ImageStream(model, SIZE, seed=0)
    found: dict[str, list[Any]] = {"decoded": [], "r2": [], "spikes": []}
    for frame in tqdm(film, desc=f"frames of {timesteps}", disable=None):
        x = model.whitening(frame)
        spk = stream.push(x, timesteps).spk
        decoded = model.decode(spk[None], SIZE)[0]
        found["decoded"].append(model.whitening.inverse(decoded))
        found["r2"].append(float(metrics.r2(x.flatten()[None], decoded.flatten()[None])))
        found["spikes"].append(float(spk.sum()) / x.numel())
    return found


def draw(path: Path, film: list[Tensor], found: dict[int, dict[str, list[Any]]]) -> None:
    """Frames, what was decoded of them, and R² and spikes over time."""
    length, most = len(film) // 3, max(TIMESTEPS)
    shown = [0, length - 1, int(1.5 * length), 2 * length, len(film) - 1]
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(4, len(shown))
    for column, t in enumerate(shown):
        for row, (name, image) in enumerate(
            (("frame", film[t]), ("decoded", found[most]["decoded"][t]))
        ):
            ax = figure.add_subplot(grid[row, column])
            ax.imshow(image[0].clamp(0, 1), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"frame {t + 1}" if not row else "", fontsize="medium")
            ax.set_ylabel(name if not column else "")
    quality = figure.add_subplot(grid[2, :])
    spikes = figure.add_subplot(grid[3, :], sharex=quality)
    frames = range(1, len(film) + 1)
    for timesteps, colour in TIMESTEPS.items():
        label = f"{timesteps} timestep" + ("s" if timesteps > 1 else "")
        quality.plot(frames, found[timesteps]["r2"], color=colour, lw=1.2, label=label)
        spikes.plot(frames, found[timesteps]["spikes"], color=colour, lw=1.2)
    quality.set(ylabel="R², whitened", ylim=(0, 1))
    quality.legend(frameon=False, fontsize=8, title="per frame", loc="lower right")
    spikes.set(ylabel="spikes per pixel", xlabel="frame", ylim=(0, None), xlim=(0, len(film) + 1))
    for ax in (quality, spikes):
        ax.label_outer()
        ax.spines[["top", "right"]].set_visible(False)
        for k in range(3):
            ax.axvline(k * length + 0.5, color="0.7", lw=0.8)
    for k, name in enumerate(("still", "drifts", "another")):
        quality.text(k * length + 2, 0.04, name, fontsize=8, color="0.3")
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


@torch.no_grad()
def main() -> None:
    arguments = parse()
    with TemporaryDirectory() as folder, torch.enable_grad():
        model = model_of(arguments, Path(folder)).eval()
    film = scenes(photographs(arguments)[1], arguments.frames)
    draw(arguments.out, film, {number: watched(model, film, number) for number in TIMESTEPS})


if __name__ == "__main__":
    main()
