"""Exported graphs, run by other people's simulators."""

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.export.graphs.network import flattened
from ipvae_snn.export.graphs.pieces import require_graph
from ipvae_snn.export.graphs.reading import SPIKING
from ipvae_snn.export.sources import GraphSource
from ipvae_snn.export.xylo.network import XyloNetwork

ENDS = ("Input", "Output")


class InNorse(GraphSource):
    """A graph as norse imports and runs it: zero reset, one spike per timestep.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for zero reset.

    Raises:
        ImportError: norse is not installed; the message names the extra ``toolchains``.
        ValueError: a node that norse does not import.

    >>> export.report(export.in_norse(graph), model, x)  # doctest: +SKIP
    """

    tool, reset_name = "norse", "zero"
    known: tuple[str, ...] = (
        "Affine", "Linear", "Conv2d", "Flatten", "SumPool2d", "IF", "LIF", "CubaLIF",
    )  # fmt: skip
    runs = "Linear, Conv2d, Flatten, AvgPool2d, snn.Leaky, Synaptic, RLeaky and IPVAENeuron"

    def __init__(self, graph: Any) -> None:
        require_graph(graph)
        self._module = self._import()
        self._require_known(graph)
        form = graph.metadata.get("form", "foreign")
        super().__init__(graph, self.reset_name, f"{form}, in {self.tool}")
        if graph.metadata.get("reset") not in (None, self.reset_name):
            self.notes = (
                *self.notes,
                f"{self.tool} resets by {self.reset_name}, the graph was made for "
                f"{graph.metadata['reset']}",
            )

    def _require_known(self, graph: Any) -> None:
        kinds = {name: type(node).__name__ for name, node in flattened(graph)[0].items()}
        foreign = [f"{n} ({k})" for n, k in kinds.items() if k not in (*self.known, *ENDS)]
        if foreign:
            raise ValueError(
                f"{self.tool} does not import {', '.join(foreign[:3])}: it runs {self.runs}, "
                "exported with form='portable'"
            )

    def _import(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return require_extra("norse.torch", extra="toolchains")

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self.graph, dt=1.0)

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        for spk, _ in self.steps(x, num_steps):
            yield spk

    def steps(self, x: Tensor, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Spike counts (B, K) and output (B, ...) of each timestep, from rest."""
        names = [
            n for n, node in flattened(self.graph)[0].items() if type(node).__name__ in SPIKING
        ]
        # Their layers draw weights before they get those of the graph.
        with warnings.catch_warnings(), torch.no_grad(), seeded(0):
            warnings.simplefilter("ignore")
            network, state = self._load(len(x)), None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            for _ in range(num_steps):
                out, state = network(x.cpu().float(), state)
                spikes = [_cached(state, name) for name in names]
                yield torch.cat([spk.flatten(1) for spk in spikes], dim=1), out


class InSinabs(InNorse):
    """A graph as sinabs imports and runs it: subtract reset, integer spikes.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for subtract reset.

    Raises:
        ImportError: sinabs is not installed; the message says how to.
        ValueError: a node that sinabs does not import.
    """

    tool, reset_name = "sinabs", "subtract"
    known = ("Affine", "Conv2d", "Flatten", "SumPool2d", "IF")
    runs = "Linear, Conv2d, Flatten, AvgPool2d, and neurons that do not leak"

    def _import(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module("sinabs.nir")
        except ImportError as error:  # no extra can bring it: it asks for another nir than ours
            raise ImportError(
                "this needs sinabs: install it with pip install 'ipvae-snn[toolchains]' and then "
                "pip install --no-deps sinabs==3.1.3 pbr"
            ) from error

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self.graph, batch_size=batch)


class InXylosim:
    """A Xylo network in xylosim, SynSense's bit-exact simulator of the chip.

    Args:
        network: what :func:`~ipvae_snn.export.to_xylo` made.

    Raises:
        ImportError: xylosim is not installed; the message names the extra ``toolchains``.
    """

    def __init__(self, network: XyloNetwork) -> None:
        if not isinstance(network, XyloNetwork):
            raise TypeError(f"network must be what to_xylo made, got {type(network).__name__}")
        require_extra("xylosim.v2", extra="toolchains")
        self.network, self.notes = network, network.notes
        self.label = "Xylo, in xylosim"
        self.decode = network.decode

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        spikes = self.network.simulate(x.cpu().float(), num_steps).spk
        yield from torch.from_numpy(spikes).float()


def _cached(state: Any, name: str) -> Tensor:
    """The output of a node, which may lie in a subgraph, in the last timestep."""
    while "." in name:
        outer, name = name.split(".", 1)
        (state,) = state.state[outer]
    found: Tensor = state.cache[name]
    return found
