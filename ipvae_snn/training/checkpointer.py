"""Restores a training from its checkpoint file, and writes that file when it is due."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ipvae_snn._utils.files import remove_partial_files
from ipvae_snn.data.sources import Samples
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.checkpoint import (
    read_checkpoint,
    require_same_training,
    restore,
    write_checkpoint,
)
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import Diverged, nonfinite_weights
from ipvae_snn.training.random_state import random_state, seed_rank, set_random_state

History = list[dict[str, float]]


class Checkpointer:
    """History and checkpoint file of a training; without a path no file is written.

    Attributes:
        start: iterations completed before this process took over.
        saved_iteration: iteration that the file holds; −1 if there is no file.
        history: rows so far.
    """

    def __init__(
        self,
        path: Path | None,
        model: BaseModel,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        samples: Samples,
        group: ProcessGroup,
    ) -> None:
        self.path, self.model, self.optimizer, self.config = path, model, optimizer, config
        self.group = group
        self.fingerprint = "" if path is None else samples.fingerprint()
        self.description = model.describe()  # before a schedule changes the clamp
        self.start, self.saved_iteration = 0, -1
        self.history: History = []

    def restore(self) -> None:
        """Resume from the file, or write the initial state; raises what :func:`fit` does."""
        content = self.group.broadcast(self._read)
        if content is not None:
            assert self.path is not None
            content["model"] = {**getattr(self.model, "earlier", {}), **content["model"]}
            require_same_training(
                self.path, content, self.config, self.description, self.fingerprint
            )
            self.start = self.saved_iteration = content["iteration"]
            self.history = [dict(row) for row in content["history"]]
        self._restore_random_state([] if content is None else content["random"])
        if self.path is None:
            return
        if content is None:
            self._write(0)
        else:
            restore(self.path, content, self.model, self.optimizer)

    def _read(self) -> dict[str, Any] | None:
        if self.path is None:
            return None
        remove_partial_files(self.path)
        return read_checkpoint(self.path) if self.path.exists() else None

    def _restore_random_state(self, states: list[dict[str, Any]]) -> None:
        """Restore this rank's state; seed a rank above 0 that has none."""
        # Models that draw by row have the same random state on all ranks.
        rank = 0 if self.model.draws_by_row else self.group.rank
        if rank < len(states):
            try:
                set_random_state(self.model, states[rank])
            except ValueError as error:
                raise ValueError(f"{self.path} is damaged: {error}") from error
        elif rank:
            seed_rank(self.model, self.config.seed, self.start, rank)

    def save_if_due(self, iteration: int, force: bool) -> None:
        """Write the file every ``checkpoint_every`` iterations, or if forced, on all ranks alike.

        Collective: all ranks must call it at the same iterations.
        """
        if self.path is not None and (force or iteration % self.config.checkpoint_every == 0):
            self._write(iteration)

    def _write(self, iteration: int) -> None:
        assert self.path is not None
        states = self.group.gather(random_state(self.model))
        problem = nonfinite_weights(self.model)
        if problem:
            raise Diverged(iteration, problem)
        if self.group.is_main:
            content = {
                "config": asdict(self.config),
                "model": self.description,
                "data": self.fingerprint,
                "iteration": iteration,
                "weights": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": states,
                "history": self.history,
            }
            try:
                write_checkpoint(self.path, content)
            except OSError as error:
                reason = f"cannot write the checkpoint of iteration {iteration}, {error.strerror}"
                if self.saved_iteration >= 0:
                    reason += (
                        f"; that of iteration {self.saved_iteration} is kept, free some space and "
                        "resume from it"
                    )
                raise OSError(error.errno, reason, str(self.path)) from error
        self.saved_iteration = iteration

    def last_saved(self) -> str:
        """A note on the last checkpoint, to append to an error message."""
        if self.path is None or self.saved_iteration < 0:
            return ""
        return f"; {self.path} holds the state after iteration {self.saved_iteration}"
