"""The exact form of the membrane, with the variance term ½ diag G, against the published one.

Both are trained on the same samples with the same budget, and are measured after 400 timesteps by
single draws. What a default rests on is the validation split, the last 2,000 training samples,
which no model is trained on; the test samples are looked at once, with the same rows. On MNIST the
published form has the threshold and the weaker inhibition that were set by hand for it. Half an
hour on two cores.

    python examples/paper/variance_term.py --seeds 3 --data path/to/data
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import IPVAE, fit, metrics

from harness import COLOURS, Setup, figure, finish, load, parse
from harness.measure import evaluated
from harness.recipes import settings

VALIDATION = 2000
SHORT: dict[str, dict[str, Any]] = {
    "patches": {"iterations": 1500, "beta": 8.0},
    "mnist": {"iterations": 2500},
}
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "patches": {"published": {}, "exact": {"form": "exact"}},
    "mnist": {
        "published": {},
        "exact": {"form": "exact", "bias": 0.002, "lateral_scale": 1.0},
    },
}


def measure(setup: Setup, data: str, form: str, seed: int) -> dict[str, Any]:
    wanted = settings(setup, data, "iP", seed=seed, **SHORT[data], **FORMS[data][form])
    samples = load(setup, data)
    held_out = setup.amount(VALIDATION, quick=50)
    train, validation = samples.train[:-held_out], samples.train[-held_out:]
    torch.manual_seed(seed)
    model = IPVAE(train.shape[1], **wanted["options"])
    fit(model, train, wanted["training"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": scores(setup, model, validation),
        "test": scores(setup, model, samples.test),
    }


def scores(setup: Setup, model: IPVAE, x: Tensor) -> dict[str, Any]:
    result = evaluated(setup, model, x, setup.amount(400, quick=5))
    last = result["last"]
    distance = metrics.rate_distortion_distance(last["r2"], last["zeros"])
    return {**last, "distance": float(distance), "curves": result["curves"], "t": result["steps"]}


def main() -> None:
    setup = parse(__file__, __doc__)
    cells = {
        (data, form): [
            setup.cell(
                f"{data}-{form}-{seed}", lambda d=data, f=form, s=seed: measure(setup, d, f, s)
            )
            for seed in range(setup.seeds)
        ]
        for data, forms in FORMS.items()
        for form in forms
    }
    setup.save({f"{data}, {form}": rows for (data, form), rows in cells.items()})
    print(f"{'':<20}{'split':<12}{'R²':>12}{'zeros':>14}{'distance':>14}{'error':>16}")
    for (data, form), rows in cells.items():
        for split in ("validation", "test"):
            line = f"{data + ', ' + form:<20}{split:<12}"
            for name, digits in (("r2", 3), ("zeros", 3), ("distance", 3), ("mse", 2)):
                values = [row[split][name] for row in rows]
                line += f"{np.mean(values):>9.{digits}f} ± {np.std(values):.{digits}f}"
            print(line)
    with figure(setup, 1, 2, size=(8.0, 3.2)) as axes:
        for ax, (data, forms) in zip(axes[0], FORMS.items(), strict=True):
            for form in forms:
                colour = COLOURS["iP" if form == "exact" else "iG"]
                for row in cells[data, form]:
                    test, label = row["test"], form if row is cells[data, form][0] else None
                    ax.semilogx(test["t"], test["curves"]["r2"], color=colour, label=label)
                    ax.semilogx(test["t"], test["curves"]["zeros"], color=colour, ls="--")
            ax.set_ylim(0, 1)
            finish(ax, x="timestep", y="R² (solid), zeros (dashed)", title=data)


if __name__ == "__main__":
    main()
