"""Moving input: digits that turn or jitter, one frame after another, and a code that follows.

MNIST digits turn by 0 to 30 degrees a frame, or jitter by 0 to 2 pixels up or down and left or
right within 4 pixels of their place. They start anywhere on their path, so that every speed shows
about the same pictures. The state is carried from frame to frame, or reset before each, with 1, 2,
4 or 8 timesteps to a frame. Measured against the current frame, after an onset of 32 frames: error
and R² at the frame's last timestep, from spikes and from rates; spikes per frame; and the lag, by
how many frames the picture decoded from rates is late. For scale: the error of showing the frame
before, with no model at all, and of an amortised P-VAE, which has no state.

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

from lab import COLOURS, LABELS, Lab, figure, finish, load, parse, trained
from lab.sets import rotated, shifted

SPEEDS = {"turning": (0, 1, 3, 10, 30), "jitter": (0, 1, 2)}
PER_FRAME = {1: "#9ECAE1", 2: "#56B4E9", 4: "#0072B2", 8: "#08306B"}  # timesteps, colour
WAYS = {"carried": "-", "reset": "--"}
MODELS = ("iP", "iG", "P-mlp")
ONSET, FRAMES, LAGS, BORDER = 32, 64, 9, 4
STILL = 20  # frames before and after motion, in the example over time


@cache
def video(lab: Lab, motion: str, speed: int, still: int = 0) -> Tensor:
    """Frames (T, B, M) of digits in groups of four; each group has a path of its own."""
    samples, random = load(lab, "mnist"), np.random.default_rng(0)
    groups = []
    for x in pick(samples.test, lab.few(96, 8), seed=0).split(4):
        angle, place = random.uniform(0, 360), random.integers(-BORDER, BORDER + 1, 2)
        shown = []
        for t in range(FRAMES):
            if motion == "turning":
                shown.append(rotated(x, samples.shape, angle))
            else:
                shown.append(shifted(x, samples.shape, *place))
            if still <= t < FRAMES - still:
                move = speed * random.choice((-1, 1), 2)
                angle, there = angle + speed, place + move
                place = np.where(abs(there) > BORDER, place - move, there)
        groups.append(torch.stack(shown))
    return torch.cat(groups, 1).to(lab.device)


@torch.no_grad()
def follow(model: nn.Module, x: Tensor, way: str, steps: int, onset: int) -> tuple[Tensor, Tensor]:
    """Code z of every timestep (T, steps, B, K), and E[z] at each frame's last one (T, B, K)."""
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
    """1000 · MSE per pixel of each frame and digit, (T, B), and R²."""
    shown = model.decode(code)
    return 1000 * (x - shown).square().mean(-1), float(metrics.r2(x, shown))


def measure(lab: Lab, name: str, motion: str, speed: int) -> dict[str, dict[str, Any]]:
    """What is measured of one model on one video, by way and timesteps: ``"carried, 1"``, ..."""
    model, x = trained(lab, "mnist", name), video(lab, motion, speed)
    now, found = x[ONSET:], {}
    for way, steps in [("reset", 1)] if name == "P-mlp" else product(WAYS, PER_FRAME):
        spk, mean = follow(model, x, way, steps, ONSET)
        error, r2 = quality(now, spk[:, -1], model)
        late = [quality(x[ONSET - n : FRAMES - n], mean, model) for n in range(LAGS)]
        by_lag = [float(error_then.mean()) for error_then, _ in late]
        found[f"{way}, {steps}"] = {
            "error": float(error.mean()),
            "standard_error": float(error.mean(0).std() / error.shape[1] ** 0.5),  # over digits
            "error_rates": by_lag[0],
            "error_rates_by_lag": by_lag,
            "lag": int(np.argmin(by_lag)) if speed else None,  # what stands still is never late
            "r2": r2,
            "r2_rates": late[0][1],
            "spikes": None if name == "iG" else float(spk.sum((1, 3)).mean()),
        }
    return found


def frame_before(lab: Lab) -> dict[str, list[float]]:
    """Error of the frame before, by motion and speed."""
    videos = {m: [video(lab, m, v)[ONSET - 1 :] for v in speeds] for m, speeds in SPEEDS.items()}
    return {m: [float(1000 * x.diff(dim=0).square().mean()) for x in v] for m, v in videos.items()}


