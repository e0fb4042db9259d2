"""The currents that move a membrane: their contributions to its change in every timestep."""

from typing import NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float
from ipvae_snn.neurons.poisson import IPVAENeuron


class Parts(NamedTuple):
    """Contributions to the change of the membrane, in nats per timestep, (T, ..., K) each.

    ``drive`` is α d; ``lateral`` and ``self`` are −α z G off and on the diagonal of G; ``tonic``
    is −α b, with −α ½ G_kk where ``form`` is ``"exact"``; ``leak`` is the pull to ``mem_init``;
    ``clamp`` is what the clamps subtract.
    """

    drive: Tensor
    lateral: Tensor
    self: Tensor
    tonic: Tensor
    leak: Tensor
    clamp: Tensor

    def of(self, *index: int) -> dict[str, Tensor]:
        """The contributions to one neuron, by name, shape (T,) each: ``parts.of(b, k)``."""
        return {name: part[(slice(None), *index)] for name, part in self._asdict().items()}


@torch.no_grad()
def parts(
    neuron: IPVAENeuron,
    drive: Tensor,
    spk: Tensor,
    mem: Tensor,
    *,
    state: tuple[Tensor, Tensor] | None = None,
) -> Parts:
    r"""Decompose recorded membrane changes into the currents that caused them.

    .. math:: u_t − u_{t−1} = α (d_t − z_{t−1} G_{off} − z_{t−1} G_{diag} − b − leak) + clamp

    Args:
        neuron: the recorded layer, such as ``model.neuron``.
        drive: d, shape (..., K), or (T, ..., K) where it changes; ``neuron.drive(x)``.
        spk, mem: recorded counts and membranes of every timestep, shape (T, ..., K).
        state: ``(spk, mem)`` before the first of them; default the initial state.

    Returns:
        :class:`Parts`; their sum is u_t − u_{t−1} up to rounding.

    Raises:
        TypeError, ValueError: wrong shapes or types, NaN or infinity.

    Source: arXiv 2410.19315, section 3.

    >>> from ipvae_snn import IPVAE
    >>> model, x = IPVAE(16, 8), torch.rand(2, 16)
    >>> out = model.run(x, 5, record=("spk", "mem"))
    >>> change = sum(parts(model.neuron, model.neuron.drive(x), out.spk, out.mem))
    >>> torch.allclose(change[1:], out.mem.diff(dim=0), atol=1e-5)
    True
    """
    if not isinstance(neuron, IPVAENeuron):
        raise TypeError(f"neuron must be an IPVAENeuron, got {type(neuron).__name__}")
    for name, value in (("drive", drive), ("spk", spk), ("mem", mem)):
        require_float(value, name)
        require_finite(value, name)
    axis = neuron.axis(mem.shape[1:]) if mem.ndim > 1 else 0
    if axis == 0 or mem.shape != spk.shape or mem.shape[axis] != neuron.features:
        raise ValueError(
            f"spk and mem must both have shape (T, ..., {neuron.features}), got "
            f"{tuple(spk.shape)} and {tuple(mem.shape)}"
        )
    if drive.shape not in (mem.shape, mem.shape[1:]):
        raise ValueError(
            f"drive must have shape {tuple(mem.shape[1:])} or {tuple(mem.shape)}, got "
            f"{tuple(drive.shape)}"
        )
    start = neuron.initial_state(mem.shape[1:]) if state is None else state
    if not isinstance(start, tuple) or len(start) != 2:
        raise TypeError(f"state must be a pair (spk, mem), got {state!r}")
    for name, value in zip(("state.spk", "state.mem"), start, strict=True):
        require_float(value, name)
        require_finite(value, name)
        if value.shape != mem.shape[1:]:
            raise ValueError(
                f"{name} must have shape {tuple(mem.shape[1:])}, got {tuple(value.shape)}"
            )
    spk_before = torch.cat([start[0][None].to(spk), spk[:-1]])
    mem_before = torch.cat([start[1][None].to(mem), mem[:-1]])
    step_size, gram = neuron.log_step.exp(), neuron.gram()
    drive, spk_before, mem_before, mem = (
        part.movedim(axis, -1) for part in (drive.expand_as(mem), spk_before, mem_before, mem)
    )
    tonic, gram = neuron.tonic(gram), neuron.lateral_scale * gram
    itself = spk_before * neuron.lateral.diagonal(gram)
    contributions = {
        "drive": step_size * drive,
        "lateral": -step_size * (neuron.lateral.inhibition(spk_before, gram) - itself),
        "self": -step_size * itself,
        "tonic": (-step_size * tonic).expand_as(mem),
        "leak": -step_size * neuron.leak * (mem_before - neuron.mem_init),
    }
    contributions["clamp"] = mem - mem_before - sum(contributions.values())
    contributions = {name: value.movedim(-1, axis) for name, value in contributions.items()}
    for name, value in contributions.items():
        require_finite(value, f"the contribution {name}, computed from the recorded timesteps,")
    return Parts(**contributions)
