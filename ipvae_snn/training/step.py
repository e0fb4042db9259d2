"""One iteration: objective, gradient, step of the optimizer, and what is told of it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn import metrics
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import Diverged, require_sound_step, unsound_weights


class Step(NamedTuple):
    """What one iteration gave, of this process's share of the batch."""

    loss: Tensor
    nll: Tensor
    kl: Tensor
    spk: Tensor
    grad_norm: Tensor


class Objective(nn.Module):
    """The training objective as the forward pass of a module, which engines can wrap."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, config: TrainConfig, beta: float, numbers: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Loss, mean NLL and KL, and the last spikes, of x of shape (B, M)."""
        known: Any = {} if numbers is None else {"sample_seeds": numbers}
        out = self.model.run(x, config.steps, record=("nll", "kl"), **known)
        counted = torch.zeros_like(out.nll)
        counted[config.burn_in :] = config.steps / (config.steps - config.burn_in)
        loss = F.free_energy(counted * out.nll, out.kl, beta, self.model.in_features)
        return loss, out.nll.mean(), out.kl.mean(), out.state.spk


def train_step(
    model: BaseModel,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    config: TrainConfig,
    schedule: dict[str, float],
    iteration: int,
    numbers: Tensor | None,
    weight: float,
) -> Step:
    """One step of the optimizer.

    Args:
        model: whose weights are to change.
        objective: an :class:`Objective` of it, or what an engine made of that.
        x: this process's share of the batch, (B, M).
        iteration: counted from 1, for messages.
        numbers: rows of x in the whole batch, where draws know them by number.
        weight: of this share's loss in the mean over processes.

    Raises:
        Diverged: the next weights would not be finite; the weights stay as they were.
    """
    try:
        loss, nll, kl, spk = objective(x, config, schedule["beta"], numbers)
    except ValueError as error:  # x was found sound before: the weights no longer are
        reason = unsound_weights(model) or str(error)
        raise Diverged(iteration, reason) from error
    optimizer.zero_grad(set_to_none=True)
    (loss * weight if weight != 1 else loss).backward()
    loss, nll, kl, spk = (part.detach() for part in (loss, nll, kl, spk))
    require_sound_step(iteration, model, {"the loss": loss, "its NLL": nll, "its KL": kl})
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule["grad_clip"])
    if not torch.isfinite(norm):
        raise Diverged(iteration, f"the norm of the gradient is {float(norm):g}")
    optimizer.step()
    return Step(loss, nll, kl, spk, norm)


def history_row(
    model: BaseModel, x: Tensor, step: Step, world: ProcessGroup, batch: int
) -> dict[str, float]:
    """The numbers of a step, of all processes together."""
    with torch.no_grad():
        r2 = metrics.r2(x, model.decode(step.spk))
    means = {
        "loss": step.loss, "nll": step.nll, "kl": step.kl, "r2": r2,
        "zeros": metrics.zeros(step.spk),
    }  # fmt: skip
    row = {"grad_norm": float(step.grad_norm)}
    if world.joined:
        shared = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in means.values()])
        found = (world.sum(shared * len(x)) / batch).tolist()
        return dict(zip(means, found, strict=True)) | row
    return {name: float(value) for name, value in means.items()} | row
