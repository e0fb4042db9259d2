"""The models that have no fused kernels, beside their decoders alone."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn.bench.timing import Work, interleaved
from ipvae_snn.kernels import convolution
from ipvae_snn.models import IPVAE, Bernoulli, ConvIPVAE, DeepIPVAE, NetworkDecoder

RATE = 0.15


class Case(NamedTuple):
    """A model, its input, timesteps, and the passes of its decoder that it cannot do without."""

    model: Any
    x: Tensor
    steps: int
    passes: Callable[..., None]


def cases(quick: bool) -> dict[str, Callable[[torch.device], Case]]:
    """Makers by name."""
    latents, side, batch, steps = (32, 32, 4, 4) if quick else (512, 64, 50, 16)

    def network(device: torch.device) -> Case:
        parts: Any = {"decoder": NetworkDecoder(latents, 784, [latents]), "likelihood": Bernoulli()}
        model = IPVAE(784, latents, step=0.1, **parts)
        return _case(model, torch.rand(batch, 784), steps, device)

    def layers(device: torch.device) -> Case:
        model = DeepIPVAE(256, [latents, latents // 8], step=0.01)
        return _case(model, torch.randn(batch, 256), steps, device)

    def convolutional(device: torch.device) -> Case:
        model = ConvIPVAE(1, latents // 8, 16, 4, step=1e-3)
        return _case(model, torch.randn(4, 1, side, side), steps, device)

    return {"MLP, Bernoulli": network, "two layers": layers, "convolutional": convolutional}


def _case(model: Any, x: Tensor, steps: int, device: torch.device) -> Case:
    """With membranes at which ``RATE`` of the neurons spike."""
    model, x = model.to(device), x.to(device)
    with torch.no_grad():
        for neuron in getattr(model, "neurons", [getattr(model, "neuron", None)]):
            neuron.mem_init.fill_(torch.tensor(RATE).log())
    passes = convolutions if isinstance(model, ConvIPVAE) else decoder_passes
    return Case(model, x, steps, partial(passes, model, x, steps))


def decoder_passes(model: Any, x: Tensor, steps: int, *, weights: bool) -> None:
    """The decoder forward and backward, to the code or also to its weights."""
    code = torch.full((len(x), model.latents), RATE, device=x.device).round()
    for _ in range(steps):
        z = code.clone().requires_grad_()
        out = model.decode(z).sum()
        if isinstance(model, DeepIPVAE):
            out = out + model.predicted(z).sum()
        if weights:
            torch.autograd.backward(out)
        else:
            torch.autograd.grad(out, z)


def convolutions(model: ConvIPVAE, x: Tensor, steps: int, *, weights: bool) -> None:
    """Two of each timestep forward, with gradients of the weights four backward."""
    rows, columns = model.stride
    weight = convolution.to_cells(model._features().detach(), (rows, columns))
    dictionary = convolution.Dictionary(weight, None)
    cells = convolution.to_cells(x, (rows, columns))
    current = dictionary.project(cells)
    for _ in range(steps):
        cells = dictionary.decode(current)
        dictionary.project(cells)
        if weights:
            dictionary.project(cells)
            dictionary.decode(current)
            dictionary.add_gradient(cells, current)
            dictionary.add_gradient(cells, current)


def timed(make: Callable[[torch.device], Case], where: torch.device, repeats: int) -> Any:
    """Seconds of a training step and of inference, and ratios to as many passes of the decoder.

    The floor of training is ``steps`` passes of the decoder, forward and backward, that of
    inference the same without gradients of the weights; of the convolutional model they are those
    of its convolutions.
    """
    case = make(where)
    model: nn.Module = case.model
    works: dict[str, Work] = {
        "training": _training(case), "training floor": partial(case.passes, weights=True),
        "inference": _inference(case), "inference floor": partial(case.passes, weights=False),
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
