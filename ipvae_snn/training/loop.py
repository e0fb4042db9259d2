"""The training loop: reads batches, updates weights, logs, and writes checkpoints."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.progress import progress_bar
from ipvae_snn.data.sources import InMemory, Samples, stream
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.batches import batches, share
from ipvae_snn.training.checkpointer import Checkpointer
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import Diverged
from ipvae_snn.training.local import LocalObjective
from ipvae_snn.training.monitor import Monitor
from ipvae_snn.training.schedules import apply_schedules
from ipvae_snn.training.signals import PendingSignal, Stopped
from ipvae_snn.training.step import Objective, Step, history_row, train_step


class Loop:
    """The iterations that are left, on one rank.

    Args:
        model: the model, in ``train()`` mode.
        optimizer: its optimizer.
        samples: all samples; each rank reads its rows of a batch.
        config: the recipe.
        group: the ranks.
        checkpointer: knows the first iteration and collects the history.
        final: settings that the model anneals, with their final values.
        monitor: measures validation samples, and is told of each row.
    """

    def __init__(
        self,
        model: BaseModel,
        optimizer: torch.optim.Optimizer,
        samples: Samples,
        config: TrainConfig,
        group: ProcessGroup,
        checkpointer: Checkpointer,
        final: Mapping[str, float],
        monitor: Monitor,
    ) -> None:
        self.model, self.optimizer, self.samples = model, optimizer, samples
        self.config, self.group, self.checkpointer = config, group, checkpointer
        self.final, self.monitor = final, monitor
        self.rows = share(config.batch, group.rank, group.size)

    def run(self, pending: PendingSignal, workers: int) -> None:
        """Train to the last iteration; raises what :func:`~ipvae_snn.training.fit` does."""
        config, start = self.config, self.checkpointer.start
        if start == config.iterations:
            return
        row_ids = None
        if self.group.initialized and self.model.draws_by_row:
            row_ids = torch.arange(self.rows.start, self.rows.stop)
        shown = config.progress and self.group.is_main
        bar = progress_bar(config.iterations, "training", shown=shown, initial=start)
        try:
            with bar, self.group.detecting_lost_ranks():
                objective = self.group.data_parallel(self._objective(row_ids))
                for iteration, x in enumerate(self._read_batches(workers), start):
                    step, schedule = self._advance(objective, iteration, x)
                    self._log(iteration + 1, x, step, schedule, bar)
                    self._write_checkpoint(iteration + 1, pending)
        except Diverged as error:
            note = self.checkpointer.last_saved()
            raise Diverged(error.iteration, error.reason, note) from error

    def _objective(self, row_ids: Tensor | None) -> torch.nn.Module:
        if self.config.rule == "local":
            moment = getattr(self.optimizer, "moment", None)
            return LocalObjective(self.model, self.config, row_ids, moment)
        return Objective(self.model, self.config, row_ids)

    def _read_batches(self, workers: int) -> Iterator[Tensor]:
        """This rank's share of each batch, with the device and dtype of the weights."""
        config, start, like = self.config, self.checkpointer.start, self.model.like
        samples = self.samples
        if isinstance(samples, InMemory):
            values = samples.data.to(device=like.device, dtype=like.dtype)
            samples = InMemory(values, missing=config.missing)
        elif samples.in_memory and like.device.type != "cpu":
            values = samples.read(torch.arange(len(samples))).to(like)
            samples = InMemory(values, missing=config.missing)
        order = batches(len(samples), config.batch, config.seed, start=start)
        rows = (next(order)[self.rows] for _ in range(start, config.iterations))
        for iteration, x in enumerate(stream(samples, rows, workers), start + 1):
            if not samples.in_memory:
                InMemory(x, f"the batch of iteration {iteration}", missing=config.missing)
            yield x.to(device=like.device, dtype=like.dtype)

    def _advance(
        self, objective: torch.nn.Module, iteration: int, x: Tensor
    ) -> tuple[Step, dict[str, float]]:
        schedule = apply_schedules(self.model, self.optimizer, self.config, iteration, self.final)
        # The mean over ranks weighs them equally, but their shares may differ by one sample.
        weight = len(x) * self.group.size / self.config.batch
        step = train_step(
            self.model,
            objective,
            self.optimizer,
            x,
            schedule,
            iteration=iteration + 1,
            weight=weight,
        )
        return step, schedule

    def _log(
        self, iteration: int, x: Tensor, step: Step, schedule: dict[str, float], bar: Any
    ) -> None:
        bar.update()
        if iteration < self.config.iterations and iteration % self.config.log_every:
            return
        config = self.config
        row = history_row(self.model, x, step, self.group, config.batch, config.missing)
        row |= self.monitor.measure(iteration)
        self.checkpointer.history.append({"iteration": iteration, **row, **schedule})
        bar.set_postfix(self.monitor.shown(row), refresh=False)
        self.monitor.tell(self.checkpointer.history)

    def _write_checkpoint(self, iteration: int, pending: PendingSignal) -> None:
        """Write one if it is due, and stop if any rank received a signal."""
        signum = self.group.max(pending.signum)
        last = iteration == self.config.iterations
        self.checkpointer.save_if_due(iteration, force=last or bool(signum))
        if signum and self.checkpointer.path is not None:
            pending.signum = 0
            raise Stopped(signum, iteration, self.checkpointer.path)
