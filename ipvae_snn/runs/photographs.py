"""Photographs as spikes: ``encode`` and ``decode`` of the command line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import data, metrics, plotting
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.files import atomic_write, require_free_file
from ipvae_snn.models import ConvIPVAE, ImageCode, decode_image, encode_image
from ipvae_snn.runs.figures import figure_file
from ipvae_snn.runs.folder import open_run

SHOWN_STEPS = (1, 4, 16, 64, 256, 1024)
"""Timesteps that a table and a picture show, as far as they are reached."""
LEAST_PIXELS = 7
"""The side of the window of SSIM."""


def encode_photograph(
    run: str | Path,
    photograph: str | Path,
    out: str | Path,
    *,
    num_steps: int = 64,
    graded: bool = False,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> ImageCode:
    """Write the spikes of a photograph as an ``.npz`` file, and a picture of them beside it.

    Args:
        run: folder of a run with whole images.
        photograph: an image file, grey or in colour; it is read as the run's were.
        out: ``.npz`` file to write; the picture has its name and the suffix ``.png``.
        num_steps: T; the counts of its last timestep are written.
        graded: counts are rounded rates, not draws.
        seed: of the draws.
        device: ``"cpu"``, ``"cuda"``, ...
        say: called with each line of the table.

    Raises:
        ValueError: the run is of another kind of samples; a file exists; no such photograph.
    """
    out, picture = free_files(out)
    num_steps = require_integer(num_steps, "steps")
    model = open_image_run(run, device)
    image = data.read_photograph(photograph, model.channels)
    if min(image.shape[1:]) < LEAST_PIXELS:
        raise ValueError(f"{photograph} is smaller than {LEAST_PIXELS}×{LEAST_PIXELS} pixels")
    steps = [t for t in SHOWN_STEPS if t < num_steps] + [num_steps]
    code = encode_image(model, image.to(device), steps, graded=graded, seed=seed)
    decoded = decode_image(model, code).cpu()
    for line in _table(model, image, code, decoded):
        say(line)
    last = ImageCode(code.spk[-1:], code.steps[-1:], code.size, code.dictionary)
    with atomic_write(picture) as temporary:
        draw_code(temporary, model, image, code, decoded)
        last.save(out)
    say(f"spikes: {out}, {out.stat().st_size:,} bytes; picture: {picture}")
    return last


def decode_photograph(
    run: str | Path, spikes: str | Path, out: str | Path, device: str = "cpu"
) -> Tensor:
    """Write the photograph of the last counts in a file of spikes as a PNG; returns it, (C, H, W).

    Raises:
        ValueError: the file is of another run, or no such file; ``out`` exists.
    """
    pillow = require_extra("PIL.Image", "data")
    out = require_suffix(out, ".png")
    require_free_file(out)
    model = open_image_run(run, device)
    image = decode_image(model, ImageCode.load(spikes))[-1].clamp(0, 1).cpu()
    pixels = (255 * image).round().byte().numpy()
    stored = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    with atomic_write(out) as temporary:
        pillow.fromarray(np.ascontiguousarray(stored)).save(temporary, format="PNG")
    return image


def open_image_run(run: str | Path, device: str) -> ConvIPVAE:
    """The model of a run with whole images; ``ValueError`` if it is another."""
    model, _ = open_run(run, device)
    if not isinstance(model, ConvIPVAE) or model.dimensions != 2:
        raise ValueError(
            f"{run} holds a {type(model).__name__}: photographs are coded by a model that was "
            "trained with --decoder conv"
        )
    return model


def free_files(out: str | Path) -> tuple[Path, Path]:
    """The ``.npz`` file to write and the picture beside it; ``ValueError`` if one exists."""
    out = require_suffix(out, ".npz")
    picture = out.with_suffix(".png")
    for path in (out, picture):
        require_free_file(path)
    return out, picture


def require_suffix(path: str | Path, suffix: str) -> Path:
    """The path; ``ValueError`` if it ends otherwise."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"the file to write must end in {suffix}, got {path.name}")
    return path


def _table(model: ConvIPVAE, image: Tensor, code: ImageCode, decoded: Tensor) -> list[str]:
    """Quality and cost at each timestep of a code, as text."""
    pixels = image[0].numel()
    spk = code.spk.float()
    rows: tuple[tuple[str, str, Callable[[int], float]], ...] = (
        ("PSNR, dB", ".2f", lambda i: metrics.psnr(image, decoded[i])),
        ("SSIM", ".3f", lambda i: metrics.ssim(image, decoded[i])),
        ("active neurons per pixel", ".3f", lambda i: float((spk[i] > 0).sum()) / pixels),
        ("spikes per pixel", ".3f", lambda i: float(spk[i].sum()) / pixels),
        ("bits per pixel", ".3f", lambda i: float(metrics.entropy(spk[i], 0)) / pixels),
    )
    height, width = code.size
    title = f"{height}×{width} pixels"
    lines = [f"{title:<26}" + "".join(f"{f'step {t}':>11}" for t in code.steps)]
    for name, form, value in rows:
        cells = "".join(f"{value(i):>11{form}}" for i in range(len(code.steps)))
        lines.append(f"{name:<26}{cells}")
    return lines


def draw_code(
    path: Path, model: ConvIPVAE, image: Tensor, code: ImageCode, decoded: Tensor
) -> None:
    """Original, reconstructions over time, and maps of the last spikes, as a PNG."""
    shown = range(len(code.steps))[-3:]
    spk, size = code.spk[-1].float(), (model.kernel_size[0], model.kernel_size[1])
    angles = metrics.feature_tuning(_grey_features(model), size)[0]
    panels: list[tuple[str, Callable[..., Any]]] = [
        ("original", partial(plotting.photograph, image))
    ]
    for i in shown:
        title = f"step {code.steps[i]}: {metrics.psnr(image, decoded[i]):.1f} dB"
        panels.append((title, partial(plotting.photograph, decoded[i])))
    panels.append(("spikes at each place", partial(plotting.activity, spk)))
    panels.append(("their orientation", partial(plotting.orientations, spk, angles)))
    columns = -(-len(panels) // 2) if len(panels) > 3 else len(panels)
    rows = -(-len(panels) // columns)
    height, width = code.size
    inches = (3.4 * columns, rows * (3.4 * height / width + 0.35))
    with figure_file(path, inches) as figure:
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, (title, draw) in zip(grid, panels, strict=False):
            draw(ax=ax)
            ax.set_title(title, fontsize="small")
        for ax in grid[len(panels) :]:
            ax.set_axis_off()


def _grey_features(model: ConvIPVAE) -> Tensor:
    """Features averaged over colours, (pixels, K)."""
    features: Any = model.decoder.weight.detach()
    return torch.as_tensor(features).mean(1).flatten(1).mT.cpu()
