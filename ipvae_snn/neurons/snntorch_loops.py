"""How ``snntorch.utils.reset`` and ``snntorch.backprop`` reach the neurons of this package.

Both find neurons by their class among the children of a network, and then call class methods, which
go through one list of all neurons of the process. The list keeps its entries alive, so that one
entry represents all neurons of this package.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from snntorch import Alpha, Lapicque, Leaky, RLeaky, SpikingNeuron, Synaptic, utils
from torch import nn

DETACHED_TOO = {"lapicque": Lapicque, "leaky": Leaky, "synaptic": Synaptic, "alpha": Alpha}
DETACHED_ALONE = ("sconv2dlstm", "slstm")
RESET_BY_CLASS = (*DETACHED_TOO, "rleaky", "rsynaptic", *DETACHED_ALONE)


def _holds(name: str) -> bool:
    """Whether the network that ``snntorch.utils.reset`` saw last holds neurons of this class."""
    return bool(getattr(utils, f"is_{name}", False))


class _States:
    """A state of all neurons of this package, as far as snnTorch uses it."""

    def __init__(self, detach_all: Callable[[], None]) -> None:
        self._detach_all = detach_all

    def detach_(self) -> None:
        self._detach_all()
        # At the end of a window snnTorch detaches one class only of those that a network holds.
        for name, kind in DETACHED_TOO.items():
            if _holds("rleaky") and _holds(name):
                kind.detach_hidden()


class Representative(RLeaky):  # type: ignore[misc]  # snnTorch is untyped
    """The entry in snnTorch's list of neurons for all neurons of this package."""

    def __init__(self, reset_all: Callable[[], None], detach_all: Callable[[], None]) -> None:
        nn.Module.__init__(self)
        self._reset_all = reset_all
        self.spk = self.mem = _States(detach_all)

    def reset_mem(self) -> tuple[_States, _States]:
        self._reset_all()
        return self.spk, self.mem

    init_rleaky = reset_mem

    def replace(self, neuron: SpikingNeuron) -> None:
        """Take the place of ``neuron`` in the list."""
        instances = SpikingNeuron.instances
        if neuron in instances:
            instances.remove(neuron)
        if self not in instances:
            instances.append(self)


def refuse_backprop() -> None:
    """Raise if ``snntorch.backprop`` is about to train a network that it would fail on."""
    frame = _training_frame()
    reason = None if frame is None else _obstacle(frame.f_locals)
    if reason:
        raise ValueError(
            f"snntorch.backprop cannot train this network: {reason}; "
            "use ipvae_snn.tbptt(net, input_, window_loss, window=K), which trains any"
        )


def _training_frame() -> FrameType | None:
    backprop = sys.modules.get("snntorch.backprop")
    frame = None if backprop is None else sys._getframe()
    while frame is not None and frame.f_code is not backprop.TBPTT.__code__:  # type: ignore[union-attr]
        frame = frame.f_back
    return frame


def _obstacle(options: dict[str, Any]) -> str | None:
    net, length, num_steps = options["net"], options["K"], options["num_steps"]
    last = list(net.children())[-1]
    if not _holds("rleaky"):
        return "it finds only neurons that are direct children of it"
    if options["num_return"] == 1 or (isinstance(net, nn.Sequential) and not last.output):
        return "its last child must be a neuron with output=True"
    if not all(map(_holds, _classes_of_snntorch(net))):
        return "it resets no class of neurons that has none among the direct children of it"
    if _holds("rsynaptic"):
        return "snnTorch resets no spikes of RSynaptic"
    if length and num_steps and length < num_steps and any(map(_holds, DETACHED_ALONE)):
        return "it detaches only one of its classes of neurons at the end of a window"
    if options["time_var"] and length and "K_flag" not in options:
        return "with time_var=True it takes whole sequences only, by BPTT"
    return None


def _classes_of_snntorch(net: nn.Module) -> set[str]:
    """The classes of snnTorch's own neurons at any depth, as its functions name them."""
    kinds = {type(module) for module in net.modules() if isinstance(module, SpikingNeuron)}
    names = {kind.__name__.lower() for kind in kinds if kind.__module__.startswith("snntorch.")}
    return names.intersection(RESET_BY_CLASS)
