"""Another modality: spoken digits as spectrograms, and whether counts suit continuous data.

For each model, on clips held out by the official indices: R² from one draw ("spikes") and from the
expected code ("rates"), MSE per dimension, zeros, lifetime sparsity, and the accuracy of a linear
probe for the digit on expected codes, compared with the same probe on raw pixels. R² on training
clips shows overfitting. All models train for the same time, a third of the other experiments'.

Tests of the Poisson assumption, on speech, MNIST and natural patches: the error of spikes is the
error of rates plus the variance of the draws, Σ_k ‖Φ_k‖² λ_k in closed form. Is the residual
N(0, σ²), independent between pixels, and the same for all samples and intensities? Are spike counts
in windows of several timesteps Poisson?

    python examples/paper/spoken_digits.py --data path/to/data
"""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn import metrics, plotting
from ipvae_snn.runs import pick
from ipvae_snn.surrogate import rounded

from harness import COLOURS, LABELS, Setup, codes, figure, finish, load, parse, probe, trained
from harness.recipes import HEADLINE

# Timesteps of inference: iterative models until convergence, hybrids as in training.
STEPS = {
    "iP": 256, "iG": 256, "iG-relu": 256, "LCA": 256, "P-linear": 1, "P-mlp": 1, "P-conv": 1,
    "G-linear": 1, "G-mlp": 1, "G-conv": 1, "ia": 8, "sa": 8,
}  # fmt: skip
SHARE = 0.3
"""Of the budget of the other experiments: there are 1,080 clips to learn from."""
DATA = {"speech": "#0072B2", "mnist": "#E69F00", "patches": "#009E73"}
WINDOWS = (1, 2, 4, 8, 16, 32)


def measure(setup: Setup, name: str, seed: int) -> dict[str, Any]:
    """Reconstruction, sparsity and probe of one model."""
    samples = load(setup, "speech")
    model = trained(setup, "speech", name, seed, seconds=SHARE * setup.seconds).requires_grad_(
        False
    )
    steps = min(STEPS[name], setup.amount(256, quick=4))
    row = {"model": name, "seed": seed, "steps": steps}
    for part in ("test", "train"):
        x = pick(getattr(samples, part), 300, seed=0).to(setup.device)
        out = model.run(x, steps, record=("spk", "mem"), every=steps, seed=seed)
        code, x_hat = out.spk[-1], model.decode(out.spk[-1])
        row[part] = {
            "r2": float(metrics.r2(x, x_hat)),
            "r2_rates": float(metrics.r2(x, model.decode(model.mean_code(out.mem[-1])))),
            "mse_per_dim": float(metrics.mse_per_dim(x, x_hat)),
            "zeros": float(metrics.zeros(code)),
            "lifetime": float(metrics.lifetime_sparsity(code.abs())),
        }
    train, test = (codes(setup, model, x, steps) for x in (samples.train, samples.test))
    accuracy = probe(train, samples.train_labels, test, samples.test_labels)
    return {**row, "accuracy": accuracy}


def noise(setup: Setup, data: str) -> dict[str, Any]:
    """After convergence: error split into rates and draws, statistics of residual and spikes."""
    share = SHARE if data == "speech" else 1.0
    model = trained(setup, data, "iP", seconds=share * setup.seconds).requires_grad_(False)
    samples = load(setup, data)
    x = pick(samples.test, setup.amount(200, quick=20), seed=0).to(setup.device)
    steps = setup.amount(256, quick=8)
    converged = model.run(x, steps, record=(), seed=1).state
    out = model.run(x, setup.amount(128, quick=64), record=("spk", "mem"), state=converged, seed=2)
    spk, rate = out.spk[-1], out.mem[-1].exp()
    sigma = x.new_ones(1) if model.log_scale is None else model.log_scale.exp()
    drawn = rate @ model.decoder.weight.square().T  # variance of Φz given the rates, per pixel
    of_spikes, of_rates = x - model.decode(spk), x - model.decode(rate)
    total = (x - x.mean(-1, keepdim=True)).square().sum(-1).clamp(min=1e-6)
    square, predicted = of_spikes.square(), of_rates.square() + drawn
    by_pixel = torch.broadcast_tensors(x - of_rates, square, drawn, sigma.square())
    values = torch.stack(by_pixel).flatten(1)
    deciles = values[0].argsort().tensor_split(10)  # of decoded intensity
    model.neuron.spike_grad = rounded()  # the same code without sampling noise
    graded = model.run(x, steps, record=()).state.spk
    return {
        "r2": float(metrics.r2(x, model.decode(spk))),
        "r2_time_average": float(metrics.r2(x, model.decode(out.spk.mean(0)))),
        "r2_rounded": float(metrics.r2(x, model.decode(graded))),
        "misfit": float((of_rates.square().sum(-1) / total).mean()),
        "sampling": float((drawn.sum(-1) / total).mean()),
        "measured_over_predicted": float(square.sum() / predicted.sum()),
        "residual": residual_statistics(of_spikes / sigma, samples.shape),
        "residual_of_rates": residual_statistics(of_rates / sigma, samples.shape),
        "sigma_learned": model.log_scale is not None,
        "fano": fano(out.spk, out.mem),
        "intensity": [values[:, pixels].mean(1).tolist() for pixels in deciles],
    }


