"""The state of whole networks: reset, detach, and windows of truncated back-propagation.

For this package's neurons and snnTorch's own, at any depth of nesting, and only for the network
given: nothing here reads a class-wide list.
"""

from collections.abc import Callable, Iterator

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_integer


def reset(net: nn.Module) -> None:
    """Bring every spiking neuron in ``net`` back to its initial state.

    ``snntorch.utils.reset`` knows snnTorch's own classes only, looks at direct children only, and
    resets neurons of other networks too; this does none of the three.

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


def detach(net: nn.Module) -> None:
    """Cut the state of every spiking neuron in ``net`` from the graph that made it.

    Call it where one window of truncated back-propagation ends. States that you keep outside the
    network, as ``spk, mem = neuron(x, spk, mem)`` does, you detach yourself:
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

    Resets ``net``, then for each window of timesteps: the loss, its backward, an optimizer step,
    and :func:`detach`.

    Args:
        net: keeps its states inside (``init_hidden=True``), or ``window_loss`` carries them.
        input_: shape (T, B, ...), time first.
        window_loss: called with the timesteps of a window, (length, B, ...), and the number of the
            first; runs ``net`` on them and returns a scalar.
        window: timesteps per window; the last may be shorter.
        optimizer: stepped after every window. Without it gradients add up over the windows.

    Returns:
        The loss of each window.

    Raises:
        RuntimeError: a state reaches back into the window before; the message names the cure.
        TypeError, ValueError: ``window`` is no whole number ≥ 1, no timesteps, or a loss that is
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
        freed = "second time" in str(error) or "modified by an inplace operation" in str(error)
        if not freed:
            raise
        raise RuntimeError(
            "a state reaches back into a window that was already back-propagated: call "
            "ipvae_snn.detach(net) at the end of each window, and detach the states that you keep "
            "outside the network (spk, mem = spk.detach(), mem.detach())"
        ) from error


def _spiking(net: nn.Module) -> Iterator[SpikingNeuron]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return (module for module in net.modules() if isinstance(module, SpikingNeuron))


def _detach_tensors(neuron: SpikingNeuron) -> None:
    # Every tensor the neuron holds beside its parameters, not a list of known names: snnTorch's
    # own neurons keep some of their states as plain attributes.
    for held in (neuron._buffers, vars(neuron)):
        for name, value in held.items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                held[name] = value.detach()
