"""Without iteration: one timestep, an encoder, and everything in between, on natural patches.

What does a timestep buy? iP-VAEs trained with T = 1 to 32 timesteps, for equally many iterations
and with β proportional to T, are followed for 256 timesteps on held-out patches: R², zeros, spikes
so far, and the free energy NLL + KL(q_t ‖ Poisson(e^{u_0})) that an amortised model would have with
the posterior of that timestep. With T = 1, inference is a linear encoder tied to the decoder.

Between them and encoders: iterative- and semi-amortised models; an iP-VAE whose first timestep is
the guess of an encoder that learns along ("guided"); and P-VAEs whose guess is refined by spikes
after training. The free energy of a P-VAE, trained with β = 1, has the natural gradient

    d − λ G − ½ diag(G) − (u − u_0),    λ = e^u,

so that neurons with a leak of 1 and a tonic inhibition of ½ diag(G), on the P-VAE's own decoder,
descend on the very objective of its encoder: what they gain is what the encoder left.

    python examples/paper/without_iteration.py --data path/to/data
"""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor, nn

from ipvae_snn import IPVAE, IPVAENeuron, metrics
from ipvae_snn import functional as F
from ipvae_snn.base import State
from ipvae_snn.baselines.encoders import make_encoder
from ipvae_snn.records import RECORDABLE, check_fields, make_run
from ipvae_snn.runs import pick

from lab import FAMILIES, Lab, figure, finish, load, parse, trained
from lab.pictures import style

T_TRAINED = (1, 2, 4, 8, 16, 32)
AMORTISED = ("P-linear", "P-mlp", "P-conv")
HYBRIDS = {"ia": 8, "sa": 8}  # timesteps they are trained with
RECIPE = {"iterations": 1500, "lr": 1e-2}
BETA = 1.5  # per timestep: 24 in the 16 of the recipe
STEP = 0.1  # of the refinement of guesses
STARTS = {"guess": "#808080", "from guess": "#0072B2", "from prior": "#D55E00"}


class Guided(IPVAE):
    """An IPVAE whose first timestep is drawn from an encoder's guess, at the cost of its KL."""

    def __init__(self, in_features: int, latents: int, **options: Any) -> None:
        super().__init__(in_features, latents, **options)
        self.encoder = make_encoder("mlp", in_features, latents)

    def run(  # type: ignore[override]  # every timestep is recorded
        self,
        x: Tensor,
        num_steps: int = 1,
        *,
        record: Sequence[str] = RECORDABLE,
        state: State | None = None,
        seed: int | None = None,
    ) -> Any:
        with self.seeded(seed):
            if state is not None:
                return super().run(x, num_steps, record=record, state=state)
            rest = self.neuron.mem_init
            mem = F.soft_clamp(rest + self.encoder(x), self.neuron.clamp)
            state = State(self.neuron.emit(mem), mem)
            nll = F.gaussian_nll(x - self.decode(state.spk), self.log_scale)
            first = {
                "spk": state.spk,
                "mem": mem,
                "nll": nll,
                "kl": F.poisson_kl(mem, rest).sum(-1),
            }
            kept = {name: first[name].unsqueeze(0) for name in check_fields(record)}
            if num_steps > 1:
                later = super().run(x, num_steps - 1, record=record, state=state)
                kept = {name: torch.cat([v, getattr(later, name)]) for name, v in kept.items()}
                state = later.state
        return make_run(kept, state)


FAMILIES["guided"] = lambda pixels, latents, shape, **options: Guided(pixels, latents, **options)


def held_out(lab: Lab) -> Tensor:
    return pick(load(lab, "patches").test, lab.few(300, 20), seed=0).to(lab.device)


@torch.no_grad()
def follow(
    lab: Lab, model: nn.Module, last: int, state: State | None = None
) -> list[dict[str, float]]:
    """What has been reached at timesteps 1, 2, 4, ... on held-out patches."""
    x, rows, done, spikes = held_out(lab), [], 0, 0.0
    while done < min(last, lab.few(last, 4)):
        target = max(1, 2 * done)
        while done < target:
            steps = min(16, target - done)
            out = model.run(x, steps, record=("spk", "mem", "nll", "kl"), state=state, seed=done)
            state, done = out.state, done + steps
            spikes += float(out.spk.sum(-1).mean(1).sum())
        spk, mem, kl = out.spk[-1], out.mem[-1], out.kl[-1]
        if isinstance(model, IPVAE):  # there it is from the timestep before
            kl = F.poisson_kl(mem, model.neuron.mem_init).sum(-1)
        r2, zeros = float(metrics.r2(x, model.decode(spk))), float(metrics.zeros(spk))
        rows.append({
            "step": done, "r2": r2, "zeros": zeros, "spikes": spikes,
            "r2_rates": float(metrics.r2(x, model.decode(model.mean_code(mem)))),
            "distance": metrics.rate_distortion_distance(r2, zeros),
            "nll": float(out.nll[-1].mean()), "free_energy": float((out.nll[-1] + kl).mean()),
        })  # fmt: skip
    return rows


def refined(lab: Lab, name: str) -> list[list[dict[str, float]]]:
    """A P-VAE's guess, and what spikes reach: from that guess, and from the prior (STARTS)."""
    guesser = trained(lab, "patches", name).requires_grad_(False)
    half = 0.5 * F.gram(guesser.weight, guesser.log_scale).diagonal()
    model = IPVAE(guesser.in_features, guesser.latents)
    model.neuron = IPVAENeuron(
        guesser.decoder, log_scale=guesser.raw_log_scale, mem_init=guesser.mem_init, leak=1.0,
        bias=half.clamp(min=1e-6), step=STEP,
    ).eval()  # fmt: skip
    guess = guesser.run(held_out(lab), 1, record=(), seed=0).state
    return [follow(lab, guesser, 1), follow(lab, model, 256, guess), follow(lab, model, 256)]


