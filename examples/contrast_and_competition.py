"""Contrast response and cross-orientation suppression of neurons that divide each other's rates.

In rate space a timestep of the model is λ' = λ · exp(d) / exp(zG): the spikes of competing neurons
divide the rate, as in divisive normalisation. Two experiments from physiology are repeated:

- Contrast. The response to a stronger grating should start sooner, as membranes rise faster.
  Whether it saturates is open: a code that reconstructs its input has to grow with it.
- Cross-orientation suppression. A second grating, orthogonal to the first, to which the neuron
  itself does not respond, should lower its response to the first through the spikes of other
  neurons. A network without them (only the diagonal of G) should show no suppression.

Medians and quartiles over the neurons that respond to gratings.

    python examples/contrast_and_competition.py                    # trains on photographs first
    python examples/contrast_and_competition.py --run runs/demo    # or uses the model of a run
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hubel_wiesel import patch_model
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, IPVAENeuron, metrics, plotting
from ipvae_snn.data.stimuli import grating

CONTRASTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
MASKS = (0.0, 0.125, 0.25, 0.5, 1.0)
ORIENTATIONS, PHASES = 12, 8
MIN_RESPONSE = 1.0
"""Spikes per timestep to the best grating below which a neuron counts as unresponsive."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a model of square patches")
    parser.add_argument("--steps", type=int, default=150, help="timesteps per grating")
    parser.add_argument("--trials", type=int, default=10, help="per grating")
    parser.add_argument("--neurons", type=int, default=100, help="maximal number of neurons")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("contrast_and_competition.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.trials, arguments.neurons = 20, 2, 3
    return arguments


@torch.no_grad()
def respond(neuron: IPVAENeuron, gram: Tensor, x: Tensor, steps: int, trials: int) -> Tensor:
    """Mean counts over trials of every neuron for stimuli (S, M): shape (T, S, K)."""
    drive = neuron.drive(x).repeat_interleave(trials, 0)
    spk, mem = neuron.initial_state(drive.shape)
    counts = []
    for _ in range(steps):
        spk, mem = neuron(drive, spk, mem, gram=gram)
        counts.append(spk.reshape(len(x), trials, -1).mean(1))
    return torch.stack(counts)


def steady_state(counts: Tensor) -> Tensor:
    """Mean over the second half of the timesteps."""
    return counts[len(counts) // 2 :].mean(0)


def best_gratings(model: IPVAE, side: int, steps: int) -> tuple[list[dict[str, float]], Tensor]:
    """The gratings that were tried, and the responses to them, shape (S, K)."""
    tried = [
        {"angle": a * 180 / ORIENTATIONS, "frequency": f, "phase": p * 360 / PHASES}
        for a in range(ORIENTATIONS)
        for f in (0.1, 0.16, 0.25)
        for p in range(PHASES)
    ]
    x = torch.stack([grating(size=side, **g) for g in tried])
    return tried, steady_state(respond(model.neuron, model.neuron.gram(), x, steps, trials=2))


class Chosen(NamedTuple):
    """N neurons, each with its best grating, and how the gratings are presented."""

    neurons: Tensor
    gratings: list[dict[str, float]]
    side: int
    steps: int
    trials: int

    def courses(self, model: IPVAE, gram: Tensor, x: list[Tensor]) -> Tensor:
        """Mean counts (T, N) of each neuron for its own stimulus."""
        counts = respond(model.neuron, gram, torch.stack(x), self.steps, self.trials)
        return counts[:, torch.arange(len(self.neurons)), self.neurons]


def contrast_curves(model: IPVAE, chosen: Chosen) -> tuple[Tensor, Tensor, Tensor]:
    """Responses (C, N), latencies (C, N) and time courses (C, T, N), contrasts first."""
    responses, latencies, courses = [], [], []
    for contrast in CONTRASTS:
        x = [grating(size=chosen.side, contrast=contrast, **g) for g in chosen.gratings]
        course = chosen.courses(model, model.neuron.gram(), x)
        response = steady_state(course)
        # A neuron that hardly responds has no latency.
        reached = (course.cumsum(0) >= MIN_RESPONSE) & (response > 0.05)
        first = torch.where(reached.any(0), reached.float().argmax(0) + 1.0, torch.nan)
        responses.append(response)
        latencies.append(first)
        courses.append(course)
    return torch.stack(responses), torch.stack(latencies), torch.stack(courses)


def masked(model: IPVAE, chosen: Chosen) -> dict[str, Tensor]:
    """Responses to the best grating at contrast ½ with an orthogonal mask, relative to no mask.

    For the whole G and for its diagonal alone; shape (masks, N) each.
    """
    gram = model.neuron.gram().detach()
    networks = {"all of G": gram, "own spikes alone": gram.diagonal().diag()}
    responses: dict[str, list[Tensor]] = {name: [] for name in networks}
    for contrast in MASKS:
        x = [
            grating(size=chosen.side, contrast=0.5, **g)
            + grating(size=chosen.side, contrast=contrast, **{**g, "angle": g["angle"] + 90})
            for g in chosen.gratings
        ]
        for name, lateral in networks.items():
            responses[name].append(steady_state(chosen.courses(model, lateral, x)))
    return {name: torch.stack(rows) / rows[0].clamp(min=1e-9) for name, rows in responses.items()}


def main() -> None:
    arguments = parse()
    model, side = patch_model(arguments)
    torch.manual_seed(0)
    tried, responses = best_gratings(model, side, arguments.steps)
    strongest, which = responses.max(0)
    _, _, oriented = metrics.feature_tuning(model.weight, (side, side))
    candidates = (strongest * (oriented > 0.3)).argsort(descending=True)[: arguments.neurons]
    neurons = candidates[strongest[candidates] >= MIN_RESPONSE]
    neurons = candidates[:3] if len(neurons) < 3 else neurons
    best = [tried[int(which[k])] for k in neurons]
    print(f"{len(neurons)} oriented neurons, each with the best of {len(tried)} gratings")

    chosen = Chosen(neurons, best, side, arguments.steps, arguments.trials)
    response, latency, courses = contrast_curves(model, chosen)
    suppressed = masked(model, chosen)
    report(response, latency, suppressed)
    draw(arguments.out, response, latency, courses, suppressed, neurons)


def report(response: Tensor, latency: Tensor, suppressed: dict[str, Tensor]) -> None:
    steepness = (response[1:] / response[:-1].clamp(min=1e-9)).log() / torch.tensor(
        [np.log(b / a) for a, b in pairwise(CONTRASTS)]
    )[:, None]
    print(f"{'contrast':>9}{'spikes/step':>13}{'latency':>9}{'slope to the next':>19}")
    for row, contrast in enumerate(CONTRASTS):
        slope = f"{float(steepness[row].median()):.2f}" if row < len(steepness) else ""
        print(
            f"{contrast:9g}{float(response[row].median()):13.2f}"
            f"{float(latency[row].nanmedian()):9.0f}{slope:>19}"
        )
    print("response with an orthogonal mask, relative to no mask, median:")
    for name, rows in suppressed.items():
        values = "".join(f"{float(row.median()):8.2f}" for row in rows)
        print(f"  {name:<18}{values}   (mask contrast {', '.join(f'{m:g}' for m in MASKS)})")


def draw(
    path: Path, response: Tensor, latency: Tensor, courses: Tensor,
    suppressed: dict[str, Tensor], neurons: Tensor,
) -> None:  # fmt: skip
    figure = Figure(figsize=(10, 7), layout="constrained")
    ((rise, late), (course, mask)) = figure.subplots(2, 2)
    relative = response / response[-1].clamp(min=1e-9)
    band(rise, CONTRASTS, relative, plotting.BLUE, "")
    rise.plot((0, 1), (0, 1), color=plotting.GREY, ls=":", lw=1)
    rise.set_xlabel("contrast")
    rise.set_ylabel("spikes, relative to contrast 1")
    rise.set_title("the settled answer (dotted: proportional)", fontsize="medium")
    band(late, CONTRASTS, latency, plotting.BLUE, "")
    late.set_xscale("log")
    late.set_xticks(CONTRASTS, [f"{c:g}" for c in CONTRASTS])
    late.minorticks_off()
    late.set_ylim(bottom=0)
    late.set_xlabel("contrast")
    late.set_ylabel("timesteps to the first spike, on average")
    late.set_title("stronger is sooner", fontsize="medium")
    for row, colour in zip((1, 2, 4, 6), plotting.PALETTE, strict=False):
        mean = courses[row].mean(1)
        course.plot(np.arange(1, len(mean) + 1), mean, color=colour, label=f"{CONTRASTS[row]:g}")
    course.set_xlim(1, min(60, len(courses[0])))
    course.set_xlabel("timestep")
    course.set_ylabel("spikes per timestep")
    course.set_title(f"time course, mean of {len(neurons)} neurons", fontsize="medium")
    course.legend(
        title="contrast", frameon=False, loc="center right", bbox_to_anchor=(1, 0.64), ncols=2
    )
    for (name, rows), colour in zip(
        suppressed.items(), (plotting.BLUE, plotting.ORANGE), strict=True
    ):
        band(mask, MASKS, rows, colour, name)
    mask.axhline(1, color=plotting.GREY, ls=":", lw=1)
    mask.set_ylim(bottom=0)
    mask.set_xlabel("contrast of a mask at right angles")
    mask.set_ylabel("answer relative to no mask")
    mask.set_title("a mask suppresses through the spikes of others", fontsize="medium")
    mask.legend(title="inhibited by", frameon=False)
    for ax in (rise, late, course, mask):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def band(ax: Any, at: tuple[float, ...], rows: Tensor, colour: str, label: str) -> None:
    """Median over neurons, with the quartiles as a band."""
    low, middle, high = (rows.nanquantile(q, dim=1).numpy() for q in (0.25, 0.5, 0.75))
    ax.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    ax.plot(at, middle, color=colour, lw=1.8, marker="o", ms=4, label=label)


if __name__ == "__main__":
    main()
