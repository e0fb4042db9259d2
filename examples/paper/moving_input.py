"""Moving input: how well the code tracks rotating or jittering digits, frame by frame.

MNIST digits rotate by 0 to 30 degrees per frame, or jitter by 0 to 2 pixels up or down and left or
right, within 4 pixels of the centre. They start anywhere on their path, so that every speed shows
about the same images. The state is carried from frame to frame or reset before each, with 1, 2, 4
or 8 timesteps per frame. Measured against the current frame, after an onset of 32 frames: error and
R² at the frame's last timestep, from spikes and from rates; spikes per frame; and the lag, the
number of frames by which the image decoded from rates is late. For comparison: the error of
repeating the previous frame, without any model, and of an amortised P-VAE, which has no state.

    python examples/paper/moving_input.py --data path/to/data
"""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ipvae_snn import metrics
from ipvae_snn.plotting import mosaic
from ipvae_snn.runs import pick

from harness import COLOURS, LABELS, Setup, figure, finish, load, parse, trained
from harness.datasets import rotated, shifted

SPEEDS = {"turning": (0, 1, 3, 10, 30), "jitter": (0, 1, 2)}
PER_FRAME = {1: "#9ECAE1", 2: "#56B4E9", 4: "#0072B2", 8: "#08306B"}  # timesteps, colour
WAYS = {"carried": "-", "reset": "--"}
MODELS = ("iP", "iG", "P-mlp")
ONSET, FRAMES, LAGS, BORDER = 32, 64, 9, 4
STILL = 20  # frames without motion at the start and end of the example over time


@cache
def video(setup: Setup, motion: str, speed: int, still: int = 0) -> Tensor:
    """Frames (T, B, M) of digits in groups of four, with one random path per group."""
    samples, random = load(setup, "mnist"), np.random.default_rng(0)
    groups = []
    for x in pick(samples.test, setup.amount(96, quick=8), seed=0).split(4):
        angle, position = random.uniform(0, 360), random.integers(-BORDER, BORDER + 1, 2)
        frames = []
        for t in range(FRAMES):
            if motion == "turning":
                frames.append(rotated(x, samples.shape, angle))
            else:
                frames.append(shifted(x, samples.shape, *position))
            if still <= t < FRAMES - still:
                move = speed * random.choice((-1, 1), 2)
                angle, target = angle + speed, position + move
                position = np.where(abs(target) > BORDER, position - move, target)
        groups.append(torch.stack(frames))
    return torch.cat(groups, 1).to(setup.device)


@torch.no_grad()
def follow(model: nn.Module, x: Tensor, way: str, steps: int, onset: int) -> tuple[Tensor, Tensor]:
    """Counts z at every timestep (T, steps, B, K), and E[z] at each frame's last (T, B, K)."""
    if way == "carried":
        frames = x.repeat_interleave(steps, 0)
        before, after = frames[: onset * steps], frames[onset * steps :]
        state = model.run(before, record=(), seed=1).state if onset else None
        out = model.run(after, record=("spk", "mem"), state=state, seed=2)
        spk, mem = (part.unflatten(0, (-1, steps)) for part in (out.spk, out.mem))
    else:
        out = model.run(x[onset:].flatten(0, 1), steps, record=("spk", "mem"), seed=2)
        spk, mem = (
            part.unflatten(1, (-1, x.shape[1])).transpose(0, 1) for part in (out.spk, out.mem)
        )
    return spk, model.mean_code(mem[:, -1])


@torch.no_grad()
def quality(x: Tensor, code: Tensor, model: nn.Module) -> tuple[Tensor, float]:
    """1000 · MSE per pixel of each frame and digit, (T, B), and R² over all."""
    x_hat = model.decode(code)
    return 1000 * (x - x_hat).square().mean(-1), float(metrics.r2(x, x_hat))


def measure(setup: Setup, name: str, motion: str, speed: int) -> dict[str, dict[str, Any]]:
    """Results of one model on one video; keys such as ``"carried, 1"`` say way and timesteps."""
    model, x = trained(setup, "mnist", name), video(setup, motion, speed)
    current, results = x[ONSET:], {}
    for way, steps in [("reset", 1)] if name == "P-mlp" else product(WAYS, PER_FRAME):
        spk, mean = follow(model, x, way, steps, ONSET)
        error, r2 = quality(current, spk[:, -1], model)
        lagged = [quality(x[ONSET - n : FRAMES - n], mean, model) for n in range(LAGS)]
        by_lag = [float(lagged_error.mean()) for lagged_error, _ in lagged]
        results[f"{way}, {steps}"] = {
            "error": float(error.mean()),
            "standard_error": float(error.mean(0).std() / error.shape[1] ** 0.5),  # over digits
            "error_rates": by_lag[0],
            "error_rates_by_lag": by_lag,
            "lag": int(np.argmin(by_lag)) if speed else None,  # undefined without motion
            "r2": r2,
            "r2_rates": lagged[0][1],
            "spikes": None if name == "iG" else float(spk.sum((1, 3)).mean()),
        }
    return results


def frame_before(setup: Setup) -> dict[str, list[float]]:
    """Error of repeating the previous frame, by motion and speed."""
    videos = {m: [video(setup, m, v)[ONSET - 1 :] for v in speeds] for m, speeds in SPEEDS.items()}
    return {m: [float(1000 * x.diff(dim=0).square().mean()) for x in v] for m, v in videos.items()}


def over_time(setup: Setup) -> dict[str, list[float]]:
    """Error of the rates by frame: digits stand still, rotate by 10 degrees per frame, and stop."""
    x, model = video(setup, "turning", 10, still=STILL), trained(setup, "mnist", "iP")
    return {
        f"{way}, {n}": quality(x, follow(model, x, way, n, 0)[1], model)[0].mean(1).tolist()
        for way, n in product(WAYS, (1, 8))
    }


