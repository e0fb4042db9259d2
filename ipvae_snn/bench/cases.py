"""The measurements: this package beside the floor of dense products and the plain reference."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn.bench import reference
from ipvae_snn.bench.timing import Work, all_seconds, interleaved, peak_bytes
from ipvae_snn.metrics.evaluation import evaluate
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.streaming import Stream
from ipvae_snn.neurons.poisson import CLAMP, STEP

RATE = -math.log1p(-0.15)
"""Spikes per neuron and timestep at which 15% of neurons are active, as in trained models."""


@dataclass(frozen=True)
class Shape:
    """Of a problem: pixels, latents, timesteps, batch, and spikes per neuron and timestep."""

    in_features: int = 256
    latents: int = 512
    steps: int = 16
    batch: int = 200
    rate: float = RATE


PATCHES = Shape()
MNIST = Shape(784, 512, 128, 100)
SMALL = Shape(256, 128, 16, 50)
HELD_OUT = Shape(256, 512, 1000, 500)


def make(shape: Shape, device: torch.device, precision: str = "float32") -> tuple[IPVAE, Tensor]:
    """A model whose rates stay at ``shape.rate``, and a batch for it."""
    clamp = CLAMP if shape.rate < 5 else 10.0  # above the membrane of that rate
    # A full leak: the soft clamp takes 0.007 nats per timestep, which would silence a long run.
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
    lateral, grad_spk, grad_gram = (torch.empty_like(t) for t in (spk, spk, gram))

    def work() -> None:
        for _ in range(shape.steps):
            torch.mm(spk, gram, out=lateral)
            if each == 3:
                torch.mm(spk, gram, out=grad_spk)
                torch.mm(spk.mT, grad_spk, out=grad_gram)

    return work


def training(shape: Shape, device: torch.device, repeats: int, precision: str) -> dict[str, Any]:
    """Loss and gradients of a batch: seconds, ratios, and bytes per (t, b, k)."""
    model, x = make(shape, device, precision)

    def gradients(loss: Callable[[], Tensor]) -> Work:
        def work() -> None:
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(loss())

        return work

    def ours(steps: int) -> Work:
        return gradients(lambda: model.loss(x, steps, beta=1.0))

    work = {
        "ours": ours(shape.steps),
        "floor": products(shape, device, 3),
        "plain": gradients(lambda: reference.gram_form(model, x, shape.steps, 1.0)),
        "published": gradients(lambda: reference.published_form(model, x, shape.steps, 1.0)),
    }
    row = _with_ratios(interleaved(work, device, repeats))
    once, twice = (peak_bytes(ours(n * shape.steps), device) for n in (1, 2))
    if precision != "float32":
        row["gradient_error"] = _gradient_error(model, x, shape.steps, precision)
    tbk = shape.steps * shape.batch * shape.latents
    return row | {
        "peak_bytes": once,
        "peak_bytes_per_tbk": once / tbk,
        "added_bytes_per_tbk": (twice - once) / tbk,
    }


def _gradient_error(model: IPVAE, x: Tensor, steps: int, precision: str) -> float:
    """Relative error of the decoder's gradient in a precision, for the same spikes."""
    gradients: list[Tensor] = []
    # Weights as large as learned ones, and a step size that is stable with them.
    nn.init.normal_(model.decoder.weight, std=0.05)
    nn.init.constant_(model.neuron.log_step, math.log(STEP))
    for model.precision in ("float32", precision):
        with model.seeded(0):
            loss = model.loss(x, steps, beta=1.0)
            gradients += torch.autograd.grad(loss, model.decoder.weight)
    return float((gradients[1] - gradients[0]).norm() / gradients[0].norm())


