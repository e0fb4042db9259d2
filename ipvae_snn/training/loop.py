"""The loop of a training: batches in, steps of the optimizer, rows of the history out."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ipvae_snn._utils.checks import require_finite
from ipvae_snn.data.sources import InMemory, Samples, stream
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.batches import batches, share
from ipvae_snn.training.checkpointer import Checkpointer
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import Diverged
from ipvae_snn.training.schedules import apply_schedules
from ipvae_snn.training.signals import Asked, Stopped
from ipvae_snn.training.step import Objective, Step, history_row, train_step


class Loop:
    """From where the keeper took up to the last iteration, in this process of a world."""

    def __init__(
        self,
        model: BaseModel,
        optimizer: torch.optim.Optimizer,
        samples: Samples,
        config: TrainConfig,
        world: ProcessGroup,
        keeper: Checkpointer,
        final: Mapping[str, float],
    ) -> None:
        self.model, self.optimizer, self.samples = model, optimizer, samples
        self.config, self.world, self.keeper = config, world, keeper
        self.final = final
        self.rows = share(config.batch, world.rank, world.size)
        self.numbers = None
        if world.joined and model.draws_by_row:
            self.numbers = torch.arange(self.rows.start, self.rows.stop)

    def run(self, asked: Asked, workers: int) -> None:
        """All iterations that are left; errors as :func:`~ipvae_snn.training.fit`."""
        config, done = self.config, self.keeper.done
        if done == config.iterations:
            return
        bar = tqdm(
            total=config.iterations, initial=done, desc="training", unit="it",
            disable=not (config.progress and self.world.leads),
        )  # fmt: skip
        try:
            with bar, self.world.together():
                objective = self.world.averaging_gradients(Objective(self.model))
                for iteration, x in enumerate(self._shown(workers), done):
                    step, schedule = self._advance(objective, iteration, x)
                    self._log(iteration + 1, x, step, schedule, bar)
                    self._keep(iteration + 1, asked)
        except Diverged as error:
            raise Diverged(error.iteration, error.reason, self.keeper.told()) from error

    def _shown(self, workers: int) -> Iterator[Tensor]:
        """This process's share of each batch that is left, where and as the weights are."""
        config, done, like = self.config, self.keeper.done, self.model.like
        samples = self.samples
        if isinstance(samples, InMemory):
            samples = InMemory(samples.data.to(device=like.device, dtype=like.dtype))
        every = batches(len(samples), config.batch, config.seed, start=done)
        own = (next(every)[self.rows] for _ in range(done, config.iterations))
        for iteration, x in enumerate(stream(samples, own, workers), done + 1):
            if not samples.in_memory:
                require_finite(x, f"the batch of iteration {iteration}")
            yield x.to(device=like.device, dtype=like.dtype)

    def _advance(
        self, objective: torch.nn.Module, iteration: int, x: Tensor
    ) -> tuple[Step, dict[str, float]]:
        schedule = apply_schedules(self.model, self.optimizer, self.config, iteration, self.final)
        # Processes average their gradients; shares may differ by one sample.
        weight = len(x) * self.world.size / self.config.batch
        step = train_step(
            self.model, objective, self.optimizer, x, self.config, schedule, iteration + 1,
            self.numbers, weight,
        )  # fmt: skip
        return step, schedule

    def _log(
        self, iteration: int, x: Tensor, step: Step, schedule: dict[str, float], bar: tqdm
    ) -> None:
        bar.update()
        if iteration < self.config.iterations and iteration % self.config.log_every:
            return
        row = history_row(self.model, x, step, self.world, self.config.batch)
        self.keeper.history.append({"iteration": iteration, **row, **schedule})
        bar.set_postfix({name: f"{row[name]:.3g}" for name in ("loss", "r2", "zeros")})

    def _keep(self, iteration: int, asked: Asked) -> None:
        signum = self.world.most(asked.signum)
        last = iteration == self.config.iterations
        self.keeper.keep(iteration, now=last or bool(signum))
        if signum and self.keeper.path is not None:
            asked.signum = 0
            raise Stopped(signum, iteration, self.keeper.path)
