"""The cost of inference on an event-driven chip: the operations that spikes cause."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.metrics.tally import Meter, Tally, holds_integers, total
from ipvae_snn.models.base import BaseModel
from ipvae_snn.neurons.lateral import NoLateral
from ipvae_snn.neurons.states import reset

COUNTS = ("spikes", "events", "synops", "macs", "updates", "dense")
TITLES = ("synapses", "spikes", "events", "synops", "MACs", "updates", "dense MACs")


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer per image: summed over timesteps, mean over samples."""

    layer: str
    synapses: float = 0.0
    """Connections; for neurons, the lateral or recurrent ones."""
    spikes: float = 0.0
    """Spikes that the layer sends; a count of 3 is three."""
    events: float = 0.0
    """Non-zero counts that it sends; a count of 3 is one, as on a chip with graded spikes."""
    synops: float = 0.0
    """Synaptic operations: spikes times fan-out; incoming spikes, for neurons their own."""
    macs: float = 0.0
    """Multiply-accumulates, where the input is not spikes."""
    updates: float = 0.0
    """Membrane updates."""
    dense: float = 0.0
    """MACs of the same layer computed densely, every synapse whether a spike comes or not."""


@dataclass(frozen=True)
class Synops:
    """The counts of :func:`synops`; ``print`` it for a table."""

    rows: tuple[LayerCost, ...]
    num_steps: int

    @property
    def per_image(self) -> LayerCost:
        """All layers together: summed over timesteps, mean over samples."""
        return LayerCost(
            "per image", **{n: sum(getattr(r, n) for r in self.rows) for n in ("synapses", *COUNTS)}
        )

    @property
    def per_timestep(self) -> LayerCost:
        """All layers together: mean over timesteps and samples."""
        summed = self.per_image
        means = {name: getattr(summed, name) / self.num_steps for name in COUNTS}
        return replace(summed, layer="per timestep", **means)

    @property
    def operations(self) -> float:
        """Synops and MACs per image."""
        return self.per_image.synops + self.per_image.macs

    @property
    def ratio(self) -> float:
        """Operations over the MACs of the same network computed densely; NaN without synapses."""
        dense = self.per_image.dense
        return self.operations / dense if dense else math.nan

    @property
    def one_pass(self) -> float:
        """MACs of the feed-forward layers computed densely once, as in a network without time.

        For an IPVAE M·K + K·M: an autoencoder with one layer each way.
        """
        return sum(row.synapses for row in self.rows if not row.updates)

    def table(self) -> str:
        """A row per layer and two for all layers, then the comparison with dense networks."""
        rows = (*self.rows, self.per_image, self.per_timestep)
        width = max(len(row.layer) for row in rows)
        lines = [" " * width + "".join(f"{title:>14}" for title in TITLES)]
        for row in rows:
            counts = (getattr(row, name) for name in ("synapses", *COUNTS))
            lines.append(f"{row.layer:<{width}}" + "".join(f"{_shown(c):>14}" for c in counts))
        lines.append(f"{_shown(self.operations)} synops and MACs per image are")
        lines.append(f"  {self.ratio:.3f} × the same network computed densely at every timestep")
        if self.one_pass:
            lines.append(
                f"  {self.operations / self.one_pass:.3f} × its feed-forward layers computed "
                f"densely once ({_shown(self.one_pass)} MACs)"
            )
        return "\n".join(lines)

    __str__ = table


def _shown(count: float) -> str:
    return "-" if not count else f"{count:,.{0 if count >= 100 else 1}f}"


