"""The iterative Poisson VAE: a decoder, and neurons that invert it by spiking."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import (
    require_code,
    require_finite,
    require_flag,
    require_input,
    require_instance,
    require_integer,
    require_number,
)
from ipvae_snn._utils.seeding import require_same_draws, seeded
from ipvae_snn.functional import free_energy, raw_log_scale, require_kl_form
from ipvae_snn.kernels import loop
from ipvae_snn.kernels.loop import State
from ipvae_snn.kernels.native import CodeSums
from ipvae_snn.kernels.rows import code_sums
from ipvae_snn.kernels.spec import PRECISIONS, has_bfloat16
from ipvae_snn.kernels.unroll import row_by_row
from ipvae_snn.models import run_output
from ipvae_snn.models.base import MODELS
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.generative import (
    DecodedLikelihood,
    Generative,
    GenerativeTimestep,
    LinearDecoder,
    LinearGaussian,
    has_variance,
    require_decoder,
)
from ipvae_snn.models.likelihoods import Gaussian, Likelihood
from ipvae_snn.models.local_rule import of_neurons
from ipvae_snn.models.neuron_model import NeuronModel
from ipvae_snn.models.published import CLAMP as PUBLISHED_CLAMP
from ipvae_snn.models.published import read_published
from ipvae_snn.models.residual import Seen, inferred, neuron_spec, seen
from ipvae_snn.neurons import BIAS, CLAMP, MEM_INIT_RANGE, STEP, IPVAENeuron
from ipvae_snn.neurons.inference import infer, spec_of
from ipvae_snn.neurons.lateral import TRANSPOSED, NoLateral, SharedDecoder, remake_weights

_OF_NEURONS = (
    "spike_grad", "form", "clamp", "leak", "lateral_scale", "step", "bias", "mem_init", "log_bias",
    "log_step", "lateral",
)  # fmt: skip
_OF_LATERAL = ("log_scale",)
_FIXED = (
    "in_features", "latents", "learn_step", "learn_bias", "learn_mem_init", "learn_scale",
    "scale", "init_std",
)  # fmt: skip
"""Attributes that are kept elsewhere, and arguments that nothing reads after the constructor."""


class _ChosenByDecoder(NeuronModel):
    """Makes a convolutional model where an IPVAE is asked for with a convolutional decoder."""

    def __new__(cls, *values: Any, **options: Any) -> Any:
        decoder = options.get("decoder")
        if cls is not IPVAE or not isinstance(decoder, tuple(TRANSPOSED.values())):
            return super().__new__(cls, *values, **options)
        if values or "in_features" in options or "latents" in options:
            raise TypeError(
                "the sizes of a convolutional model are those of its decoder: leave in_features "
                "and latents out"
            )
        return ConvIPVAE.around(**options)


@MODELS.register("ipvae")
class IPVAE(_ChosenByDecoder):
    r"""Variational inference as a spiking network: x ≈ Φ z, with z inferred spike by spike.

    There is no encoder. The K neurons integrate Φᵀ Λ x, inhibit one another through the Gram
    matrix Φᵀ Λ Φ of the decoder, and their spike counts z reconstruct the input as Φ z. With
    another decoder or likelihood they integrate the current that its gradient gives
    (:mod:`ipvae_snn.models.generative`). The objective of a timestep is the free energy

    .. math:: F_t = −\log N(x; Φ z_t, σ^2) + β \, KL(Poisson(e^{u_t}) ‖ Poisson(e^{u_{t−1}}))

    Args:
        in_features: M, length of an input, such as the pixels of a patch.
        latents: K, number of neurons.
        spike_grad: estimator, default ``surrogate.midpoint()``.
        form: ``"exact"``, or ``"published"`` without the variance term (see
            :class:`~ipvae_snn.neurons.poisson.IPVAENeuron`). Default: exact; published with a
            decoder of one's own that has no method ``squares``
            (:class:`~ipvae_snn.models.Decoder`), or a likelihood without a ``curvature`` of its
            own. There the exact form costs one more backward pass per timestep. By sums over all
            codes of two neurons it is the nearer one to the best rates while a spike changes the
            slope of the output little, and the farther one in steep networks (.06 and .09 nats
            above the best, and .63 and .30).
        clamp, step, bias, leak, lateral_scale, learn_step, learn_bias, learn_mem_init: see
            :class:`~ipvae_snn.neurons.poisson.IPVAENeuron`.
        kl_form: ``"exact"``, or ``"published"`` to reproduce published numbers
            (:func:`~ipvae_snn.functional.poisson_kl`).
        init_std: standard deviation of the initial Φ. The published 1e-4 works, and starts slower.
        learn_scale: learn log σ per pixel; otherwise it stays. A learned σ weighs pixels that are
            nearly always alike most, which is best for the likelihood and not for the squared
            error. Where σ stays, a smaller σ, or a smaller β, makes the error smaller.
        scale: σ of every pixel before it has learned, from 1/30 to 30.
        decoder: any module from counts (B, K) to (B, M) in place of the linear Φ. It costs a
            forward and a backward pass per timestep, and saves if it is a registered
            :class:`~ipvae_snn.models.Decoder`. An ``nn.ConvTranspose2d`` or ``nn.ConvTranspose1d``,
            given without ``in_features`` and ``latents``, makes a
            :class:`~ipvae_snn.models.ConvIPVAE` for images and signals of any size.
        likelihood: law of an input given the decoder's output, in place of the Gaussian:
            :mod:`ipvae_snn.models.likelihoods`.
        halvings: how often a change of the membranes may be halved, each sample on its own, until
            it does not raise the free energy of the rates e^u. It keeps a steep decoder from
            jumping over what it looks for, at one more forward pass per timestep and per halving.
            Only with a decoder or likelihood of one's own.

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

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        latents: int,
        *,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        form: Literal["exact", "published"] | None = None,
        clamp: float = CLAMP,
        step: float = STEP,
        bias: float = BIAS,
        leak: float = 0.0,
        lateral_scale: float = 1.0,
        learn_step: bool = True,
        learn_bias: bool = True,
        learn_mem_init: bool = True,
        kl_form: Literal["exact", "published"] = "exact",
        init_std: float = 1e-2,
        learn_scale: bool = True,
        scale: float = 1.0,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        halvings: int = 0,
    ) -> None:
        super().__init__()
        self.in_features = in_features = require_integer(in_features, "in_features")
        self.latents = latents = require_integer(latents, "latents")
        require_number(init_std, "init_std", least=0)
        require_number(bias, "bias")
        require_instance(spike_grad, "spike_grad")
        if likelihood is not None:
            require_instance(likelihood, "likelihood", Likelihood)
        self.kl_form: str = kl_form
        self.precision = "float32"
        linear = decoder is None and likelihood is None
        if not linear and lateral_scale != 1:
            raise ValueError(
                f"lateral_scale must be 1 with a decoder or likelihood of one's own, got "
                f"{lateral_scale}: there are no lateral weights to scale"
            )
        self.halvings: int = self._require_halvings(halvings, linear)
        form = form or ("exact" if has_variance(decoder, likelihood) else "published")
        # A linear layer without weights yet, and given membranes: refused options draw nothing.
        phi = nn.utils.skip_init(
            nn.Linear, latents, in_features, bias=False, device=torch.get_default_device()
        )
        learn_scale = require_flag(learn_scale, "learn_scale")
        log_scale = raw_log_scale(in_features, learn_scale, scale)
        self.neuron = IPVAENeuron(
            phi if linear else NoLateral(latents),
            log_scale=log_scale if linear else None,
            form=form,
            spike_grad=spike_grad,
            clamp=clamp,
            step=step,
            bias=bias,
            leak=leak,
            lateral_scale=lateral_scale,
            mem_init=sum(MEM_INIT_RANGE) / 2,
            learn_step=learn_step,
            learn_bias=learn_bias,
            learn_mem_init=learn_mem_init,
        )
        decoded = None
        if linear:
            phi.reset_parameters()  # a draw that keeps the weights of a seed what they always were
            nn.init.normal_(phi.weight, std=init_std)
        else:
            decoded = DecodedLikelihood(
                LinearDecoder(latents, in_features, init_std) if decoder is None else decoder,
                Gaussian(in_features, learn_scale, scale) if likelihood is None else likelihood,
            )
            require_decoder(decoded.decoder, latents, in_features, self.like)
        self.decoded: DecodedLikelihood | None = decoded
        with torch.no_grad():
            self.neuron.mem_init.uniform_(*MEM_INIT_RANGE)

    def __setattr__(self, name: str, value: Any) -> None:
        made = "decoded" in self.__dict__ or "decoded" in self.__dict__.get("_modules", {})
        if not made:
            value = require_kl_form(value) if name == "kl_form" else value
            super().__setattr__(name, value)
        elif name in ("decoder", "likelihood"):
            self._set_part(name, value)
        else:
            super().__setattr__(name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        """The value that attribute ``name`` takes; raises unless it may be set to ``value``."""
        if name == "halvings":
            return self._require_halvings(value, self.decoded is None)
        if name == "kl_form":
            return require_kl_form(value)
        if name in _OF_NEURONS or name in _OF_LATERAL:
            owner = "neuron" if name in _OF_NEURONS else "neuron.lateral"
            raise TypeError(f"{name} of an IPVAE is that of its neurons: set model.{owner}.{name}")
        if name == "weight":
            raise TypeError("Φ is the weight of the decoder: set model.decoder.weight")
        if name in _FIXED and value != getattr(self, name, None):
            raise TypeError(f"{name} is fixed when a model is made: make another IPVAE")
        if name == "neuron":
            self._check_neuron(value)
        if name == "decoded" and type(value) is not type(self.decoded):
            raise TypeError(
                f"decoded is a {type(self.decoded).__name__}, got {type(value).__name__}: make "
                "another IPVAE with decoder=... or likelihood=..."
            )
        return value

    @staticmethod
    def _require_halvings(halvings: int, linear: bool) -> int:
        halvings = require_integer(halvings, "halvings", least=0)
        if halvings and linear:
            raise ValueError(
                f"halvings must be 0 without a decoder or likelihood of one's own, got {halvings}: "
                "lower the step"
            )
        return halvings

    def _set_part(self, name: str, value: Any) -> None:
        """Set the decoder or the likelihood where the model keeps it."""
        for weight in value.parameters() if isinstance(value, nn.Module) else ():
            if weight.dtype != self.like.dtype or weight.device != self.like.device:
                raise TypeError(
                    f"the {name} must be {self.like.dtype} on {self.like.device}, as the neurons "
                    f"are, it has weights of {weight.dtype} on {weight.device}"
                )
        if self.decoded is not None:
            if name == "decoder":
                require_decoder(value, self.latents, self.in_features, self.like)
            setattr(self.decoded, name, value)
        elif name == "decoder":
            self._lateral.decoder = value
        else:
            raise TypeError(
                "the likelihood of this model is the Gaussian of its linear decoder: make another "
                "one, IPVAE(in_features, latents, likelihood=...)"
            )

    def _check_neuron(self, neuron: Any) -> None:
        """Raise unless the model can infer with other neurons."""
        require_instance(neuron, "neuron", IPVAENeuron)
        kind, shape = type(self.neuron.lateral), (self.latents, self.in_features)
        found = neuron.features, getattr(neuron.lateral, "out_features", self.in_features)
        if not isinstance(neuron.lateral, kind) or found != shape:
            raise ValueError(
                f"neuron must have lateral weights of the kind {kind.__name__} for {self.latents} "
                f"neurons and {self.in_features} pixels, got {type(neuron.lateral).__name__} for "
                f"{found[0]} and {found[1]}"
            )
        if neuron.mem_init.dtype != self.like.dtype or neuron.mem_init.device != self.like.device:
            raise TypeError(
                f"neuron must be {self.like.dtype} on {self.like.device}, got "
                f"{neuron.mem_init.dtype} on {neuron.mem_init.device}"
            )

    @property
    def precision(self) -> str:
        """Of the products with G: ``"float32"``, or, faster and less exact, ``"tf32"`` (CUDA) or
        ``"bfloat16"``. A setting of this process: files do not carry it. There is a warning if
        the processor has no instructions for it (AVX512-BF16, AMX)."""
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        if precision == "bfloat16" and self.like.device.type == "cpu" and not has_bfloat16():
            warnings.warn(
                "this processor has no instructions for bfloat16, which is then slower than "
                "float32: set precision = 'float32'",
                stacklevel=2,
            )
        self._precision = precision

    @property
    def generative(self) -> Generative:
        """What answers the question of a timestep; see :mod:`ipvae_snn.models.generative`."""
        return LinearGaussian(self._lateral) if self.decoded is None else self.decoded

    @property
    def decoder(self) -> Any:
        """Φ as ``nn.Linear(K, M)``, the one the neurons share: ``weight[:, k]`` is a feature.

        Or the decoder that the model was made with.
        """
        return self._lateral.decoder if self.decoded is None else self.decoded.decoder

    @property
    def weight(self) -> Tensor:
        """Φ, shape (M, K); of another decoder, what one spike of each neuron adds."""
        return self._lateral.weight if self.decoded is None else super().weight

    @property
    def log_scale(self) -> Tensor | None:
        """log σ per pixel as inference uses it, shape (M,); ``None`` where there is none."""
        if self.decoded is None:
            return self._lateral.bounded_log_scale()
        return getattr(self.decoded.likelihood, "log_scale", None)

    @property
    def _lateral(self) -> SharedDecoder:
        lateral = self.neuron.lateral
        if not isinstance(lateral, SharedDecoder) or lateral.out_features != self.in_features:
            raise TypeError(
                "the neurons of this model must have the lateral weights of its decoder, "
                f"SharedDecoder(nn.Linear({self.latents}, {self.in_features}, bias=False)), got "
                f"{lateral}"
            )
        return lateral

    earlier: ClassVar[Mapping[str, Any]] = {"form": "published"}

    # -- traits (see BaseModel) -------------------------------------------------------------

    has_matrix = True

    @property
    def linear_gaussian(self) -> bool:  # type: ignore[override]
        return self.decoded is None

    @property
    def draws_by_row(self) -> bool:  # type: ignore[override]
        return self.decoded is None and super().draws_by_row

    def drawing(self) -> tuple[Any, ...]:
        own = () if self.decoded is None else (self.decoded.decoder, self.decoded.likelihood)
        return *super().drawing(), *own

    # -- inference --------------------------------------------------------------------------

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction Φ z of counts (or rates) z of shape (..., K); shape (..., M).

        It carries a graph as the result of :meth:`run` does.
        """
        require_code(spk, self.latents, like=self.like)
        self.require_together()
        with torch.set_grad_enabled(self.keeps_graph(None, spk)):
            x_hat = self.generative.mean(spk.to(self.like.dtype))
        require_finite(x_hat, "the reconstruction of spk")
        return x_hat

    def code_sums(self, spk: Tensor, x: Tensor) -> list[CodeSums]:
        plain = self.decoded is None and not self._lateral.has_hooks()
        found = code_sums(spk, self._lateral.weight.mT, x) if plain else None
        return super().code_sums(spk, x) if found is None else found

    def observed(self, spk: Tensor, like: Tensor | None = None) -> Tensor:
        return super().observed(spk) if self.decoded is None else self.decoded.draw(spk)

    def spread(self, rate: Tensor, like: Tensor) -> Tensor:
        """Var[Φ z] = Φ² λ of counts with rates λ (..., K), of a linear decoder; (..., M)."""
        return rate @ self._lateral.weight.square().mT

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = run_output.RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
        sample_seeds: Tensor | None = None,
        graph: bool | None = None,
        mask: Tensor | Literal["nan"] | None = None,
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
            graph: whether gradients flow from the result. Default: in ``train()`` mode; in
                ``eval()`` mode, as after :meth:`load` and ``fit``, only if x or the state requires
                a gradient. :meth:`loss` always has one. Under ``torch.no_grad()`` there is none.
            mask: what was seen of x: 1 and 0, or a precision for each value in units of 1 / σ²,
                that broadcasts to (B, M); ``"nan"``: all that is not NaN. Values with 0 do not
                count, whatever they are: the reconstruction fills them in. Each sample then has a
                Gram matrix of its own, which costs two products with Φ in place of one with G.
                With a decoder or likelihood of one's own it is 1 and 0 alone, and pixels must be
                independent (:class:`~ipvae_snn.models.likelihoods.OfPixels`).

        Returns:
            A named tuple with the fields of ``record`` in that order, time first, and ``state``,
            the last ``(spk, mem)``.

        Raises:
            TypeError: x is no floating tensor, or of another dtype than the weights.
            ValueError: wrong shapes, NaN or infinity in x, no steps, unknown names in ``record``.
        """
        precision = None
        if mask is not None:
            x, precision = seen(x, mask, 1, self.like)
            if self.decoded is not None and not bool(((precision == 0) | (precision == 1)).all()):
                raise ValueError(
                    "mask must be 1 where a value was seen and 0 where it was not: precisions "
                    "belong to the linear decoder with its Gaussian"
                )
        num_steps = require_input(x, num_steps, self.in_features, like=self.like)
        require_integer(every, "every")
        fields = run_output.check_fields(record)
        shape = (x.shape[-2], self.latents)
        if sample_seeds is not None:
            sample_seeds = run_output.require_sample_seeds(sample_seeds, shape[0])
        if state is not None:
            state = run_output.require_state(state, shape, like=self.like)
        with_graph = self.keeps_graph(graph, x, *(state or ()))
        with torch.set_grad_enabled(with_graph), self.seeded(seed):
            require_same_draws()
            remake_weights(self.neuron)
            self.require_together()
            self.neuron.check_parameters()
            state = self.neuron.initial_state(shape) if state is None else state
            if self.decoded is not None:
                shown = None if precision is None else precision > 0
                values, last = self._loop(x, shown, num_steps, fields, every, state, sample_seeds)
            elif precision is not None:
                values, last = self._masked(
                    Seen(x, precision), num_steps, fields, every, state, sample_seeds
                )
            else:
                values, last = self._unroll(x, num_steps, fields, every, state, sample_seeds)
        return run_output.make_run({name: values[name] for name in fields}, last)

    def _unroll(
        self,
        x: Tensor,
        num_steps: int,
        fields: tuple[str, ...],
        every: int,
        state: State,
        sample_seeds: Tensor | None,
    ) -> tuple[dict[str, Any], State]:
        """Timesteps of the linear Gaussian model: its quadratic form is all that kernels need."""
        neuron, by_row = self.neuron, sample_seeds is not None
        drive, gram, energy, constant = LinearGaussian(self._lateral).quadratic(x, by_row)
        sources = {
            "x": x,
            "the drive, made of x and the weights,": drive,
            "the energy, made of x and the weights,": energy,
        }
        spec = spec_of(
            neuron,
            drive,
            gram,
            state,
            steps=num_steps,
            fields=tuple("quad" if name == "nll" else name for name in fields),
            every=every,
            kl_form=self.kl_form,
            precision=self.precision,
        )
        out = infer(neuron, spec, sample_seeds, **sources)
        values: dict[str, Any] = {"spk": out.spk, "mem": out.mem}
        if out.kl is not None:
            values["kl"] = out.kl[every - 1 :: every]
        if out.quad is not None:
            values["nll"] = (out.quad + 0.5 * energy + constant)[every - 1 :: every]
        return values, State(out.last_spk, out.last_mem)

    def _masked(
        self,
        given: Seen,
        num_steps: int,
        fields: tuple[str, ...],
        every: int,
        state: State,
        sample_seeds: Tensor | None,
    ) -> tuple[dict[str, Any], State]:
        """Timesteps with a precision for each value: a map of one place, with M channels."""
        log_scale, root = self.log_scale, given.precision.sqrt()
        inverse = self.like.new_ones(()) if log_scale is None else torch.exp(-log_scale)
        weight = self._lateral.weight * inverse.unsqueeze(-1)
        square, exact = weight.square(), self.neuron.form == "exact"

        def run(rows: slice, numbers: Tensor | None) -> dict[str, Any]:
            of_rows = slice(None) if len(root) == 1 else rows
            spk, mem = (part[rows, None, None] for part in state)
            spec = neuron_spec(
                self.neuron,
                self.kl_form,
                x=(given.x[..., rows, :] * inverse * root[of_rows])[..., None, None],
                weight=weight.mT[..., None, None],
                mask=root[of_rows, :, None, None],
                variance=given.precision[of_rows] @ square if exact else None,
                spk=spk,
                mem=mem,
                row_ids=numbers,
            )
            spec.steps = num_steps
            return inferred(
                self.neuron, spec, fields, every, lambda map_: map_.flatten(-3, -2)[..., 0, :]
            )

        if sample_seeds is None or self.draws_by_row:
            values = run(slice(None), sample_seeds)
        else:
            values = row_by_row(
                lambda i: run(slice(i, i + 1), None), sample_seeds, self.generator, self.seeded
            )
        if values["nll"] is not None:
            values["nll"] = values["nll"] + given.nll_constant(log_scale)
        return values, State(values["last_spk"], values["last_mem"])

    def _loop(
        self,
        x: Tensor,
        shown: Tensor | None,
        num_steps: int,
        fields: tuple[str, ...],
        every: int,
        state: State,
        sample_seeds: Tensor | None,
    ) -> tuple[dict[str, Any], State]:
        """Timesteps of any other generative model, by autograd."""
        require_finite(x, "x")
        generative: Any = self.decoded
        generative.require(x, shown)
        watched = bool(self.neuron.observers)
        names = tuple(dict.fromkeys((*fields, "spk", "mem"))) if watched else fields

        def run(x: Tensor, state: State, shown: Tensor | None) -> dict[str, Any]:
            step = GenerativeTimestep(
                self.neuron, generative, x, self.kl_form, shown, self.halvings
            )
            values, last = loop.record(step, state, num_steps, names, 1 if watched else every)
            return {**values, "last_spk": last.spk, "last_mem": last.mem}

        if sample_seeds is None:
            values = run(x, state, shown)
        else:
            rows = [slice(i, i + 1) for i in range(len(sample_seeds))]
            masks = shown.expand(x.shape[-2:]) if shown is not None else None
            values = row_by_row(
                lambda i: run(
                    x[..., rows[i], :],
                    State(*(part[rows[i]] for part in state)),
                    None if masks is None else masks[rows[i]],
                ),
                sample_seeds, self.generator, self.seeded,
            )  # fmt: skip
        require_finite(values["last_mem"], "the membranes: the decoder may have left the numbers;")
        last = State(values.pop("last_spk"), values.pop("last_mem"))
        if watched:
            self.neuron.notify_observers(State(values["spk"], values["mem"]))
        return run_output.thinned(values, fields, every, watched), last

    # -- learning ---------------------------------------------------------------------------

    def nll_of(self, spk: Tensor, x: Tensor, shown: Tensor | None = None) -> Tensor:
        if self.decoded is None:
            return super().nll_of(spk, x, shown)
        return self.decoded.nll(x, self.decoded.decoder(spk), shown)

    def settled_loss(
        self, x: Tensor, spk: Tensor, rate: Tensor, shown: Tensor | None, target_rate: float
    ) -> Tensor:
        """A scalar whose gradients are what the local rule learns by, of any decoder.

        Args:
            x: inputs (B, M), finite.
            spk, rate: counts that inference settled on, and e^u, (L, B, K), without a graph.
            shown: which values count, booleans (B, M) or (1, M); ``None``: all.
            target_rate: see :func:`~ipvae_snn.models.local_rule.local_loss`.
        """
        length = len(spk)
        shown = None if shown is None else shown.expand_as(x).repeat(length, 1)
        nll = self.nll_of(spk.flatten(0, 1), x.repeat(length, 1), shown)
        loss: Tensor = free_energy(nll, torch.zeros_like(nll), 0.0, self.in_features)
        return loss + of_neurons(self.neuron, rate.mean((0, 1)), target_rate)

    # -- files ------------------------------------------------------------------------------

    @classmethod
    def from_published(cls, path: str | Path, *, ema: bool = False) -> "IPVAE":
        """The model in a checkpoint of the authors' program; never runs code from it.

        It has the published recurrence and KL, and the published clamp of 10. Spikes are exact
        counts, as in their evaluation, and the estimator is this package's own. It is in ``eval()``
        mode, and can be trained on and saved.

        Args:
            path: the file, with Φ, log σ, log b, log α and u_0 of a linear decoder.
            ema: take the moving averages of the weights.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, or another model; the message names what it lacks or has besides.
        """
        weights = read_published(path, ema)
        pixels, latents = weights["weight"].shape
        with seeded(0):
            model = cls(
                pixels, latents, form="published", kl_form="published", clamp=PUBLISHED_CLAMP
            )
        lateral = model._lateral
        assert lateral.log_scale is not None
        with torch.no_grad():
            lateral.decoder.weight.copy_(weights["weight"])
            lateral.log_scale.copy_(weights["log_scale"])
            for name in ("log_bias", "log_step", "mem_init"):
                getattr(model.neuron, name).copy_(weights[name])
        try:
            model.check_loaded()
        except ValueError as error:
            raise ValueError(f"{path} does not hold a valid model: {error}") from error
        return model.eval()

    def _current(self) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        if self.decoded is not None:
            parts = {"decoder": self.decoded.decoder, "likelihood": self.decoded.likelihood}
        return {**super()._current(), **parts}
