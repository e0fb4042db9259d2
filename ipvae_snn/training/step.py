"""One training iteration: loss, gradient, optimizer step, and its row of the history."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn import metrics
from ipvae_snn._utils.checks import NotFinite
from ipvae_snn.models.base import BaseModel
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import Diverged, nonfinite_weights, require_finite_step


class Step(NamedTuple):
    """Results of one iteration on this rank's share of the batch, detached."""

    loss: Tensor
    nll: Tensor
    kl: Tensor
    spk: Tensor
    grad_norm: Tensor


class Objective(nn.Module):
    """The training objective as a module, which ``DistributedDataParallel`` can wrap.

    Args:
        model: the model to train.
        config: the recipe, for ``steps`` and ``burn_in``.
        row_ids: numbers of this rank's rows in the whole batch, if its draws depend on them.
    """

    def __init__(self, model: BaseModel, config: TrainConfig, row_ids: Tensor | None) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.options: Any = {} if row_ids is None else {"sample_seeds": row_ids}
        self.options |= {"mask": "nan"} if config.missing else {}

    def forward(self, x: Tensor, beta: float) -> tuple[Tensor, ...]:
        """Loss, mean NLL, mean KL and the last spikes, for x of shape (B, M)."""
        steps, burn_in = self.config.steps, self.config.burn_in
        out = self.model.run(x, steps, record=("nll", "kl"), **self.options)
        weight = torch.zeros_like(out.nll)
        weight[burn_in:] = steps / (steps - burn_in)
        loss = F.free_energy(weight * out.nll, out.kl, beta, self.model.size_of(x))
        return loss, out.nll.mean(), out.kl.mean(), out.state.spk


def train_step(
    model: BaseModel,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    schedule: dict[str, float],
    *,
    iteration: int,
    weight: float,
) -> Step:
    """Compute loss and gradient, and update the weights.

    Args:
        model: the model to train.
        objective: its :class:`Objective`, possibly wrapped.
        optimizer: of its parameters.
        x: this rank's share of the batch, (B, M).
        schedule: ``beta`` and ``grad_clip``.
        iteration: counted from 1, for messages.
        weight: factor on the loss, so that the mean over ranks is the mean over the batch.

    Raises:
        Diverged: loss or gradient are not finite; the weights are unchanged.
    """
    try:
        loss, nll, kl, spk = objective(x, schedule["beta"])
    except NotFinite as error:  # x was checked before, so the weights are the cause
        raise Diverged(iteration, nonfinite_weights(model) or str(error)) from error
    optimizer.zero_grad(set_to_none=True)
    (loss * weight if weight != 1 else loss).backward()
    loss, nll, kl, spk = (result.detach() for result in (loss, nll, kl, spk))
    require_finite_step(iteration, model, {"the loss": loss, "its NLL": nll, "its KL": kl})
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule["grad_clip"])
    if not torch.isfinite(norm):
        raise Diverged(iteration, f"the norm of the gradient is {float(norm):g}")
    optimizer.step()
    return Step(loss, nll, kl, spk, norm)


def history_row(
    model: BaseModel, x: Tensor, step: Step, group: ProcessGroup, batch: int, missing: bool
) -> dict[str, float]:
    """Means of a step over the whole batch, for the history."""
    with torch.no_grad():
        means = {
            "loss": step.loss,
            "nll": step.nll,
            "kl": step.kl,
            "r2": r2_of_spikes(model, x, step.spk, missing),
            "zeros": metrics.zeros(step.spk),
        }
    row = {name: float(value) for name, value in means.items()}
    if group.initialized:
        values = torch.tensor(list(row.values()), dtype=torch.float64)
        totals = (group.sum(values * len(x)) / batch).tolist()
        row = dict(zip(row, totals, strict=True))
    return {**row, "grad_norm": float(step.grad_norm)}


def r2_of_spikes(model: BaseModel, x: Tensor, spk: Tensor, missing: bool) -> Tensor:
    """R² of the reconstruction of x, over what is not NaN where values are ``missing``."""
    shown, x_hat = x.flatten(1), model.reconstruct(spk, x).flatten(1)
    return metrics.r2(shown, x_hat, ~shown.isnan() if missing else None)