def by_seed(seeds: list[Any], key: str) -> Tensor:
    return torch.tensor([[row[key] for row in curve] for curve in seeds])


def draw(lab: Lab, rows: dict[str, list[Any]], starts: dict[str, Any]) -> None:
    shades = colormaps["viridis"](torch.linspace(0, 0.92, len(T_TRAINED)).numpy())
    lines = [(f"T = {t}", t, rows[f"T{t}"], c, "-") for t, c in zip(T_TRAINED, shades, strict=True)]
    lines.append(("guided, T = 16", 16, rows["guided"], "#D55E00", "--"))
    with figure(lab, 2, 2, size=(10.5, 7)) as ((quality, gain), (price, energy)):
        for label, t, seeds, colour, dash in lines:
            steps, r2 = by_seed(seeds, "step")[0], by_seed(seeds, "r2")
            look, mean = {"color": colour, "ls": dash}, r2.mean(0)
            quality.plot(steps, mean, **look)
            quality.plot(steps[steps == t], mean[steps == t], "o", color=colour)
            price.plot(by_seed(seeds, "spikes").mean(0), mean, **look)
            gain.plot(steps[1:], mean.diff().clamp(min=1e-6) / steps.diff(), **look, label=label)
        for name, mark in zip((*AMORTISED, *HYBRIDS), "sD^__", strict=True):
            steps, r2, spikes = (by_seed(rows[name], key)[0] for key in ("step", "r2", "spikes"))
            look = style(name)
            if name in AMORTISED:  # at every timestep another draw from the same guess
                steps = torch.tensor([1, lines[0][2][0][-1]["step"]])
                price.plot(spikes, r2, mark, color=look["color"], label=look["label"])
            quality.plot(steps, r2.expand(len(steps)), **look)
        for name, (guess, *curves) in starts.items():
            energy.axhline(
                guess[0]["free_energy"], color=STARTS["guess"], ls=style(name)["ls"], lw=1
            )
            for curve, (key, colour) in zip(curves, list(STARTS.items())[1:], strict=True):
                steps, free = (by_seed([curve], k)[0] for k in ("step", "free_energy"))
                look = {"color": colour, "ls": style(name)["ls"], "label": f"{name}, {key}"}
                energy.plot(steps, free, **look)
        reached = [row["free_energy"] for s in starts.values() for row in (*s[0], s[1][-1])]
        low, high = min(reached), max(reached)
        energy.set_ylim(low - 0.2 * (high - low) - 1, high + 0.5 * (high - low) + 1)
        quality.set_ylim(0, 1)
        price.set_ylim(0, 1)
        gain.set_yscale("log")
        gain.set_ylim(1e-6, 1)
        for ax in (quality, gain, price, energy):
            ax.set_xscale("log", base=10 if ax is price else 2)
        step = "timestep of inference"
        finish(quality, x=step, y="R²", title="iP-VAE of T timesteps (dots), and encoders")
        finish(gain, x=step, y="R² gained per timestep", title="what a timestep buys", columns=2)
        finish(price, x="spikes per patch so far", y="R²", title="what spikes buy")
        finish(energy, x="timestep after the start", y="free energy (nats)",
               title="a P-VAE's guess (grey), refined by spikes")  # fmt: skip


def main() -> None:
    lab, rows = parse(__file__, __doc__), {}

    def curves(key: str, last: int, seeds: int = 1, *, of: str = "", **changes: Any) -> list[Any]:
        def make(seed: int) -> list[dict[str, float]]:
            return follow(lab, trained(lab, "patches", of or key, seed, **changes), last)

        return [lab.cell(f"{key}-{s}", lambda s=s: make(s)) for s in range(seeds)]

    for t in T_TRAINED:
        rows[f"T{t}"] = curves(f"T{t}", 256, lab.seeds, of="iP", steps=t, beta=BETA * t, **RECIPE)
    rows["guided"] = curves("guided", 256, lab.seeds, steps=16, beta=BETA * 16, **RECIPE)
    rows.update({name: curves(name, HYBRIDS.get(name, 1)) for name in (*AMORTISED, *HYBRIDS)})
    starts = {n: lab.cell(f"refined-{n}", lambda n=n: refined(lab, n)) for n in AMORTISED}
    lab.save({"followed": rows, "refined": starts})
    draw(lab, rows, starts)
    keys = ("step", "r2", "r2_rates", "zeros", "distance", "spikes", "nll", "free_energy")
    print(f"{'':<24}" + "".join(f"{key:>12}" for key in keys))
    table = {name: [seeds[0][-1]] for name, seeds in rows.items()}
    for t in T_TRAINED:
        table[f"T{t}"] = [r for r in rows[f"T{t}"][0] if r["step"] in (1, t, 16, 256)]
    for name, curves_of in starts.items():
        ends = zip(STARTS, curves_of, strict=True)
        table.update({f"{name}, {key}": curve[-1:] for key, curve in ends})
    for name, r in ((name, r) for name, shown in table.items() for r in shown):
        print(f"{name:<24}" + "".join(f"{r[key]:12.5g}" for key in keys))


if __name__ == "__main__":
    main()
