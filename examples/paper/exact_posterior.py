"""Inference against exact posteriors: KL in nats, and which approximation causes it.

Problems small enough to enumerate: x = Φz + σ·noise is drawn from the model; Φ, σ and the prior
Poisson(e^{u₀}) are known; features have norm 1, and any two have the same cosine ("overlap").
KL(q ‖ p(z | x)), a free energy in closed form plus the enumerated log p(x), is computed for

- the best factorised distribution of any shape: the price of independence;
- the best factorised Poisson, called the floor: adds the price of variance = mean;
- the iP-VAE: its rates at each timestep, and their averages over time. "published" has no leak and
  learned α, b and u₀ with the published loss. "exact" is ``IPVAE(form="exact", leak=1)``, with
  which a timestep follows the natural gradient of the whole ELBO: but for noise, its only fixed
  point is the floor. The kick is α·G_kk, the nats that a spike takes from its own neuron;
- the P-VAE, of which only the encoder is trained, on the ELBO: the floor plus the amortisation gap.

The data are drawn here; nothing is read from ``--data``. Five minutes on one core.

    python examples/paper/exact_posterior.py --data path/to/data
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, baselines, fit

from harness import COLOURS, Setup, figure, finish, parse
from harness.enumeration import PIXELS, Problem
from harness.measure import thinned

GRID = [(k, overlap, 0.5) for k in (2, 4, 6) for overlap in (0.0, 0.5, 0.9)]
PROBLEMS = [*GRID, (4, 0.5, 1.0), (4, 0.5, 0.25)]  # K, overlap, σ
RULES = {  # leak, form, kick
    "exact 0.5": (1.0, "exact", 0.5), "exact 0.2": (1.0, "exact", 0.2),
    "exact 0.05": (1.0, "exact", 0.05), "leak alone": (1.0, "published", 0.05),
    "variance term alone": (0.0, "exact", 0.05), "neither": (0.0, "published", 0.05),
}  # fmt: skip
STYLES = {  # label, colour, line over steps, marker
    "published": ("iP, published", COLOURS["iG"], "-", "v"),
    "exact 0.5": ("iP, exact, kick 0.5", "#A6CEE3", "-", ""),
    "exact 0.2": ("iP, exact, kick 0.2", "#56A4D0", "-", ""),
    "exact 0.05": ("iP, exact, kick 0.05", COLOURS["iP"], "-", "o"),
    "exact 0.2, averaged": ("kick 0.2, rates averaged", "#000000", "--", ""),
    "P-linear": ("P-VAE, linear", COLOURS["P-linear"], "", "s"),
    "P-mlp": ("P-VAE, MLP", COLOURS["P-mlp"], "", "D"),
    "prior": ("prior", "", "", ""),
    "floor": ("floor: best Poisson", "", "", ""),
    "independent": ("best independent", "", "", ""),
}
Rows = list[dict[str, Any]]


def untrained(p: Problem, leak: float, form: Any, kick: float, **options: Any) -> nn.Module:
    """An iP-VAE with given constants. A clamp at 5 would act as a bias of (1 + λ) e⁻⁵ / α."""
    options |= {"form": form, "leak": leak, "step": kick / float(p.gram[0, 0]), "clamp": 16.0}
    model = IPVAE(PIXELS, len(p.gram), bias=1e-6, **options)  # b must be positive
    return p.with_true_parameters(model)


def learned(setup: Setup, p: Problem, seed: int, encoder: str = "") -> nn.Module:
    """A trained P-VAE with that encoder, or without one the iP-VAE as published."""
    torch.manual_seed(seed)
    if encoder:
        width = {"width": 64} if encoder == "mlp" else {}
        model = p.with_true_parameters(
            baselines.PoissonVAE(PIXELS, len(p.gram), encoder=encoder, **width)
        )
        recipe = {"iterations": setup.amount(2000, quick=6), "steps": 1, "beta": 1.0}
        recipe |= {"lr": 5e-3, "batch": 200}
    else:
        step = 0.2 / float(p.gram[0, 0])
        model = p.with_true_parameters(IPVAE(PIXELS, len(p.gram), form="published", step=step))
        model.neuron.mem_init.requires_grad_()
        recipe = {"iterations": setup.amount(600, quick=6), "steps": 16, "beta": 16.0, "batch": 100}
    recipe |= {"beta_ramp": 0.2, "weight_decay": 0.0, "grad_clip": 3000.0, "progress": False}
    fit(model, p.train, TrainConfig(seed=seed, **recipe))
    return model


def measure(setup: Setup, latents: int, overlap: float, noise: float, seed: int) -> dict[str, Any]:
    samples = {"train": setup.amount(20_000, quick=200), "test": setup.amount(200, quick=20)}
    steps = setup.amount(1000, quick=40)
    p = Problem(latents, overlap, noise, seed, **samples)
    models = {name: untrained(p, *terms) for name, terms in RULES.items()}
    models["without spikes"] = untrained(p, *RULES["exact 0.05"], spike_grad=torch.exp)
    models["published"] = learned(setup, p, seed)
    encoders = {f"P-{kind}": learned(setup, p, seed, kind) for kind in ("linear", "mlp")}
    with torch.no_grad():
        independent, fano_factor = p.best_independent(setup.amount(300, quick=9))
        kl, curves, ends = {"independent": independent}, {}, thinned(list(range(1, steps + 1)), 1.1)
        mems = {"floor": p.best_poisson(), "prior": p.mem_init.expand(len(p.x), -1)}
        mems |= {name: model.run(p.x, 1).mem[0] for name, model in encoders.items()}
        for name, model in models.items():
            mem = model.run(p.x, steps, record=("mem",), seed=seed).mem
            means = torch.stack([mem[end // 2 : end].exp().mean(0).log() for end in ends])
            each, averaged = p.kl(mem), f"{name}, averaged"
            mems[averaged], kl[name] = means[-1], each[steps // 2 :].mean(0)
            curves[name] = [float(each[a:b].mean()) for a, b in pairwise([0, *ends])]
            curves[averaged] = p.kl(means).mean(1).tolist()
        kl |= {name: p.kl(mem) for name, mem in mems.items()}
    variance = p.covariance.diagonal(dim1=1, dim2=2)
    spread, pairs = variance.mean(0).sqrt(), latents * (latents - 1)
    correlation = (p.covariance.mean(0) / spread.outer(spread)).sum() - latents
    return {
        "K": latents, "overlap": overlap, "noise": noise, "seed": seed, "left_out": p.left_out,
        "kl": {name: float(values.mean()) for name, values in kl.items()},
        "error": {n: float((v - kl["floor"]).std()) / len(v) ** 0.5 for n, v in kl.items()},
        "counts": {name: float(mem.exp().sum() / p.mean.sum()) for name, mem in mems.items()},
        "posterior": {
            "Fano factor": float(variance.sum() / p.mean.sum()),
            "Fano factor, apart": fano_factor,
            "correlation": float(correlation) / pairs,
        },
        "steps": ends, "curves": curves,
    }  # fmt: skip


def mean(rows: Rows, name: str, part: str = "kl") -> float:
    return round(float(np.mean([row[part][name] for row in rows])), 6) + 0.0  # no −0


def draw_steps(ax: Axes, rows: Rows) -> None:
    levels = []
    for name, (label, colour, line, _) in STYLES.items():
        if line:
            curve = np.mean([row["curves"][name] for row in rows], 0)
            ax.loglog(rows[0]["steps"], curve, line, color=colour, label=label)
        else:
            levels.append((mean(rows, name), label))
    at = 0.0
    for level, label in sorted(levels):
        ax.axhline(level, color="#808080", lw=1, ls=":")
        at = max(1.25 * at, level)  # so that labels do not overlap
        ax.text(1.01, at, label, transform=ax.get_yaxis_transform(), fontsize=7, va="center")
    ax.set_ylim(top=25 * level)
    title = "(a) inference, K {K}, overlap {overlap:g}, σ {noise:g}".format(**rows[0])
    finish(ax, x="step", y="KL (nats)", title=title, legend="upper right")


def draw_prices(ax: Axes, groups: list[Rows]) -> None:
    at, shift = np.arange(len(groups)), -0.3
    for name, colour, label in (
        ("floor", "#DDDDDD", "price of variance = mean"),
        ("independent", "#999999", "price of independence"),
    ):
        ax.bar(at, [mean(rows, name) for rows in groups], color=colour, label=label)
    for name, (label, colour, _, marker) in STYLES.items():
        if marker:
            level = [mean(rows, name) for rows in groups]
            errors = [[row["error"][name] for row in rows] for rows in groups]
            error = np.linalg.norm(errors, axis=1) / len(errors[0])
            ax.errorbar(at + shift, level, error, fmt=marker, color=colour, ms=4, label=label)
            shift += 0.2
    ax.set_ylim(0, 1.5 * ax.get_ylim()[1])
    ax.set_xticks(at, ["{overlap:g}\n{K}".format(**rows[0]) for rows in groups])
    title = "(b) after inference, σ {noise:g}".format(**groups[0][0])
    finish(ax, x="overlap / K", y="KL (nats)", title=title, legend="upper left")


def draw_posteriors(ax: Axes, groups: list[Rows]) -> None:
    for part, name, label, colour, marker in (
        ("counts", "floor", "expected counts, floor / truth", "#000000", "D"),
        ("posterior", "Fano factor", "Fano factor of a count", "#0072B2", "o"),
        ("posterior", "Fano factor, apart", "of the best independent law", "#0072B2", "_"),
        ("posterior", "correlation", "correlation of two counts", "#D55E00", "s"),
    ):
        height = [mean(rows, name, part) for rows in groups]
        ax.plot(height, marker, color=colour, ms=5, label=label)
    for level, label in ((1, "Poisson"), (0, "independent")):
        ax.axhline(level, color="#808080", lw=1, ls=":")
        ax.text(1.01, level, label, transform=ax.get_yaxis_transform(), fontsize=7, va="center")
    ax.set_ylim(-0.9, 1.9)
    ticks = ["{overlap:g}\n{K}\n{noise:g}".format(**rows[0]) for rows in groups]
    ax.set_xticks(range(len(groups)), ticks, fontsize=7)
    finish(ax, x="overlap / K / σ", y="ratio", title="(c) true posteriors", legend="upper left")


def main() -> None:
    setup = parse(__file__, __doc__)
    groups = [
        [
            setup.cell(
                "K{}-overlap{:g}-noise{:g}-seed{}".format(*problem, seed),
                lambda given=(*problem, seed): measure(setup, *given),
            )
            for seed in range(setup.seeds)
        ]
        for problem in (PROBLEMS[:3:2] if setup.quick else PROBLEMS)
    ]
    setup.save({"rows": [row for group in groups for row in group]})
    grid = [group for group in groups if group[0]["noise"] == 0.5]
    with figure(setup, 1, 3, size=(13.0, 4.0)) as axes:
        draw_steps(axes[0, 0], grid[len(grid) // 2])
        draw_prices(axes[0, 1], grid)
        draw_posteriors(axes[0, 2], groups)
    for part in ("kl", "counts", "posterior"):
        titles = ["{K}, {overlap:g}, {noise:g}".format(**group[0]) for group in groups]
        print(f"{part:30}" + "".join(f"{title:>14}" for title in titles))
        for name in groups[0][0][part]:
            print(f"{name:30}" + "".join(f"{mean(g, name, part):14.3f}" for g in groups))

    print("largest distance from the floor of all problems, nats:")
    for name in ("exact 0.05", "exact 0.05, averaged", "without spikes", "published"):
        print(f"{name:30}{max(mean(g, name) - mean(g, 'floor') for g in groups):14.4f}")


if __name__ == "__main__":
    main()
