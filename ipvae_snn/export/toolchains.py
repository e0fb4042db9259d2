"""Runs exported networks in the simulators of other projects: norse, sinabs, xylosim."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.export.graphs.graph_fragment import require_graph, said
from ipvae_snn.export.graphs.names import with_plain_names
from ipvae_snn.export.graphs.network import flattened
from ipvae_snn.export.graphs.node_steps import SPIKING
from ipvae_snn.export.sources import GraphSource
from ipvae_snn.export.xylo.network import XyloNetwork


class InNorse(GraphSource):
    """A graph, imported and run by norse: zero reset, at most one spike per timestep.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for zero reset.
        dt: a timestep in the graph's unit of time; default 1. norse applies it to LIF and CubaLIF,
            and ignores the r and dt of IF.

    Raises:
        ImportError: norse is not installed; the message names the extra ``toolchains``.
        ValueError: a node that norse does not import, or a time constant shorter than ``dt``.

    >>> export.report(export.in_norse(graph), model, x)  # doctest: +SKIP
    """

    tool, tool_reset = "norse", "zero"
    node_types = frozenset(
        ("Affine", "Linear", "Conv2d", "Flatten", "SumPool2d", "IF", "LIF", "CubaLIF")
    )
    modules = "Linear, Conv2d, Flatten, AvgPool2d, snn.Leaky, Synaptic, RLeaky and IPVAENeuron"

    def __init__(self, graph: Any, *, dt: float | None = None) -> None:
        require_graph(graph)
        with _no_warnings():
            self._module = self._import()
        self._require_importable(graph)
        form = said(graph, "form") or "foreign"
        super().__init__(graph, self.tool_reset, f"{form}, in {self.tool}", dt=dt)
        self._in_tool = with_plain_names(graph)
        made_for = said(graph, "reset")
        if made_for not in ("", self.tool_reset):
            note = f"{self.tool} resets by {self.tool_reset}, the graph was made for {made_for}"
            self.notes = (*self.notes, note)

    def _require_importable(self, graph: Any) -> None:
        types = {name: type(node).__name__ for name, node in flattened(graph)[0].items()}
        importable = self.node_types | {"Input", "Output"}
        foreign = [f"{name} ({kind})" for name, kind in types.items() if kind not in importable]
        if foreign:
            raise ValueError(
                f"{self.tool} does not import {', '.join(foreign[:3])}: it runs {self.modules}, "
                "exported with form='portable'"
            )

    def _import(self) -> Any:
        return require_extra("norse.torch", extra="toolchains")

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self._in_tool, dt=self.dt)

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        for spk, _ in self.steps(x, num_steps):
            yield spk

    def steps(self, x: Tensor, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Spike counts (B, K) and output (B, ...) of each timestep, from rest."""
        nodes = flattened(self._in_tool)[0]
        names = [name for name, node in nodes.items() if type(node).__name__ in SPIKING]
        # Layers draw initial weights before they load those of the graph: keep the generator.
        with _no_warnings(), torch.no_grad(), seeded(0):
            network, state = self._load(len(x)), None
        with _no_warnings(), torch.no_grad():
            for _ in range(num_steps):
                out, state = network(x.cpu().float(), state)
                spikes = [_last_output(state, name) for name in names]
                yield torch.cat([spk.flatten(1) for spk in spikes], dim=1), out


class InSinabs(InNorse):
    """A graph, imported and run by sinabs: subtract reset, integer spikes.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for subtract reset.

    Raises:
        ImportError: sinabs is not installed; the message says how to install it.
        ValueError: a node that sinabs does not import.
    """

    tool, tool_reset = "sinabs", "subtract"
    node_types = frozenset(("Affine", "Conv2d", "Flatten", "SumPool2d", "IF"))
    modules = "Linear, Conv2d, Flatten, AvgPool2d, and neurons that do not leak"

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)  # no node that sinabs imports has a time constant

    def _import(self) -> Any:
        try:
            return importlib.import_module("sinabs.nir")
        except ImportError as error:  # not in the extra: it pins a nir that is older than ours
            raise ImportError(
                "this needs sinabs: install it with pip install 'ipvae-snn[toolchains]' and then "
                "pip install --no-deps sinabs==3.1.3 pbr"
            ) from error

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self._in_tool, batch_size=batch)


class InXylosim:
    """A Xylo network, run by xylosim, SynSense's bit-exact simulator of the chip.

    Args:
        network: what :func:`~ipvae_snn.export.to_xylo` returned.

    Raises:
        ImportError: xylosim is not installed; the message names the extra ``toolchains``.
    """

    label = "Xylo, in xylosim"

    def __init__(self, network: XyloNetwork) -> None:
        if not isinstance(network, XyloNetwork):
            raise TypeError(f"network must be what to_xylo made, got {type(network).__name__}")
        require_extra("xylosim.v2", extra="toolchains")
        self.network, self.notes, self.decode = network, network.notes, network.decode

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        spikes = self.network.simulate(x.cpu().float(), num_steps).spk
        yield from torch.from_numpy(spikes).float()


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _last_output(state: Any, name: str) -> Tensor:
    """The output of a node, possibly in a subgraph, in the last timestep."""
    while "." in name:
        outer, name = name.split(".", 1)
        (state,) = state.state[outer]
    spk: Tensor = state.cache[name]
    return spk
