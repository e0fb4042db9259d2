"""What moved a membrane: the parts of every step, which add up to it."""

from typing import NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float
from ipvae_snn.neurons.poisson import IPVAENeuron


class Parts(NamedTuple):
    """Parts of the membrane steps, in nats per timestep, each of shape (T, ..., K).

    ``drive`` is α d; ``lateral`` and ``self`` are −α z G off and on the diagonal of G; ``tonic``
    is −α b; ``leak`` pulls back to the resting membrane; ``clamp`` is what the clamps took away.
    """

    drive: Tensor
    lateral: Tensor
    self: Tensor
    tonic: Tensor
    leak: Tensor
    clamp: Tensor

    def of(self, *index: int) -> dict[str, Tensor]:
        """The parts of one neuron, by name, each of shape (T,): ``parts.of(b, k)``."""
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
    r"""Take the recorded steps of a neuron apart.

    .. math:: u_t − u_{t−1} = α (d_t − z_{t−1} G_{off} − z_{t−1} G_{diag} − b − leak) + clamp

    Args:
        neuron: the layer that was recorded, such as ``model.neuron``.
        drive: d, shape (..., K), or (T, ..., K) where it changes; ``neuron.drive(x)``.
        spk, mem: recorded counts and membranes of every timestep, shape (T, ..., K).
        state: ``(spk, mem)`` before the first of them; default the initial state.

    Returns:
        :class:`Parts`; their sum is the recorded step, u_t − u_{t−1}, exactly but for rounding.

    Raises:
        TypeError, ValueError: shapes or types that do not fit.

    Source: arXiv 2410.19315, section 3.

    >>> from ipvae_snn import IPVAE
    >>> model, x = IPVAE(16, 8), torch.rand(2, 16)
    >>> out = model.run(x, 5, record=("spk", "mem"))
    >>> found = parts(model.neuron, model.neuron.drive(x), out.spk, out.mem)
    >>> torch.allclose(sum(found)[1:], out.mem.diff(dim=0), atol=1e-5)
    True
    """
    if not isinstance(neuron, IPVAENeuron):
        raise TypeError(f"neuron must be an IPVAENeuron, got {type(neuron).__name__}")
    for name, value in (("drive", drive), ("spk", spk), ("mem", mem)):
        require_float(value, name)
        require_finite(value, name)
    if mem.ndim < 2 or mem.shape != spk.shape or mem.shape[-1] != neuron.features:
        raise ValueError(
            f"spk and mem must both have shape (T, ..., {neuron.features}), got "
            f"{tuple(spk.shape)} and {tuple(mem.shape)}"
        )
    if drive.shape not in (mem.shape, mem.shape[1:]):
        raise ValueError(
            f"drive must have shape {tuple(mem.shape[1:])} or {tuple(mem.shape)}, got "
            f"{tuple(drive.shape)}"
        )
    first = neuron.initial_state(mem.shape[1:]) if state is None else state
    if not isinstance(first, tuple) or len(first) != 2:
        raise TypeError(f"state must be a pair (spk, mem), got {state!r}")
    for name, value in zip(("state.spk", "state.mem"), first, strict=True):
        require_float(value, name)
        require_finite(value, name)
        if value.shape != mem.shape[1:]:
            raise ValueError(
                f"{name} must have shape {tuple(mem.shape[1:])}, got {tuple(value.shape)}"
            )
    spk_before = torch.cat([first[0][None].to(spk), spk[:-1]])
    mem_before = torch.cat([first[1][None].to(mem), mem[:-1]])
    step, gram = neuron.log_step.exp(), neuron.lateral_scale * neuron.gram()
    diagonal = gram.diagonal()
    found = {
        "drive": step * drive.expand_as(mem),
        "lateral": -step * (spk_before @ (gram - diagonal.diag())),
        "self": -step * spk_before * diagonal,
        "tonic": (-step * neuron.log_bias.exp()).expand_as(mem),
        "leak": -step * neuron.leak * (mem_before - neuron.mem_init),
    }
    found["clamp"] = mem - mem_before - sum(found.values())
    for name, value in found.items():
        require_finite(value, f"the part {name}, made of what was recorded,")
    return Parts(**found)
