"""Long runs: does inference stay stable on unseen samples, at the settings of each recipe?

10,000 held-out samples run for 1,000 timesteps. A sample is lost at a timestep if its error, as the
likelihood weighs it, is more than twice that of an empty code, which is where a code ends that
oscillates or explodes; the first 16 timesteps, in which a code is built, do not count. The
recipes of the library are trained for the budget of the other experiments, with their schedules
shortened or stretched to it; ``fast`` is trained as it is.

    python examples/paper/long_runs.py --data path/to/data
"""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn import IPVAE, fit, recipes
from ipvae_snn.training import iterations_within

from harness import Setup, figure, finish, load, parse
from harness.tables import table

RECIPES = {
    "natural": "patches", "fast": "patches", "published-natural": "patches", "mnist": "mnist",
    "published-mnist": "mnist",
}  # fmt: skip
SETTLING, CHUNK, BATCH = 16, 50, 500
LOST = 2.0


def trained(setup: Setup, name: str) -> IPVAE:
    recipe, x = recipes.find(name), load(setup, RECIPES[name]).train
    if setup.quick:
        recipe = recipe.changed(latents=24, iterations=6, batch=10, steps=4, burn_in=0)
    recipe = recipe.changed(progress=not setup.quick)
    torch.manual_seed(0)
    model, config = recipe.make_model(x.shape[1]), recipe.config()
    assert isinstance(model, IPVAE)
    if not setup.quick and name != "fast":
        config.iterations = iterations_within(setup.seconds, model, x, config)
    fit(model, x, config)
    return model


@torch.no_grad()
def followed(model: IPVAE, x: Tensor, num_steps: int) -> dict[str, Any]:
    """Samples lost at some timestep, and the worst of all at each."""
    worst, lost, top, spikes = [0.0] * num_steps, 0, -torch.inf, 0.0
    for first in range(0, len(x), BATCH):
        part = x[first : first + BATCH]
        of_nothing = misfit(model, part, model.neuron.mem_init.new_zeros(len(part), model.latents))
        state, was_lost = None, torch.zeros(len(part), dtype=torch.bool)
        for start in range(0, num_steps, CHUNK):
            steps = min(CHUNK, num_steps - start)
            out = model.run(
                part, steps, record=("spk", "mem"), state=state, seed=first * num_steps + start
            )
            for t, spk in enumerate(out.spk, start):
                ratio = misfit(model, part, spk) / of_nothing
                worst[t] = max(worst[t], float(ratio.max()))
                if t >= SETTLING:
                    was_lost |= ratio > LOST
            state, top = out.state, max(top, float(out.mem.max()))
        spikes += float(out.spk[-1].sum())
        lost += int(was_lost.sum())
    return {
        "samples": len(x), "lost": lost, "largest_mem": top, "spikes": spikes / len(x),
        "worst": worst,
    }  # fmt: skip


def misfit(model: IPVAE, x: Tensor, spk: Tensor) -> Tensor:
    """The squared error in units of σ², (B,)."""
    scale = 1.0 if model.log_scale is None else model.log_scale.exp()
    return ((x - model.decode(spk)) / scale).square().sum(-1)


def measure(setup: Setup, name: str) -> dict[str, Any]:
    model, amount = trained(setup, name), setup.amount(10_000, quick=40)
    x = load(setup, RECIPES[name]).test[:amount]
    return {**followed(model, x, setup.amount(1000, quick=40)), "clamp": model.neuron.clamp}


def main() -> None:
    setup = parse(__file__, __doc__)
    rows = {name: setup.cell(name, lambda n=name: measure(setup, n)) for name in RECIPES}
    setup.save({"recipes": rows})
    with figure(setup, size=(6.4, 3.4)) as axes:
        ax = axes[0, 0]
        for name, row in rows.items():
            ax.loglog(range(1, len(row["worst"]) + 1), row["worst"], label=name, lw=1)
        ax.axhline(LOST, color="#808080", ls=":", lw=1)
        finish(ax, x="timestep", y="error / error of an empty code", title="the worst of all")
    print(
        table(
            {name: [row] for name, row in rows.items()},
            (
                ("samples", lambda row: row["samples"], ",.0f"),
                ("lost", lambda row: row["lost"], ".0f"),
                ("worst at the end", lambda row: row["worst"][-1], ".2f"),
                ("largest mem", lambda row: row["largest_mem"], ".2f"),
                ("clamp", lambda row: row["clamp"], ".1f"),
                ("spikes", lambda row: row["spikes"], ".0f"),
            ),
        )
    )


if __name__ == "__main__":
    main()