def over_time(lab: Lab) -> dict[str, list[float]]:
    """Error of the rates, frame by frame: digits stand still, turn by 10 degrees each, and stop."""
    x, model = video(lab, "turning", 10, still=STILL), trained(lab, "mnist", "iP")
    return {
        f"{way}, {n}": quality(x, follow(model, x, way, n, 0)[1], model)[0].mean(1).tolist()
        for way, n in product(WAYS, (1, 8))
    }


def draw(lab: Lab, rows: dict, before: list[float], course: dict) -> None:
    with figure(lab, 2, 3, size=(12.5, 7)) as axes:
        (turn, rates, lag), (jitter, peers, time) = axes
        panels = (
            (turn, "turning", "error"), (rates, "turning", "error_rates"), (lag, "turning", "lag"),
            (jitter, "jitter", "error"),
        )  # fmt: skip
        for (way, dash), (steps, colour) in product(WAYS.items(), PER_FRAME.items()):
            key, line = f"{way}, {steps}", {"color": colour, "ls": dash}
            for ax, motion, what in panels:
                values = np.array([found[key][what] for found in rows["iP"][motion]], dtype=float)
                bars = [found[key]["standard_error"] for found in rows["iP"][motion]]
                style = {"yerr": bars if what == "error" else None, "marker": "o", "ms": 3}
                if what != "lag" or way == "carried":  # without a state, nothing comes late
                    ax.errorbar(range(len(values)), values, label=key, **style, **line)
            if key in course:
                time.plot(range(1, FRAMES + 1), course[key], **line)
        time.axvspan(STILL + 1, FRAMES - STILL, color="#808080", alpha=0.15, lw=0)
        for name, key in (("iP", "carried, 1"), ("iP", "reset, 8"), ("iG", "carried, 1"),
                          ("iG", "reset, 8"), ("P-mlp", "reset, 1")):  # fmt: skip
            values = [found[key]["error_rates"] for found in rows[name]["turning"]]
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


def strip(lab: Lab) -> None:
    """Every third frame of one digit, over what the models make of it."""
    x, shape, shown = video(lab, "turning", 10), load(lab, "mnist").shape, slice(0, 30, 3)
    model, tiles = trained(lab, "mnist", "iP"), {"input": x[ONSET:, 3]}
    for way, steps in (("carried", 1), ("reset", 1), ("reset", 8)):
        spk, mean = follow(model, x, way, steps, ONSET)
        tiles[f"{way}, {steps}: spikes"] = model.decode(spk[:, -1, 3])
        tiles[f"{way}, {steps}: rates"] = model.decode(mean[:, 3])
    with torch.no_grad(), figure(lab, name="frames", size=(7.5, 4.4)) as axes:
        images = torch.cat([row[shown] for row in tiles.values()]).cpu().reshape(-1, *shape)
        ax = mosaic(images.clamp(0, 1), columns=10, scale="unit", ax=axes[0, 0])
        ax.set_xlim(left=-2.2 * shape[1])  # for the labels
        for row, label in enumerate(tiles):
            ax.text(-2, (row + 0.5) * (shape[0] + 1), label, ha="right", va="center", fontsize=9)


def main() -> None:
    lab = parse(__file__, __doc__)
    before = lab.cell("frame-before", lambda: frame_before(lab))
    rows: dict[str, Any] = {name: {motion: [] for motion in SPEEDS} for name in MODELS}
    for name, (motion, speeds) in product(MODELS, SPEEDS.items()):
        for v in speeds:
            found = lab.cell(f"{name}-{motion}-{v}", lambda a=(name, motion, v): measure(lab, *a))
            rows[name][motion].append(found)
    course = lab.cell("over-time", lambda: over_time(lab))
    lab.save({"speeds": SPEEDS, "models": rows, "frame before": before, "over time": course})
    draw(lab, rows, before["turning"], course)
    strip(lab)
    columns = [("carried, 1", k) for k in ("error", "error_rates", "spikes", "lag")]
    columns += [(key, k) for key in ("reset, 1", "reset, 8") for k in ("error_rates", "spikes")]
    names = (f"{key + ' ' + k.replace('error_', ''):>18}" for key, k in columns)
    print(f"{'1000 · MSE':<14}", *names)
    for motion, speeds in SPEEDS.items():
        for speed, found in zip(speeds, rows["iP"][motion], strict=True):
            values = (found[key][k] for key, k in columns)
            shown = (f"{'' if value is None else format(value, '.1f'):>18}" for value in values)
            print(f"{motion + ' ' + str(speed):<14}", *shown)


if __name__ == "__main__":
    main()
