"""Natural patches: convergence, rate and distortion, sparsity, dictionaries.

Whitened 16×16 patches of the Berkeley photographs; training and test patches come from different
scenes. Three iterative models are trained with 16 timesteps and run for 1,000. Then R² against the
portion of zeros at the last timestep: over β and T for the iP-VAE, over λ for LCA, over β for the
others. Two points show other readouts of the iP-VAE: spikes rounded from rates instead of drawn,
and R² from the rates themselves against the zeros of the spikes.

Two more points ("tuned") have some numbers set after training, on training patches. iP-VAE: more
tonic inhibition, b + δ, which acts as a threshold; weaker inhibition by spikes, `lateral_scale`,
the gain that makes up for what the threshold takes from active neurons; and c small spikes in place
of one. LCA: its λ and a gain of the decoder.

    python examples/paper/natural_patches.py --data path/to/data
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import metrics, plotting, surrogate
from ipvae_snn.runs import pick

from harness import LABELS, Setup, evaluated, figure, finish, load, parse, trained
from harness.figures import style
from harness.retuned import best_terms, retuned

ITERATIVE = ("iP", "iG", "iG-relu")
# Models of a sweep train for fewer iterations, so that the whole experiment takes about an hour.
SHORT = {"iterations": 3000}
SWEEPS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "iP": [
        *((f"β {b:g}", {"beta": b, **SHORT}) for b in (6.0, 12.0, 24.0, 36.0, 48.0)),
        *((f"T {t}", {"steps": t, "beta": 1.5 * t, **SHORT}) for t in (4, 8, 32)),
    ],
    "iG-relu": [(f"β {b:g}", {"beta": b, "iterations": 700}) for b in (2.0, 24.0)],
    "LCA": [
        *((f"λ {s:g}", {"sparsity": s}) for s in (0.25, 0.5, 0.7, 0.9, 1.2)),
        ("λ 0.5, z ≥ 0", {"sparsity": 0.5, "nonnegative": True}),
    ],
    "P-conv": [(f"β {b:g}", {"beta": b}) for b in (0.5, 1.0, 2.0)],
    "G-conv": [(f"β {b:g}", {"beta": b}) for b in (0.5, 1.0)],
}


def measure(
    setup: Setup, name: str, seed: int = 0, rounded: bool = False, **changes: Any
) -> dict[str, Any]:
    model = trained(setup, "patches", name, seed, **changes)
    if rounded:
        model.neuron.spike_grad = surrogate.rounded()
    return evaluated(setup, model, load(setup, "patches").test, setup.amount(1000, quick=20))


def main() -> None:
    setup = parse(__file__, __doc__)
    full = {
        name: setup.by_seed(
            name, lambda seed, n=name: measure(setup, n, seed), several=name == "iP"
        )
        for name in ITERATIVE
    }
    sweeps = {
        name: [
            {
                "setting": setting,
                **setup.cell(
                    f"{name}-{setting.replace(' ', '')}",
                    lambda n=name, c=changes: measure(setup, n, **c),
                ),
            }
            for setting, changes in settings
        ]
        for name, settings in SWEEPS.items()
    }
    rounded = setup.cell("iP-rounded", lambda: measure(setup, "iP", rounded=True))
    tuned = {
        "iP": setup.cell("iP-tuned", lambda: tuned_inhibition(setup)),
        "LCA": setup.cell("LCA-tuned", lambda: tuned_gain(setup)),
    }
    setup.save({"full": full, "sweeps": sweeps, "rounded": rounded, "tuned": tuned})
    draw_convergence(setup, full)
    draw_rate_distortion(setup, full, sweeps, rounded, tuned)
    draw_dictionaries(setup)
    report(full, sweeps, rounded, tuned)


def tuned_inhibition(setup: Setup) -> dict[str, Any]:
    """The iP-VAE with more tonic inhibition, less inhibition by spikes, and smaller spikes."""
    grid = product((0.3, 0.4, 0.5), (0.7, 0.8, 0.9), (1.0, 2.0, 4.0))
    chosen = best_terms(setup, "patches", 0, grid, lambda last: last["rate_distortion_distance"])
    model = retuned(setup, "patches", 0, chosen)
    result = evaluated(setup, model, load(setup, "patches").test, setup.amount(1000, quick=20))
    return dict(zip(("more_bias", "lateral_scale", "fineness"), chosen, strict=True)) | result


def tuned_gain(setup: Setup) -> dict[str, Any]:
    """LCA with the best λ and the best gain of its decoder, which undoes the shrinkage by λ."""
    samples, steps = load(setup, "patches"), setup.amount(300, quick=5)

    @torch.no_grad()
    def scores(changes: dict[str, Any], x: Tensor) -> dict[float, dict[str, float]]:
        """Metrics of one setting of LCA for each gain."""
        model, x = (
            trained(setup, "patches", "LCA", **changes),
            pick(x, setup.amount(500, quick=20), seed=0),
        )
        code = model.run(x, steps, record=()).state.spk
        zeros, x_hat, by_gain = float(metrics.zeros(code)), model.decode(code), {}
        for gain in (1.0, 1.1, 1.2, 1.3):
            r2 = float(metrics.r2(x, gain * x_hat))
            distance = metrics.rate_distortion_distance(r2, zeros)
            by_gain[gain] = {"r2": r2, "zeros": zeros, "rate_distortion_distance": distance}
        return by_gain

    _, setting, gain = min(
        (last["rate_distortion_distance"], setting, gain)
        for setting, changes in SWEEPS["LCA"]
        for gain, last in scores(changes, samples.train).items()
    )
    last = scores(dict(SWEEPS["LCA"])[setting], samples.test)[gain]
    return {"setting": setting, "gain": gain, "last": last}


def draw_convergence(setup: Setup, full: dict[str, Any]) -> None:
    with figure(setup, 1, 2, name="convergence", size=(8.4, 3.2)) as axes:
        for ax, key, title in ((axes[0, 0], "r2", "R²"), (axes[0, 1], "zeros", "portion of zeros")):
            for name, runs in full.items():
                for index, run in enumerate(runs):
                    look = {**style(name), **({"label": None} if index else {})}
                    ax.plot(run["steps"], run["curves"][key], **look)
                    if run["convergence_step"] and key == "r2":
                        at = run["convergence_step"]
                        height = np.interp(at, run["steps"], run["curves"][key])
                        ax.plot(at, height, "o", ms=5, color=look["color"])
            ax.axvline(16, color="#808080", ls=":", lw=1)
            ax.set_xscale("log")
            finish(ax, x="timestep (dotted: steps in training)", y=title, legend=None)
        axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right", title="dot: converged")


def draw_rate_distortion(
    setup: Setup,
    full: dict[str, Any],
    sweeps: dict[str, Any],
    rounded: dict[str, Any],
    tuned: dict[str, Any],
) -> None:
    with figure(setup, name="rate_distortion", size=(6.4, 4.4)) as axes:
        ax = axes[0, 0]
        for name in ("iP", "LCA", "iG-relu", "P-conv", "G-conv"):
            rows = [row["last"] for row in sweeps[name]] + [r["last"] for r in full.get(name, [])]
            look = style(name)
            ax.plot(
                [row["zeros"] for row in rows], [row["r2"] for row in rows],
                marker="o", ms=4.5, color=look["color"], lw=0, label=look["label"],
            )  # fmt: skip
        best = full["iP"][0]["last"]
        for row, key, marker, label in (
            (rounded["last"], "r2", "s", "iP-VAE, spikes rounded from rates"),
            (best, "r2_map", "D", "iP-VAE, R² from rates, zeros of spikes"),
        ):
            ax.plot(row["zeros"], row[key], marker, mfc="none", color="#0072B2", label=label)
        for name, run in tuned.items():
            point, label = run["last"], f"{LABELS[name]}, tuned"
            ax.plot(
                point["zeros"], point["r2"], "*", ms=11, color=style(name)["color"], label=label
            )
        iG = full["iG"][0]["last"]
        ax.plot(iG["zeros"], iG["r2"], "o", ms=4.5, color=style("iG")["color"], label=LABELS["iG"])
        for radius in (0.2, 0.3, 0.4, 0.6):
            _circle(ax, radius)
        ax.set_xlim(-0.03, 1.02)
        ax.set_ylim(0.3, 1.01)
        finish(ax, x="portion of zeros", y="R²", title="rate and distortion at step 1,000")
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.08, 0))


def _circle(ax: Any, radius: float) -> None:
    """Points of equal distance from the corner R² = 1, zeros = 1."""
    angle = np.linspace(np.pi, 1.5 * np.pi, 60)
    across, up = 1 + radius * np.cos(angle), 1 + radius * np.sin(angle)
    ax.plot(across, up, color="#808080", ls=":", lw=0.8)
    ax.annotate(f"{radius:g}", (across[4], up[4]), fontsize=7, color="#606060", ha="right")


def draw_dictionaries(setup: Setup) -> None:
    shape = load(setup, "patches").shape
    x = load(setup, "patches").test[: setup.amount(500, quick=20)].to(setup.device)
    with figure(setup, 1, 4, name="dictionaries", size=(10, 2.8)) as axes:
        for ax, name in zip(axes[0], (*ITERATIVE, "LCA"), strict=True):
            model = trained(setup, "patches", name)
            spk = model.run(x, setup.amount(100, quick=5), record=(), seed=0).state.spk
            share = spk.detach().square().mean(0) * model.weight.detach().square().sum(0)
            most = share.argsort(descending=True)[: min(64, len(share))]
            plotting.dictionary(model.weight, shape, order=most.cpu(), columns=8, ax=ax)
            ax.set_title(LABELS[name], fontsize=10)


def report(
    full: dict[str, Any], sweeps: dict[str, Any], rounded: dict[str, Any], tuned: dict[str, Any]
) -> None:
    print(
        f"{'':<24}{'R²':>7}{'rates':>7}{'zeros':>7}{'lifet.':>7}{'popul.':>7}{'dist.':>7}{'conv.':>6}"
    )
    rows = [(LABELS[n], run) for n, runs in full.items() for run in runs]
    rows += [(f"{LABELS[n]}, {r['setting']}", r) for n, sweep in sweeps.items() for r in sweep]
    for label, run in (*rows, ("iP-VAE, rounded", rounded)):
        last = run["last"]
        numbers = "".join(
            f"{last[key]:7.3f}"
            for key in (
                "r2", "r2_map", "zeros", "lifetime_sparsity", "population_sparsity",
                "rate_distortion_distance",
            )
        )  # fmt: skip
        print(f"{label:<24}{numbers}{run['convergence_step'] or '-':>6}")
    for name, run in tuned.items():
        last = run["last"]
        print(
            f"{LABELS[name] + ', tuned':<24}{last['r2']:7.3f}{'':7}{last['zeros']:7.3f}{'':14}"
            f"{last['rate_distortion_distance']:7.3f}"
        )


if __name__ == "__main__":
    main()
