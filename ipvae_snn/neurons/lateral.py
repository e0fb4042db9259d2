"""Sources of lateral weights: modules that own or share the parameters of a Gram matrix.

Each gives K neurons a (K, K) matrix, in nats per spike, by ``gram()``; all but those of
:class:`Recurrent` are symmetric.
"""

import numbers
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_flag,
    require_float,
    require_integer,
    require_same_kind,
)

SHORTEST = 1e-6
"""Features shorter than this are not scaled to length 1."""
_CONVOLUTIONS = {1: conv1d, 2: conv2d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
MAX_NEURONS = 2**20
"""Lateral weights of so many neurons take four terabytes."""


_REPARAMETRIZATIONS = BasePruningMethod, SpectralNorm, WeightNorm


def remake_weights(module: nn.Module) -> None:
    """Compute anew the weights that ``prune`` and the old norms of ``torch.nn.utils`` derive.

    They do so in a hook before ``forward``: this is for modules whose weights are read instead.
    ``torch.nn.utils.parametrize`` needs no such help.
    """
    for hook in _derivations(module):
        hook(module, ())


def derives_weights(module: nn.Module) -> bool:
    """Whether a weight of ``module`` is computed from others, as ``torch.nn.utils`` arranges."""
    return bool(_derivations(module)) or is_parametrized(module)


def _derivations(module: nn.Module) -> list[Any]:
    return [h for h in module._forward_pre_hooks.values() if isinstance(h, _REPARAMETRIZATIONS)]


def weight_of(decoder: Any) -> Tensor:
    """Φ of a linear decoder that is read instead of called, (M, K), as it is now.

    Raises:
        TypeError, ValueError: see :func:`require_linear`.
    """
    require_linear(decoder)
    remake_weights(decoder)
    weight: Tensor = decoder.weight
    return weight


def _is_patched(decoder: nn.Module) -> bool:
    """Whether ``forward`` was set on this layer alone, as adapters do."""
    return not torch.compiler.is_compiling() and "forward" in vars(decoder)


def require_linear(decoder: Any) -> None:
    """Raise unless ``decoder`` is an ``nn.Linear`` whose weights say all that it computes."""
    linear = isinstance(decoder, nn.Linear)
    if not linear or type(decoder).forward is not nn.Linear.forward or _is_patched(decoder):
        kind = type(decoder)
        own = " with a forward of its own" if linear else ""
        raise TypeError(
            f"decoder must be an nn.Linear, got {kind.__module__}.{kind.__qualname__}{own}: only "
            "its weights are read. Change them by torch.nn.utils.parametrize, give other modules "
            "as IPVAE(M, K, decoder=...), and get integers from ipvae_snn.export"
        )
    if decoder.bias is not None:
        raise ValueError(
            "the decoder must have no bias: make it with nn.Linear(K, M, bias=False) and "
            "centre the data instead"
        )
    weight, shape = getattr(decoder, "weight", None), (decoder.out_features, decoder.in_features)
    if not isinstance(weight, Tensor) or isinstance(weight, UninitializedParameter):
        raise ValueError(
            "the decoder has no weights: set decoder.weight, and call a lazy layer once before"
        )
    if weight.shape != shape:
        raise ValueError(
            f"the decoder must have weights of shape {shape}, got {tuple(weight.shape)}"
        )


def require_like(decoder: nn.Linear, present: Any) -> None:
    """Raise unless ``decoder`` is linear, with weights such as ``present`` has."""
    require_linear(decoder)
    if present is None:  # the first
        return
    found, shape = ((layer.out_features, layer.in_features) for layer in (decoder, present))
    if found != shape:
        raise ValueError(f"the decoder must have weights of shape {shape}, got {found}")
    require_same_kind("the decoder's weight", decoder.weight, present.weight)


class GaussianTerms(NamedTuple):
    """Terms of the NLL that no input changes: G, Λ Φ (M, K), log σ (M,), and the constant."""

    gram: Tensor
    drive_weight: Tensor
    log_scale: Tensor | None
    constant: Tensor | float


@dataclass
class _GramCache:
    """A Gram matrix, and the weights it was computed from, with copies of their values.

    ``versions`` are autograd's counts of in-place changes.
    """

    gram: Tensor
    weights: tuple[Tensor, ...]
    versions: tuple[int, ...]
    copies: tuple[Tensor, ...]
    needs_grad: tuple[bool, ...]
    terms: GaussianTerms | None = None


class Lateral(nn.Module):
    """Lateral weights of K neurons."""

    _cache: _GramCache | None = None
    _unit = False
    """Whether each neuron's feature is scaled to length 1."""
    hidden = False
    """Whether these weights are of a hidden layer, which learns them for itself."""

    @property
    def features(self) -> int:
        """K."""
        raise NotImplementedError

    def gram(self) -> Tensor:
        """The current G, (K, K), differentiable."""
        raise NotImplementedError

    between_places = False
    """Whether spikes also inhibit neurons at other places of a map."""

    def inhibition(self, spk: Tensor, gram: Tensor) -> Tensor:
        """zG of counts (..., K), the same shape; ``gram``: of :meth:`cached_gram`."""
        return spk @ gram

    def diagonal(self, gram: Tensor) -> Tensor:
        """How strongly each neuron inhibits itself, (K,)."""
        return gram.diagonal()

    def gram_weights(self) -> tuple[Tensor, Tensor | None] | None:
        """Φ, (M, K), and the unbounded log σ, (M,), that G is computed from; None: do not cache."""
        return None

    def cached_gram(self) -> Tensor:
        """The current G, computed only if the weights have changed since the last call.

        They have changed if any value differs, so that writes to ``weight.data`` and fused
        optimizers, which autograd does not notice, are noticed. On other devices than the CPU it is
        computed at every call: a comparison there would wait for the device. Gradients flow to the
        weights from every use of the matrix, through any number of backward passes.

        Raises:
            ValueError: NaN or infinity in G.
        """
        return self._gram_by(self.gram_weights())

    def _gram_by(self, sources: tuple[Tensor, Tensor | None] | None) -> Tensor:
        """:meth:`cached_gram`, by what :meth:`gram_weights` gave."""
        weights = () if sources is None else tuple(w for w in sources if w is not None)
        if sources is None or not all(map(_is_plain_leaf, weights)):
            gram = self.gram() if sources is None else _gram_by_autograd(*sources, self._unit)
            require_finite(gram, "the lateral weights")
            return gram
        with_graph = torch.is_grad_enabled()
        needs_grad = tuple(with_graph and w.requires_grad for w in weights)
        cache = self._cache
        if cache is None or cache.needs_grad != needs_grad or _is_stale(cache, weights):
            if any(needs_grad):
                gram = _CachedGram.apply(*sources, self._unit)  # type: ignore[no-untyped-call]
            else:
                gram = F.gram(_whitened(*sources, self._unit)[0])
            require_finite(gram, "the lateral weights")
            versions = tuple(w._version for w in weights)
            copies = tuple(w.detach().clone() for w in weights)
            self._cache = cache = _GramCache(gram, weights, versions, copies, needs_grad)
        return cache.gram

    def _require_present_shape(self, name: str, value: Any) -> None:
        """Raise ``ValueError`` if a tensor is to replace a parameter of another shape."""
        present = self._parameters.get(name)
        if isinstance(value, Tensor) and present is not None and value.shape != present.shape:
            raise ValueError(
                f"{name} must have shape {tuple(present.shape)}, got {tuple(value.shape)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}  # a copy computes its own


def _is_plain_leaf(weight: Tensor) -> bool:
    """Whether changes can be detected cheaply: a leaf on the CPU, not traced or transformed."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_inference_mode_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.is_leaf
        and not weight.is_inference()
    )


def _is_stale(cache: _GramCache, weights: tuple[Tensor, ...]) -> bool:
    if len(cache.weights) != len(weights):
        return True
    cached = zip(cache.weights, cache.versions, cache.copies, strict=True)
    return any(
        weight is not cached_weight
        or weight._version != version
        or weight.dtype != copy.dtype
        or not torch.equal(weight, copy)
        for weight, (cached_weight, version, copy) in zip(weights, cached, strict=True)
    )


def _whitened(weight: Tensor, raw: Tensor | None, unit: bool) -> tuple[Tensor, Tensor | None]:
    """The weights that G is the square of, and log σ from its unbounded form."""
    log_scale = None if raw is None else F.bound_log_scale(raw)
    whitened = weight if log_scale is None else weight * torch.exp(-log_scale).unsqueeze(-1)
    return whitened / _lengths(weight) if unit else whitened, log_scale


def _gram_by_autograd(weight: Tensor, raw: Tensor | None, unit: bool = False) -> Tensor:
    weight = weight / _lengths(weight) if unit else weight
    return F.gram(weight, None if raw is None else F.bound_log_scale(raw))


def _lengths(weight: Tensor) -> Tensor:
    """Of the features, (K,)."""
    return weight.square().sum(0).sqrt().clamp(min=SHORTEST)


def _versions(*tensors: Tensor | None) -> list[int]:
    return [tensor._version for tensor in tensors if tensor is not None]


class _CachedGram(torch.autograd.Function):
    """G of leaf tensors. Its backward pass can run any number of times, as it saves no tensors.

    It reads the leaves, and compares their versions with those of the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, raw: Tensor | None, unit: bool) -> Tensor:
        ctx.leaves, ctx.unit = (weight, raw), unit
        ctx.versions = _versions(weight, raw)
        return F.gram(_whitened(weight, raw, unit)[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        weight, raw = ctx.leaves
        if _versions(weight, raw) != ctx.versions:
            raise RuntimeError(
                "the weights of the lateral Gram matrix have been modified by an inplace operation "
                "since the timesteps that are back-propagated: call backward() before the "
                "optimizer steps"
            )
        whitened, log_scale = _whitened(weight, raw, ctx.unit)
        whitened_grad = whitened @ (grad + grad.mT)
        if ctx.unit:  # of a direction: what changes the length has no effect
            along = whitened * (whitened * whitened_grad).sum(0)
            return (whitened_grad - along) / _lengths(weight), None, None
        if raw is None or log_scale is None:
            return whitened_grad, None, None
        # The operations of autograd in its order, so that gradients equal its to the last bit.
        inverse_scale = torch.exp(-log_scale)
        log_scale_grad = -((whitened_grad * weight).sum(-1) * inverse_scale)
        bound, tanh = F.LOG_SCALE_BOUND, torch.tanh(raw / F.LOG_SCALE_BOUND)
        raw_grad = torch.ops.aten.tanh_backward(log_scale_grad * bound, tanh) / bound
        return whitened_grad * inverse_scale.unsqueeze(-1), raw_grad, None


class SharedDecoder(Lateral):
    """Lateral weights of a decoder, G = Φᵀ Λ Φ: exact inference for that decoder.

    Args:
        decoder: ``nn.Linear(K, M, bias=False)``; shared, never copied.
        log_scale: unbounded log σ, shape (M,), shared; ``None`` for σ = 1.

    Raises:
        ValueError: the decoder has a bias, or ``log_scale`` is not of shape (M,).
    """

    decoder: nn.Linear
    log_scale: Tensor | None

    def __init__(self, decoder: nn.Linear, log_scale: Tensor | None = None) -> None:
        super().__init__()
        if log_scale is not None:
            self._check_scale(log_scale, decoder)
        self.decoder = decoder
        if isinstance(log_scale, nn.Parameter) or log_scale is None:
            self.log_scale = log_scale
        else:
            self.register_buffer("log_scale", log_scale)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "decoder":
            require_like(value, self._modules.get("decoder"))
        elif name == "log_scale" and value is not None and "decoder" in self._modules:
            self._check_scale_values(value, self.decoder)
        super().__setattr__(name, value)

    @classmethod
    def _check_scale(cls, log_scale: Tensor, decoder: nn.Linear) -> None:
        cls._check_scale_values(log_scale, decoder)
        if log_scale.dtype != decoder.weight.dtype or log_scale.device != decoder.weight.device:
            raise TypeError(
                f"log_scale is {log_scale.dtype} on {log_scale.device}, the decoder's weights are "
                f"{decoder.weight.dtype} on {decoder.weight.device}: make them agree"
            )

    @staticmethod
    def _check_scale_values(log_scale: Tensor, decoder: nn.Linear) -> None:
        # Not its type: load_state_dict(..., assign=True) sets it before the decoder's weights.
        require_float(log_scale, "log_scale")
        if log_scale.shape != (decoder.out_features,):
            raise ValueError(
                f"log_scale must have shape ({decoder.out_features},), one per output of the "
                f"decoder, got {tuple(log_scale.shape)}"
            )
        require_finite(log_scale, "log_scale")

    @property
    def weight(self) -> Tensor:
        """Φ, the decoder's weights, shape (M, K)."""
        return weight_of(self.decoder)

    @property
    def features(self) -> int:
        return self.decoder.in_features

    @property
    def out_features(self) -> int:
        """M."""
        return self.decoder.out_features

    def has_hooks(self) -> bool:
        """Whether a call of the decoder may do more than its weights say."""
        return bool(self.decoder._forward_hooks or self.decoder._forward_pre_hooks)

    def bounded_log_scale(self) -> Tensor | None:
        """log σ as the model uses it, shape (M,), or ``None``."""
        return None if self.log_scale is None else F.bound_log_scale(self.log_scale)

    def gram(self) -> Tensor:
        return _gram_by_autograd(*self.gram_weights())

    def gram_weights(self) -> tuple[Tensor, Tensor | None]:
        remake_weights(self)
        return self.weight, self.log_scale

    def terms(self) -> GaussianTerms:
        """Terms of the NLL that no input changes; cached like G where they have no graph."""
        # Two graphs for log σ, before G and after it: the order in which autograd adds up its
        # gradient stays that of earlier releases, to the last bit.
        sources = self.gram_weights()
        log_scale = self.bounded_log_scale() if torch.is_grad_enabled() else None
        gram, cache = self._gram_by(sources), self._cache
        if cache is not None and cache.gram is gram and cache.terms is not None:
            return cache.terms
        weight = sources[0]
        log_scale = self.bounded_log_scale() if log_scale is None else log_scale
        drive_weight = F.drive_weight(weight, self.bounded_log_scale())
        constant = F.nll_constant(len(weight), log_scale)
        terms = GaussianTerms(gram, drive_weight, log_scale, constant)
        if cache is not None and cache.gram is gram and not any(cache.needs_grad):
            cache.terms = terms
        return terms

    def drive(self, x: Tensor) -> Tensor:
        """Feed-forward current of inputs x of shape (..., M): Φᵀ Λ x, shape (..., K)."""
        weight, _ = self.gram_weights()
        require_float(x, "x")
        require_fitting(x, "x", like=weight)
        if x.shape[-1:] != weight.shape[:1]:
            raise ValueError(
                f"x must have shape (..., {weight.shape[0]}), the outputs of the decoder, "
                f"got {tuple(x.shape)}"
            )
        drive = F.drive(x.to(weight.dtype), weight, self.bounded_log_scale())
        for name, values in (("x", x), ("the drive, made of x and the weights,", drive)):
            require_finite(values, name)
        return drive


class FixedGram(Lateral):
    """Constant lateral weights.

    Args:
        gram: symmetric, shape (K, K).
    """

    weight: Tensor

    def __init__(self, gram: Tensor) -> None:
        super().__init__()
        require_gram(gram)
        self.register_buffer("weight", gram.detach().clone())

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            require_gram(value, self.features)
        super().__setattr__(name, value)

    @property
    def features(self) -> int:
        return self.weight.shape[0]

    def gram(self) -> Tensor:
        return self.weight


class LearnedGram(Lateral):
    """Learned lateral weights, G = AᵀA: positive semidefinite for every A.

    Args:
        factor: A, shape (R, K).
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor.detach().clone())

    def __setattr__(self, name: str, value: Any) -> None:
        present = self._parameters.get("factor") if name == "factor" else None
        shapes = isinstance(value, Tensor) and isinstance(present, Tensor)
        if shapes and (value.ndim != 2 or value.shape[1] != self.features):
            raise ValueError(
                f"factor must have shape (R, {self.features}), got {tuple(value.shape)}"
            )
        super().__setattr__(name, value)

    @classmethod
    def near_identity(cls, features: int, spread: float = 0.1) -> "LearnedGram":
        """Start from self-inhibition of about 1 nat and weak random competition."""
        noise = torch.randn(features, features) * (spread / features**0.5)
        return cls(torch.eye(features) + noise)

    @classmethod
    def from_gram(cls, gram: Tensor) -> "LearnedGram":
        """Start from a given positive semidefinite matrix."""
        values, vectors = torch.linalg.eigh(gram.detach())
        if values[0] < -1e-5 * values[-1].abs().clamp(min=1e-12):
            raise ValueError(
                f"gram must be positive semidefinite to be learned, its smallest eigenvalue is "
                f"{values[0]:.3g}: pass learn_gram=False to keep it constant"
            )
        return cls((vectors * values.clamp(min=0).sqrt()).mT)

    @property
    def weight(self) -> Tensor:
        """A, shape (R, K)."""
        return self.factor

    @property
    def features(self) -> int:
        return self.factor.shape[1]

    def gram(self) -> Tensor:
        return _gram_by_autograd(*self.gram_weights(), self._unit)

    def gram_weights(self) -> tuple[Tensor, None]:
        remake_weights(self)
        return self.factor, None


class UnitGram(LearnedGram):
    """Learned lateral weights of features of length 1: G_kl = a_k·a_l / |a_k| |a_l|, 1 for k = l.

    Learning finds out which neurons compete, while how strongly each inhibits itself stays: in a
    network that also learns its currents and step size, lateral weights that grow together with
    them would make membranes oscillate.

    Args:
        factor: A, whose columns are the a_k, shape (R, K).

    >>> UnitGram.near_identity(3).gram().diagonal().sum().round().item()
    3.0
    """

    _unit, hidden = True, True


class Recurrent(Lateral):
    r"""Learned weights of either sign, for sequences: a spike may inhibit other neurons or excite.

    A spike of neuron k takes G_kl from the next current of neuron l. Inhibition by a dictionary is
    mutual, and only makes neurons compete for what is there now; weights that need not be symmetric
    also carry what was there before.

    Args:
        weight: G, shape (K, K), or K for a start from the identity plus numbers of variance 1 / K.

    Raises:
        TypeError, ValueError: neither.

    Source: the recurrent weights V of ``snntorch.RLeaky``, G = 1 − Vᵀ: the identity is its reset.

    >>> from ipvae_snn import IPVAENeuron
    >>> neuron = IPVAENeuron(Recurrent(4))
    >>> spk, mem = neuron.run(torch.rand(10, 2, 3) @ torch.rand(3, 4))
    >>> spk.shape
    torch.Size([10, 2, 4])
    """

    hidden = True
    weight: nn.Parameter

    def __init__(self, weight: Tensor | int) -> None:
        super().__init__()
        if isinstance(weight, Tensor):
            require_float(weight, "weight")
            if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or not len(weight):
                raise ValueError(f"weight must have shape (K, K), got {tuple(weight.shape)}")
            require_finite(weight, "weight")
            start = weight.detach().clone()
        else:
            features = features_of(weight)
            start = torch.eye(features) + torch.randn(features, features) / features**0.5
        self.weight = nn.Parameter(start)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self._require_present_shape(name, value)
        super().__setattr__(name, value)

    @property
    def features(self) -> int:
        return self.weight.shape[0]

    def gram(self) -> Tensor:
        remake_weights(self)
        return self.weight


class MapLateral(Lateral):
    """Lateral weights between the places of a map, too: the same at every place.

    ``gram()`` gives R, (K, K, 2n + 1, ...): R[k, l, n + δ] is what a spike of neuron l, δ away,
    takes from neuron k. Beyond the borders nobody fires.
    """

    between_places = True

    @property
    def dimensions(self) -> int:
        """Of the map: 2 for (B, K, H, W), 1 for (B, K, L)."""
        raise NotImplementedError

    def inhibition(self, spk: Tensor, gram: Tensor) -> Tensor:
        if spk.ndim < self.dimensions + 1:
            raise ValueError(
                f"inhibition between places needs maps of {self.dimensions} dimensions, made with "
                f"IPVAENeuron(..., dim=1) for (B, K, ...), got counts of shape {tuple(spk.shape)}"
            )
        leading = spk.shape[: -self.dimensions - 1]
        maps = spk.reshape(-1, *spk.shape[-self.dimensions - 1 :]).movedim(-1, 1)
        reach = [side // 2 for side in gram.shape[2:]]
        sent = _CONVOLUTIONS[self.dimensions](maps, gram, padding=reach)
        return sent.movedim(1, -1).reshape(*leading, *spk.shape[-self.dimensions - 1 :])

    def diagonal(self, gram: Tensor) -> Tensor:
        centre: tuple[Any, ...] = tuple(side // 2 for side in gram.shape[2:])
        return gram[(..., *centre)].diagonal()


class SharedMapDecoder(MapLateral):
    r"""Lateral weights of a convolutional decoder, R = Φᵀ Φ of features that overlap.

    Of a code (B, K, h, w) the decoder makes images (B, C, (h − 1) s + k, ...); features at the
    borders lie within them. :meth:`drive` takes images of such a size. Images of any size, whose
    features may be cut by their borders, are for :class:`~ipvae_snn.models.ConvIPVAE`.

    Args:
        decoder: ``nn.ConvTranspose2d(K, C, k, stride=s, bias=False)`` or of one dimension, without
            padding, groups or dilation; shared, never copied.

    Raises:
        TypeError, ValueError: another layer.

    >>> from ipvae_snn import IPVAENeuron
    >>> neuron = IPVAENeuron(nn.ConvTranspose2d(8, 3, 6, stride=2, bias=False))
    >>> neuron.gram().shape
    torch.Size([8, 8, 5, 5])
    >>> spk, mem = neuron(neuron.drive(torch.rand(4, 3, 20, 32)))
    >>> spk.shape
    torch.Size([4, 8, 8, 14])
    """

    decoder: nn.ConvTranspose1d | nn.ConvTranspose2d

    def __init__(self, decoder: nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.decoder = decoder

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "decoder":
            require_transposed(value)
            present: Any = self._modules.get("decoder")
            if present is not None and (value.weight.shape, value.stride) != (
                present.weight.shape, present.stride,
            ):  # fmt: skip
                raise ValueError(
                    f"decoder must have weights of shape {tuple(present.weight.shape)} and stride "
                    f"{present.stride}, got {tuple(value.weight.shape)} and {value.stride}"
                )
        super().__setattr__(name, value)

    @property
    def weight(self) -> Tensor:
        """Φ, (K, C, k, ...)."""
        weight: Tensor = self.decoder.weight
        return weight

    @property
    def features(self) -> int:
        return self.decoder.in_channels

    @property
    def dimensions(self) -> int:
        return self.weight.ndim - 2

    def gram(self) -> Tensor:
        remake_weights(self)
        weight, stride = self.weight, self.decoder.stride
        reach = [(k - 1) // s for k, s in zip(weight.shape[2:], stride, strict=True)]
        padding = [n * s for n, s in zip(reach, stride, strict=True)]
        kernel: Tensor = _CONVOLUTIONS[self.dimensions](
            weight, weight, stride=stride, padding=padding
        )
        return kernel

    def drive(self, x: Tensor) -> Tensor:
        """Φᵀ x, (..., K, h, w), of images (..., C, H, W) of a size that the decoder makes.

        Raises:
            TypeError, ValueError: images of another size or dtype.
        """
        require_float(x, "x")
        require_fitting(x, "x", like=self.weight)
        spatial, stride = self.weight.shape[2:], self.decoder.stride
        sides = x.shape[-self.dimensions :]
        fits = x.ndim > self.dimensions and x.shape[-self.dimensions - 1] == self.weight.shape[1]
        if not fits or any(
            n < k or (n - k) % s for n, k, s in zip(sides, spatial, stride, strict=True)
        ):
            raise ValueError(
                f"x must have {self.weight.shape[1]} channel(s) and sides of k + n s for kernel k "
                f"= {tuple(spatial)} and stride s = {tuple(stride)}, got shape {tuple(x.shape)}: "
                "ipvae_snn.models.ConvIPVAE takes images of any size"
            )
        require_finite(x, "x")
        remake_weights(self)
        leading = x.shape[: -self.dimensions - 1]
        images = x.reshape(-1, *x.shape[-self.dimensions - 1 :]).to(self.weight.dtype)
        sent = _CONVOLUTIONS[self.dimensions](images, self.weight, stride=stride)
        return sent.reshape(*leading, *sent.shape[1:])


class ConvLateral(MapLateral):
    r"""Learned lateral weights between the places of a map, too: the same at every place.

    Neuron l at a place inhibits neuron k at another, δ away, by

    .. math:: R_{kl}(δ) = Σ_{r,p} A_{rk}(p) A_{rl}(p + δ),

    the correlation of A with itself, whose window is n + 1 wide for neurons up to n places away:
    what dictionary features of that width would have in common. So the matrix of all inhibition in
    a map, of any size, is symmetric and positive semidefinite. Beyond the borders nobody fires.

    Args:
        features: K, the neurons at each place.
        neighbours: n, how many places away inhibition reaches, at least 1.
        dimensions: of the map, 2 for (B, K, H, W), 1 for (B, K, L).

    Raises:
        TypeError, ValueError: no such numbers.

    Source: the autocorrelation of a convolutional dictionary takes the place of ΦᵀΦ there.

    >>> from ipvae_snn import IPVAENeuron
    >>> neuron = IPVAENeuron(ConvLateral(8), dim=1)
    >>> neuron.gram().shape
    torch.Size([8, 8, 3, 3])
    >>> spk, mem = neuron.run(torch.rand(5, 2, 8, 6, 6))
    >>> spk.shape
    torch.Size([5, 2, 8, 6, 6])
    """

    hidden = True

    def __init__(self, features: int, neighbours: int = 1, *, dimensions: int = 2) -> None:
        super().__init__()
        features = require_integer(features, "the number of neurons")
        width = require_integer(neighbours, "neighbours") + 1
        if require_integer(dimensions, "dimensions") not in _CONVOLUTIONS:
            raise ValueError(f"dimensions must be 1 or 2, got {dimensions}")
        window = (width,) * dimensions
        spread = 0.1 / (features * width**dimensions) ** 0.5
        factor = torch.randn(features, features, *window) * spread
        factor[(..., *(0,) * dimensions)] += torch.eye(features)
        self.factor = nn.Parameter(factor)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "factor":
            self._require_present_shape(name, value)
        super().__setattr__(name, value)

    @property
    def weight(self) -> Tensor:
        """A, shape (R, K, n + 1, ...)."""
        return self.factor

    @property
    def features(self) -> int:
        return self.factor.shape[1]

    @property
    def neighbours(self) -> int:
        """n, how many places away inhibition reaches."""
        return self.factor.shape[-1] - 1

    @property
    def dimensions(self) -> int:
        """Of the map."""
        return self.factor.ndim - 2

    def gram(self) -> Tensor:
        """R, shape (K, K, 2n + 1, ...): the centre holds the inhibition within a place."""
        remake_weights(self)
        by_neuron = self.factor.transpose(0, 1)
        kernel: Tensor = _CONVOLUTIONS[self.dimensions](
            by_neuron, by_neuron, padding=self.neighbours
        )
        return kernel.transpose(0, 1)


class NoLateral(Lateral):
    """No lateral weights: the input of the neurons already contains their inhibition.

    Args:
        features: K.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self._features = require_integer(features, "the number of neurons")

    @property
    def features(self) -> int:
        return self._features

    def gram(self) -> Tensor:
        return torch.zeros(self._features, self._features)


def require_transposed(decoder: Any) -> int:
    """The dimensions of a layer that makes images of maps of neurons.

    Raises:
        TypeError, ValueError: another layer, or one with a bias, padding, groups or dilation.
    """
    dimensions = next((d for d, kind in TRANSPOSED.items() if type(decoder) is kind), None)
    if dimensions is None:
        raise TypeError(
            "decoder must be an nn.ConvTranspose2d or an nn.ConvTranspose1d, got "
            f"{type(decoder).__name__}"
        )
    zero, one = (0,) * dimensions, (1,) * dimensions
    expected: dict[str, Any] = {
        "bias": None, "padding": zero, "output_padding": zero, "groups": 1, "dilation": one,
    }  # fmt: skip
    for name, value in expected.items():
        found = getattr(decoder, name)
        if found is not value and (isinstance(found, Tensor) or found != value):
            given = "one" if isinstance(found, Tensor) else found
            raise ValueError(
                f"decoder must have {name}={value if name != 'bias' else False}, got {given}: "
                "images of any size are coded without padding, as neurons lie beyond the borders, "
                "too"
            )
    return dimensions


def features_of(source: nn.Module | int) -> int:
    """K, from a decoder, lateral weights or a number of neurons.

    Raises:
        TypeError, ValueError: none of these, or a number out of range.
    """
    if isinstance(source, nn.Linear):
        return source.in_features
    if isinstance(source, Lateral):
        return source.features
    if isinstance(source, nn.ConvTranspose1d | nn.ConvTranspose2d):
        require_transposed(source)
        return source.in_channels
    if isinstance(source, bool) or not isinstance(source, numbers.Integral):
        decay = ", the place of beta in snntorch.Leaky" if isinstance(source, float) else ""
        raise TypeError(
            "the first argument must be a decoder nn.Linear(K, M, bias=False) or a number of "
            f"neurons K, got {source!r}{decay}"
        )
    features = require_integer(source, "the number of neurons")
    if features > MAX_NEURONS:
        raise ValueError(f"the number of neurons must be at most {MAX_NEURONS:,}, got {features}")
    return features


def require_gram(gram: Any, features: int | None = None) -> None:
    """Raise unless ``gram`` is a symmetric matrix of finite numbers, (K, K)."""
    require_float(gram, "gram")
    features = gram.shape[-1] if features is None and gram.ndim else features
    if gram.shape != (features, features):
        raise ValueError(f"gram must have shape ({features}, {features}), got {tuple(gram.shape)}")
    require_finite(gram, "gram")
    values = gram.detach().double()
    if not torch.allclose(values, values.mT, rtol=1e-4, atol=1e-6):
        raise ValueError("gram must be symmetric: inhibition is mutual; pass (gram + gram.mT) / 2")


def make_lateral(
    source: nn.Module | int,
    *,
    log_scale: Tensor | None = None,
    gram: Tensor | None = None,
    learn_gram: bool = False,
) -> Lateral:
    """The lateral weights for the arguments of :class:`~ipvae_snn.IPVAENeuron`.

    Raises:
        TypeError: ``source`` is no linear layer, lateral module or integer, or ``gram`` no tensor.
        ValueError: arguments that exclude each other, or a ``gram`` that is not symmetric (K, K).

    >>> type(make_lateral(3)).__name__, type(make_lateral(3, gram=torch.eye(3))).__name__
    ('UnitGram', 'FixedGram')
    """
    features = features_of(source)
    require_flag(learn_gram, "learn_gram")
    if isinstance(source, nn.Linear | nn.ConvTranspose1d | nn.ConvTranspose2d):
        if gram is not None or learn_gram:
            raise ValueError(
                "a decoder already gives the lateral weights: pass a number of neurons instead "
                "of the decoder to set gram or learn_gram"
            )
        if isinstance(source, nn.Linear):
            return SharedDecoder(source, log_scale)
    if log_scale is not None:
        raise ValueError("log_scale belongs to a linear decoder: pass it as first argument")
    if isinstance(source, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return SharedMapDecoder(source)
    if isinstance(source, Lateral):
        if gram is not None or learn_gram:
            raise ValueError(
                f"{type(source).__name__} already gives the lateral weights: leave out gram and "
                "learn_gram, or pass a number of neurons"
            )
        return source
    if gram is None:
        return UnitGram.near_identity(features)
    require_gram(gram, features)
    gram = gram.detach().to(torch.get_default_dtype())
    require_finite(gram, "gram")
    return LearnedGram.from_gram(gram) if learn_gram else FixedGram(gram)
