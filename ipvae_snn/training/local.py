"""The local rule as an objective of training: what inference settled on teaches."""

from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn.models.local_rule import local_loss
from ipvae_snn.models.residual import seen
from ipvae_snn.models.run_output import RECORDABLE
from ipvae_snn.training.config import TrainConfig

WINDOW = 8
"""Last timesteps whose rates teach, at most: memory does not grow with T."""


class LocalObjective(nn.Module):
    """What learns by :mod:`ipvae_snn.models.local_rule`, in place of ``step.Objective``.

    Args:
        model: an IPVAE or a ConvIPVAE.
        config: the recipe.
        row_ids: numbers of this rank's rows in the whole batch, if its draws depend on them.
        moment: of the rule, averaged over ranks with the gradients; ``None`` for a decoder or a
            likelihood of one's own.
    """

    def __init__(
        self, model: Any, config: TrainConfig, row_ids: Tensor | None, moment: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.model, self.config, self.moment = model, config, moment
        self.options: Any = {} if row_ids is None else {"sample_seeds": row_ids}
        self.options |= {"mask": "nan"} if config.missing else {}

    def forward(self, x: Tensor, beta: float) -> tuple[Tensor, ...]:
        """Loss, mean NLL, mean KL and the last spikes, as of back-propagation; β has no part."""
        model, config = self.model, self.config
        window = min(config.steps - config.burn_in, WINDOW)
        with torch.no_grad():
            state = None
            if config.steps > window:
                state = model.run(x, config.steps - window, record=(), **self.options).state
            fields = ("mem", "nll", "kl") if self.moment is not None else RECORDABLE
            out = model.run(x, window, record=fields, state=state, **self.options)
        precision = x.new_ones(1, *x.shape[1:])
        if config.missing:
            x, precision = seen(x, "nan", x.ndim - 1, model.like)
        rate = out.mem.exp()
        if self.moment is None:
            shown = precision > 0 if config.missing else None
            loss = model.settled_loss(x, out.spk, rate, shown, config.target_rate)
        else:
            loss = local_loss(model, x, rate, precision, self.moment, config.target_rate)
        # Ranks wait for a gradient of every parameter.
        idle = sum(0.0 * p.sum() for p in model.parameters() if p.requires_grad)
        return loss + idle, out.nll.mean(), out.kl.mean(), out.state.spk
