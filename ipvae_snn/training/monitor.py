"""What is seen of a training while it runs: R² of validation samples, and each new row."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import NotFinite
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn._utils.seeding import combine
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.checkpointer import History
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.step import r2_of_spikes

VALIDATE_EVERY = 5
"""Rows of the history from one measurement of the validation samples to the next."""
Watch = Callable[[History], None]


class Monitor:
    """Measures validation samples, and calls what watches the training; draws nothing of its own.

    Args:
        model: the model.
        config: of the training.
        group: the ranks; rank 0 measures and is watched.
        validation: samples (N, M), with device and dtype of the weights, or None.
        watch: called with all rows so far when one was added, or None.
    """

    def __init__(
        self,
        model: BaseModel,
        config: TrainConfig,
        group: ProcessGroup,
        validation: Tensor | None,
        watch: Watch | None,
    ) -> None:
        self.model, self.config, self.group = model, config, group
        self.validation, self.watch = validation, watch
        self.last_r2: float | None = None

    def measure(self, iteration: int) -> dict[str, float]:
        """``r2_val`` if it is due at this iteration, else nothing; collective.

        It is due in the first row, every :data:`VALIDATE_EVERY` rows from there, and in the last.
        """
        row, between = divmod(iteration, self.config.log_every)
        due = iteration == self.config.iterations or (not between and row % VALIDATE_EVERY == 1)
        if self.validation is None or not due:
            return {}
        r2 = self.group.broadcast(self._r2)
        if r2 is None:
            return {}
        self.last_r2 = r2
        return {"r2_val": r2}

    def _r2(self) -> float | None:
        """R² of single draws at the last of the trained timesteps; None if it is not finite.

        The draws come from a seed of their own, the same each time: those of the training, and so
        its weights, are the same with and without.
        """
        assert self.validation is not None
        model, seed = self.model, combine(self.config.seed, "validation")
        try:
            with eval_mode(model), torch.no_grad(), model.seeded(seed):
                x, missing = self.validation, self.config.missing
                options: Any = {"mask": "nan"} if missing else {}
                spk = model.run(x, self.config.steps, record=(), **options).state.spk
                return float(r2_of_spikes(model, x, spk, missing))
        except NotFinite:  # the next iteration, or the checkpoint, says so
            return None

    def shown(self, row: Mapping[str, float]) -> dict[str, str]:
        """What the progress bar shows of a row."""
        r2 = {"batch R²": row["r2"]} if self.last_r2 is None else {"R²": self.last_r2}
        values = {"loss": row["loss"], **r2, "zeros": row["zeros"]}
        return {name: f"{value:.3g}" for name, value in values.items()}

    def tell(self, history: History) -> None:
        """Call what watches the training."""
        if self.watch is not None and self.group.is_main:
            self.watch(history)
