"""A snnTorch classifier of digits in Lightning: hidden layers of IPVAENeuron, a Leaky read-out.

The module's ``forward`` takes a whole batch of images and shows them for all timesteps. Every call
of it begins with a reset, by ``reset_on_call``: no callback has to do so between batches.

    pip install -e ".[lightning]"
    python examples/lightning_classifier.py
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ipvae_snn import IPVAENeuron, data, reset_on_call

try:
    import lightning
except ImportError as error:
    raise SystemExit('this example needs the extra: pip install -e ".[lightning]"') from error


class Classifier(lightning.LightningModule):
    """Linear, neurons, and a read-out whose membrane is averaged over time."""

    def __init__(self, pixels: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(pixels, hidden),
            nn.BatchNorm1d(hidden),
            IPVAENeuron(hidden, init_hidden=True),
            nn.Linear(hidden, 10),
            snn.Leaky(0.9, init_hidden=True, output=True),
        )
        self.steps, self.history = steps, list[float]()
        reset_on_call(self)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(x)[1] for _ in range(self.steps)])

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, labels = batch
        membranes = self(x)
        return nn.functional.cross_entropy(membranes.flatten(0, 1), labels.repeat(len(membranes)))

    def validation_step(self, batch: Any, _: int) -> None:
        x, labels = batch
        right = (self(x).mean(0).argmax(1) == labels).float().mean()
        self.log("accuracy", right, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.history.append(float(self.trainer.callback_metrics["accuracy"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("lightning_classifier.png"))
    arguments = parser.parse_args()
    epochs, steps = (1, 3) if arguments.quick else (arguments.epochs, 20)
    warnings.filterwarnings("ignore", module="lightning")  # of workers and of logs that are off
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)
    digits = data.load("digits")
    train, test = (
        TensorDataset(x, labels)
        for x, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels))
    )
    model = Classifier(digits.train.shape[1], hidden=128, steps=steps)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(test, 500))
    print(f"accuracy on {len(test)} test digits: {model.history[-1]:.4f}")
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.plot(range(1, epochs + 1), model.history, "o-", color="#0072B2")
    ax.set_xlabel("epoch")
    ax.set_ylabel("accuracy on test digits")
    ax.grid(alpha=0.25)
    figure.savefig(arguments.out, dpi=130)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
