"""The models that have no fused kernels, beside their decoders alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn.bench.timing import Work, interleaved
from ipvae_snn.models import IPVAE, Bernoulli, ConvIPVAE, DeepIPVAE, NetworkDecoder

RATE = 0.15


class Case(NamedTuple):
    """A model, its input, timesteps, and what its decoder makes of a code."""

    model: Any
    x: Tensor
    steps: int
    code: Tensor
    decode: Callable[[Tensor], Tensor]


def cases(quick: bool) -> dict[str, Callable[[torch.device], Case]]:
    """Makers by name."""
    latents, side, batch, steps = (32, 32, 4, 4) if quick else (512, 64, 50, 16)

    def network(device: torch.device) -> Case:
        parts: Any = {"decoder": NetworkDecoder(latents, 784, [latents]), "likelihood": Bernoulli()}
        model = IPVAE(784, latents, step=0.1, **parts)
        return _case(model, torch.rand(batch, 784), steps, (batch, latents), device)

    def layers(device: torch.device) -> Case:
        sizes = [latents, latents // 8]
        model = DeepIPVAE(256, sizes, step=0.01)
        return _case(model, torch.randn(batch, 256), steps, (batch, sum(sizes)), device)

    def convolutional(device: torch.device) -> Case:
        model = ConvIPVAE(1, latents // 8, 16, 4, step=1e-3)
        x = torch.randn(4, 1, side, side)
        return _case(model, x, steps, (4, latents // 8, *model.code_shape((side, side))), device)

    return {"MLP, Bernoulli": network, "two layers": layers, "convolutional": convolutional}


def _case(model: Any, x: Tensor, steps: int, shape: Any, device: torch.device) -> Case:
    """With membranes at which ``RATE`` of the neurons spike."""
    model.to(device)
    with torch.no_grad():
        for neuron in getattr(model, "neurons", [getattr(model, "neuron", None)]):
            neuron.mem_init.fill_(torch.tensor(RATE).log())
    code = torch.poisson(torch.full(shape, RATE)).to(device)

    def decode(z: Tensor) -> Tensor:
        total: Tensor = model.reconstruct(z, x).sum()
        return total + model.predicted(z).sum() if isinstance(model, DeepIPVAE) else total

    return Case(model, x.to(device), steps, code, decode)


def timed(make: Callable[[torch.device], Case], where: torch.device, repeats: int) -> Any:
    """Seconds of a training step and of inference, and ratios to as many passes of the decoder.

    The floor of training is ``steps`` passes of the decoder, forward and backward; that of
    inference the same without gradients of the weights.
    """
    case = make(where)
    model: nn.Module = case.model
    works = {
        "training": _training(case), "training floor": _passes(case, weights=True),
        "inference": _inference(case), "inference floor": _passes(case, weights=False),
    }  # fmt: skip
    model.train()
    seconds = interleaved(works, where, repeats)
    return {
        kind: {
            "ours": seconds[kind], "floor": seconds[f"{kind} floor"],
            "to_floor": seconds[kind] / seconds[f"{kind} floor"],
        }
        for kind in ("training", "inference")
    }  # fmt: skip


def _training(case: Case) -> Work:
    def work() -> None:
        case.model.zero_grad(set_to_none=True)
        torch.autograd.backward(case.model.loss(case.x, case.steps))

    return work


def _inference(case: Case) -> Work:
    return lambda: case.model.run(case.x, case.steps, record=(), graph=False)


def _passes(case: Case, *, weights: bool) -> Work:
    def work() -> None:
        for _ in range(case.steps):
            z = case.code.clone().requires_grad_()
            out = case.decode(z)
            if weights:
                torch.autograd.backward(out)
            else:
                torch.autograd.grad(out, z)

    return work