def residual_statistics(residual: Tensor, shape: tuple[int, int]) -> dict[str, Any]:
    """Statistics of a residual in units of σ: 1, 0, 1, 0 and a normal density for a true model."""
    standard = (residual - residual.mean()) / residual.std()
    rows, by_sample = standard.reshape(-1, *shape), standard.square().mean(-1)
    pairs = (rows[:, 1:] * rows[:, :-1]).mean() + (rows[..., 1:] * rows[..., :-1]).mean()
    return {
        "std": float(residual.std()),
        "excess_kurtosis": float(standard.pow(4).mean() - 3),
        "spread_over_samples": float(by_sample.std() / (2 / len(residual.T)) ** 0.5),
        "correlation_of_neighbours": float(pairs / 2),
        "density": (torch.histc(standard, 60, -6, 6) / (residual.numel() * 0.2)).tolist(),
    }


def fano(spk: Tensor, mem: Tensor) -> list[float]:
    """Variance / mean of counts in windows: 1 for Poisson counts at a constant rate."""
    rate, factors = mem.exp().mean(0), []
    active = rate > min(0.1, 0.5 * float(rate.max()))
    for length in WINDOWS:
        counts = spk.unflatten(0, (-1, length)).sum(1)[:, active]
        factors.append(float(counts.var(0).sum() / counts.mean(0).sum().clamp(min=1e-6)))
    return factors


def draw_models(setup: Setup, rows: list[dict[str, Any]], raw: float) -> None:
    samples = load(setup, "speech")
    x = pick(samples.test, 4, seed=0).to(setup.device)

    def upright(images: Tensor) -> Tensor:  # in the data, low bands come first
        return images.cpu().reshape(-1, *samples.shape).flip(1)

    seconds = SHARE * setup.seconds
    models = {
        name: trained(setup, "speech", name, seconds=seconds).requires_grad_(False)
        for name in ("iP", "iG-relu", "LCA", "P-mlp", "G-linear", "G-mlp")
    }
    steps = {name: setup.amount(STEPS[name], quick=1) for name in models}
    spk = {n: m.run(x, steps[n], seed=0).state.spk for n, m in models.items()}
    shown = {n: upright(m.decode(spk[n])).flatten(1) for n, m in models.items()}
    weight = models["iP"].decoder.weight.T
    strongest = upright(weight[weight.square().sum(1).argsort(descending=True)[:36]])
    with figure(setup, 2, 2, size=(11, 5.6)) as ((examples, features), (quality, accuracy)):
        x = upright(x).flatten(1)
        plotting.reconstructions(x, shown, samples.shape, scale="unit", ax=examples)
        plotting.mosaic(strongest, columns=9, ax=features)
        features.set_title("strongest features of the iP-VAE", fontsize=10, loc="left")
        for row in rows:
            name, test = row["model"], row["test"]
            ends, label = [test["r2"], test["r2_rates"]], None if row["seed"] else name
            point = {"c": COLOURS[name], "marker": "o"}
            quality.plot([test["zeros"]] * 2, ends, **point, markevery=[0], lw=1, label=label)
            quality.plot(test["zeros"], ends[1], **point, mfc="white")
            accuracy.plot(name, row["accuracy"], **point)
        accuracy.axhline(raw, color="#808080", ls=":", lw=1.2, label="on raw pixels")
        finish(quality, x="portion of zeros", y="R²", title="draws (filled), expected (open)")
        finish(accuracy, x="", y="accuracy", title="linear probe for the digit")
        accuracy.tick_params("x", rotation=40, labelsize=8)


