"""Neurons and layers as pieces of a NIR graph: pure translations, one piece per module.

A piece is what a module becomes: nodes and edges, where signals enter and leave, and what the
weights on either side have to absorb, because several toolchains ignore a neuron's resistance.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.extras import require_extra

Array = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass
class Piece:
    """What a module becomes.

    Attributes:
        nodes: by name, in the order of execution.
        edges: between them.
        entries, exits: nodes that the signal enters by, and leaves by as a sum.
        gain: what the input has to be multiplied with before it enters.
        bias: what is added to the input after that, ``None`` for nothing.
        out_scale: what the output has to be multiplied with by whoever reads it.
        shape: of the output, without batch.
        metadata: of the layer, for reading it back.
        linear: whether a factor on the input is one on the output, so that scales pass through.
        notes: what was approximated.
    """

    nodes: dict[str, Any]
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    shape: Shape
    edges: list[tuple[str, str]] = field(default_factory=list)
    gain: float | Array = 1.0
    bias: Array | None = None
    out_scale: float = 1.0
    linear: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def single(cls, name: str, node: Any, shape: Shape, **options: Any) -> "Piece":
        """A piece of one node."""
        return cls({name: node}, (name,), (name,), shape, **options)


def nir_module() -> Any:
    """The package nir, or an error that names its extra."""
    return require_extra("nir", extra="nir")


def require_graph(graph: Any) -> None:
    """Raise ``TypeError`` unless ``graph`` is a ``nir.NIRGraph``."""
    if not isinstance(graph, nir_module().NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph, got {type(graph).__name__}")


def array(values: Tensor | NDArray | float, shape: Shape | None = None) -> Array:
    """float32 numpy values, spread over ``shape``: one value per neuron, no batch."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float32)
    return values.copy() if shape is None else np.broadcast_to(values, shape).copy()


def state_arrays(module: Any) -> dict[str, NDArray]:
    """A state dictionary as arrays that nir can write: it refuses those without dimensions."""
    return {k: np.atleast_1d(v.detach().cpu().numpy()) for k, v in module.state_dict().items()}


def is_weight(piece: Piece) -> bool:
    """Whether a piece is one node of weights, which can absorb scales and biases."""
    nir = nir_module()
    nodes = list(piece.nodes.values())
    return len(nodes) == 1 and isinstance(nodes[0], (nir.Affine, nir.Conv2d))
