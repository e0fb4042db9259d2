"""The state of whole networks: reset, detach, and truncated back-propagation through time.

For neurons of this package and of snnTorch, at any depth of nesting. Only the network that is
passed is changed: nothing here reads snnTorch's class-wide lists.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ipvae_snn._utils.checks import require_integer


def reset(net: nn.Module) -> None:
    """Reset every spiking neuron in ``net`` to its initial state.

    ``snntorch.utils.reset`` finds only direct children, and also resets neurons of other networks;
    this function does neither.

    Args:
        net: any module; neurons are found by ``net.modules()``.

    Raises:
        TypeError: ``net`` is no module.

    >>> import snntorch as snn
    >>> from ipvae_snn import IPVAENeuron
    >>> net = nn.Sequential(IPVAENeuron(4, init_hidden=True), snn.Leaky(0.9, init_hidden=True))
    >>> _ = net(torch.ones(2, 4))
    >>> reset(net)
    >>> net[1].mem
    tensor([[0., 0., 0., 0.],
            [0., 0., 0., 0.]])
    """
    for neuron in _spiking(net):
        reset_mem = getattr(neuron, "reset_mem", None)
        if callable(reset_mem):
            reset_mem()
        _detach_tensors(neuron)


def reset_on_call(net: nn.Module) -> RemovableHandle:
    """Let every call of ``net`` begin with :func:`reset`.

    For an outer network whose ``forward`` takes a whole sequence: nothing is left to forget in
    training loops, or to hang into the callbacks of a trainer. Not for one that is called for each
    timestep.

    Returns:
        A handle; its ``remove()`` ends it.

    Raises:
        TypeError: ``net`` is no module.

    >>> from ipvae_snn import IPVAENeuron
    >>> neuron = IPVAENeuron(4, init_hidden=True)
    >>> handle = reset_on_call(neuron)
    >>> first, second = neuron(torch.zeros(2, 4)), neuron(torch.zeros(2, 4))
    >>> bool((neuron.mem < neuron.mem_init).all())
    True
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return net.register_forward_pre_hook(_reset_before)


def _reset_before(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    reset(net)


def detach(net: nn.Module) -> None:
    """Detach the state of every spiking neuron in ``net`` from its graph.

    Call it at the end of each window of truncated back-propagation. Detach states outside the
    network, as in ``spk, mem = neuron(x, spk, mem)``, yourself:
    ``spk, mem = spk.detach(), mem.detach()``.

    Raises:
        TypeError: ``net`` is no module.
    """
    for neuron in _spiking(net):
        _detach_tensors(neuron)


def tbptt(
    net: nn.Module,
    input_: Tensor,
    window_loss: Callable[[Tensor, int], Tensor],
    *,
    window: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Truncated back-propagation through time over one batch of sequences.

    Resets ``net``, then repeats for each window of timesteps: loss, backward pass, optimizer step,
    :func:`detach`.

    Args:
        net: keeps its states inside (``init_hidden=True``), unless ``window_loss`` keeps them.
        input_: shape (T, B, ...), time first.
        window_loss: called with the timesteps of a window, (length, B, ...), and the index of the
            first; runs ``net`` on them and returns a scalar.
        window: timesteps per window; the last may be shorter.
        optimizer: makes a step after every window. Without it gradients add up over the windows.

    Returns:
        The loss of each window.

    Raises:
        RuntimeError: the graph of a state reaches into the previous window; the message says what
            to do.
        TypeError, ValueError: ``window`` is no integer ≥ 1, there are no timesteps, or the loss is
            no scalar or depends on no parameter.

    >>> from ipvae_snn import IPVAENeuron
    >>> net = nn.Sequential(nn.Linear(3, 4), IPVAENeuron(4, init_hidden=True))
    >>> loss = lambda x, start: sum(net(frame).mean() for frame in x)
    >>> len(tbptt(net, torch.rand(10, 2, 3), loss, window=4))
    3
    """
    window = require_integer(window, "window")
    if not isinstance(input_, Tensor):
        raise TypeError(f"input_ must be a torch.Tensor, got {type(input_).__name__}")
    if input_.ndim < 2 or not len(input_):
        raise ValueError(f"input_ must have shape (T, B, ...), T ≥ 1, got {tuple(input_.shape)}")
    reset(net)
    losses = []
    for start in range(0, len(input_), window):
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
        loss = window_loss(input_[start : start + window], start)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"window_loss must return a scalar tensor, got {loss!r}")
        if not loss.requires_grad:
            raise ValueError("the loss depends on no parameter: no gradient flows from it")
        _backward(loss)
        if optimizer is not None:
            optimizer.step()
        detach(net)
        losses.append(loss.item())
    return losses


def _backward(loss: Tensor) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        used_before = "second time" in str(error) or "by an inplace operation" in str(error)
        if not used_before:
            raise
        raise RuntimeError(
            "the graph of a state reaches into a window that was already back-propagated: call "
            "ipvae_snn.detach(net) at the end of each window, and detach the states that you keep "
            "outside the network (spk, mem = spk.detach(), mem.detach())"
        ) from error


def _spiking(net: nn.Module) -> Iterator[SpikingNeuron]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return (module for module in net.modules() if isinstance(module, SpikingNeuron))


def _detach_tensors(neuron: SpikingNeuron) -> None:
    # All tensors of the neuron except its parameters: snnTorch's own neurons store some states as
    # plain attributes, under various names.
    for attributes in (neuron._buffers, vars(neuron)):
        for name, value in dict(attributes).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                attributes[name] = value.detach()
