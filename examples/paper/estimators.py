"""Gradient estimators for spike counts: training progress, cost, bias and variance.

Learning: an iP-VAE of natural patches (K 256, T 16, β 24), trained with each estimator for the same
few iterations, from the same weights on the same batches. Measured on held-out patches: free
energy, R² and zeros at timestep 16 with exact counts, and the free energy with the counts used in
training, which relaxed estimators soften. The training is short, so this compares early progress,
not the final model. Time: one optimizer step of each, interleaved; "step by step" is midpoint
without the fused kernel, which relaxed counts cannot use either. Bars: range over seeds.

Gradients: eight random problems of one timestep and three neurons, whose exact gradient is a sum
over all counts up to 40. Bias: distance of the mean gradient from the exact one, after subtraction
of the squared standard error. Std: of a single draw. Both are relative to the norm of the exact
gradient, over all problems.

    python examples/paper/estimators.py --data path/to/data
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.nn.functional import softplus

from ipvae_snn import metrics
from ipvae_snn.bench.timing import interleaved
from ipvae_snn.runs import pick
from ipvae_snn.surrogate import eat, gumbel, midpoint, rate

from harness import Setup, figure, finish, load, parse, trained

ITERATIONS, BETA = 160, 24.0
ESTIMATORS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "midpoint": (midpoint, "#0072B2", "-"),
    "rate": (rate, "#D55E00", "-"),
    "eat cubic 0.1": (lambda: eat(0.1), "#009E73", "-"),
    "eat cubic 0.5": (lambda: eat(0.5), "#009E73", "--"),
    "eat sigmoid 0.1": (lambda: eat(0.1, "sigmoid"), "#CC79A7", "-"),
    "eat sigmoid 0.5": (lambda: eat(0.5, "sigmoid"), "#CC79A7", "--"),
    "eat sigmoid annealed": (lambda: eat(1.0, "sigmoid"), "#000000", "-"),
    "gumbel 0.1": (lambda: gumbel(0.1), "#E69F00", "-"),
    "gumbel 0.5": (lambda: gumbel(0.5), "#E69F00", "--"),
}
LEARNING = [name for name in ESTIMATORS if "0.5" not in name]
MEASURED = ("objective", "objective_of_training", "r2", "zeros")
UNFUSED = "midpoint, step by step"
RATES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PROBLEMS, NEURONS = 8, 3


def learner(setup: Setup, name: str, seed: int) -> nn.Module:
    spike_grad = ESTIMATORS[name][0]()
    start = getattr(spike_grad, "temp", 1.0)  # 1: annealed to 0.01 over the first half
    end = 0.01 if start == 1 else start
    model = trained(
        setup, "patches", "iP", seed=seed, spike_grad=spike_grad, latents=256, lr=2e-2,
        beta=BETA, iterations=ITERATIONS, temp_start=start, temp_end=end,
    )  # fmt: skip
    if hasattr(spike_grad, "temp"):  # a model from the cache has the initial one
        model.neuron.spike_grad.temp = end
    return model


def learned(setup: Setup, name: str, seed: int) -> dict[str, float]:
    """Held-out quality of one trained model."""
    model, steps = learner(setup, name, seed), setup.amount(16, quick=4)
    x = pick(load(setup, "patches").test, setup.amount(500, quick=20), seed=0).to(setup.device)
    with torch.no_grad():
        spk = model.run(x, steps, record="spk", every=steps, seed=0).spk[-1]
        with model.seeded(0):
            values = [model.loss(x, steps, BETA)]
        with model.train().seeded(0):
            values.append(model.loss(x, steps, BETA))
        values += [metrics.r2(x, model.decode(spk)), metrics.zeros(spk)]
    return dict(zip(MEASURED, map(float, values), strict=True))


def times(setup: Setup) -> dict[str, float]:
    """Median seconds of a loss and its gradient, with the weights each estimator learned."""
    x = pick(load(setup, "patches").train, setup.amount(100, quick=10), seed=0).to(setup.device)
    models = {name: learner(setup, name, seed=0).train() for name in LEARNING}
    # Annealed from 1 to 0.01 over the first half: its time is the mean of both temperatures, 0.5
    # standing for the first half and 0.01 for the second.
    models["half"] = learner(setup, "eat sigmoid annealed", seed=0).train()
    models["half"].neuron.spike_grad.temp = 0.5
    models[UNFUSED], plain = learner(setup, "midpoint", seed=0).train(), midpoint()
    # The kernel does not know a lambda, so the model runs step by step.
    models[UNFUSED].neuron.spike_grad = lambda mem: plain(mem)
    loss_steps = setup.amount(16, quick=4)
    seconds = interleaved(
        {n: lambda m=m: m.loss(x, loss_steps, BETA).backward() for n, m in models.items()},
        torch.device(setup.device),
        repeats=setup.amount(7, quick=1),
        warm_up=1,
    )
    seconds["eat sigmoid annealed"] = (seconds["eat sigmoid annealed"] + seconds.pop("half")) / 2
    return seconds


def problems() -> dict[str, Callable[[Tensor], Tensor]]:
    """Losses as functions of counts (..., P, K), the same in every run."""
    random = torch.Generator().manual_seed(0)
    phi = torch.randn(PROBLEMS, 4, NEURONS, generator=random) / 2
    x, w = (torch.randn(PROBLEMS, n, generator=random) for n in (4, NEURONS))
    return {
        "½|x − Φz|²": lambda z: ((phi.to(z) @ z[..., None])[..., 0] - x).square().sum(-1) / 2,
        "softplus(−w·z)": lambda z: softplus(-(w * z).sum(-1)),
        "exp(−|w|·z)": lambda z: torch.exp(-(w.abs() * z).sum(-1)),
    }


@cache
def exact_gradients(level: float) -> dict[str, Tensor]:
    """d E[f]/du = Σ_z p(z) f(z) (z − λ), (P, K), over all counts up to 40."""
    counts = torch.arange(41, dtype=torch.float64)
    pmf = torch.exp(counts * np.log(level) - level - torch.lgamma(counts + 1))
    p = torch.cartesian_prod(*[pmf] * NEURONS).prod(-1)
    z = torch.cartesian_prod(*[counts] * NEURONS)
    each = z[:, None].expand(-1, PROBLEMS, -1)
    return {loss: f(each).mT @ (p[:, None] * (z - level)) for loss, f in problems().items()}


def sampled(setup: Setup, name: str, level: float) -> dict[str, list[float]]:
    """[bias, an upper bound on its standard error, std] for every loss."""
    parts, size, losses = setup.amount(10, quick=1), setup.amount(10_000, quick=200), problems()
    estimator = ESTIMATORS[name][0]()
    estimator.generator = torch.Generator().manual_seed(1)
    sums = {loss: torch.zeros(2, PROBLEMS, NEURONS, dtype=torch.float64) for loss in losses}
    for _ in range(parts):
        mem = torch.full((size, PROBLEMS, NEURONS), level).log().requires_grad_()
        spk = estimator(mem)
        (slope,) = torch.autograd.grad(spk.sum(), mem)  # a count depends only on its own membrane
        spk = spk.detach().requires_grad_()
        for loss, f in losses.items():
            gradient = slope * torch.autograd.grad(f(spk).sum(), spk)[0]
            sums[loss] += torch.stack([gradient, gradient.square()]).double().sum(1)
    row = {}
    for loss, exact in exact_gradients(level).items():
        mean, square = sums[loss] / (parts * size)
        variance, norm = (square - mean.square()).sum(), exact.square().sum()
        noise = variance / (parts * size)
        bias = ((mean - exact).square().sum() - noise).clamp(min=0)
        row[loss] = [float((value / norm).sqrt()) for value in (bias, noise, variance)]
    return row


def draw(setup: Setup, learning: dict, ratio: dict[str, float], gradients: dict) -> None:
    handles = [Line2D([], [], color=c, ls=ls, label=n) for n, (_, c, ls) in ESTIMATORS.items()]
    hollow: dict[str, Any] = {"marker": "o", "ms": 4, "mfc": "white", "ls": ""}
    handles.append(Line2D([], [], color="#808080", label="within 2 s.e. of 0", **hollow))
    with figure(setup, 2, 4, size=(13, 6)) as axes:
        cost, code = axes[:, 0]
        for name, rows in learning.items():
            f, r2, zeros = (np.array([r[k] for r in rows]) for k in ("objective", "r2", "zeros"))
            for ax, x, y in ((cost, ratio[name], f), (code, zeros.mean(), r2)):
                bars = [[y.mean() - y.min()], [y.max() - y.mean()]]
                ax.errorbar(x, y.mean(), bars, fmt="D", capsize=3, color=ESTIMATORS[name][1])
        handles.append(cost.axvline(ratio[UNFUSED], color="#808080", ls=":", label=UNFUSED))
        cost.set_xscale("log", subs=[])
        finish(cost, x="time of a step / midpoint's", y="held-out free energy (nats)", legend=None)
        finish(code, x="portion of zeros, step 16", y="R², step 16", legend=None)
        for loss, upper, lower in zip(problems(), *axes[:, 1:], strict=True):
            for name, rows in gradients.items():
                bias, error, std = np.array([row[loss] for row in rows]).T
                style: dict[str, Any] = {"color": ESTIMATORS[name][1], "ls": ESTIMATORS[name][2]}
                at, unsure = np.maximum(bias, error), bias <= 2 * error
                upper.plot(RATES, at, marker="o", ms=4, **style)
                upper.plot(RATES, np.where(unsure, at, np.nan), **{**style, **hollow})
                lower.plot(RATES, std, **style)
            title = f"gradient of {loss}"
            for ax, what in ((upper, "bias"), (lower, "std of a draw")):
                ax.set(xscale="log", yscale="log")
                finish(ax, x="spikes per timestep", y=f"relative {what}", title=title, legend=None)
        cost.figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)


def main() -> None:
    setup = parse(__file__, __doc__)
    learning: dict[str, list[dict[str, float]]] = {name: [] for name in LEARNING}
    for seed in range(setup.seeds):
        for name, rows in learning.items():
            rows.append(setup.cell(f"{name}-{seed}", lambda n=name, s=seed: learned(setup, n, s)))
    seconds = setup.cell("times", lambda: {"step": times(setup)})["step"]
    gradients = {
        name: setup.cell(f"gradient-{name}", lambda n=name: [sampled(setup, n, r) for r in RATES])
        for name in ESTIMATORS
        if "annealed" not in name
    }
    drawn = {"rates": list(RATES), "bias, error, std": gradients}
    setup.save({"learning": learning, "seconds_per_step": seconds, "gradients": drawn})
    ratio = {name: value / seconds["midpoint"] for name, value in seconds.items()}
    draw(setup, learning, ratio, gradients)
    print(f"{'':<22}{'F':>8}{'own F':>8}{'R²':>7}{'zeros':>7}{'time':>7}   F − midpoint's, by seed")
    for name, rows in learning.items():
        f, own, r2, zero = (np.mean([r[k] for r in rows]) for k in MEASURED)
        gap = np.subtract(*([r["objective"] for r in rs] for rs in (rows, learning["midpoint"])))
        print(f"{name:<22}{f:8.2f}{own:8.2f}{r2:7.3f}{zero:7.3f}{ratio[name]:7.1f}", *gap.round(2))
    print(f"{UNFUSED:<22}{ratio[UNFUSED]:37.1f}")


if __name__ == "__main__":
    main()
