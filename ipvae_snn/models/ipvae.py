"""The iterative Poisson VAE: a linear decoder, and neurons that invert it by spiking."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn import surrogate
from ipvae_snn._utils.checks import (
    require_device,
    require_finite,
    require_fitting,
    require_float,
    require_input,
    require_integer,
    require_number,
)
from ipvae_snn._utils.seeding import seeded
from ipvae_snn._utils.storage import read_model, write_model
from ipvae_snn.kernels.rows import row_products
from ipvae_snn.kernels.spec import PRECISIONS
from ipvae_snn.models import run_output as records
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.inference import infer
from ipvae_snn.neurons.lateral import SharedDecoder
from ipvae_snn.neurons.poisson import BIAS, CLAMP, MEM_INIT_MAX, STEP, IPVAENeuron


class IPVAE(nn.Module):
    r"""Variational inference as a spiking network: x ≈ Φ z, with z inferred spike by spike.

    There is no encoder. The K neurons integrate Φᵀ Λ x, inhibit one another through the Gram
    matrix Φᵀ Λ Φ of the decoder, and their spike counts z reconstruct the input as Φ z. The
    objective of a timestep is the free energy

    .. math:: F_t = −\log N(x; Φ z_t, σ^2) + β \, KL(Poisson(e^{u_t}) ‖ Poisson(e^{u_{t−1}}))

    Args:
        in_features: M, length of an input, such as the pixels of a patch.
        latents: K, number of neurons.
        spike_grad: estimator, default ``surrogate.midpoint()``.
        clamp, step, bias, leak, lateral_scale, learn_step, learn_bias, learn_mem_init: see
            :class:`~ipvae_snn.neurons.poisson.IPVAENeuron`.
        kl_form: ``"exact"``, or ``"published"`` to reproduce published numbers
            (:func:`~ipvae_snn.functional.poisson_kl`).
        init_std: standard deviation of the initial Φ. The published 1e-4 works, and starts slower.
        learn_scale: learn log σ per pixel; otherwise σ = 1. A learned σ weighs pixels that are
            nearly always alike most, which is best for the likelihood and not for the squared
            error. With σ = 1, β is the smaller the smaller the error is to be.

    Raises:
        TypeError, ValueError: an option is out of range, named in the message.

    Source: arXiv 2410.19315, section 3 and appendix.

    >>> model = IPVAE(in_features=16, latents=32)
    >>> out = model.run(torch.rand(5, 16), num_steps=10, record=("spk", "nll"))
    >>> out.spk.shape, out.nll.shape, out.state.mem.shape
    (torch.Size([10, 5, 32]), torch.Size([10, 5]), torch.Size([5, 32]))
    >>> model.decode(out.spk[-1]).shape
    torch.Size([5, 16])
    >>> model.loss(torch.rand(5, 16), num_steps=10).backward()
    """

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        clamp: float = CLAMP,
        step: float = STEP,
        bias: float = BIAS,
        leak: float = 0.0,
        lateral_scale: float = 1.0,
        learn_step: bool = True,
        learn_bias: bool = True,
        learn_mem_init: bool = True,
        kl_form: str = "exact",
        init_std: float = 1e-2,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        in_features = require_integer(in_features, "in_features")
        latents = require_integer(latents, "latents")
        require_number(init_std, "init_std", least=0)
        F.poisson_kl(torch.zeros(1), torch.zeros(1), form=kl_form)  # refuses an unknown form
        numbers = {
            "clamp": clamp, "step": step, "bias": bias, "leak": leak,
            "lateral_scale": lateral_scale,
        }  # fmt: skip
        self._options: dict[str, Any] = {
            "learn_step": learn_step, "learn_bias": learn_bias, "learn_mem_init": learn_mem_init,
            **{name: require_number(value, name) for name, value in numbers.items()},
        }  # fmt: skip
        with seeded(0):  # options that are refused draw nothing
            IPVAENeuron(1, spike_grad=spike_grad, **self._options)
        decoder = nn.Linear(latents, in_features, bias=False)
        nn.init.normal_(decoder.weight, std=init_std)
        self.kl_form = kl_form
        self.precision = "float32"
        self.neuron = IPVAENeuron(
            decoder,
            log_scale=nn.Parameter(torch.zeros(in_features)) if learn_scale else None,
            spike_grad=spike_grad,
            **self._options,
        )

    @property
    def precision(self) -> str:
        """Of the products with G: ``"float32"``, or, faster and less exact, ``"tf32"`` (CUDA) or
        ``"bfloat16"``. A setting of this process: files do not carry it."""
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        self._precision = precision

    @property
    def decoder(self) -> nn.Linear:
        """Φ as ``nn.Linear(K, M)``: the one the neurons share; ``weight[:, k]`` is a feature."""
        return self._lateral.decoder

    @property
    def weight(self) -> Tensor:
        """Φ, shape (M, K)."""
        return self.decoder.weight

    @property
    def log_scale(self) -> Tensor | None:
        """log σ per pixel as inference uses it, shape (M,); ``None`` where σ = 1."""
        return self._lateral.bounded_log_scale()

    @property
    def _lateral(self) -> SharedDecoder:
        return cast(SharedDecoder, self.neuron.lateral)

    @property
    def in_features(self) -> int:
        return self.decoder.out_features

    @property
    def latents(self) -> int:
        return self.decoder.in_features

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction Φ z of counts (or rates) z of shape (..., K); shape (..., M)."""
        require_float(spk, "spk")
        if spk.shape[-1:] != (self.latents,):
            raise ValueError(f"spk must have shape (..., {self.latents}), got {tuple(spk.shape)}")
        require_fitting(spk, "spk", like=self.decoder.weight)
        x_hat = self.decoder(spk.to(self.decoder.weight.dtype))
        require_finite(x_hat, "the reconstruction of spk")
        return x_hat

    def mean_code(self, mem: Tensor) -> Tensor:
        """Expected counts of a membrane: the rates e^u, shape (..., K)."""
        return mem.exp()

    def seeded(self, seed: int | None) -> AbstractContextManager[None]:
        """A block whose spikes depend on ``seed`` alone (:func:`ipvae_snn._utils.seeding.seeded`).

        Covers the device of the weights, and the estimator's own generator where it has one.
        """
        generator = getattr(self.neuron.spike_grad, "generator", None)
        return seeded(seed, device=self.decoder.weight.device, generator=generator)

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = records.RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
        sample_seeds: Tensor | None = None,
    ) -> Any:
        """Infer x for a number of timesteps.

        Args:
            x: shape (B, M), shown at every timestep, or (T, B, M), one frame per timestep.
            num_steps: T ≥ 1; for (T, B, M) it may be left out.
            record: what to return: ``"spk"`` and ``"mem"`` of shape (T, B, K), ``"nll"`` and
                ``"kl"`` of shape (T, B), in nats, summed over pixels and neurons. Nothing that is
                not named is kept: with ``record=()`` and without gradients, memory does not grow
                with T.
            every: keep each n-th timestep only: steps n, 2n, 3n, ... counted from 1.
            state: ``(spk, mem)`` to go on from, such as ``.state`` of an earlier run.
            seed: draw from this seed alone, and leave torch's random state as it was.
            sample_seeds: a number per sample, int64 of shape (B,). The spikes of a sample then
                depend on ``seed``, its number and itself, to the last bit, and not on the other
                samples. Without compiled kernels samples then run one after the other.

        Returns:
            A named tuple with the fields of ``record`` in that order, time first, and ``state``,
            the last ``(spk, mem)``. Gradients flow unless the caller turns them off.

        Raises:
            TypeError: x is no floating tensor, or of another dtype than the weights.
            ValueError: wrong shapes, NaN or infinity in x, no steps, unknown names in ``record``.
        """
        num_steps = require_input(x, num_steps, like=self.decoder.weight)
        require_integer(every, "every")
        fields = records.check_fields(record)
        shape = (x.shape[-2], self.latents)
        if sample_seeds is not None:
            sample_seeds = records.require_sample_seeds(sample_seeds, shape[0])
        state = self.neuron.initial_state(shape) if state is None else state
        state = records.require_state(state, shape, like=self.decoder.weight)
        with self.seeded(seed):
            return self._unroll(x, num_steps, fields, every, state, sample_seeds)

    def _unroll(
        self, x: Tensor, num_steps: int, fields: tuple[str, ...], every: int, state: State,
        sample_seeds: Tensor | None,
    ) -> Any:  # fmt: skip
        neuron, log_scale = self.neuron, self.log_scale
        gram = neuron.gram()
        if sample_seeds is None:
            drive = neuron.drive(x)
        else:
            drive = row_products(x.to(gram.dtype), F.drive_weight(self.weight, log_scale))
            require_finite(drive, "the drive, made of x and the weights,")
        energy = F.input_energy(x, log_scale)
        for name, part in (("gram", gram), ("energy", energy)):
            require_finite(part, f"the {name}, made of x and the weights,")
        wanted = tuple("quad" if name == "nll" else name for name in fields)
        out = infer(
            neuron, drive, gram, state, num_steps, wanted, every, self.kl_form, self.precision,
            sample_seeds,
        )  # fmt: skip
        kept = {"spk": out.spk, "mem": out.mem}
        if out.kl is not None:
            kept["kl"] = out.kl[every - 1 :: every]
        if out.quad is not None:
            constant = F.nll_constant(self.in_features, log_scale)
            kept["nll"] = (out.quad + 0.5 * energy + constant)[every - 1 :: every]
        return records.make_run({n: kept[n] for n in fields}, State(out.last_spk, out.last_mem))

    def loss(self, x: Tensor, num_steps: int | None = None, beta: float = 1.0) -> Tensor:
        """Training objective: mean of F_t over batch and timesteps, times 256 / M; a scalar.

        Args:
            x, num_steps: as in :meth:`run`.
            beta: weight of the KL.
        """
        beta = require_number(beta, "beta", least=0)
        out = self.run(x, num_steps, record=("nll", "kl"))
        return F.free_energy(out.nll, out.kl, beta, self.in_features)

    # -- files --------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs beside the weights, as plain data.

        Raises:
            TypeError: the estimator is not one of :mod:`ipvae_snn.surrogate`.
        """
        return {
            "in_features": self.in_features,
            "latents": self.latents,
            "kl_form": self.kl_form,
            "learn_scale": self.log_scale is not None,
            "spike_grad": surrogate.to_config(self.neuron.spike_grad),
            **self._options,
            **{name: getattr(self.neuron, name) for name in ("clamp", "leak", "lateral_scale")},
        }

    def save(self, path: str | Path) -> None:
        """Write weights and configuration to one file, whole or not at all."""
        write_model(path, self.config(), self.state_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "IPVAE":
        """Read a file of :meth:`save`; never runs code from it.

        The model is in ``eval()`` mode, in the precision it was saved in.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, damaged, or written by a newer version; no such device.
        """
        device = require_device(device)
        config, weights = read_model(path, device)
        try:
            config["spike_grad"] = surrogate.from_config(config["spike_grad"])
            with seeded(0):  # the weights drawn here are replaced: leave the random state alone
                model = cls(**config)
            model.to(weights["neuron.mem_init"].dtype).load_state_dict(weights)
            rest = float(model.neuron.mem_init.detach().abs().max())
            require_number(rest, "the largest |mem_init|", most=MEM_INIT_MAX)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} does not hold a valid model: {error}") from error
        return model.to(device).eval()
