"""Natural patches: convergence, rate and distortion, sparsity, dictionaries.

Whitened 16×16 patches of the Berkeley photographs; training and test patches come from different
scenes. Every model trains for the same time, with options chosen on 2,000 patches that are left out
of training (``choices.py``). Iterative models are run for 1,000 timesteps. Then R² against the
portion of zeros at the last timestep; the models of the sweeps, over β and T for the iP-VAE, over λ
for LCA, train for a quarter of the time. Two points show other readouts of the iP-VAE: spikes
rounded from rates instead of drawn, and R² from the rates themselves against the zeros of the
spikes.

*Tuned* is the iP-VAE after ``ipvae_snn.tune`` on the patches left out, with as many spikes as
before and with up to twice as many, and LCA with a gain of its decoder, which undoes the shrinkage
by λ, chosen on the same patches. LCA is trained with codes of either sign and with nonnegative
ones, as spikes are.

    python examples/paper/natural_patches.py --data path/to/data
"""

from typing import Any

import numpy as np
import torch

from ipvae_snn import metrics, plotting, surrogate
from ipvae_snn.runs import pick

from harness import LABELS, Setup, evaluated, figure, finish, load, parse, trained
from harness.figures import style
from harness.measure import effort
from harness.recipes import HEADLINE, ONE_PASS
from harness.tables import (
    DISTANCE,
    ERROR,
    PARAMETERS,
    R2,
    RATES,
    SPIKES,
    TRAINED,
    ZEROS,
    Column,
    last,
    table,
)  # fmt: skip
from harness.tuned import tuned

ITERATIVE = ("iP", "iG", "iG-relu")
MODELS = (*ITERATIVE, "P-conv", "P-mlp", "P-linear", "G-conv", "G-mlp", "G-linear")
SIGNS = {"LCA": False, "LCA, z ≥ 0": True}
TUNED = {"iP-tuned": 1.0, "iP-finer": 2.0}
"""At most so many times the spikes."""
GAINS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3)
QUARTER = 0.25
SWEEPS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "iP": [
        *((f"β {b:g}", {"beta": b}) for b in (4.0, 8.0, 16.0, 32.0)),
        *((f"T {t}", {"steps": t, "beta": t / 2}) for t in (8, 32)),
    ],
    "iG-relu": [(f"β {b:g}", {"beta": b}) for b in (2.0, 8.0, 24.0)],
    "LCA": [(f"λ {s:g}", {"sparsity": s}) for s in (0.25, 0.5, 0.7, 0.9, 1.2)],
}


def measure(
    setup: Setup, name: str, seed: int = 0, rounded: bool = False, **changes: Any
) -> dict[str, Any]:
    model = trained(setup, "patches", name, seed, **changes)
    if rounded:
        model.neuron.spike_grad = surrogate.rounded()
    steps = 2 if name in ONE_PASS else setup.amount(1000, quick=20)
    result = evaluated(setup, model, load(setup, "patches").test, steps)
    return {**result, **effort(setup, "patches", name, **changes)}


def tuned_iP(setup: Setup, times: float, seed: int) -> dict[str, Any]:
    found = tuned(setup, "patches", seed, times=times)
    x = load(setup, "patches").test
    result = evaluated(setup, found.model, x, setup.amount(1000, quick=20))
    samples = effort(setup, "patches", "iP")
    return {**result, "knobs": vars(found.knobs), **samples}


