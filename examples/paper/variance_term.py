"""The exact form of the membrane, with the variance term ½ diag G, against the published one.

Both train for three eighths of the budget of the other experiments, and are measured after 1,000
timesteps by single draws. What a default rests on is the validation split, which no model is
trained on; test samples are looked at once, with the same rows. The exact form has the threshold
and gain of the library's recipes. The published form, which has no threshold that grows with a
feature's length, may choose both for itself, on the validation split: the least distance from
R² = 1 at zeros = 1. "Plain" is each form without them: a learned b, and all inhibition at its full
strength.

    python examples/paper/variance_term.py --data path/to/data
"""

from typing import Any

from ipvae_snn.neurons import BIAS

from harness import COLOURS, Setup, evaluated, figure, finish, load, parse, trained
from harness.measure import effort
from harness.tables import DISTANCE, ERROR, R2, RATES, SPIKES, TRAINED, ZEROS, table

SHARE = 0.375
PUBLISHED = {"form": "published"}
PLAIN = {"bias": BIAS, "learn_bias": True, "lateral_scale": 1.0}
"""Without a threshold and the gain that makes up for it: b is learned."""
CANDIDATES: dict[str, dict[str, list[dict[str, Any]]]] = {
    "patches": {
        "exact": [{}],
        "exact, plain": [PLAIN],
        "published, plain": [{**PUBLISHED, **PLAIN}],
        "published": [
            PUBLISHED,
            *({**PUBLISHED, "bias": b, "lateral_scale": s} for b, s in ((0.4, 1.0), (0.4, 0.8))),
        ],
    },
    "mnist": {
        "exact": [{}],
        "exact, plain": [PLAIN],
        "published, plain": [{**PUBLISHED, **PLAIN}],
        "published": [
            {**PUBLISHED, "bias": b, "lateral_scale": s}
            for b, s in ((0.01, 1.0), (0.02, 1.0), (0.02, 0.75), (0.04, 0.75))
        ],
    },
}


def measure(
    setup: Setup, data: str, split: str, seed: int, changes: dict[str, Any]
) -> dict[str, Any]:
    changes = {**changes, "seconds": SHARE * setup.seconds}
    model, x = trained(setup, data, "iP", seed, **changes), getattr(load(setup, data), split)
    result = evaluated(setup, model, x, setup.amount(1000, quick=5), samples=1000)
    return {**result, **effort(setup, data, "iP", **changes)}


def chosen(setup: Setup, data: str, form: str) -> dict[str, Any]:
    """The candidate with the least distance on the validation split, seed 0."""

    def distance(changes: dict[str, Any]) -> float:
        key = "-".join(f"{k}{v}" for k, v in changes.items())
        row = setup.cell(
            f"choice-{data}-{form}-{key}", lambda: measure(setup, data, "validation", 0, changes)
        )
        return float(row["last"]["rate_distortion_distance"])

    return min(CANDIDATES[data][form], key=distance)


def main() -> None:
    setup = parse(__file__, __doc__)
    options = {(d, f): chosen(setup, d, f) for d, forms in CANDIDATES.items() for f in forms}
    rows = {
        f"{data}, {form}, {split}": setup.by_seed(
            f"{data}-{form}-{split}",
            lambda seed, d=data, s=split, c=changes: measure(setup, d, s, seed, c),
            several=True,
        )
        for (data, form), changes in options.items()
        for split in ("validation", "test")
    }
    chosen_options = {f"{data}, {form}": changes for (data, form), changes in options.items()}
    setup.save({"options": chosen_options, "measured": rows})
    print(table(rows, (R2, RATES, ERROR, ZEROS, SPIKES, DISTANCE, *TRAINED)))
    print(*(f"{name}: {changes}" for name, changes in chosen_options.items()), sep="\n")
    with figure(setup, 1, 2, size=(8.0, 3.2)) as axes:
        for ax, (data, forms) in zip(axes[0], CANDIDATES.items(), strict=True):
            for form in forms:
                colour = COLOURS["iP" if form.startswith("exact") else "iG"]
                look = {"color": colour, "alpha": 0.4 if form.endswith("plain") else 1.0}
                for index, row in enumerate(rows[f"{data}, {form}, test"]):
                    label = None if index else form
                    ax.semilogx(row["steps"], row["curves"]["r2"], **look, label=label)
                    ax.semilogx(row["steps"], row["curves"]["zeros"], **look, ls="--")
            ax.set_ylim(0, 1)
            finish(ax, x="timestep", y="R² (solid), zeros (dashed)", title=data)


if __name__ == "__main__":
    main()
