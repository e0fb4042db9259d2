"""Questions to a run: ``sample``, ``impute`` and ``stream`` of the command line."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import data, plotting
from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn._utils.files import atomic_folder, atomic_write
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn._utils.untrusted import read_npy_array
from ipvae_snn.models import IPVAE, CodePrior, MapModel, impute
from ipvae_snn.models.code_prior import SETTLED
from ipvae_snn.models.streaming import Stream
from ipvae_snn.runs.figures import figure_file, scale_of
from ipvae_snn.runs.folder import MODEL, open_run, require_same_kind, write_json
from ipvae_snn.runs.photographs import free_files

FITTED_TO = 2000
"""Training samples that a prior of codes is fitted to."""
DRAWN, SHOWN = 64, 8
"""Tiles and rows in a picture, at most."""
SMOOTHED = 50
"""Samples of a stream whose errors are averaged, at most a tenth of all."""
LARGEST = 2**30
"""Bytes of a file of values."""


def sample_run(
    run: str | Path,
    dataset: data.Dataset,
    out: str | Path,
    *,
    count: int = DRAWN,
    label: int | None = None,
    noise: bool = False,
    num_steps: int = SETTLED,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Fit a prior to the codes of training samples; write draws from the model, and a picture.

    Args:
        run: folder of an ``ipvae``.
        dataset: that the run learned from. With labels, each has a prior of its own.
        out: ``.npz`` file to write, with ``x``, ``spk`` and ``label``; the picture has its name.
        count: of the draws.
        label: of all draws; default: as often as in the data.
        noise: whether draws have the noise of pixels.
        num_steps: timesteps of inference before a code.
        seed: of everything.
        device: ``"cpu"``, ``"cuda"``, ...

    Raises:
        TypeError, ValueError: the run has another model, or learned from other data; a file exists;
            no such label.
    """
    out, picture = free_files(out)
    model, config = open_run(run, device)
    if not isinstance(model, IPVAE):
        raise TypeError(f"{run} holds a {type(model).__name__}: samples are drawn from an ipvae")
    require_same_kind(run, config, dataset)
    rows = torch.randperm(len(dataset.train), generator=make_generator(seed))[:FITTED_TO]
    train, labels = dataset.train, dataset.train_labels
    x = (train[rows] if isinstance(train, Tensor) else train.read(rows)).to(device)
    if labels is not None:
        labels = labels[rows]
        common = labels.bincount()[labels] > 1
        x, labels = x[common.to(device)], labels[common]
    elif label is not None:
        raise ValueError(f"--label {label}: the data of {run} have no labels")
    prior = CodePrior.fit(model, x, labels, num_steps=num_steps, seed=seed)
    drawn = prior.sample(model, count, label=label, noise=noise, seed=seed)
    real = x if label is None or labels is None else x[(labels == label).to(device)]
    codes = model.run(real[:500], num_steps, record=(), seed=seed).state.spk
    columns = (("data", real, codes), ("drawn", drawn.x, drawn.spk))
    print(f"{'':<28}" + "".join(f"{name:>12}" for name, _, _ in columns))
    for name, form, value in (
        ("variance of a pixel", ".4f", lambda x, _: x.var(0, correction=0).mean()),
        ("active neurons per sample", ".1f", lambda _, spk: (spk > 0).float().sum(1).mean()),
        ("spikes per sample", ".1f", lambda _, spk: spk.sum(1).mean()),
    ):
        cells = "".join(f"{float(value(x, spk)):>12{form}}" for _, x, spk in columns)
        print(f"{name:<28}{cells}")
    tiles = {"samples of the data": real[:DRAWN], "drawn from the model": drawn.x[:DRAWN]}
    with atomic_write(picture) as temporary:
        _draw_mosaics(temporary, tiles, dataset.shape)
        _save_arrays(out, **drawn._asdict())
    print(f"samples: {out}; picture: {picture}")


