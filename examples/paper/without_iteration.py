"""Without iteration: one timestep, an encoder, and models in between, on natural patches.

What does each timestep contribute? iP-VAEs trained with T = 1 to 32 timesteps, for half the
time of the models with encoders and with β proportional to T, are run for 256 timesteps on held-out
patches. Measured besides R², zeros and spikes: the free energy E[NLL] + KL(q_t ‖ Poisson(e^{u_0}))
that an amortised model would have with that posterior. With T = 1, inference is a linear encoder
tied to the decoder.

Between iteration and encoders: iterative- and semi-amortised models; an iP-VAE whose first timestep
is the output of an encoder trained jointly ("guided"); and P-VAEs whose encoder output ("guess") is
refined by spikes. With β = 1, minus the natural gradient of a P-VAE's free energy is
d − e^u G − ½ diag(G) − (u − u_0): neurons on its decoder with leak 1 and tonic inhibition ½ diag(G)
descend on the objective of its encoder, and what they gain is the amortisation gap. Without the
leak they are an IPVAE, whose prior is not u_0 but the posterior of the previous timestep.

    python examples/paper/without_iteration.py --data path/to/data
"""

from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor, nn

from ipvae_snn import IPVAE, IPVAENeuron, metrics
from ipvae_snn import functional as F
from ipvae_snn.baselines.encoders import make_encoder
from ipvae_snn.models.run_output import RECORDABLE, make_run
from ipvae_snn.neurons.base import State
from ipvae_snn.runs import pick

from harness import FAMILIES, Setup, figure, finish, load, parse, trained
from harness.figures import style
from harness.recipes import RECIPES

T_TRAINED = (1, 2, 4, 8, 16, 32)
HYBRIDS = {"ia": 8, "sa": 8}  # timesteps in training
SEVERAL_SEEDS = ("T1", "T16", "guided")
SHARE = 0.5  # of the budget, for the sweep over T
STEP = 0.05  # α of the neurons that refine a guess
REFINED = {"guess": "#808080", "refined": "#0072B2", "from prior": "#E69F00", "no leak": "#D55E00"}
Curve = list[dict[str, float]]
AMORTISED = {"P-linear": "o", "P-mlp": "s", "P-conv": "D"}


class Guided(IPVAE):
    """An IPVAE whose first timestep is drawn from an encoder's output, which pays its KL to u₀."""

    def __init__(self, in_features: int, latents: int, **options: Any) -> None:
        super().__init__(in_features, latents, **options)
        self.encoder = make_encoder("mlp", in_features, latents)

    def run(self, x: Tensor, num_steps: int = 1, *, state: Any = None, **options: Any) -> Any:
        """As ``IPVAE.run``; without ``state`` it records everything and ignores ``record``."""
        if state is not None:
            return super().run(x, num_steps, state=state, **options)
        with self.seeded(options.get("seed")):
            mem = F.soft_clamp(self.neuron.mem_init + self.encoder(x), self.neuron.clamp)
            state = State(self.neuron.emit(mem), mem)
            nll = F.gaussian_nll(x - self.decode(state.spk), self.log_scale)
            kl = F.poisson_kl(mem, self.neuron.mem_init).sum(-1)
            recorded = [v.unsqueeze(0) for v in (*state, nll, kl)]
            if num_steps > 1:
                *later, state = super().run(x, num_steps - 1, state=state)
                recorded = [torch.cat(pair) for pair in zip(recorded, later, strict=True)]
        return make_run(dict(zip(RECORDABLE, recorded, strict=True)), state)


FAMILIES["guided"] = lambda pixels, latents, shape, **options: Guided(pixels, latents, **options)


