"""The one question of a timestep: what current do these spikes leave, and what do they cost?

A generative model x ~ p(x | f(z)) answers it, for an input x and spike counts z:

    current(z) = Jᵀ ∂ log p(x | η) / ∂η,  η = f(z)        (B, K), nats per timestep
    nll(z)     = −log p(x | η)                            (B,), nats

In the exact form the current lacks, besides, ½ v: what the variance of the counts costs to second
order, v_k = Σ_m c_m J_mk², with the curvature c = −∂² log p / ∂η² of each pixel. A decoder that has
no closed form of it is asked for a product Jᵀ r with random signs r once more per timestep, whose
square is v on average (:func:`probed_squares`).

Where f is linear and p Gaussian, −log p is quadratic in z, the current splits into drive − zG, and
compiled kernels take both (:class:`Quadratic`). Everything else answers by one vector–Jacobian
product per timestep, and runs in the time loop of :mod:`ipvae_snn.kernels.loop`.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_instance,
    require_integer,
    require_number,
    require_shape,
)
from ipvae_snn._utils.registry import Recorded, Registry
from ipvae_snn._utils.seeding import seeded, source
from ipvae_snn.kernels import equations
from ipvae_snn.kernels.loop import Moment, Timestep
from ipvae_snn.kernels.rows import row_products, sparse_products
from ipvae_snn.models.likelihoods import Likelihood, OfPixels
from ipvae_snn.models.residual import expected_nll
from ipvae_snn.neurons import IPVAENeuron
from ipvae_snn.neurons.lateral import SharedDecoder

FEW_OUTPUTS = 16
"""Outputs of a decoder whose Jacobian is taken row by row."""
NO_GRADIENT = (
    "the output of the decoder must depend on the spikes: it was computed without a gradient, as "
    "by detach(), no_grad() or quantized layers"
)


class Feedback(NamedTuple):
    """What the spikes of a timestep leave, and what they cost.

    Attributes:
        current: shape of the code, (B, K), nats per timestep.
        nll: (B,), nats.
        variance: v of the exact form, shape of the code, where it was asked for and at hand.
    """

    current: Tensor
    nll: Tensor
    variance: Tensor | None = None


class Quadratic(NamedTuple):
    """−log p(x | z) = ½ (energy − 2 d·z + z·(zG)) + constant: what compiled kernels take.

    Attributes:
        drive: d, (..., K). gram: G, (K, K). energy: (...). constant: a scalar or a number.
    """

    drive: Tensor
    gram: Tensor
    energy: Tensor
    constant: Tensor | float


class Explained(Protocol):
    """A generative model that was shown one input."""

    def feedback(self, spk: Tensor) -> Feedback:
        """What spikes (B, K) leave, and what they cost."""
        ...


class Generative(Protocol):
    """A decoder and a likelihood."""

    def given(self, x: Tensor, form: str = "published", shown: Tensor | None = None) -> Explained:
        """This model, shown inputs (B, M); its currents have the variance term in ``"exact"``.

        ``shown`` says which values count, booleans (B, M) or (1, M); default: all.
        """
        ...

    def quadratic(self, x: Tensor, by_row: bool = False) -> Quadratic | None:
        """−log p as a quadratic form, for inputs (..., M); None where it is none.

        With ``by_row`` the drive of a row does not depend, to the last bit, on other rows.
        """
        ...

    def mean(self, code: Tensor) -> Tensor:
        """E[x | z], (..., M), for counts or rates (..., K)."""
        ...


class Decoder(Recorded, nn.Module):
    """f: counts (B, K) to η (B, M), differentiable; registered in ``DECODERS``, it is saved.

    Any ``nn.Module`` will do where nothing is to be saved.
    """

    @abstractmethod
    def forward(self, spk: Tensor) -> Tensor:
        """η of counts."""

    def squares(self, curvature: Tensor, spk: Tensor) -> Tensor:
        """Σ_m c_m J_mk², (B, K), for c of shape (B, M) and the Jacobian J at counts (B, K).

        A model whose decoder has it takes the exact form of itself; others, where that is asked
        for, estimate it.
        """
        raise NotImplementedError


DECODERS: Registry[Decoder] = Registry("decoder", Decoder)
"""Decoders that files can name."""


@DECODERS.register("linear")
class LinearDecoder(Decoder):
    """η = Φ z.

    Args:
        latents: K.
        in_features: M.
        init_std: standard deviation of the initial Φ.
    """

    def __init__(self, latents: int, in_features: int, init_std: float = 1e-2) -> None:
        super().__init__()
        sizes = require_integer(in_features, "in_features"), require_integer(latents, "latents")
        init_std = require_number(init_std, "init_std", least=0)
        self.weight = nn.Parameter(init_std * torch.randn(sizes))

    def forward(self, spk: Tensor) -> Tensor:
        return spk @ self.weight.mT

    def squares(self, curvature: Tensor, spk: Tensor) -> Tensor:
        return curvature @ self.weight.square()


def _has_squares(decoder: nn.Module | None) -> bool:
    own = getattr(type(decoder), "squares", Decoder.squares)
    return decoder is None or own is not Decoder.squares


def probed_squares(eta: Tensor, spk: Tensor, curvature: Tensor, create_graph: bool) -> Tensor:
    r"""Σ_m c_m J_mk² of any decoder, (B, K): exact of few outputs, else an unbiased estimate.

    .. math:: E\big[(J^⊤ r)_k (J^⊤ c r)_k\big] = Σ_m c_m J_{mk}^2, \quad r_m = ±1 \text{ at random}

    Args:
        eta: the output of the decoder, (B, M), with a graph to ``spk``.
        spk: (B, K).
        curvature: c, (B, M). Where none is negative, one product Jᵀ √c r is enough.
        create_graph: whether gradients are to flow from it.

    Source: Hutchinson 1989; Bekas, Kokiopoulou & Saad 2007 for the diagonal.
    """

    def back(values: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(
            eta, spk, values, create_graph=create_graph, retain_graph=True
        )
        return product

    if eta.shape[-1] <= FEW_OUTPUTS:
        each = torch.eye(eta.shape[-1], dtype=eta.dtype, device=eta.device)
        rows = torch.stack([back(one.expand_as(eta)).square() for one in each], 1)
        return (curvature.unsqueeze(-1) * rows).sum(1)
    size, generator = eta.shape, source(None, eta.device)
    signs = torch.randint(0, 2, size, generator=generator, device=eta.device) * 2 - 1
    signs = signs.to(eta.dtype)
    if bool((curvature >= 0).all()):
        # The root of 0 has no slope.
        root = curvature.clamp(min=torch.finfo(eta.dtype).tiny).sqrt()
        return back(root * signs).square()
    return back(signs) * back(curvature * signs)


def require_decoder(decoder: Any, latents: int, in_features: int, like: Tensor) -> None:
    """Raise unless ``decoder`` maps counts (B, K) to (B, M).

    Args:
        decoder: the module.
        latents, in_features: K and M.
        like: in the dtype and on the device of the counts, where the decoder has no weights.
    """
    require_instance(decoder, "decoder")
    if not isinstance(decoder, nn.Module):
        raise TypeError(f"decoder must be a torch.nn.Module, got {type(decoder).__name__}")
    training = [module for module in decoder.modules() if module.training]
    decoder.eval()  # so that statistics of batches stay as they are
    try:
        with torch.no_grad(), seeded(0):
            found = decoder(torch.zeros(2, latents).to(next(decoder.parameters(), like)))
    except RuntimeError as error:
        raise ValueError(f"decoder must map (B, {latents}) to (B, M): {error}") from error
    finally:
        for module in training:
            module.training = True
    if not isinstance(found, Tensor) or found.shape != (2, in_features):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"decoder must map (B, {latents}) to (B, {in_features}), it gave {shape} for B = 2"
        )


def has_variance(decoder: nn.Module | None, likelihood: Likelihood | None) -> bool:
    """Whether both say what the variance term needs; None are the linear one and the Gaussian."""
    curved = likelihood is None or type(likelihood).curvature is not Likelihood.curvature
    return curved and _has_squares(decoder)


class LinearGaussian:
    """x ~ N(Φ z, σ²), with the weights that the neurons share: answers by its quadratic form."""

    def __init__(self, lateral: SharedDecoder) -> None:
        self.lateral = lateral

    def given(
        self, x: Tensor, form: str = "published", shown: Tensor | None = None
    ) -> "_Explained":
        log_scale, weight = self.lateral.bounded_log_scale(), self.lateral.weight
        seen = weight.new_ones(1, len(weight)) if shown is None else shown.to(weight.dtype)
        precision = seen if log_scale is None else seen * torch.exp(-2 * log_scale)
        lengths = precision @ weight.square() if form == "exact" else None

        def feedback(spk: Tensor) -> Feedback:
            residual = x - spk @ weight.mT
            current = (residual * precision) @ weight
            current = current if lengths is None else current - 0.5 * lengths
            nll = expected_nll(residual, residual.new_zeros(()), log_scale, seen)
            return Feedback(current, nll)

        return _Explained(feedback)

    def quadratic(self, x: Tensor, by_row: bool = False) -> Quadratic:
        gram, drive_weight, log_scale, constant = self.lateral.terms()
        x = x.to(drive_weight.dtype)
        return Quadratic(
            drive=row_products(x, drive_weight) if by_row else x @ drive_weight,
            gram=gram,
            energy=F.input_energy(x, log_scale),
            constant=constant,
        )

    def mean(self, code: Tensor) -> Tensor:
        decoder = self.lateral.decoder
        if torch.is_grad_enabled() or self.lateral.has_hooks():
            x_hat: Tensor = decoder(code)
            return x_hat
        return sparse_products(code, self.lateral.weight.mT)


class DecodedLikelihood(nn.Module):
    """Any decoder under any likelihood: answers by one vector–Jacobian product."""

    def __init__(self, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.decoder, self.likelihood = decoder, likelihood

    def __setattr__(self, name: str, value: Any) -> None:
        kind = {"decoder": nn.Module, "likelihood": Likelihood}.get(name)
        if kind is not None:
            require_instance(value, name, kind)
        super().__setattr__(name, value)

    def given(
        self, x: Tensor, form: str = "published", shown: Tensor | None = None
    ) -> "_Explained":
        def nll(code: Tensor) -> Tensor:
            return self.nll(x, self.decoder(code), shown)

        def feedback(spk: Tensor) -> Feedback:
            learning = torch.is_grad_enabled()
            with torch.inference_mode(False), torch.enable_grad():
                given = x.clone() if x.is_inference() else x
                z = spk if spk.requires_grad else spk.detach().clone().requires_grad_()
                eta = self.decoder(z.clone())  # its first layer may work in place
                if not eta.requires_grad:
                    raise ValueError(NO_GRADIENT)
                score = self._counted(self.likelihood.score(given, eta), shown)
                (current,) = torch.autograd.grad(
                    eta,
                    z,
                    score if learning else score.detach(),
                    create_graph=learning,
                    retain_graph=learning or form == "exact",
                    allow_unused=True,
                )
                if current is None:
                    raise ValueError(NO_GRADIENT)
                variance = None
                if form == "exact":
                    curvature = self._counted(self.likelihood.curvature(given, eta), shown)
                    variance = self.squares(curvature, z, eta, learning)
                    current = current - 0.5 * variance
            current = current if learning else current.detach()
            cost = self.nll(x, eta, shown)
            return Feedback(current, cost if learning else cost.detach(), variance)

        return _Explained(feedback, nll)

    @staticmethod
    def _counted(values: Tensor, shown: Tensor | None) -> Tensor:
        return values if shown is None else values.where(shown, 0.0)

    def squares(
        self, curvature: Tensor, spk: Tensor, eta: Tensor, create_graph: bool = False
    ) -> Tensor:
        """v of the exact form, by the decoder where it can tell."""
        if not _has_squares(self.decoder):
            return probed_squares(eta, spk, curvature, create_graph)
        decoder: Any = self.decoder
        found: Tensor = decoder.squares(curvature, spk)
        return found

    def nll(self, x: Tensor, eta: Tensor, shown: Tensor | None = None) -> Tensor:
        """−log p(x | η) of the values that were shown, (B,), in nats."""
        if shown is not None:
            assert isinstance(self.likelihood, OfPixels)
            return self._counted(self.likelihood.each(x, eta), shown).sum(-1)
        nll = self.likelihood.nll(x, eta)
        require_shape(nll, f"nll of {type(self.likelihood).__name__}", tuple(x.shape[:-1]))
        return nll

    def require(self, x: Tensor, shown: Tensor | None = None) -> None:
        """Raise ``ValueError`` unless the likelihood can have such inputs, of these values."""
        if shown is not None and not isinstance(self.likelihood, OfPixels):
            raise ValueError(
                "a mask needs a likelihood of independent pixels, a subclass of OfPixels, got "
                f"{type(self.likelihood).__name__}"
            )
        self.likelihood.require(x)

    def quadratic(self, x: Tensor, by_row: bool = False) -> None:
        return None

    def mean(self, code: Tensor) -> Tensor:
        return self._of_rows(code, self.likelihood.mean)

    def draw(self, code: Tensor) -> Tensor:
        """x ~ p(x | z), (..., M), for counts (..., K), from the generator of the present block."""
        return self._of_rows(code, self.likelihood.draw)

    def _of_rows(self, code: Tensor, of_eta: Callable[[Tensor], Tensor]) -> Tensor:
        flat = code.reshape(-1, code.shape[-1])  # decoders take one batch dimension
        x = of_eta(self.decoder(flat))
        return x.reshape(*code.shape[:-1], x.shape[-1])


class _Explained(NamedTuple):
    feedback: Callable[[Tensor], Feedback]
    nll: Callable[[Tensor], Tensor] | None = None
    """−log p(x | f(code)) of counts or rates, (B,), without a current."""


class GenerativeTimestep(Timestep):
    """A timestep of neurons that get their current from any generative model.

    Args:
        x: (B, M), or (T, B, M) where the input changes.
        shown: which values count, as in :meth:`Generative.given`.
        halvings: see :class:`~ipvae_snn.IPVAE`.
    """

    def __init__(
        self, neuron: IPVAENeuron, generative: Any, x: Tensor, kl_form: str,
        shown: Tensor | None = None, halvings: int = 0,
    ) -> None:  # fmt: skip
        self.neuron, self.kl_form, self.halvings = neuron, kl_form, halvings
        self.changing = x.ndim == 3
        frames = x if self.changing else [x]
        self.explained = [generative.given(frame, neuron.form, shown) for frame in frames]

    def _at(self, t: int) -> Explained:
        explained: Explained = self.explained[t if self.changing else 0]
        return explained

    def send(self, spk: Tensor, t: int) -> Feedback:
        return self._at(t).feedback(spk)

    def integrate(self, now: Moment, t: int) -> Tensor:
        # The same spikes leave another current where the next frame is another.
        sent = self.send(now.spk, t) if self.changing and t else now.sent
        mem = self.neuron.integrate(sent.current, now.mem.new_zeros(()), now.mem)
        if not self.halvings:
            return mem
        change = mem - now.mem
        return now.mem + self._share(now.mem, change, sent.variance, t) * change

    @torch.no_grad()
    def _share(self, mem: Tensor, change: Tensor, variance: Tensor | None, t: int) -> Tensor:
        """1, ½, ¼, ... of each sample, (B, 1): the first that does not raise the free energy of
        rates, nll(e^u) + (b + ½ v) · e^u, or the last."""
        explained: Any = self._at(t)
        price = self.neuron.log_bias.exp() + (0 if variance is None else 0.5 * variance)

        def energy(mem: Tensor) -> Tensor:
            rate = mem.exp()
            of_rates: Tensor = explained.nll(rate) + (price * rate).sum(-1)
            return of_rates

        before, share = energy(mem), mem.new_ones(len(mem), 1)
        for _ in range(self.halvings):
            falls = energy(mem + share * change) <= before
            if bool(falls.all()):
                break
            share = share.where(falls.unsqueeze(-1), share / 2)
        return share

    def emit(self, mem: Tensor) -> Tensor:
        return self.neuron.emit(mem)

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        if name == "nll":
            nll: Tensor = now.sent.nll
            return nll
        return equations.poisson_kl_sum(now.mem, now.mem_before, self.kl_form)
