"""What keeps a training: its checkpoint file, and when to write it."""

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
from ipvae_snn.training.health import Diverged, unsound_weights
from ipvae_snn.training.random_state import (
    random_state,
    seed_rank,
    set_random_state,
)

History = list[dict[str, float]]


class Checkpointer:
    """History and checkpoint of a training; without a path it writes nothing.

    Attributes:
        done: iterations that were done when the training was taken up.
        kept: iteration that the file holds.
        history: rows so far.
    """

    def __init__(
        self,
        path: Path | None,
        model: BaseModel,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        samples: Samples,
        world: ProcessGroup,
    ) -> None:
        self.path, self.model, self.optimizer, self.config = path, model, optimizer, config
        self.world = world
        self.fingerprint = "" if path is None else samples.fingerprint()
        self.description = model.describe()  # before a schedule changes the clamp
        self.done, self.kept = 0, -1
        self.history: History = []

    def restore(self) -> None:
        """Go on from the file, or write it as it is at the start; errors as :func:`fit`."""
        content = self.world.broadcast(self._read)
        states = [] if content is None else content["random"]
        if content is not None:
            assert self.path is not None
            known = (self.config, self.description, self.fingerprint)
            require_same_training(self.path, content, *known)
            self.done = self.kept = content["iteration"]
            self.history = [dict(row) for row in content["history"]]
        rank = self.world.rank
        if self.model.draws_by_row:  # all draw alike, each for its own rows
            rank = 0
        if rank < len(states):
            try:
                set_random_state(self.model, states[rank])
            except ValueError as error:
                raise ValueError(f"{self.path} is damaged: {error}") from error
        elif rank:
            seed_rank(self.model, self.config.seed, self.done, rank)
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

    def keep(self, iteration: int, now: bool) -> None:
        """Write the file if its time has come; every process must ask at the same iterations."""
        if self.path is not None and (now or iteration % self.config.checkpoint_every == 0):
            self._write(iteration)

    def _write(self, iteration: int) -> None:
        assert self.path is not None
        states = self.world.gather(random_state(self.model))
        bad = unsound_weights(self.model)
        if bad:
            raise Diverged(iteration, bad)
        if self.world.leads:
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
                kept = f"that of iteration {self.kept} is kept, make room and go on from it"
                raise OSError(
                    error.errno,
                    f"cannot write the checkpoint of iteration {iteration}, {error.strerror}"
                    + (f"; {kept}" if self.kept >= 0 else ""),
                    str(self.path),
                ) from error
        self.kept = iteration

    def told(self) -> str:
        """Where the last good state is, for those whose training has failed."""
        if self.path is None or self.kept < 0:
            return ""
        return f"; {self.path} holds the state after iteration {self.kept}"