def impute_run(
    model: Any,
    x: Tensor,
    seen: Tensor,
    out: str | Path,
    shape: tuple[int, ...],
    *,
    num_steps: int = 256,
    draws: int = 64,
    level: float = 0.9,
    seed: int = 0,
) -> None:
    """Fill in what is missing of samples, and write it, with intervals and a picture.

    Args:
        model: of a run, with a linear decoder.
        x: samples as the model takes them, NaN where they were not seen.
        seen: booleans in the shape of x, from :func:`shown`.
        out: ``.npz`` file to write, with ``x``, ``mean``, ``low`` and ``high``; the picture has its
            name.
        shape: of a sample, (H, W) or (C, H, W).
        num_steps, draws, level: see :func:`ipvae_snn.models.impute`.
        seed: of the spikes.

    Raises:
        TypeError, ValueError: another model; samples of another size; a file exists.
    """
    out, picture = free_files(out)
    filled = impute(model, x, seen, num_steps=num_steps, draws=draws, level=level, seed=seed)
    print(f"{float((~seen).float().mean()):.1%} of the values were not seen")
    hidden = ~seen & ~x.isnan()
    if bool(hidden.any()):
        _report_hidden(x, seen, hidden, filled, level)
    known = torch.where(hidden, x, filled.x)
    columns = {
        "seen": torch.where(seen, x, torch.zeros_like(x)), "filled in": filled.x,
        f"{100 * level:g}% interval": filled.high - filled.low,
    }  # fmt: skip
    with atomic_write(picture) as temporary:
        _draw_rows(temporary, known, columns, shape)
        _save_arrays(out, x=filled.x, mean=filled.mean, low=filled.low, high=filled.high)
    print(f"filled in: {out}; picture: {picture}")


def shown(
    x: Tensor,
    shape: tuple[int, ...],
    missing: float | None = None,
    block: float | None = None,
    seed: int = 0,
) -> Tensor:
    """What a model is to see of samples, booleans in the shape of x.

    Args:
        x: samples, NaN where they were not seen.
        shape: of a sample, (..., H, W).
        missing: share of the values to hide at random.
        block: share of each image to hide as a square, anywhere.
        seed: of what is hidden.

    Raises:
        TypeError, ValueError: no such share; nothing is missing.
    """
    seen = ~x.isnan()
    for name, share in (("missing", missing), ("block", block)):
        if share is not None:
            require_number(share, name, least=1e-6, most=1 - 1e-6)
    if missing is not None:
        seen &= (torch.rand(x.shape, generator=make_generator(seed)) >= missing).to(x.device)
    if block is not None:
        seen &= ~_squares(len(x), shape, block, seed).view(-1, *x.shape[1:]).to(x.device)
    if bool(seen.all()):
        raise ValueError("nothing is missing: say how much to hide by --missing or --block")
    return seen


def _report_hidden(x: Tensor, seen: Tensor, hidden: Tensor, filled: Any, level: float) -> None:
    """How well hidden values were found, pooled over all, beside simple ways to fill them in."""
    clean = torch.where(seen, x, torch.zeros_like(x))
    by_pixel = clean.sum(0) / seen.sum(0).clamp(min=1)
    total = (x - by_pixel)[hidden].square().sum()
    ways = {"the model": filled.mean, "mean of the pixel": by_pixel.expand_as(x), "zero": 0 * clean}
    for name, values in ways.items():
        error = (x - values)[hidden].square().sum()
        found = f"{float(1 - error / total):.3f}" if total > 0 else "none, as they do not vary"
        print(f"R² of hidden values, by {name + ':':<20}{found:>8}")
    inside = ((x >= filled.low) & (x <= filled.high))[hidden].float().mean()
    print(f"hidden values within their {100 * level:g}% interval: {float(inside):>8.1%}")


