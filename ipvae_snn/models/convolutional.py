"""The convolutional iP-VAE: one dictionary of features for images and signals of any size."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_instance,
    require_integer,
)
from ipvae_snn._utils.seeding import combine, require_same_draws
from ipvae_snn.functional import require_kl_form
from ipvae_snn.kernels import convolution
from ipvae_snn.kernels.convolution import MapSpec, to_cells
from ipvae_snn.kernels.loop import State
from ipvae_snn.kernels.unroll import row_by_row
from ipvae_snn.models import run_output
from ipvae_snn.models.base import MODELS
from ipvae_snn.models.map_model import MapModel
from ipvae_snn.models.neuron_model import NeuronModel
from ipvae_snn.models.residual import Seen, inferred, neuron_spec, seen
from ipvae_snn.models.whitening import Whitening
from ipvae_snn.neurons import BIAS, CLAMP, MEM_INIT_RANGE, STEP, IPVAENeuron
from ipvae_snn.neurons.lateral import NoLateral, remake_weights, require_transposed

SIDE_BITS = 20
"""A place has the number (row << SIDE_BITS) + column, of at most 2^SIDE_BITS each."""
SAMPLE_BITS = 2 * SIDE_BITS


@MODELS.register("conv-ipvae")
class ConvIPVAE(MapModel, NeuronModel):
    r"""An iP-VAE whose features may lie anywhere in an image: x ≈ Σ_k φ_k ∗ z_k.

    K neurons at each place of a grid, ``stride`` pixels apart, share K features of ``kernel_size``
    pixels, and inhibit one another where their features overlap. A picture of any size is coded as
    a whole. Neurons lie wherever a feature touches the image: pixels outside have no likelihood, so
    that borders are exact. Membranes follow the equation of :class:`~ipvae_snn.IPVAENeuron`, with

    .. math:: d − zG = Φᵀ Λ (x − Φ z), \quad \tfrac12 diag G_k = \tfrac12 Σ Λ φ_k^2

    by two convolutions per timestep; of what lies outside the image nothing is counted.

    Args:
        channels: C of an image (B, C, H, W), or of a signal (B, C, L).
        latents: K.
        kernel_size: height and width of a feature in pixels, or a number for both.
        stride: pixels from one place to the next, at most ``kernel_size``.
        dimensions: 2 for images, 1 for signals.
        learn_scale: learn log σ per channel; otherwise it stays.
        scale: σ of every channel before it has learned, from 1/30 to 30.
        whitening: what images were whitened by; saved with the model, which takes whitened ones.
        spike_grad, form, clamp, step, bias, leak, lateral_scale, learn_step, learn_bias,
            learn_mem_init, kl_form, init_std: as in :class:`~ipvae_snn.IPVAE`.

    ``IPVAE(decoder=nn.ConvTranspose2d(K, C, k, stride=s, bias=False))`` is this model, with the
    weights of that layer. Codes have the shape (B, K, h, w), with h = ⌈H / s⌉ + ⌈k / s⌉ − 1.

    Raises:
        TypeError, ValueError: an option is out of range, named in the message.

    Source: convolutional sparse coding (Zeiler et al. 2010), with the neurons of arXiv 2410.19315.

    >>> model = ConvIPVAE(channels=1, latents=8, kernel_size=6, stride=2)
    >>> out = model.run(torch.rand(5, 1, 20, 31), num_steps=10, record=("spk", "nll"))
    >>> out.spk.shape, out.nll.shape
    (torch.Size([10, 5, 8, 12, 18]), torch.Size([10, 5]))
    >>> model.decode(out.spk[-1], size=(20, 31)).shape
    torch.Size([5, 1, 20, 31])
    >>> model.loss(torch.rand(5, 1, 20, 31), num_steps=10).backward()
    """

    linear_gaussian = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "rule": "local", "iterations": 4000, "batch": 4, "steps": 48, "burn_in": 40, "lr": 0.15,
        "lr_end": 0.01, "weight_decay": 0.0, "beta": 1.0, "bias": 0.6,
        "learn_bias": False, "init_std": 0.1, "lateral_scale": 0.85, "step": 0.1,
    }  # fmt: skip

    def __init__(  # noqa: PLR0913
        self,
        channels: int,
        latents: int,
        kernel_size: int | tuple[int, ...] = 16,
        stride: int | tuple[int, ...] = 4,
        *,
        dimensions: int = 2,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        form: Literal["exact", "published"] = "exact",
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
        whitening: Whitening | None = None,
    ) -> None:
        super().__init__(
            channels, latents, kernel_size, stride, dimensions=dimensions, init_std=init_std,
            learn_scale=learn_scale, scale=scale, whitening=whitening,
        )  # fmt: skip
        self.kl_form = require_kl_form(kl_form)
        require_instance(spike_grad, "spike_grad")
        self.neuron = IPVAENeuron(
            NoLateral(latents), dim=-dimensions - 1, form=form, spike_grad=spike_grad, clamp=clamp,
            step=step, bias=bias, leak=leak, lateral_scale=lateral_scale,
            mem_init=sum(MEM_INIT_RANGE) / 2, learn_step=learn_step, learn_bias=learn_bias,
            learn_mem_init=learn_mem_init,
        )  # fmt: skip
        with torch.no_grad():
            self.neuron.mem_init.uniform_(*MEM_INIT_RANGE)

    @classmethod
    def around(cls, decoder: nn.Module, **options: Any) -> "ConvIPVAE":
        """The model of a layer ``nn.ConvTranspose2d(K, C, k, stride=s, bias=False)``, shared.

        Raises:
            TypeError, ValueError: another layer, or one with a bias, padding, groups or dilation.
        """
        dimensions = require_transposed(decoder)
        layer: Any = decoder
        model = cls(
            layer.out_channels, layer.in_channels, layer.kernel_size, layer.stride,
            dimensions=dimensions, **options,
        )  # fmt: skip
        model.decoder = layer
        return model

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
        """Infer x for a number of timesteps: as :meth:`ipvae_snn.IPVAE.run`, for images.

        Args:
            x: (B, C, H, W), shown at every timestep, or (T, B, C, H, W), a frame per timestep;
                signals (B, C, L). Any size.
            num_steps, record, every, state, seed, sample_seeds, graph: as there; ``spk`` and
                ``mem`` have the shape (T, B, K, h, w). With compiled kernels a neuron's draws
                depend on its place, not on the size of the image.
            mask: as there, broadcast to (B, C, H, W).
        """
        precision = None
        if mask is not None:
            x, precision = seen(x, mask, self.dimensions + 1, self.like)
        x, num_steps = self._require_x(x, num_steps)
        require_integer(every, "every")
        fields = run_output.check_fields(record)
        batch, size = x.shape[-self.dimensions - 2], x.shape[-self.dimensions :]
        shape = (batch, *self.code_shape(size))
        if sample_seeds is not None:
            sample_seeds = run_output.require_sample_seeds(sample_seeds, batch)
        if state is not None:
            state = run_output.require_state(state, shape, like=self.like)
        with torch.set_grad_enabled(self.keeps_graph(graph, x, *(state or ()))), self.seeded(seed):
            require_same_draws()
            remake_weights(self.decoder)
            self.require_together()
            self.neuron.check_parameters()
            _require_decoder_of(self)
            state = self.neuron.initial_state(shape) if state is None else state
            if sample_seeds is None or self.draws_by_row:
                values = self._infer(x, num_steps, fields, every, state, sample_seeds, precision)
            else:
                values = row_by_row(
                    lambda i: self._infer(
                        x.narrow(-self.dimensions - 2, i, 1), num_steps, fields, every,
                        State(*(part[i : i + 1] for part in state)), None,
                        precision if precision is None or len(precision) == 1
                        else precision[i : i + 1],
                    ),
                    sample_seeds, self.generator, self.seeded,
                )  # fmt: skip
            last = State(values.pop("last_spk"), values.pop("last_mem"))
        return run_output.make_run({name: values[name] for name in fields}, last)

    def _infer(
        self,
        x: Tensor,
        num_steps: int,
        fields: tuple[str, ...],
        every: int,
        state: State,
        sample_seeds: Tensor | None,
        precision: Tensor | None,
    ) -> dict[str, Any]:
        spec = self.spec_of(x, state, sample_seeds, precision)
        spec.steps = num_steps
        values = inferred(
            self.neuron, spec, fields, every, lambda map_: self._unflat(map_.movedim(-1, -3))
        )
        if values["nll"] is not None:
            values["nll"] = values["nll"] + self._nll_constant(x, precision)
        return values

    def _nll_constant(self, x: Tensor, precision: Tensor | None) -> Tensor | float:
        if precision is None:
            size = prod(x.shape[-self.dimensions :])
            return F.nll_constant(self.channels, self.log_scale) * size
        log_scale = self.log_scale
        if log_scale is not None:
            log_scale = log_scale.view(-1, *(1,) * self.dimensions)
        return Seen(x, precision).nll_constant(log_scale)

    def cells_of(self, x: Tensor) -> Tensor:
        """Images as the kernels take them, in units of σ."""
        return to_cells(self._flat(x) * self._inverse_scale(), self._s)

    def spec_of(
        self,
        x: Tensor,
        state: State,
        sample_seeds: Tensor | None = None,
        precision: Tensor | None = None,
    ) -> MapSpec:
        """One timestep of the neurons, as the kernels take it.

        Args:
            x, state, sample_seeds: as in :meth:`run`.
            precision: of each value, (B, C, H, W) or (1, C, H, W), in units of 1 / σ².
        """
        weight = to_cells(self._features() * self._inverse_scale(), self._s)
        ones = x.new_ones(1, self.channels, *x.shape[-self.dimensions :])
        known = to_cells(self._flat(ones if precision is None else precision), self._s)
        root = known.sqrt()
        variance = None
        if self.neuron.form == "exact":
            variance = convolution.project(known, weight.square()).flatten(0, 2)
        cells = self.cells_of(x) if precision is None else self.cells_of(x) * root
        if len(root) == 1:
            root = root[0]
        spk, mem = (self._flat(part).movedim(1, -1) for part in state)
        places = self._flat_size(state.mem.shape[2:])
        return neuron_spec(
            self.neuron, self.kl_form, x=cells, weight=weight, spk=spk, mem=mem,
            mask=None if bool((root == 1).all()) else root, variance=variance,
            row_ids=_place_numbers(len(state.mem), places, sample_seeds),
        )  # fmt: skip


def _require_decoder_of(model: ConvIPVAE) -> None:
    """Raise ``ValueError`` unless the decoder of a model still has its shape."""
    decoder: Any = model.decoder
    require_transposed(decoder)
    wanted = (model.latents, model.channels, *model.kernel_size)
    if tuple(decoder.weight.shape) != wanted or tuple(decoder.stride) != model.stride:
        raise ValueError(
            f"decoder must have weights of shape {wanted} and stride {model.stride}, got "
            f"{tuple(decoder.weight.shape)} and {tuple(decoder.stride)}"
        )


def _place_numbers(batch: int, places: tuple[int, int], sample_seeds: Tensor | None) -> Tensor:
    """A number for each place of each sample, int64, (B h w,)."""
    rows, columns = (torch.arange(n) for n in places)
    grid = (rows[:, None] << SIDE_BITS) + columns
    if sample_seeds is None:
        first = torch.arange(batch) << SAMPLE_BITS
    else:
        first = torch.tensor([combine(0, number) for number in sample_seeds.tolist()])
    return (first[:, None, None] + grid).flatten()