@torch.no_grad()
def follow(model: nn.Module, x: Tensor, last: int, state: State | None = None) -> Curve:
    """Metrics at timesteps 1, 2, 4, ..."""
    rows, done, spikes, before = [], 0, 0.0, 0.0
    half = 0.5 * F.gram(model.weight, model.log_scale).diagonal()
    while done < last:
        target = max(1, 2 * done)
        while done < target:
            steps = min(16, target - done)
            out = model.run(x, steps, record=("spk", "mem", "kl"), state=state, seed=done)
            state, done = out.state, done + steps
            spikes += float(out.spk.sum(-1).mean(1).sum())
        spk, mem, kl = out.spk[-1], out.mem[-1], out.kl[-1]
        if isinstance(model, IPVAE):  # whose own KL is relative to the previous timestep
            kl = F.poisson_kl(mem, model.neuron.mem_init).sum(-1)
        code = model.mean_code(mem)
        log_variance = mem if mem.shape == code.shape else 2 * mem[:, model.latents :]
        variance = log_variance[:, : model.latents].exp()  # a Poisson count's is its mean
        expected_nll = F.gaussian_nll(x - model.decode(code), model.log_scale) + variance @ half
        r2, zeros = float(metrics.r2(x, model.decode(spk))), float(metrics.zeros(spk))
        rows.append({
            "step": done, "r2": r2, "zeros": zeros, "spikes": spikes,
            "gain": (r2 - before) / (done - done // 2),  # per timestep since the previous row
            "r2_rates": float(metrics.r2(x, model.decode(code))),
            "distance": metrics.rate_distortion_distance(r2, zeros),
            "nll": float(expected_nll.mean()), "free_energy": float((expected_nll + kl).mean()),
        })  # fmt: skip
        before = r2
    return rows


def refined(setup: Setup, name: str, x: Tensor, last: int) -> list[Curve]:
    """Curves of a P-VAE's guess and of its refinements by spikes on its decoder, as in REFINED.

    It is trained with β = 1, the objective that spikes descend on.
    """
    seconds = SHARE * setup.seconds
    guesser = trained(setup, "patches", name, beta=1.0, seconds=seconds).requires_grad_(False)
    guess = guesser.run(x, 1, record=(), seed=0).state
    curves = [follow(guesser, x, 1)]
    for start, leak in ((guess, 1.0), (None, 1.0), (guess, 0.0)):
        model = IPVAE(guesser.in_features, guesser.latents)
        model.neuron = IPVAENeuron(
            guesser.decoder, log_scale=guesser.raw_log_scale, mem_init=guesser.mem_init,
            form="exact", bias=1e-6, leak=leak, step=STEP,
        ).eval()  # fmt: skip
        curves.append(follow(model, x, last, start))
    return curves


def line(ax: Axes, curve: Curve, y: str, x: str = "step", **look: Any) -> None:
    """A curve, or a horizontal line for a model whose timesteps are draws from one posterior."""
    if len(curve) == 1:
        ax.axhline(curve[0][y], **look)
    else:
        ax.plot([row[x] for row in curve], [row[y] for row in curve], **look)


def draw(setup: Setup, rows: dict[str, list[Curve]], starts: dict[str, list[Curve]]) -> None:
    shades = colormaps["viridis"](torch.linspace(0, 0.92, len(T_TRAINED)).numpy())
    shown = {f"T{t}": (t, "-", c) for t, c in zip(T_TRAINED, shades, strict=True)}
    shown["guided"] = 16, "--", "#D55E00"
    with figure(setup, 2, 3, size=(13.5, 7)) as axes:
        (quality, gain, distance), (price, energy, moving) = axes
        for name, seed, curve in ((n, s, c) for n in shown for s, c in enumerate(rows[n])):
            t, dash, colour = shown[name]
            look, own = {"color": colour, "ls": dash}, min(t.bit_length(), len(curve)) - 1
            line(quality, curve, "r2", **look, marker="o", markevery=[own])
            line(distance, curve, "distance", **look)
            line(price, curve, "r2", "spikes", **look)
            line(gain, curve, "gain", **look, marker=".", label=None if seed else name)
        for name in (*AMORTISED, *HYBRIDS):
            look, (curve,) = style(name), rows[name]
            line(quality, curve, "r2", **look)
            line(distance, curve, "distance", **look)
            for mark in AMORTISED.get(name, ""):
                at = curve[0]["spikes"], curve[0]["r2"]
                price.plot(*at, mark, color=look["color"], label=look["label"])
        for name, refinements in starts.items():
            for curve, (key, colour) in zip(refinements, REFINED.items(), strict=True):
                look = {"color": colour, "ls": style(name)["ls"], "lw": 1.4}
                look["label"] = key if name == "P-conv" else None
                line(moving, curve, "r2", **look)
                line(energy, curve, "free_energy", **look)
        price.set_xlim(*(row["spikes"] for row in (rows["guided"][0][0], rows["guided"][0][-1])))
        gain.set_yscale("log", nonpositive="mask")
        step = "timestep of inference"
        for ax in axes.flat:
            ax.set_xscale("log", base=10 if ax is price else 2)
            if ax is not energy:
                ax.set_ylim(1e-5 if ax is gain else 0, 1)
        title = "T timesteps (dots), and encoders"
        finish(quality, x=step, y="R²", title=title, legend="lower right", columns=1)
        finish(gain, x=step, y="R² gained per timestep", title="what a timestep buys", columns=2)
        finish(distance, x=step, y="distance", title="rate and distortion", legend=None)
        finish(price, x="spikes per patch so far", y="R²", title="what spikes buy")
        finish(energy, x=step, y="free energy (nats)", title="a P-VAE's guess, refined")
        energy.set_ylim(top=1.1 * energy.get_ylim()[1])
        finish(moving, x=step, y="R²", title="the same: without the leak, the prior moves")


def main() -> None:
    setup, rows = parse(__file__, __doc__), {}
    x = pick(load(setup, "patches").test, setup.amount(300, quick=20), seed=0).to(setup.device)
    last = setup.amount(256, quick=4)

    def curves(key: str, name: str, length: int, **changes: Any) -> None:
        def make(seed: int) -> Curve:
            return follow(trained(setup, "patches", name, seed, **changes), x, min(length, last))

        rows[key] = setup.by_seed(key, make, several=key in SEVERAL_SEEDS)

    recipe = RECIPES["patches"]["iP"]
    half = SHARE * setup.seconds
    for t in T_TRAINED:
        beta = recipe["beta"] * t / recipe["steps"]
        curves(f"T{t}", "iP", last, steps=t, beta=beta, seconds=half)
    options = {k: v for k, v in recipe.items() if k != "batch"}
    curves("guided", "guided", last, **options, seconds=half)
    for n in (*AMORTISED, *HYBRIDS):
        curves(n, n, HYBRIDS.get(n, 1))
    starts = {
        n: setup.cell(f"refined-{n}", lambda n=n: refined(setup, n, x, last)) for n in AMORTISED
    }
    setup.save({"followed": rows, "refined": starts})
    draw(setup, rows, starts)
    keys = ("step", "r2", "r2_rates", "zeros", "distance", "spikes", "nll", "free_energy")
    print(f"{'':<24}" + "".join(f"{key:>12}" for key in keys))
    table = {name: seeds[0] for name, seeds in rows.items()}
    for name, refinements in starts.items():
        table |= {f"{name}, {key}": c for key, c in zip(REFINED, refinements, strict=True)}
    for name, r in ((name, r) for name, curve in table.items() for r in (*curve[:-1:4], curve[-1])):
        print(f"{name:<24}" + "".join(f"{r[key]:12.5g}" for key in keys))


if __name__ == "__main__":
    main()
