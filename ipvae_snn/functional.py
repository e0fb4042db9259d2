"""The equations of the iterative Poisson VAE: pure functions, no state, no randomness.

Notation (paper: "Brain-like Variational Inference", arXiv 2410.19315):

========  ==============  ===========  ====================================================
symbol    here            shape        meaning
========  ==============  ===========  ====================================================
Φ         ``weight``      (M, K)       linear decoder; column k is the feature of neuron k
log σ     ``log_scale``   (M,)         log standard deviation of each pixel; Λ = diag(1/σ²)
u         ``mem``         (..., K)     membrane = log firing rate, in nats
λ = eᵘ    ``rate``        (..., K)     expected spikes per timestep
z         ``spk``         (..., K)     spike count of the timestep
d         ``drive``       (..., K)     feed-forward current Φᵀ Λ x
G         ``gram``        (K, K)       lateral weights Φᵀ Λ Φ
zG        ``inhibition``  (..., K)     lateral current that the spikes send out
========  ==============  ===========  ====================================================

Every function works on any floating dtype and device, and is differentiable. Shapes that do not
match raise ``ValueError``, arguments that are no floating-point tensors ``TypeError``.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils import checks
from ipvae_snn.kernels import equations
from ipvae_snn.kernels.equations import MEM_FLOOR as MEM_FLOOR  # e⁻⁸, one spike in 3,000 timesteps

PATCH = 256
"""Pixels of a 16×16 patch, the size that losses of all inputs are scaled to."""
LOG_SCALE_BOUND = 3.45
"""Learned log σ stays inside ±3.45 (see :func:`bound_log_scale`)."""


def bound_log_scale(raw: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """Map an unbounded parameter to log σ within ±bound: ``bound · tanh(raw / bound)``.

    >>> bound_log_scale(torch.tensor([0.0, 1000.0]))
    tensor([0.0000, 3.4500])
    """
    checks.require_float(raw, "raw")
    return bound * torch.tanh(raw / bound)


def raw_log_scale(size: int, learned: bool, scale: float = 1.0) -> nn.Parameter | None:
    """Parameter that :func:`bound_log_scale` maps to log σ of ``size`` values.

    Frozen, unless it is ``learned``; ``None`` for σ = 1 that stays.

    Raises:
        ValueError: ``scale`` is beyond 1/30 to 30, near the bounds.

    >>> bound_log_scale(raw_log_scale(2, learned=False, scale=0.5)).exp()
    tensor([0.5000, 0.5000])
    """
    scale = checks.require_number(scale, "scale", 1 / 30, 30.0)
    if not learned and scale == 1:
        return None
    raw = LOG_SCALE_BOUND * math.atanh(math.log(scale) / LOG_SCALE_BOUND)
    return nn.Parameter(torch.full((size,), raw), requires_grad=learned)


def gram(weight: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Lateral weights G = Φᵀ Λ Φ, symmetric positive semidefinite.

    The diagonal is each neuron's inhibition of itself (a reset by subtraction), the rest is
    explaining away between neurons with overlapping features.

    Args:
        weight: Φ, shape (M, K).
        log_scale: log σ per pixel, shape (M,); ``None`` means σ = 1.

    Returns:
        Shape (K, K), in nats per spike.

    >>> gram(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    tensor([[1., 1.],
            [1., 5.]])
    """
    checks.require_per_pixel(weight, log_scale, "weight", axis=-2)
    whitened = weight if log_scale is None else weight * torch.exp(-log_scale).unsqueeze(-1)
    if not torch.is_grad_enabled():
        return _Gram.forward(whitened)
    gram: Tensor = _Gram.apply(whitened)  # type: ignore[no-untyped-call]
    return gram


class _Gram(torch.autograd.Function):
    """WᵀW. Its gradient W (Ḡ + Ḡᵀ) costs one product; autograd would need two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        # Low precision would lose the small differences between overlapping features.
        with torch.autocast(weight.device.type, enabled=False):
            return weight.mT @ weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        weight: Tensor
        (weight,) = ctx.saved_tensors
        return weight @ (grad + grad.mT)


def drive(x: Tensor, weight: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Feed-forward current d = Φᵀ Λ x, in nats per timestep.

    Args:
        x: input, shape (..., M).
        weight: Φ, shape (M, K).
        log_scale: log σ per pixel, shape (M,); ``None`` means σ = 1.

    Returns:
        Shape (..., K).

    >>> drive(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    tensor([[1., 7.]])
    """
    scaled = drive_weight(weight, log_scale)
    checks.require_inputs_of(scaled, x)
    return x @ scaled  # if x were scaled instead, the gradient would need another product


