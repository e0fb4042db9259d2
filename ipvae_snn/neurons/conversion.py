"""Networks of snnTorch with ``IPVAENeuron`` layers in place of ``Leaky`` and ``RLeaky`` ones."""

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from snntorch import Leaky, RLeaky, SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_instance
from ipvae_snn.neurons.base import State, StatefulNeuron
from ipvae_snn.neurons.lateral import Recurrent
from ipvae_snn.neurons.poisson import FLAT, IPVAENeuron


class Converted(NamedTuple):
    """A converted network, and what was done to each of its spiking layers, by name."""

    network: nn.Module
    changes: dict[str, str]


class OneStateNeuron(IPVAENeuron):
    """An ``IPVAENeuron`` that is called as ``snntorch.Leaky``: ``spk, mem = neuron(input_, mem)``.

    The spikes of the previous timestep, which it needs besides, it keeps itself. So the code around
    a ``Leaky`` layer stays as it is.

    >>> neuron = OneStateNeuron(4)
    >>> mem = neuron.init_leaky()
    >>> for _ in range(3):
    ...     spk, mem = neuron(torch.rand(2, 4), mem)
    >>> mem.shape
    torch.Size([2, 4])
    """

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor | State:  # type: ignore[override]
        """One timestep: see :class:`IPVAENeuron`."""
        return super().forward(input_, mem=mem)

    def reset_mem(self) -> Tensor:  # type: ignore[override]
        """Back to the initial state; returns ``mem``, empty before the first call."""
        return super().reset_mem().mem

    init_leaky = reset_mem


def from_snntorch(
    net: nn.Module, input_: Tensor, *, keep: Collection[str] = (), **options: Any
) -> Converted:
    """A copy of ``net`` whose ``Leaky`` and ``RLeaky`` layers are ``IPVAENeuron`` layers.

    Each new layer has as many neurons as its input has features; on maps (B, C, H, W) the channels
    of a place are its neurons. It is called as the old one: with ``init_hidden`` alone, and else
    with the same states. The recurrent weights of an ``RLeaky`` are taken over, those of maps and
    of neurons that each excite themselves excepted, whose place lateral weights take. Decay,
    threshold, surrogate gradient and recurrent bias are not. The other layers keep their
    weights. A ``Leaky`` read-out whose membrane is read may stay: ``keep`` it.

    Args:
        net: any module; the copy starts from a reset state, ``net`` stays as it is.
        input_: what the network is called with, once, to see the shapes.
        keep: names of layers to leave alone, as in ``net.named_modules()``.
        options: of the new layers, see :class:`~ipvae_snn.IPVAENeuron`.

    Returns:
        ``(network, changes)``.

    Raises:
        TypeError: ``net`` is no module, or an option is none.
        ValueError: a name to keep is not there; there is nothing to convert; a layer is not called.

    >>> import snntorch as snn
    >>> net = nn.Sequential(nn.Linear(3, 4), snn.Leaky(0.9, init_hidden=True))
    >>> network, changes = from_snntorch(net, torch.rand(2, 3))
    >>> print(changes["1"])
    Leaky(beta=0.9, threshold=1) → IPVAENeuron(4)
    >>> network(torch.rand(2, 3)).shape
    torch.Size([2, 4])
    """
    require_instance(net, "net", nn.Module)
    found = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, SpikingNeuron) and not isinstance(module, StatefulNeuron)
    }
    unknown = sorted(set(keep) - set(found))
    if unknown:
        raise ValueError(f"keep names {unknown}: the spiking layers are {sorted(found)}")
    kinds = {name: type(module) for name, module in found.items() if name not in keep}
    replaced = [name for name, kind in kinds.items() if kind in (Leaky, RLeaky)]
    if not replaced:
        raise ValueError(f"net holds no Leaky or RLeaky to convert: its layers are {kinds}")
    shapes, network = _input_shapes(net, replaced, input_), _copied(net)
    changes = {}
    for name, old in found.items():
        if name in replaced:
            network, changes[name] = _replace(network, name, old, shapes[name], options)
        else:
            changes[name] = f"{type(old).__name__}: kept"
    return Converted(network, changes)


def _replace(
    network: nn.Module, name: str, old: Any, shape: torch.Size, options: dict[str, Any]
) -> tuple[nn.Module, str]:
    """The network with another layer of this name, and what changed."""
    found = getattr(old, "recurrent", None)
    recurrent = found if isinstance(found, nn.Linear) else None  # it acts on the last dimension
    dim = options.get("dim")
    if dim is None and len(shape) > FLAT:
        dim = 1 if recurrent is None else -1
    given: dict[str, Any] = {"init_hidden": old.init_hidden, "output": old.output}
    features = shape[-1 if dim is None else dim]
    with_mem_alone = type(old) is Leaky and not old.init_hidden
    source: Recurrent | int = features
    if recurrent is not None:  # what a spike adds, less its reset
        source = Recurrent(torch.eye(features) - recurrent.weight.detach().mT.cpu())
        source.weight.requires_grad_(recurrent.weight.requires_grad)
    new = (OneStateNeuron if with_mem_alone else IPVAENeuron)(
        source, **{**given, **options, "dim": dim}
    )
    like = next((p for p in network.parameters() if p.is_floating_point()), None)
    new = new if like is None else new.to(like)
    new.train(old.training)
    said = f"{type(old).__name__}(beta={_number(old.beta)}, threshold={_number(old.threshold)}) → "
    if source is features:
        said += f"{type(new).__name__}({features}{'' if dim is None else f', dim={dim}'})"
    else:
        said += f"{type(new).__name__}(Recurrent({features})), with its recurrent weights"
    if type(old) is RLeaky and source is features:
        said += "; lateral weights take the place of its recurrent ones"
    if not name:  # the network is the layer itself
        return new, said
    shared = network.get_submodule(name)
    for other, module in [*network.named_modules(remove_duplicate=False)]:
        if module is shared:  # a layer may be used under several names
            parent, _, child = other.rpartition(".")
            network.get_submodule(parent).add_module(child, new)
    return network, said


def _number(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else f"{value.numel()} values"


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net)
    except RuntimeError as error:
        raise ValueError(
            "net holds tensors with a graph, which cannot be copied: call ipvae_snn.reset(net) "
            "first, and torch.nn.utils.prune.remove for weights that were pruned"
        ) from error


@torch.no_grad()
def _input_shapes(net: nn.Module, names: list[str], input_: Tensor) -> dict[str, torch.Size]:
    """Of each layer, in a first timestep of a copy of the network."""
    trial, shapes = _copied(net), dict[str, torch.Size]()
    for name in names:
        trial.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: shapes.setdefault(name, inputs[0].shape) and None
        )
    with torch.random.fork_rng():
        trial(input_)
    missed = [name for name in names if name not in shapes]
    if missed:
        raise ValueError(f"the network did not call {missed}, so their sizes are not known")
    return shapes
