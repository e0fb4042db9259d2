"""Write your own estimator: a surrogate for dz/du, its bias and variance, and a trained model.

An estimator replaces the derivative of a spike count z with respect to the membrane u; all you
write is ``slope``. This one is a family, w = λ + c (z − λ): c = 0 is ``rate``, c = ½ ``midpoint``.
Left: bias of the gradient of E[(z − a)²] against its closed form, and its standard deviation.
Right: objective on held-out images of models trained with each c.

    python examples/write_your_own_estimator.py
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, fit, surrogate

BLUE, ORANGE = "#0072B2", "#D55E00"


@dataclass
class leaning(surrogate.Exact):
    """Exact Poisson counts with the slope w = λ + c (z − λ), between the rate and the count drawn.

    A dataclass, so that it prints, compares, copies and pickles. ``Exact`` provides the sampling
    and the generator. To load a model saved with it, construct the model and use
    ``load_state_dict``.
    """

    c: float = 0.5

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return rate + self.c * (spk - rate)


def gradient_statistics(
    c: float, log_rate: float, target: float, draws: int
) -> tuple[float, float]:
    """Bias and standard deviation of the estimated d E[(z − a)²]/du.

    The exact value follows from E[z] = Var[z] = λ: d/du (λ + (λ − a)²) = λ + 2 λ (λ − a).
    """
    mem = torch.full((draws,), log_rate, dtype=torch.float64, requires_grad=True)
    spk = leaning(c, generator=torch.Generator().manual_seed(0))(mem)
    (gradient,) = torch.autograd.grad(((spk - target) ** 2).sum(), mem)
    rate = float(np.exp(log_rate))
    return gradient.mean().item() - (rate + 2 * rate * (rate - target)), gradient.std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("write_your_own_estimator.png"))
    arguments = parser.parse_args()
    iterations = 10 if arguments.quick else arguments.iterations
    draws = 2_000 if arguments.quick else 500_000
    choices = (0.0, 0.25, 0.5, 0.75, 1.0)

    images = data.load("digits")
    print(f"{'c':>5}{'bias':>10}{'std':>10}{'objective on held-out images':>32}")
    biases, stds, objectives = [], [], []
    for c in choices:
        bias, std = gradient_statistics(c, log_rate=0.5, target=1.0, draws=draws)
        torch.manual_seed(0)
        model = IPVAE(64, 128, spike_grad=leaning(c))
        config = TrainConfig(
            iterations=iterations, lr=5e-3, beta=16.0, grad_clip=3000.0, progress=False
        )
        fit(model, images.train, config)
        torch.manual_seed(0)
        with torch.no_grad():
            objective = model.loss(images.test, num_steps=16, beta=16.0).item()
        print(f"{c:>5}{bias:>10.3f}{std:>10.3f}{objective:>32.2f}")
        biases.append(bias)
        stds.append(std)
        objectives.append(objective)

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(0, color="#808080", lw=1)
    left.plot(choices, biases, "o-", color=BLUE, label="bias")
    left.plot(choices, stds, "s--", color=ORANGE, label="standard deviation")
    left.set_title("Gradient of E[(z − 1)²] at λ = e^½")
    left.set_ylabel("per draw")
    left.legend(frameon=False)
    right.plot(choices, objectives, "o-", color=BLUE)
    right.set_title(f"Digits, after {iterations} iterations")
    right.set_ylabel("objective, held out (lower is better)")
    for ax in (left, right):
        ax.set_xticks(choices, ["0\nrate", "¼", "½\nmidpoint", "¾", "1\ncount"])
        ax.set_xlabel("c in  w = λ + c (z − λ)")
        ax.grid(alpha=0.25)
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
