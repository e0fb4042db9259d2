"""What went wrong in a training, by name: NaN and infinity, and where they came from."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

ADVICE = "lower the learning rate or the model's clamp, or lengthen clamp_ramp"


class Diverged(FloatingPointError):
    """A training left the numbers behind; the model keeps the weights it had before."""

    def __init__(self, iteration: int, reason: str, kept: str = "") -> None:
        self.iteration, self.reason = iteration, reason
        super().__init__(f"training diverged at iteration {iteration}: {reason}; {ADVICE}{kept}")


def require_sound_weights(model: nn.Module) -> None:
    """Raise ``ValueError`` that names the first weight of ``model`` with NaN or infinity in it."""
    bad = _first_unsound(_weights(model))
    if bad:
        raise ValueError(f"the model is not fit to be trained: {bad}")


def unsound_weights(model: nn.Module) -> str:
    """The first weight with NaN or infinity in it, in words; empty if all are sound."""
    return _first_unsound(_weights(model))


def require_sound_step(iteration: int, model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Raise :class:`Diverged` unless the gradient is finite and so are ``values``, named."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    sums = [*values.values(), *(gradient.sum() for gradient in gradients.values())]
    if torch.isfinite(torch.stack(sums)).all():  # a GPU is waited for once
        return
    told = [f"{name} is {float(v):g}" for name, v in values.items() if not torch.isfinite(v)]
    named = ((f"the gradient of {name}", gradient) for name, gradient in gradients.items())
    told += filter(None, [_first_unsound(named)])
    if told:
        told += filter(None, [unsound_weights(model)])
        raise Diverged(iteration, ", ".join(told))


def _weights(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return model.state_dict().items()


def _first_unsound(tensors: Iterable[tuple[str, Tensor]]) -> str:
    for name, tensor in tensors:
        if torch.isfinite(tensor.sum()):  # quickly had; one NaN or infinity makes it so
            continue
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            return f"{name} holds {bad} NaN or infinite value(s) of {tensor.numel()}"
    return ""
