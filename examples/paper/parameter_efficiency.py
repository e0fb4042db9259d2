"""Parameter efficiency: error against the number of parameters, iP-VAE and models with encoders.

Natural patches. The parameters of the iP-VAE are little more than its dictionary: 0.13 million with
512 neurons, fewer with fewer. Hybrids and amortised models of 512 latents have networks of growing
width, up to about 40 million parameters. An optimizer step of the largest takes seconds, so they
train for fewer iterations; the result holds their number and the seconds of each cell.

    python examples/paper/parameter_efficiency.py --data path/to/data
"""

from typing import Any

from harness import LABELS, Setup, evaluated, figure, finish, load, parse, trained
from harness.figures import style
from harness.recipes import ONE_PASS

# Changes to the recipe.
SIZES: dict[str, list[dict[str, Any]]] = {
    "iP": [
        *({"latents": k, "iterations": 3000} for k in (32, 64, 128, 256)),
        {},
    ],
    "ia": [{"width": 64}, {"width": 256}, {}, {"width": 1500, "iterations": 600}],
    "sa": [
        {"width": 64}, {"width": 256}, {}, {"width": 2048, "iterations": 1000},
        {"width": 5600, "iterations": 300, "batch": 50},
    ],
    "P-mlp": [{"width": 64}, {}, {"width": 2048, "iterations": 2000}],
    "G-mlp": [{"width": 64}, {}, {"width": 2048, "iterations": 2000}],
}  # fmt: skip


def measure(setup: Setup, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    model = trained(setup, "patches", name, **changes)
    steps = 2 if name in ONE_PASS else setup.amount(256, quick=10)
    return evaluated(setup, model, load(setup, "patches").test, steps)


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
        axes[0, 1].legend(frameon=False, fontsize=8)
    print(f"{'':<22}{'parameters':>12}{'R²':>8}{'rates':>8}{'MSE':>9}{'zeros':>8}{'distance':>10}")
    for name, runs in results.items():
        for run in runs:
            last = run["last"]
            print(
                f"{LABELS[name]:<22}{run['parameters']:12,}{last['r2']:8.3f}{last['r2_map']:8.3f}"
                f"{last['mse_per_dim']:9.2f}{last['zeros']:8.3f}"
                f"{last['rate_distortion_distance']:10.3f}"
            )


if __name__ == "__main__":
    main()