def draw_noise(setup: Setup, rows: list[dict[str, Any]], tests: dict[str, Any]) -> None:
    split = {f"iP, {data}": (t["misfit"], t["sampling"]) for data, t in tests.items()}
    for name, test in ((row["model"], row["test"]) for row in rows if row["model"] != "iP"):
        split[f"{name}, speech"] = 1 - test["r2_rates"], test["r2_rates"] - test["r2"]
    speech, blue, sky, red, black = tests["speech"], "#0072B2", "#56B4E9", "#D55E00", "#000000"
    with figure(setup, 1, 4, name="poisson", size=(14, 3.4)) as ((error, bell, regular, by_level),):
        names, left, right = list(split), *zip(*split.values(), strict=True)
        error.barh(names, left, color="#808080")
        error.barh(names, right, left=left, color=sky)
        error.invert_yaxis()
        z = torch.linspace(-5.9, 5.9, 60)
        bell.semilogy(z, speech["residual"]["density"], c=blue, label="of spikes")
        bell.semilogy(z, speech["residual_of_rates"]["density"], c=red, label="of rates")
        bell.semilogy(z, torch.exp(-z.square() / 2) / 2.507, ":", c=black, label="N(0, 1)")
        bell.set(xlim=(-6, 6), ylim=(1e-5, 10))
        for data, colour in DATA.items():
            regular.semilogx(WINDOWS, tests[data]["fano"], "o-", base=2, c=colour, label=data)
        regular.axhline(1, color=black, ls=":", lw=1)
        level, residual, drawn, assumed = zip(*speech["intensity"], strict=True)
        by_level.plot(level, residual, "o-", c=blue, label="residual of spikes")
        by_level.plot(level, drawn, "o-", c=sky, label="of it, by draws")
        if speech["sigma_learned"]:
            by_level.plot(level, assumed, c=black, label="σ², as assumed")
        finish(error, x="error / variance", y="", title="mean (grey) + draw (blue)", legend=None)
        finish(bell, x="residual / std", y="density", title="residual, speech", legend="upper left")
        finish(regular, x="window (timesteps)", y="Fano factor", title="counts in time")
        finish(by_level, x="decoded intensity", y="variance", title="by intensity, speech")


def main() -> None:
    setup, rows = parse(__file__, __doc__), []
    for n in STEPS:
        for s in range(setup.seeds if n in HEADLINE else 1):
            rows.append(setup.cell(f"{n}-{s}", lambda n=n, s=s: measure(setup, n, s)))
    d = load(setup, "speech")
    raw = setup.cell("raw", lambda: probe(d.train, d.train_labels, d.test, d.test_labels))
    tests = {data: setup.cell(f"noise-{data}", lambda d=data: noise(setup, d)) for data in DATA}
    setup.save({"models": rows, "accuracy_of_raw_pixels": raw, "poisson": tests})
    draw_models(setup, rows, raw)
    draw_noise(setup, rows, tests)
    keys = ("r2", "r2_rates", "mse_per_dim", "zeros", "lifetime")
    print(f"{'':<20}" + "".join(f"{key:>12}" for key in (*keys, "train r2", "accuracy")))
    for row in rows:
        values = [*(row["test"][key] for key in keys), row["train"]["r2"], row["accuracy"]]
        print(f"{LABELS[row['model']]:<20}" + "".join(f"{value:12.3f}" for value in values))
    print(f"{'raw pixels':<20}{raw:84.3f}")
    for data, t in tests.items():
        values = t["misfit"], t["sampling"], t["residual"]["excess_kurtosis"], t["fano"][-1]
        print(f"iP, {data}: error of means, draws; kurtosis; Fano:", *(f"{v:.3f}" for v in values))


if __name__ == "__main__":
    main()
