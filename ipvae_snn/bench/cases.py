"""What is measured: work of the package beside its dense-product floor and the plain reference."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn.bench import reference
from ipvae_snn.bench.clock import Work, interleaved, one_by_one, peak_bytes
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.streaming import Stream
from ipvae_snn.neurons.poisson import CLAMP, STEP

RATE = -math.log1p(-0.15)
"""Expected spikes per neuron and timestep: 15% of neurons active, as in trained models."""


@dataclass(frozen=True)
class Shape:
    """Of a problem: pixels, latents, timesteps, batch, and spikes per neuron and timestep."""

    in_features: int = 256
    latents: int = 512
    steps: int = 16
    batch: int = 200
    rate: float = RATE

    def __str__(self) -> str:
        return f"M {self.in_features}, K {self.latents}, T {self.steps}, B {self.batch}"


PATCHES = Shape()
MNIST = Shape(784, 512, 128, 100)


def make(shape: Shape, device: torch.device, precision: str = "float32") -> tuple[IPVAE, Tensor]:
    """A model whose rates stay where ``shape.rate`` puts them, and a batch for it."""
    clamp = CLAMP if shape.rate < 5 else 10.0  # room for the rate
    # A full leak: the soft clamps take 0.007 nats a timestep, which would silence a long run.
    model = IPVAE(
        shape.in_features, shape.latents, init_std=1e-3, clamp=clamp, leak=1.0, step=1.0
    ).to(device)
    model.precision = precision
    with torch.no_grad():
        model.neuron.mem_init.fill_(math.log(shape.rate))
        model.neuron.log_bias.fill_(-8.0)
    return model, torch.randn(shape.batch, shape.in_features, device=device)


def products(shape: Shape, device: torch.device, each: int) -> Work:
    """The floor: ``each`` dense products per timestep, 1 for inference and 3 for training."""
    spk = torch.rand(shape.batch, shape.latents, device=device)
    gram = torch.rand(shape.latents, shape.latents, device=device)
    there, back, grad = torch.empty_like(spk), torch.empty_like(spk), torch.empty_like(gram)

    def work() -> None:
        for _ in range(shape.steps):
            torch.mm(spk, gram, out=there)
            if each == 3:
                torch.mm(spk, gram, out=back)
                torch.mm(spk.mT, back, out=grad)

    return work


def training(shape: Shape, device: torch.device, repeats: int, precision: str) -> dict[str, Any]:
    """A training step, loss and gradients: seconds, ratios, and bytes per (t, b, k)."""
    model, x = make(shape, device, precision)

    def step(loss: Callable[[], Tensor]) -> Work:
        def work() -> None:
            model.zero_grad(set_to_none=True)
            loss().backward()

        return work

    ours = step(lambda: model.loss(x, shape.steps, beta=1.0))
    work = {
        "ours": ours,
        "floor": products(shape, device, 3),
        "plain": step(lambda: reference.gram_form(model, x, shape.steps, 1.0)),
        "published": step(lambda: reference.published_form(model, x, shape.steps, 1.0)),
    }
    taken = _ratios(interleaved(work, device, repeats))
    once, twice = (
        peak_bytes(step(lambda s=s: model.loss(x, s, beta=1.0)), device)  # type: ignore[misc]
        for s in (shape.steps, 2 * shape.steps)
    )
    if precision != "float32":
        taken["gradient_error"] = _gradient_error(model, x, shape.steps, precision)
    per_step = shape.steps * shape.batch * shape.latents
    return taken | {
        "peak_bytes": once,
        "peak_bytes_per_tbk": once / per_step,
        "added_bytes_per_tbk": (twice - once) / per_step,
    }


def _gradient_error(model: IPVAE, x: Tensor, steps: int, precision: str) -> float:
    """Relative error that a precision makes in the gradient of the decoder, spikes being equal."""
    found = []
    # Weights as large as learned ones, and a step that is stable with them.
    nn.init.normal_(model.decoder.weight, std=0.05)
    nn.init.constant_(model.neuron.log_step, math.log(STEP))
    for model.precision in ("float32", precision):
        model.zero_grad(set_to_none=True)
        with model.seeded(0):
            model.loss(x, steps, beta=1.0).backward()
        gradient = model.decoder.weight.grad
        assert gradient is not None
        found.append(gradient)
    return float((found[1] - found[0]).norm() / found[0].norm())


def inference(shape: Shape, device: torch.device, repeats: int, precision: str) -> dict[str, Any]:
    """Inference with nothing recorded: seconds per timestep, ratios, and bytes."""
    model, x = make(shape, device, precision)

    def run(steps: int) -> Work:
        def work() -> None:
            with torch.no_grad():
                model.run(x, steps, record=())

        return work

    def plain() -> None:
        with torch.no_grad():
            reference.gram_form(model, x, shape.steps, 1.0)

    work = {
        "ours": run(shape.steps),
        "floor": products(shape, device, 1),
        "plain": plain,
    }
    taken = interleaved(work, device, repeats)
    return _ratios({name: seconds / shape.steps for name, seconds in taken.items()}) | {
        "peak_bytes": peak_bytes(run(shape.steps), device),
        "peak_bytes_at_4_times_the_steps": peak_bytes(run(4 * shape.steps), device),
    }


def streaming(shape: Shape, device: torch.device, repeats: int) -> dict[str, Any]:
    """One stimulus, a timestep at a time: median and 99th percentile, beside a dense product."""
    model, x = make(shape, device)
    with torch.no_grad():
        spk = torch.rand(1, shape.latents, device=device)
        gram, out = model.neuron.gram(), torch.empty_like(spk)
    stream = Stream(model, seed=0)
    stream.push(x[0])
    spikes = []

    def ours() -> None:
        spikes.append(stream.push().spk)

    seconds = one_by_one(ours, device, repeats)
    dense = one_by_one(lambda: torch.mm(spk, gram, out=out), device, max(repeats // 10, 10))
    middle, floor = seconds[len(seconds) // 2], dense[len(dense) // 2]
    return {
        "ours": middle,
        "p99": seconds[int(0.99 * len(seconds))],
        "floor": floor,
        "times_faster": floor / middle,
        "active": float(torch.stack(spikes).count_nonzero() / len(spikes) / shape.latents),
    }


def sweeps(quick: bool) -> Iterator[tuple[str, list[Shape]]]:
    """Shapes around the natural-patch one, one side varied at a time."""
    small = replace(PATCHES, batch=50) if quick else PATCHES
    values: dict[str, list[Any]] = {
        "steps": [4, 16] if quick else [4, 16, 64, 256],
        "batch": [1, 50] if quick else [1, 10, 50, 200, 800],
        "latents": [128, 512] if quick else [128, 256, 512, 1024, 2048],
        "rate": [0.05, 1.0] if quick else [0.01, 0.05, RATE, 0.5, 2.0, 10.0, 50.0],
    }
    for name, points in values.items():
        yield name, [replace(small, **{name: value}) for value in points]


def _ratios(seconds: dict[str, float]) -> dict[str, Any]:
    ours = seconds["ours"]
    against = {f"to_{name}": ours / value for name, value in seconds.items() if name != "ours"}
    return {**seconds, **against}