def synops(
    network: nn.Module, x: Tensor, num_steps: int | None = None, *, seed: int | None = 0
) -> Synops:
    """Count what inference costs on an event-driven chip, layer by layer.

    A *synaptic operation* (synop) is one spike arriving at one synapse: a weight is added, without
    a multiplication. With fan-out F, spikes s and timesteps T,

        feed-forward   s_in · F   if all input is integers (spikes), otherwise
                       one MAC (multiply-accumulate) per synapse and timestep
        lateral        s · K      in an IPVAENeuron: a row of G, diagonal included, per spike
        read-out       s · M      in an IPVAE: Φz at every timestep
        membranes      K · T      updates

    A constant input is a current, not spikes: its drive is computed once, one MAC per synapse of
    the first layers. Input that changes costs synops (integers) or MACs (anything else) at every
    timestep. Every spike counts, also in the last timestep. On a chip with graded spikes a count
    of 3 is one operation per synapse; an IPVAE then costs events/spikes times the synops given
    here. Convolutions have fewer synapses at borders, and are counted so.

    Args:
        network: an :class:`~ipvae_snn.IPVAE`, or any module whose ``forward`` is one timestep and
            whose neurons hold their own states (``init_hidden=True``). Counted are ``nn.Linear``,
            ``nn.Conv1d`` to ``nn.Conv3d``, this package's and snnTorch's neurons and their
            recurrent synapses. It starts from its initial state, in ``eval()`` mode; its state and
            mode are restored afterwards.
        x: with ``num_steps`` shape (B, ...), shown at every timestep; without, (T, B, ...).
        num_steps: T.
        seed: of the spikes; an IPVAE draws those of ``run(x, num_steps, seed=seed)``.

    Memory grows with T · B · K for an IPVAE.

    Raises:
        TypeError: ``network`` has weights that cannot be counted, or is a baseline, which is
            neither an IPVAE nor a module whose ``forward`` is one timestep.
        ValueError: wrong shapes, NaN, or a network in which no known layer was called.

    Sources: the unit is Merolla et al. 2014 (TrueNorth) and Davies et al. 2018 (Loihi); counting
    it in hooks of the network is the idea of sinabs' ``SynOpCounter``.

    >>> from ipvae_snn import IPVAE
    >>> cost = synops(IPVAE(16, 8), torch.rand(4, 16), num_steps=10)
    >>> [row.layer for row in cost.rows], cost.rows[0].macs, cost.per_timestep.updates
    (['drive', 'neuron', 'decoder'], 128.0, 8.0)
    >>> cost.per_image.synops == cost.per_image.spikes * (8 + 16)
    True
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    require_float(x, "x")
    with torch.no_grad(), _restored(network):
        network.eval()
        if _is_spiking_model(network):
            return _count_model(network, x, num_steps, seed)
        return _count_network(network, x, num_steps, seed)


class SpikingModel(Protocol):
    """What is asked of a model: drive, one layer of neurons and decoder, all inside ``run``."""

    in_features: int
    latents: int
    neuron: Any
    """Has ``lateral_scale``: zero where the neurons have no lateral synapses."""

    def run(
        self, x: Tensor, num_steps: int | None, *, record: Sequence[str], seed: int | None
    ) -> Any:
        """A result whose ``spk`` are the counts, shape (T, B, K)."""


def _is_spiking_model(network: Any) -> TypeGuard[SpikingModel]:
    neuron = getattr(network, "neuron", None)
    members = ("run", "in_features", "latents")
    return hasattr(neuron, "lateral_scale") and all(hasattr(network, name) for name in members)


def _count_model(model: SpikingModel, x: Tensor, num_steps: int | None, seed: int | None) -> Synops:
    if isinstance(getattr(model.neuron, "lateral", None), NoLateral):
        raise TypeError(
            "the synapses of a decoder or likelihood of one's own "
            "cannot be counted: an IPVAE must have the linear decoder that its neurons share"
        )
    spk = model.run(x, num_steps, record=("spk",), seed=seed).spk
    num_steps, batch, _ = spk.shape
    pixels, neurons = model.in_features, model.latents
    fan_out = neurons if model.neuron.lateral_scale else 0
    drive = Tally("drive", synapses=pixels * neurons)
    neuron = Tally("neuron", synapses=neurons * fan_out)
    decoder = Tally("decoder", synapses=neurons * pixels)
    of_spikes = x.ndim == 3 and holds_integers(x)
    drive.receive(total(x) * neurons, x.numel() * neurons, of_spikes)
    neuron.receive(total(spk) * fan_out, spk.numel() * fan_out)
    decoder.receive(total(spk) * pixels, spk.numel() * pixels)
    neuron.send(spk)
    neuron.updates = spk.numel()
    tallies = [drive, neuron, decoder]
    if of_spikes:
        tallies.insert(0, Tally("input"))
        tallies[0].send(x)
    return Synops(tuple(_row(tally, batch) for tally in tallies), num_steps)


def _count_network(
    network: nn.Module, x: Tensor, num_steps: int | None, seed: int | None
) -> Synops:
    if getattr(network.forward, "__func__", None) in (nn.Module.forward, BaseModel.forward):
        raise TypeError(
            f"{type(network).__name__} cannot be counted: it has neither a layer of spiking "
            "neurons that it runs, as an IPVAE has, nor a forward that is one timestep"
        )
    constant = num_steps is not None
    if x.ndim < (2 if constant else 3) or not x.numel():
        raise ValueError(
            "x must have shape (B, ...) with num_steps, or (T, B, ...) without, and not be empty, "
            f"got {tuple(x.shape)}"
        )
    require_finite(x, "x")
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), x.dtype)
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x is {x.dtype}, the network {dtype}: convert one of them with .to(dtype)")
    frames = [x] * require_integer(num_steps, "num_steps") if constant else list(x)
    batch = len(frames[0])
    meter = Meter(network, batch, constant)
    reset(network)
    with _seeded_layers(network, seed, x.device), meter.attached():
        for frame in frames:
            meter.next_timestep()
            network(frame)
    if not meter.tallies:
        raise ValueError(
            "no layer of the network was called that could be counted: its forward must call "
            "nn.Linear, nn.Conv1d to nn.Conv3d or spiking neurons, one timestep per call"
        )
    tallies = list(meter.tallies.values())
    if not constant and holds_integers(x):
        tallies.insert(0, Tally("input"))
        tallies[0].send(x)
    return Synops(tuple(_row(tally, batch) for tally in tallies), len(frames))


def _row(tally: Tally, batch: int) -> LayerCost:
    return LayerCost(
        tally.layer,
        synapses=tally.synapses,
        spikes=tally.spikes / batch,
        events=tally.events / batch,
        synops=tally.arrived / batch if tally.of_spikes else 0.0,
        macs=0.0 if tally.of_spikes else tally.dense / batch,
        updates=tally.updates / batch,
        dense=tally.dense / batch,
    )


@contextmanager
def _seeded_layers(network: nn.Module, seed: int | None, device: torch.device) -> Iterator[None]:
    estimators = (getattr(module, "spike_grad", None) for module in network.modules())
    generators = dict.fromkeys(getattr(estimator, "generator", None) for estimator in estimators)
    with ExitStack() as stack:
        for number, generator in enumerate(filter(None, generators)):
            # With one seed for all, layers with their own generators would draw the same noise.
            layer_seed = None if seed is None else seed + 1 + number
            stack.enter_context(seeded(layer_seed, generator=generator))
        stack.enter_context(seeded(seed, device=device))
        yield


@contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    """Restore every attribute and buffer of every module, and so all states, on exit."""
    snapshot = [(m, {**vars(m), "_buffers": copy(m._buffers)}) for m in network.modules()]
    try:
        yield
    finally:
        for module, attributes in snapshot:
            module.__dict__ = attributes