def drive_weight(weight: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Λ Φ, shape (M, K): the matrix that maps inputs to currents, d = xᵀ Λ Φ.

    >>> drive_weight(torch.ones(2, 1), torch.tensor([0.0, -1.0]))
    tensor([[1.0000],
            [7.3891]])
    """
    checks.require_per_pixel(weight, log_scale, "weight", axis=-2)
    return weight if log_scale is None else weight * torch.exp(-2 * log_scale).unsqueeze(-1)


def soft_clamp(v: Tensor, clamp: float | Tensor | None, floor: float = MEM_FLOOR) -> Tensor:
    """Smooth upper bound, hard floor: c − softplus(c − max(v, floor)).

    Approaches c as v grows, follows v in between, and is constant for v below ``floor``. Finite for
    finite c. ``clamp=None`` returns v unchanged. Source: the published program.

    >>> soft_clamp(torch.tensor([-50.0, 0.0, 50.0]), clamp=10.0)
    tensor([-8.0000e+00, -4.5776e-05,  1.0000e+01])
    """
    checks.require_float(v, "v")
    if clamp is not None and not isinstance(clamp, Tensor):
        clamp = checks.require_number(clamp, "clamp")
    return equations.soft_clamp(v, clamp, floor)


def membrane_step(
    mem: Tensor,
    drive: Tensor,
    inhibition: Tensor,
    *,
    step: Tensor | float = 1.0,
    bias: Tensor | float = 0.0,
    leak: float = 0.0,
    mem_rest: Tensor | float = 0.0,
    clamp: float | Tensor | None = None,
) -> Tensor:
    """The membrane update of a timestep: natural-gradient descent on the free energy.

    h = α · (d − zG − b − leak · (u − u_rest));  u' = clamp(u + clamp(h))

    For rates, with α = 1 and without clamps and leak, λ' = λ · exp(d − b) / exp(zG): the spikes of
    competitors divide the rate. The Fisher information of a Poisson in its log rate is λ, which
    cancels the λ of the gradient: the recurrent input consists of spikes alone (paper, section 3).

    Args:
        mem: u, shape (..., K), nats.
        drive: d, shape (..., K), nats per timestep.
        inhibition: zG of the *previous* timestep's spikes, shape (..., K), nats per timestep.
        step: α, the step size of inference.
        bias: b, tonic inhibition, scalar or (K,), nats per timestep.
        leak: pull to ``mem_rest`` per timestep, in [0, 1]; 0 in the published model.
        mem_rest: u_rest, scalar or (K,), nats.
        clamp: upper bound c of :func:`soft_clamp` for both h and u'; ``None`` for no clamps.

    Returns:
        u', shape (..., K), nats.

    >>> membrane_step(torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.25]))
    tensor([1.0000, 0.7500])
    """
    checks.require_broadcastable(mem=mem, drive=drive, inhibition=inhibition)
    if clamp is not None and not isinstance(clamp, Tensor):
        clamp = checks.require_number(clamp, "clamp")
    return equations.membrane_step(
        mem, drive, inhibition, step=step, bias=bias, leak=leak, mem_rest=mem_rest, clamp=clamp
    )


def poisson_kl(mem: Tensor, mem_prior: Tensor, form: str = "exact") -> Tensor:
    """KL divergence of two Poisson distributions, from their log rates, per element, in nats.

    KL(Poisson(e^u) ‖ Poisson(e^p)) = e^p · (1 + e^Δ (Δ − 1)),  Δ = u − p

    Args:
        mem: u, log rate of the posterior, shape (..., K).
        mem_prior: p, log rate of the prior, broadcastable to ``mem``.
        form: ``"exact"``, the closed form above; ``"published"``, the variant of the authors'
            program, with e^u in place of the first e^p: e^Δ times too large. Only for reproducing
            published numbers.

    Returns:
        Shape (..., K), non-negative.

    Raises:
        ValueError: if ``form`` is neither.

    >>> poisson_kl(torch.tensor(0.9), torch.tensor(0.3))
    tensor(0.3660)
    >>> poisson_kl(torch.tensor(0.9), torch.tensor(0.3), form="published")
    tensor(0.6669)
    """
    require_kl_form(form)
    checks.require_broadcastable(mem=mem, mem_prior=mem_prior)
    return equations.poisson_kl(mem, mem_prior, form)


def require_kl_form(form: Any) -> str:
    """``form``; raises ``ValueError`` unless :func:`poisson_kl` has it."""
    if form not in ("exact", "published"):
        raise ValueError(f"form must be 'exact' or 'published', got {form!r}")
    return str(form)


def gaussian_nll(residual: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Gaussian negative log-likelihood from the residual, summed over pixels, in nats.

    NLL = ½ rᵀΛr + Σ log σ + M/2 · log 2π,  r = x − Φz

    Args:
        residual: r, shape (..., M).
        log_scale: log σ per pixel, shape (M,); ``None`` means σ = 1.

    Returns:
        Shape (...).

    >>> gaussian_nll(torch.zeros(3, 2))
    tensor([1.8379, 1.8379, 1.8379])
    """
    checks.require_per_pixel(residual, log_scale, "residual", axis=-1)
    if log_scale is None:
        return 0.5 * residual.square().sum(-1) + nll_constant(residual.shape[-1])
    whitened = residual * torch.exp(-log_scale)
    return 0.5 * whitened.square().sum(-1) + nll_constant(residual.shape[-1], log_scale)


