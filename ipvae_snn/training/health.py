"""Detection of NaN and infinity in weights, loss and gradients."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import describe_nonfinite

ADVICE = "lower the learning rate or the model's clamp, or lengthen clamp_ramp"


class Diverged(FloatingPointError):
    """Loss, gradient or weights are NaN or infinite; the model keeps its last finite weights.

    Attributes:
        iteration: where, counted from 1.
        reason: which values are not finite.
    """

    def __init__(self, iteration: int, reason: str, checkpoint_note: str = "") -> None:
        self.iteration, self.reason = iteration, reason
        super().__init__(
            f"training diverged at iteration {iteration}: {reason}; {ADVICE}{checkpoint_note}"
        )


def require_finite_weights(model: nn.Module) -> None:
    """Raise ``ValueError`` that names the first weight of ``model`` with NaN or infinity in it."""
    problem = nonfinite_weights(model)
    if problem:
        raise ValueError(f"the model cannot be trained: {problem}")


def nonfinite_weights(model: nn.Module) -> str:
    """The first weight with NaN or infinity in it, in words; empty if all are finite."""
    return _first_nonfinite(model.state_dict().items())


def require_finite_step(iteration: int, model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Raise :class:`Diverged` unless ``values``, by name, and all gradients are finite."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    sums = [*values.values(), *(gradient.sum() for gradient in gradients.values())]
    if torch.isfinite(torch.stack(sums)).all():  # one host synchronisation for all of them
        return
    problems = [f"{name} is {float(v):g}" for name, v in values.items() if not torch.isfinite(v)]
    problems += filter(
        None, [_first_nonfinite((f"the gradient of {name}", g) for name, g in gradients.items())]
    )
    if problems:
        problems += filter(None, [nonfinite_weights(model)])
        raise Diverged(iteration, ", ".join(problems))


def _first_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    problems = (describe_nonfinite(tensor, name) for name, tensor in tensors)
    return next(filter(None, problems), "")
