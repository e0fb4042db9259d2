"""Sources of spikes for the fidelity report: models, networks, graphs."""

import copy
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.modes import eval_mode
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.export.constants import require_linear_gaussian
from ipvae_snn.export.graphs.files import read
from ipvae_snn.export.graphs.graph_fragment import nir_module, require_graph, said
from ipvae_snn.export.graphs.network import GraphNetwork, flattened, reset_of
from ipvae_snn.export.graphs.timestep import timestep_of
from ipvae_snn.models.base import Model
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.neurons.states import reset as reset_states
from ipvae_snn.surrogate import rounded


@runtime_checkable
class Source(Protocol):
    """A model, or an exported form of one.

    Attributes:
        label: short name in tables.
        notes: what was approximated, one sentence each.
    """

    label: str
    notes: tuple[str, ...]

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep, float32, for inputs x (B, ...) from rest."""
        ...

    def decode(self, spk: Tensor) -> Tensor | None:
        """Reconstruction (B, M) of counts (B, K); ``None`` if there is no decoder."""
        ...


class ModelSource:
    """The model itself, with its draws.

    Args:
        model: an :class:`~ipvae_snn.IPVAE` or a baseline.
        label: short name in tables.
        chunk: timesteps per call of ``model.run``.
    """

    def __init__(self, model: Any, label: str = "stochastic original", chunk: int = 16) -> None:
        self.model, self.label, self.chunk = model, label, chunk
        self.notes: tuple[str, ...] = ()
        self._size: tuple[int, ...] = ()

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        model, state = self.model, None
        self._size = tuple(x.shape[2:])  # of images, whose codes are maps
        x = x.to(next(model.parameters()))
        spikes: list[Tensor] = []
        with eval_mode(model), torch.no_grad(), model.seeded(seed):
            for start in range(0, num_steps, self.chunk):
                steps = min(self.chunk, num_steps - start)
                out = model.run(x, steps, record=("spk",), state=state)
                state = out.state
                spikes += out.spk.cpu().float().flatten(2)
        yield from spikes  # only now: a suspended generator must not hold the seeded block

    def decode(self, spk: Tensor) -> Tensor:
        spk = spk.to(next(self.model.parameters()))
        if isinstance(self.model, ConvIPVAE):
            spk = spk.unflatten(1, self.model.code_shape(self._size))
        with torch.no_grad():
            x_hat: Tensor = self.model.decode(spk)
        return x_hat.cpu().float().flatten(1)


def rounded_source(model: Any) -> ModelSource:
    """A copy of an :class:`~ipvae_snn.IPVAE` that emits z = round(e^u) in place of a draw."""
    if not isinstance(model, ConvIPVAE):
        require_linear_gaussian(model)
    model = copy.deepcopy(model)
    model.neuron.spike_grad = rounded()
    return ModelSource(model, "float, rounded")


class NetworkSource:
    """A network of snnTorch's neurons and IPVAENeurons; one call is one timestep."""

    def __init__(self, network: nn.Module, label: str = "original network") -> None:
        self.network, self.label = network, label
        self.notes: tuple[str, ...] = ()

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        emitted: list[Tensor] = []
        handles = [
            module.register_forward_hook(
                lambda _, __, out: emitted.append(out if isinstance(out, Tensor) else out[0])
            )
            for module in self.network.modules()
            if isinstance(module, SpikingNeuron)
        ]
        training, spikes = self.network.training, []
        x = x.to(next(self.network.parameters(), x))
        try:
            self.network.eval()
            reset_states(self.network)
            with torch.no_grad(), seeded(seed, device=x.device):
                for _ in range(num_steps):
                    emitted.clear()
                    self.network(x)
                    spikes.append(torch.cat([spk.flatten(1) for spk in emitted], dim=1).float())
        finally:
            for handle in handles:
                handle.remove()
            reset_states(self.network)
            self.network.train(training)
        yield from spikes

    def decode(self, spk: Tensor) -> None:
        return None


class GraphSource:
    """A NIR graph, run by :class:`~ipvae_snn.export.GraphNetwork`.

    Args:
        graph: a ``nir.NIRGraph``.
        reset: of its neurons; default what the graph was exported for.
        label: short name in tables.
        dt: a timestep in the graph's unit of time, see :class:`~ipvae_snn.export.GraphNetwork`.
    """

    def __init__(
        self,
        graph: Any,
        reset: str | None = None,
        label: str | None = None,
        *,
        dt: float | None = None,
    ) -> None:
        require_graph(graph)
        self.dt = timestep_of(graph, flattened(graph)[0], dt)
        form = said(graph, "form") or "foreign"
        self.reset = reset or reset_of(graph)
        default = f"{form} graph" + ("" if form == "exact" else f", {self.reset} reset")
        self.graph, self.label = graph, label or default
        self.notes: tuple[str, ...] = tuple(str(graph.metadata.get("notes", "")).splitlines())
        self._weight, self._cells = _readout(graph), graph.metadata.get("cells")

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        network = GraphNetwork(self.graph, self.reset, dt=self.dt)
        for spk, _ in network.unroll(x.cpu().float(), num_steps, seed):
            yield spk

    def decode(self, spk: Tensor) -> Tensor | None:
        if self._weight is None:
            return None
        weight, places = self._weight
        if places is not None:
            if self._cells is None or spk.shape[1] != weight.shape[1] * prod(places):
                return None
            cells = torch.conv2d(spk.unflatten(1, (-1, *places)), weight)
            return torch.pixel_shuffle(cells, int(self._cells)).flatten(1)
        return spk @ weight.mT if spk.shape[1] == weight.shape[1] else None


def as_source(item: Any) -> Source:
    """The source of a model, a network, a graph or its file; a :class:`Source` is returned as is.

    Raises:
        TypeError: something else.
    """
    if isinstance(item, Model):
        return ModelSource(item)
    if isinstance(item, (str, Path)):
        item = read(item)
    if isinstance(item, Source):
        return item
    if isinstance(item, nn.Module):
        return NetworkSource(item)
    if isinstance(item, nir_module().NIRGraph):
        return GraphSource(item)
    raise TypeError(
        "expected an IPVAE, a network, a nir.NIRGraph or a file of one, or what to_fixed_point or "
        f"to_xylo returned; got {type(item).__name__}"
    )


def _readout(graph: Any) -> tuple[Tensor, tuple[int, ...] | None] | None:
    """The weights of the last layer, if it is linear and without bias; and the sides of the map it
    takes, if it is a convolution.
    """
    nodes, edges = flattened(graph)
    kinds = {name: type(node).__name__ for name, node in nodes.items()}
    last = [nodes[a] for a, b in edges if kinds.get(b) == "Output"]
    kind = type(last[0]).__name__ if len(last) == 1 else ""
    if kind not in ("Affine", "Linear", "Conv2d"):
        return None
    if getattr(last[0], "bias", None) is not None and last[0].bias.any():
        return None
    places = tuple(int(n) for n in last[0].input_shape) if kind == "Conv2d" else None
    return torch.from_numpy(last[0].weight.astype("float32")), places
