"""Strength of lateral inhibition, from none to twice what inference asks for.

A trained iP-VAE of natural patches, run with `lateral_scale` from 0 to 2: the factor on all
inhibition by spikes, a neuron's own among them. Measured at timestep 256 on held-out patches: R²
from spikes and from rates, zeros, the largest membrane, and how much the rates still fluctuate over
the last 64 timesteps.

    python examples/paper/inhibition_strength.py --data path/to/data
"""

import torch
from torch import nn

from ipvae_snn import metrics
from ipvae_snn.runs import pick

from harness import LABELS, Setup, figure, finish, load, parse, trained

SCALES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)


@torch.no_grad()
def measure(setup: Setup, model: nn.Module, scale: float) -> dict[str, float]:
    """Quality and stability of the code at one scale, over the last 64 of 256 timesteps."""
    x = pick(load(setup, "patches").test, setup.amount(500, quick=20), seed=0).to(setup.device)
    steps, window = setup.amount(256, quick=8), setup.amount(64, quick=4)
    trained_scale = model.neuron.lateral_scale
    model.neuron.lateral_scale = scale
    before = model.run(x, steps - window, record=(), seed=1)
    out = model.run(x, window, record=("spk", "mem"), state=before.state, seed=2)
    model.neuron.lateral_scale = trained_scale
    rate = out.mem.exp()
    swing = rate.std(0) / rate.mean(0).clamp(min=1e-3)
    active = rate.mean(0) > 0.1
    return {
        "lateral_scale": scale,
        "r2": float(metrics.r2(x, model.decode(out.spk[-1]))),
        "r2_rates": float(metrics.r2(x, model.decode(rate[-1]))),
        "zeros": float(metrics.zeros(out.spk)),
        "spikes": float(out.spk.sum(-1).mean()),
        "largest_mem": float(out.mem.max()),
        "swing": float(swing[active].mean()) if active.any() else 0.0,
    }


def main() -> None:
    setup = parse(__file__, __doc__)
    by_seed = []
    for seed in range(setup.seeds):
        model = trained(setup, "patches", "iP", seed)
        by_seed.append(
            [setup.cell(f"{seed}-{s:g}", lambda m=model, s=s: measure(setup, m, s)) for s in SCALES]
        )
    setup.save({"model": LABELS["iP"], "by_seed": by_seed})
    with figure(setup, 1, 3, size=(9.6, 3.0)) as axes:
        quality, sparsity, stability = axes[0]
        drawn = (
            (quality, "r2", "from spikes", "#0072B2"),
            (quality, "r2_rates", "from rates", "#D55E00"),
            (sparsity, "zeros", "", "#009E73"),
            (stability, "swing", "", "#CC79A7"),
        )
        for ax, key, label, colour in drawn:
            for seed, rows in enumerate(by_seed):
                name = label if not seed else None
                ax.plot(SCALES, [row[key] for row in rows], "o-", ms=4, color=colour, label=name)
        for ax in axes[0]:
            ax.axvline(1, color="#808080", ls=":", lw=1)
        quality.set_ylim(-0.5, 1.02)
        scale = "lateral scale (1: inference)"
        finish(quality, x=scale, y="R²", title="reconstruction")
        finish(sparsity, x=scale, y="portion of zeros", title="sparsity", legend=None)
        finish(stability, x=scale, y="std / mean of active rates", title="swing", legend=None)
    print(f"{'scale':>6}{'R²':>8}{'rates':>8}{'zeros':>8}{'spikes':>8}{'max mem':>9}{'swing':>7}")
    for r in (row for rows in by_seed for row in rows):
        print(
            f"{r['lateral_scale']:6g}{r['r2']:8.3f}{r['r2_rates']:8.3f}{r['zeros']:8.3f}"
            f"{r['spikes']:8.1f}{r['largest_mem']:9.2f}{r['swing']:7.2f}"
        )


if __name__ == "__main__":
    main()