def gaussian_nll_gram(
    spk: Tensor, inhibition: Tensor, drive: Tensor, energy: Tensor, constant: Tensor | float
) -> Tensor:
    """The same negative log-likelihood without an operation on pixels.

    NLL = ½ (xᵀΛx − 2 d·z + z·(zG)) + Σ log σ + M/2 · log 2π

    The next timestep needs the product zG anyway, so the likelihood adds no matrix product.

    Args:
        spk: z, shape (..., K).
        inhibition: zG, shape (..., K).
        drive: d = Φᵀ Λ x, shape (..., K).
        energy: xᵀΛx, shape (...), see :func:`input_energy`.
        constant: Σ log σ + M/2 · log 2π, see :func:`nll_constant`.

    Returns:
        Shape (...), equal to ``gaussian_nll(x - spk @ weight.mT, log_scale)``.

    >>> x, weight, spk = torch.ones(1, 4), torch.ones(4, 2), torch.tensor([[1.0, 2.0]])
    >>> inhibition, current = spk @ gram(weight), drive(x, weight)
    >>> gaussian_nll_gram(spk, inhibition, current, input_energy(x), nll_constant(4))
    tensor([11.6758])
    >>> gaussian_nll(x - spk @ weight.mT)
    tensor([11.6758])
    """
    checks.require_broadcastable(spk=spk, inhibition=inhibition, drive=drive)
    return 0.5 * (energy + (spk * (inhibition - 2 * drive)).sum(-1)) + constant


def input_energy(x: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """xᵀΛx, (...), for x of shape (..., M): an argument of :func:`gaussian_nll_gram`."""
    checks.require_per_pixel(x, log_scale, "x", axis=-1)
    whitened = x if log_scale is None else x * torch.exp(-log_scale)
    return whitened.square().sum(-1)


def nll_constant(in_features: int, log_scale: Tensor | None = None) -> Tensor | float:
    """The part of the Gaussian NLL that depends on σ and M alone: Σ log σ + M/2 · log 2π."""
    constant = 0.5 * in_features * math.log(2 * math.pi)
    return constant if log_scale is None else log_scale.sum() + constant


def free_energy(nll: Tensor, kl: Tensor, beta: float, in_features: int) -> Tensor:
    """Training loss: mean of F = NLL + β · KL over batch and timesteps, scaled by 256 / M.

    The factor makes learning rates and gradient clipping comparable between inputs of different
    sizes; the reference is a 16×16 patch, M = 256.

    Args:
        nll: shape (T, B), nats.
        kl: shape (T, B), nats, summed over neurons.
        beta: β, weight of the KL.
        in_features: M, number of pixels.

    Returns:
        Scalar.

    >>> free_energy(torch.ones(2, 3), torch.ones(2, 3), beta=0.5, in_features=256)
    tensor(1.5000)
    """
    checks.require_broadcastable(nll=nll, kl=kl)
    checks.require_integer(in_features, "in_features")
    return (nll + beta * kl).mean() * (PATCH / in_features)