def draw(setup: Setup, rows: dict, before: list[float], course: dict) -> None:
    with figure(setup, 2, 3, size=(12.5, 7)) as axes:
        (turn, rates, lag), (jitter, peers, time) = axes
        panels = (
            (turn, "turning", "error"),
            (rates, "turning", "error_rates"),
            (lag, "turning", "lag"),
            (jitter, "jitter", "error"),
        )
        for (way, dash), (steps, colour) in product(WAYS.items(), PER_FRAME.items()):
            key, line = f"{way}, {steps}", {"color": colour, "ls": dash}
            for ax, motion, what in panels:
                values = np.array([row[key][what] for row in rows["iP"][motion]], dtype=float)
                bars = [row[key]["standard_error"] for row in rows["iP"][motion]]
                style = {"yerr": bars if what == "error" else None, "marker": "o", "ms": 3}
                if what != "lag" or way == "carried":  # no lag where the state is reset
                    ax.errorbar(range(len(values)), values, label=key, **style, **line)
            if key in course:
                time.plot(range(1, FRAMES + 1), course[key], **line)
        time.axvspan(STILL + 1, FRAMES - STILL, color="#808080", alpha=0.15, lw=0)
        for name, key in (("iP", "carried, 1"), ("iP", "reset, 8"), ("iG", "carried, 1"),
                          ("iG", "reset, 8"), ("P-mlp", "reset, 1")):  # fmt: skip
            values = [row[key]["error_rates"] for row in rows[name]["turning"]]
            label = LABELS[name] + ("" if name == "P-mlp" else f": {key}")
            dash = "-" if "carried" in key else "--"
            peers.plot(values, color=COLOURS[name], ls=dash, marker="o", ms=3, label=label)
        peers.plot(before, ":", color="#000000", label="the frame before")
        for ax, motion in ((peers, "turning"), *(panel[:2] for panel in panels)):
            ax.set_xticks(range(len(SPEEDS[motion])), SPEEDS[motion])
        turns, error = "degrees per frame", "1000 · MSE per pixel"
        finish(turn, x=turns, y=error, title="turning: from spikes", legend=None)
        finish(rates, x=turns, y=error, title="turning: from rates", legend=None)
        finish(lag, x=turns, y="frames", title="turning: lag", legend=None)
        finish(jitter, x="pixels per frame", y=error, title="jitter: from spikes", legend=None)
        finish(peers, x=turns, y=error, title="turning: peers, from rates")
        finish(time, x="frame", y=error, title="10° a frame while grey, from rates", legend=None)
        handles, labels = turn.get_legend_handles_labels()
        title = "iP-VAE: state carried or reset, timesteps per frame"
        where = "outside lower center"
        turn.figure.legend(handles, labels, title=title, loc=where, ncols=8, frameon=False)


def strip(setup: Setup) -> None:
    """Every third frame of one digit, above its reconstructions."""
    x, shape, shown = video(setup, "turning", 10), load(setup, "mnist").shape, slice(0, 30, 3)
    model, tiles = trained(setup, "mnist", "iP"), {"input": x[ONSET:, 3]}
    for way, steps in (("carried", 1), ("reset", 1), ("reset", 8)):
        spk, mean = follow(model, x, way, steps, ONSET)
        tiles[f"{way}, {steps}: spikes"] = model.decode(spk[:, -1, 3])
        tiles[f"{way}, {steps}: rates"] = model.decode(mean[:, 3])
    with torch.no_grad(), figure(setup, name="frames", size=(7.5, 4.4)) as axes:
        images = torch.cat([row[shown] for row in tiles.values()]).cpu().reshape(-1, *shape)
        ax = mosaic(images.clamp(0, 1), columns=10, scale="unit", ax=axes[0, 0])
        ax.set_xlim(left=-2.2 * shape[1])  # space for the labels
        for row, label in enumerate(tiles):
            ax.text(-2, (row + 0.5) * (shape[0] + 1), label, ha="right", va="center", fontsize=9)


def main() -> None:
    setup = parse(__file__, __doc__)
    before = setup.cell("frame-before", lambda: frame_before(setup))
    rows: dict[str, Any] = {name: {motion: [] for motion in SPEEDS} for name in MODELS}
    for name, (motion, speeds) in product(MODELS, SPEEDS.items()):
        for v in speeds:
            result = setup.cell(
                f"{name}-{motion}-{v}", lambda a=(name, motion, v): measure(setup, *a)
            )
            rows[name][motion].append(result)
    course = setup.cell("over-time", lambda: over_time(setup))
    setup.save({"speeds": SPEEDS, "models": rows, "frame before": before, "over time": course})
    draw(setup, rows, before["turning"], course)
    strip(setup)
    columns = [("carried, 1", k) for k in ("error", "error_rates", "spikes", "lag")]
    columns += [(key, k) for key in ("reset, 1", "reset, 8") for k in ("error_rates", "spikes")]
    names = (f"{key + ' ' + k.replace('error_', ''):>18}" for key, k in columns)
    print(f"{'1000 · MSE':<14}", *names)
    for motion, speeds in SPEEDS.items():
        for speed, row in zip(speeds, rows["iP"][motion], strict=True):
            values = (row[key][k] for key, k in columns)
            shown = (f"{'' if value is None else format(value, '.1f'):>18}" for value in values)
            print(f"{motion + ' ' + str(speed):<14}", *shown)


if __name__ == "__main__":
    main()