def inference(shape: Shape, device: torch.device, repeats: int, precision: str) -> dict[str, Any]:
    """Inference that records nothing: seconds per timestep, ratios, and bytes."""
    model, x = make(shape, device, precision)

    def ours(steps: int) -> Work:
        return torch.no_grad()(lambda: model.run(x, steps, record=()))

    work = {
        "ours": ours(shape.steps),
        "floor": products(shape, device, 1),
        "plain": torch.no_grad()(lambda: reference.gram_form(model, x, shape.steps, 1.0)),
    }
    seconds = interleaved(work, device, repeats)
    return _with_ratios({name: value / shape.steps for name, value in seconds.items()}) | {
        "peak_bytes": peak_bytes(ours(shape.steps), device),
        "peak_bytes_at_4_times_the_steps": peak_bytes(ours(4 * shape.steps), device),
    }


def streaming(shape: Shape, device: torch.device, repeats: int) -> dict[str, Any]:
    """One stimulus, a timestep per call: median and 99th percentile, beside a dense product."""
    model, x = make(shape, device)
    with torch.no_grad():
        spk = torch.rand(1, shape.latents, device=device)
        gram, out = model.neuron.gram(), torch.empty_like(spk)
    stream = Stream(model, seed=0)
    stream.push(x[0])
    spikes = []

    # One after the other: in turn, the product would push the stream's weights out of the cache.
    def seconds(work: Work, repeats: int) -> list[float]:
        return all_seconds({"": work}, device, repeats, warm_up=10)[""]

    ours = seconds(lambda: spikes.append(stream.push().spk), repeats)
    floor = seconds(lambda: torch.mm(spk, gram, out=out), max(repeats // 10, 10))
    medians = {"ours": statistics.median(ours), "floor": statistics.median(floor)}
    return {
        "ours": medians["ours"],
        "p99": ours[int(0.99 * repeats)],
        "floor": medians["floor"],
        "times_faster": medians["floor"] / medians["ours"],
        "active": float(torch.stack(spikes).count_nonzero() / len(spikes) / shape.latents),
    }


def calls(shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of the shortest calls: a run of one timestep, and pushes of a stream."""
    model, x = make(shape, device)
    stream = Stream(model, seed=0)
    stream.push(x[0])
    hundred = max(repeats // 20, 3)
    work: dict[str, tuple[Work, int]] = {
        "run": (torch.no_grad()(lambda: model.run(x, 1, record=())), repeats),
        "push": (stream.push, repeats),
        "push of a frame": (lambda: stream.push(x[0]), repeats),
        "push of 100 timesteps": (lambda: stream.push(num_steps=100), hundred),
    }
    # One after the other, as a program would call it.
    return {
        name: statistics.median(all_seconds({"": one}, device, count, warm_up=10)[""])
        for name, (one, count) in work.items()
    }


def evaluation(shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of :func:`~ipvae_snn.evaluate`, beside inference of the same samples alone."""
    model, x = make(shape, device)
    work: dict[str, Work] = {
        "ours": lambda: evaluate(model, x, shape.steps),
        "inference": torch.no_grad()(lambda: model.run(x, shape.steps, record=())),
    }
    seconds = interleaved(work, device, repeats, warm_up=1)
    return {**seconds, "to_inference": seconds["ours"] / seconds["inference"]}


def sweeps(quick: bool) -> Iterator[tuple[str, list[Shape]]]:
    """Shapes around the natural-patch one, one size varied at a time.

    Latents up to 8,192 with fewer timesteps and samples, since they take longest.
    """
    base = replace(PATCHES, batch=50) if quick else PATCHES
    values: dict[str, list[Any]] = {
        "steps": [4, 16] if quick else [4, 16, 64, 256],
        "batch": [1, 50] if quick else [1, 10, 50, 200, 800, 2000],
        "latents": [128, 512] if quick else [128, 256, 512, 1024, 2048, 4096, 8192],
        "rate": [0.05, 1.0] if quick else [0.01, 0.05, RATE, 0.5, 2.0, 10.0, 50.0],
    }
    for name, points in values.items():
        about = replace(base, batch=50, steps=4) if name == "latents" else base
        yield name, [replace(about, **{name: value}) for value in points]


def _with_ratios(seconds: dict[str, float]) -> dict[str, Any]:
    ours = seconds["ours"]
    ratios = {f"to_{name}": ours / value for name, value in seconds.items() if name != "ours"}
    return {**seconds, **ratios}
