"""Parameter efficiency: error against the number of parameters, iP-VAE and models with encoders.

Natural patches. The parameters of the iP-VAE are little more than its dictionary: 0.13 million with
512 neurons, fewer with fewer. Hybrids and amortised models of 512 latents have networks of growing
width, up to 7 million parameters, and linear encoders have one. All train for half the time of the
other experiments, so that the largest see few samples; the table says how many.

    python examples/paper/parameter_efficiency.py --data path/to/data
"""

from typing import Any

from harness import LABELS, Setup, evaluated, figure, finish, load, parse, trained
from harness.figures import style
from harness.measure import effort
from harness.recipes import ONE_PASS
from harness.tables import DISTANCE, ERROR, PARAMETERS, R2, RATES, SPIKES, TRAINED, ZEROS, table

# Changes to the recipe.
SIZES: dict[str, list[dict[str, Any]]] = {
    "iP": [*({"latents": k} for k in (32, 64, 128, 256)), {}],
    "LCA": [*({"latents": k} for k in (64, 256)), {}],
    "ia": [{"width": 64}, {"width": 256}, {}],
    "sa": [{"width": 64}, {"width": 256}, {}],
    "P-linear": [{}],
    "P-mlp": [{"width": 64}, {}, {"width": 2048}],
    "G-linear": [{}],
    "G-mlp": [{"width": 64}, {}, {"width": 2048}],
}  # fmt: skip
SHARE = 0.5


def measure(setup: Setup, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    changes = {**changes, "seconds": SHARE * setup.seconds}
    model = trained(setup, "patches", name, **changes)
    steps = 2 if name in ONE_PASS else setup.amount(256, quick=10)
    result = evaluated(setup, model, load(setup, "patches").test, steps)
    return {**result, **effort(setup, "patches", name, **changes)}


def main() -> None:
    setup = parse(__file__, __doc__)
    results = {
        name: [
            {**changes, **setup.cell(f"{name}-{n}", lambda m=name, c=changes: measure(setup, m, c))}
            for n, changes in enumerate(sizes)
        ]
        for name, sizes in SIZES.items()
    }
    setup.save({"found": results})
    with figure(setup, 1, 2, size=(9, 3.6)) as axes:
        for ax, key, label in (
            (axes[0, 0], "mse_per_dim", "1,000 · MSE / pixels"),
            (axes[0, 1], "rate_distortion_distance", "rate–distortion distance"),
        ):
            for name, runs in results.items():
                sizes = [run["parameters"] for run in runs]
                ax.plot(sizes, [r["last"][key] for r in runs], marker="o", ms=4, **style(name))
            ax.set_xscale("log")
            finish(ax, x="parameters", y=label, legend=None)
        axes[0, 1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    rows = {
        ", ".join([LABELS[name], *(f"{key} {value}" for key, value in changes.items())]): [run]
        for name, sizes in SIZES.items()
        for changes, run in zip(sizes, results[name], strict=True)
    }
    print(table(rows, (PARAMETERS, R2, RATES, ERROR, ZEROS, SPIKES, DISTANCE, *TRAINED)))


if __name__ == "__main__":
    main()
