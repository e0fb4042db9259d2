"""What all baselines share: a linear decoder, a run in time, and the objective of the IPVAE."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_input, require_integer, require_number
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.models.run_output import RECORDABLE, check_fields, make_run
from ipvae_snn.neurons.base import State


class Baseline(nn.Module):
    """A model of the kind that :class:`~ipvae_snn.IPVAE` is compared with: x ≈ Φ z.

    What :func:`~ipvae_snn.fit` and :func:`~ipvae_snn.evaluate` ask of a model, for subclasses that
    say how a timestep goes: :meth:`sense`, :meth:`start`, :meth:`advance` and :meth:`mean_code`.
    As in an IPVAE, ``spk`` is the code z of a timestep, here of real numbers, and ``mem`` what it
    was drawn from.

    Args:
        in_features: M, length of an input.
        latents: K.
        init_std: standard deviation of the initial Φ.
        learn_scale: learn log σ per pixel; otherwise σ = 1.
    """

    raw_log_scale: Tensor | None

    def __init__(
        self, in_features: int, latents: int, *, init_std: float = 1e-2, learn_scale: bool = True
    ) -> None:
        super().__init__()
        require_integer(in_features, "in_features")
        require_integer(latents, "latents")
        require_number(init_std, "init_std", least=0)
        self.decoder = nn.Linear(latents, in_features, bias=False)
        nn.init.normal_(self.decoder.weight, std=init_std)
        scale = nn.Parameter(torch.zeros(in_features)) if learn_scale else None
        self.register_parameter("raw_log_scale", scale)

    # -- what a subclass says -----------------------------------------------------------------

    def sense(self, x: Tensor) -> Tensor:
        """What inference needs of a frame (B, M), made once for all timesteps that show it."""
        return x

    def start(self, sensed: Tensor) -> State:
        """The state before any inference."""
        raise NotImplementedError

    def advance(self, sensed: Tensor, state: State, shared: Any) -> tuple[State, Tensor]:
        """The next state, and the cost of having gone there, (B,): a KL, in nats."""
        raise NotImplementedError

    def mean_code(self, mem: Tensor) -> Tensor:
        """E[z] of what ``mem`` describes, (..., K)."""
        raise NotImplementedError

    def shared(self) -> Any:
        """What all timesteps of a run share, such as G."""
        return None

    # -- what all do alike --------------------------------------------------------------------

    @property
    def in_features(self) -> int:
        return self.decoder.out_features

    @property
    def latents(self) -> int:
        return self.decoder.in_features

    @property
    def weight(self) -> Tensor:
        """Φ, shape (M, K)."""
        return self.decoder.weight

    @property
    def log_scale(self) -> Tensor | None:
        """log σ per pixel as inference uses it, shape (M,); ``None`` where σ = 1."""
        return None if self.raw_log_scale is None else F.bound_log_scale(self.raw_log_scale)

    def decode(self, code: Tensor) -> Tensor:
        """Reconstruction Φ z of codes (..., K); shape (..., M)."""
        return code @ self.weight.mT

    def seeded(self, seed: int | None) -> AbstractContextManager[None]:
        """A block whose draws depend on ``seed`` alone."""
        return seeded(seed, device=self.weight.device)

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
    ) -> Any:
        """Infer x for a number of timesteps; arguments and result as :meth:`IPVAE.run`.

        Raises:
            TypeError, ValueError: x is no finite floating tensor (B, M) or (T, B, M), or an option
                is out of range.
        """
        fields = check_fields(record)
        steps = require_input(x, num_steps, like=self.decoder.weight)
        require_integer(every, "every")
        kept: dict[str, list[Tensor]] = {name: [] for name in fields}
        with self.seeded(seed):
            shared, frame = self.shared(), x if x.ndim == 2 else x[0]
            sensed = self.sense(frame)
            state = self.start(sensed) if state is None else state
            for t in range(1, steps + 1):
                if x.ndim == 3 and t > 1:
                    frame = x[t - 1]
                    sensed = self.sense(frame)
                state, kl = self.advance(sensed, state, shared)
                values = {"spk": state.spk, "mem": state.mem, "kl": kl}
                if "nll" in fields:
                    residual = frame - self.decode(state.spk)
                    values["nll"] = F.gaussian_nll(residual, self.log_scale)
                for name in fields if t % every == 0 else ():
                    kept[name].append(values[name])
        empty = torch.empty(0)
        stacked = {n: torch.stack(v) if v else empty for n, v in kept.items()}
        return make_run(stacked, state)
