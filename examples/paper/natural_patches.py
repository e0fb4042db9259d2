"""Natural patches: convergence, rate and distortion, sparsity, dictionaries.

Whitened 16×16 patches of the Berkeley photographs, training and test scenes apart. Three iterative
models are trained with 16 timesteps and run for 1,000. Then R² against the portion of zeros, at the
last step, over β and T, over λ for LCA, over β for the amortised models; and the iP-VAE's own code
read out in two other ways, named as such: spikes rounded from rates instead of drawn, and R² from
the rates themselves, beside the zeros of the spikes.

Two more points have some numbers set after learning, on training patches. Of the iP-VAE: more tonic
inhibition, b + δ, and weaker inhibition by spikes, `lateral_scale` (a threshold, and the gain that
makes up for what it takes from active neurons); and finer counts, c small spikes where one was. Of
LCA: its λ and a gain of the decoder.

    python examples/paper/natural_patches.py --data path/to/data
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import metrics, plotting, surrogate
from ipvae_snn.runs import pick

from lab import LABELS, Lab, evaluated, figure, finish, load, parse, trained
from lab.pictures import style
from lab.retold import best_terms, retold

ITERATIVE = ("iP", "iG", "iG-relu")
# A sweep trains less than the models it is drawn beside, so that the whole takes an hour.
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
    lab: Lab, name: str, seed: int = 0, rounded: bool = False, **changes: Any
) -> dict[str, Any]:
    model = trained(lab, "patches", name, seed, **changes)
    if rounded:
        model.neuron.spike_grad = surrogate.rounded()
    return evaluated(lab, model, load(lab, "patches").test, lab.few(1000, 20))


def main() -> None:
    lab = parse(__file__, __doc__)
    full = {
        name: lab.by_seed(name, lambda seed, n=name: measure(lab, n, seed), several=name == "iP")
        for name in ITERATIVE
    }
    sweeps = {
        name: [
            {
                "setting": setting,
                **lab.cell(
                    f"{name}-{setting.replace(' ', '')}",
                    lambda n=name, c=changes: measure(lab, n, **c),
                ),
            }
            for setting, changes in settings
        ]
        for name, settings in SWEEPS.items()
    }
    rounded = lab.cell("iP-rounded", lambda: measure(lab, "iP", rounded=True))
    tuned = {
        "iP": lab.cell("iP-tuned", lambda: tuned_inhibition(lab)),
        "LCA": lab.cell("LCA-tuned", lambda: tuned_gain(lab)),
    }
    lab.save({"full": full, "sweeps": sweeps, "rounded": rounded, "tuned": tuned})
    draw_convergence(lab, full)
    draw_rate_distortion(lab, full, sweeps, rounded, tuned)
    draw_dictionaries(lab)
    report(full, sweeps, rounded, tuned)


def tuned_inhibition(lab: Lab) -> dict[str, Any]:
    """The iP-VAE with more tonic inhibition, less by spikes, and finer counts."""
    grid = product((0.3, 0.4, 0.5), (0.7, 0.8, 0.9), (1.0, 2.0, 4.0))
    chosen = best_terms(lab, "patches", 0, grid, lambda last: last["rate_distortion_distance"])
    model = retold(lab, "patches", 0, chosen)
    found = evaluated(lab, model, load(lab, "patches").test, lab.few(1000, 20))
    return dict(zip(("more_bias", "lateral_scale", "fineness"), chosen, strict=True)) | found


def tuned_gain(lab: Lab) -> dict[str, Any]:
    """LCA of the best λ with the best gain of its decoder, which undoes its shrinkage."""
    samples, steps = load(lab, "patches"), lab.few(300, 5)

    @torch.no_grad()
    def scores(changes: dict[str, Any], x: Tensor) -> dict[float, dict[str, float]]:
        """By gain."""
        model, x = trained(lab, "patches", "LCA", **changes), pick(x, lab.few(500, 20), seed=0)
        code = model.run(x, steps, record=()).state.spk
        zeros, x_hat, found = float(metrics.zeros(code)), model.decode(code), {}
        for gain in (1.0, 1.1, 1.2, 1.3):
            r2 = float(metrics.r2(x, gain * x_hat))
            distance = metrics.rate_distortion_distance(r2, zeros)
            found[gain] = {"r2": r2, "zeros": zeros, "rate_distortion_distance": distance}
        return found

    _, setting, gain = min(
        (last["rate_distortion_distance"], setting, gain)
        for setting, changes in SWEEPS["LCA"]
        for gain, last in scores(changes, samples.train).items()
    )
    last = scores(dict(SWEEPS["LCA"])[setting], samples.test)[gain]
    return {"setting": setting, "gain": gain, "last": last}


def draw_convergence(lab: Lab, full: dict[str, Any]) -> None:
    with figure(lab, 1, 2, name="convergence", size=(8.4, 3.2)) as axes:
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
    lab: Lab,
    full: dict[str, Any],
    sweeps: dict[str, Any],
    rounded: dict[str, Any],
    tuned: dict[str, Any],
) -> None:
    with figure(lab, name="rate_distortion", size=(6.4, 4.4)) as axes:
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
    """Points of equal distance from the corner of a perfect code without spikes."""
    angle = np.linspace(np.pi, 1.5 * np.pi, 60)
    across, up = 1 + radius * np.cos(angle), 1 + radius * np.sin(angle)
    ax.plot(across, up, color="#808080", ls=":", lw=0.8)
    ax.annotate(f"{radius:g}", (across[4], up[4]), fontsize=7, color="#606060", ha="right")


def draw_dictionaries(lab: Lab) -> None:
    shape = load(lab, "patches").shape
    x = load(lab, "patches").test[: lab.few(500, 20)].to(lab.device)
    with figure(lab, 1, 4, name="dictionaries", size=(10, 2.8)) as axes:
        for ax, name in zip(axes[0], (*ITERATIVE, "LCA"), strict=True):
            model = trained(lab, "patches", name)
            spk = model.run(x, lab.few(100, 5), record=(), seed=0).state.spk
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
    rows += [(f"{LABELS[n]}, {r['setting']}", r) for n, found in sweeps.items() for r in found]
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