def _squares(count: int, shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    """A square of each image, (N, ..., H, W) of booleans, of about this share of its area."""
    height, width = shape[-2:]
    area = share * height * width
    tall = min(max(1, round(area**0.5)), height)
    wide = min(max(1, round(area / tall)), width)
    generator, hidden = make_generator(seed), torch.zeros(count, *shape, dtype=torch.bool)
    tops = torch.randint(height - tall + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - wide + 1, (count,), generator=generator).tolist()
    for image, top, left in zip(hidden, tops, lefts, strict=True):
        image[..., top : top + tall, left : left + wide] = True
    return hidden


def read_values(path: str | Path, model: Any, shape: tuple[int, ...]) -> Tensor:
    """Samples as a model takes them, from an ``.npy`` array; NaN are values that were not seen.

    Args:
        path: the file.
        model: that of a run.
        shape: of a sample of the run, (H, W).

    Raises:
        FileNotFoundError, ValueError: no such file, not such an array, or of another size.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file: expected an .npy array of samples")
    found = read_npy_array(path, LARGEST)
    if found.dtype.kind != "f":
        raise ValueError(f"{path} must hold floating-point numbers, got {found.dtype}")
    flat = (math.prod(shape),)
    fits = found.ndim == 4 if isinstance(model, MapModel) else found.shape[1:] in (shape, flat)
    if not fits or not found.size:
        wanted = "(N, C, H, W)" if isinstance(model, MapModel) else f"(N, {shape[0]}, {shape[1]})"
        raise ValueError(f"{path} must hold samples {wanted}, got shape {found.shape}")
    if not (np.abs(found[~np.isnan(found)]) < np.finfo(np.float32).max).all():
        raise ValueError(f"{path} holds infinite values, or such beyond float32: remove them first")
    values = torch.from_numpy(found.astype(np.float32)).to(model.like.dtype)
    return values if isinstance(model, MapModel) else values.flatten(1)


def stream_run(
    model: Any,
    x: Tensor,
    out: str | Path,
    *,
    learn: bool = False,
    lr: float = 0.02,
    steps_each: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Show samples one after the other to a model that never starts anew; write errors, a picture.

    Args:
        model: an IPVAE with a linear decoder; with ``learn`` its weights move.
        x: samples (N, M), in the order in which they are shown.
        out: folder to write. With ``learn`` it also gets ``model.pt``, with what was learned.
        learn: learn from what is shown, by the local rule; a copy that does not is shown the same.
        lr: learning rate.
        steps_each: timesteps for each sample.
        seed: of the spikes.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: another model, or samples of another size.
    """
    require_integer(steps_each, "steps")
    errors = {"frozen": _errors(model, x, False, lr, steps_each, seed, progress)}
    if learn:
        errors["learning"] = _errors(model, x, True, lr, steps_each, seed, progress)
    quarter = -(-len(x) // 4)
    with atomic_folder(out) as folder:
        for name, values in errors.items():
            first, last = np.mean(values[:quarter]), np.mean(values[-quarter:])
            print(
                f"{name}: error / energy {first:.3f} in the first quarter, {last:.3f} in the last"
            )
        write_json(folder / "stream.json", {"errors": errors})
        _draw_errors(folder / "stream.png", errors)
        if learn:
            model.save(folder / MODEL)
    print(f"results: {out}")


def _errors(
    model: Any, x: Tensor, learn: bool, lr: float, steps_each: int, seed: int, progress: bool
) -> list[float]:
    """Of each sample as it comes, as a share of its energy."""
    stream = Stream(model, seed=seed, learn=learn, lr=lr)
    errors = []
    with progress_bar(len(x), "learning" if learn else "frozen", shown=progress) as bar:
        for frame in x:
            _, mem = stream.push(frame, num_steps=steps_each)
            with torch.no_grad():
                left = (frame - model.decode(mem.exp())).square().sum()
            errors.append(float(left / frame.square().sum().clamp(min=1e-6)))
            bar.update()
    return errors


def _save_arrays(out: Path, **arrays: Tensor) -> None:
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        content: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
        np.savez_compressed(file, **content)


def _draw_mosaics(path: Path, tiles: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    scale = scale_of(next(iter(tiles.values())))
    with figure_file(path, (9.0, 4.7 * shape[0] / shape[1] + 0.2)) as figure:
        for ax, (title, x) in zip(figure.subplots(1, len(tiles)), tiles.items(), strict=True):
            images = x.cpu().unflatten(1, shape)
            images = images.clamp(0, 1) if scale == "unit" else images
            plotting.mosaic(images, scale=scale, ax=ax)
            ax.set_title(title)


def _draw_rows(path: Path, x: Tensor, columns: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    rows = {name: values[:SHOWN].flatten(1).cpu() for name, values in columns.items()}
    size = 1.4 * (len(rows) + 1), 1.4 * len(x[:SHOWN]) * shape[-2] / shape[-1] + 0.4
    with figure_file(path, size) as figure:
        first = x[:SHOWN].flatten(1).cpu()
        plotting.reconstructions(first, rows, shape, scale=scale_of(x), ax=figure.subplots())


def _draw_errors(path: Path, errors: dict[str, list[float]]) -> None:
    colours = {"frozen": "#808080", "learning": "#D55E00"}
    with figure_file(path, (6.5, 3.6)) as figure:
        ax = figure.subplots()
        for name, values in errors.items():
            width = max(1, min(SMOOTHED, len(values) // 10))
            smooth = np.convolve(values, np.ones(width) / width, "valid")
            ax.plot(np.arange(len(smooth)) + width, smooth, color=colours[name], label=name)
        ax.set_xlabel("samples shown")
        ax.set_ylabel(f"error / energy, mean of {width}")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