@torch.no_grad()
def tuned_LCA(setup: Setup, nonnegative: bool, seed: int) -> dict[str, Any]:
    """LCA with a gain of its decoder, chosen on the validation split."""
    model = trained(setup, "patches", "LCA", seed, nonnegative=nonnegative)
    steps, count = setup.amount(1000, quick=5), setup.amount(500, quick=20)

    def by_gain(x: torch.Tensor) -> dict[float, dict[str, float]]:
        """Metrics of the code of x for each gain."""
        x = pick(x, count, seed=0).to(setup.device)
        code = model.run(x, steps, record=()).state.spk
        decoded, zeros, rows = model.decode(code), float(metrics.zeros(code)), {}
        for gain in GAINS:
            r2 = float(metrics.r2(x, gain * decoded))
            rows[gain] = {
                "r2": r2,
                "zeros": zeros,
                "mse_per_dim": float(metrics.mse_per_dim(x, gain * decoded)),
                "rate_distortion_distance": metrics.rate_distortion_distance(r2, zeros),
            }
        return rows

    samples = load(setup, "patches")
    on_validation = by_gain(samples.validation)
    gain = min(GAINS, key=lambda g: on_validation[g]["rate_distortion_distance"])
    parameters = sum(p.numel() for p in model.parameters())
    seen = effort(setup, "patches", "LCA", nonnegative=nonnegative)
    return {
        "gain": gain, "last": by_gain(samples.test)[gain], "parameters": parameters,
        **seen,
    }  # fmt: skip


def main() -> None:
    setup = parse(__file__, __doc__)
    full = {
        name: setup.by_seed(
            name, lambda seed, n=name: measure(setup, n, seed), several=name in HEADLINE
        )
        for name in MODELS
    }
    for label, sign in SIGNS.items():
        full[label] = setup.by_seed(
            label.replace(" ", ""),
            lambda seed, s=sign: measure(setup, "LCA", seed, nonnegative=s),
            several=True,
        )
    adjusted = {
        name: setup.by_seed(name, lambda seed, t=times: tuned_iP(setup, t, seed), several=True)
        for name, times in TUNED.items()
    }
    for label, sign in SIGNS.items():
        adjusted[f"{label}, tuned"] = setup.by_seed(
            f"{label.replace(' ', '')}-tuned",
            lambda seed, s=sign: tuned_LCA(setup, s, seed),
            several=True,
        )
    sweeps = {
        name: [
            {
                "setting": setting,
                **setup.cell(
                    f"{name}-{setting.replace(' ', '')}",
                    lambda n=name, c=changes: measure(
                        setup, n, seconds=QUARTER * setup.seconds, **c
                    ),
                ),
            }
            for setting, changes in settings
        ]
        for name, settings in SWEEPS.items()
    }
    rounded = setup.by_seed(
        "iP-rounded", lambda seed: measure(setup, "iP", seed, rounded=True), several=True
    )
    setup.save({"full": full, "tuned": adjusted, "sweeps": sweeps, "rounded": rounded})
    draw_convergence(setup, {name: full[name] for name in ITERATIVE})
    draw_rate_distortion(setup, full, sweeps, rounded[0], adjusted)
    draw_dictionaries(setup)
    report(full, adjusted, sweeps, rounded)


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
    adjusted: dict[str, Any],
) -> None:
    with figure(setup, name="rate_distortion", size=(6.4, 4.4)) as axes:
        ax = axes[0, 0]
        for name in ("iP", "LCA", "iG-relu", "P-mlp", "G-linear", "G-mlp"):
            rows = [row["last"] for row in (*sweeps.get(name, []), *full[name])]
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
        for name, (run, *_) in adjusted.items():
            point, label = run["last"], LABELS.get(name, name)
            marker = {"iP-finer": "P", "LCA, z ≥ 0, tuned": "X"}.get(name, "*")
            look = {"color": style(name.split(",")[0])["color"], "label": label}
            ax.plot(point["zeros"], point["r2"], marker, ms=8, lw=0, **look)
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
    full: dict[str, Any], adjusted: dict[str, Any], sweeps: dict[str, Any], rounded: list[Any]
) -> None:
    columns: tuple[Column, ...] = (
        R2, RATES, ERROR, ZEROS, SPIKES, ("lifet.", last("lifetime_sparsity"), ".3f"),
        DISTANCE, ("conv.", lambda run: run.get("convergence_step"), ".0f"), PARAMETERS, *TRAINED,
    )  # fmt: skip
    short = {f"{LABELS[n]}, {r['setting']}": [r] for n, sweep in sweeps.items() for r in sweep}
    print(table({**full, "iP-VAE, rounded": rounded, **adjusted, **short}, columns))


if __name__ == "__main__":
    main()
