"""Gradient estimators for spike counts: callables for a neuron's ``spike_grad``.

Each maps a membrane u (log rate, nats) of any shape to spike counts of the same shape and dtype.
*Exact* estimators emit integer counts and differ in the backward pass, a weight w in place of
dz/du. *Relaxed* estimators (``eat``, ``gumbel``) emit soft counts with their exact derivative. The
method ``sample`` of both draws integer counts; neurons use it in ``eval()`` mode. All take an
optional ``torch.Generator`` (default: torch's global one).

=================  ==================================  ===============================  =========
estimator          forward                             backward dz/du                   unbiased
=================  ==================================  ===============================  =========
``midpoint()``     z ~ Poisson(λ)                      (z + λ) / 2                      degree 2
``rate()``         z ~ Poisson(λ)                      λ                                degree 1
``bernoulli(n)``   z ~ Binomial(n, 1 − e^(−λ/n))       midpoint's form for a binomial   degree 2
``rounded()``      z = round(λ)                        λ                                (no noise)
``eat(temp)``      soft count of exponential arrivals  pathwise                         as temp→0
``gumbel(temp)``   soft choice of a truncated count    pathwise                         as temp→0
=================  ==================================  ===============================  =========

"Unbiased: degree n" means E[w f'(z)] = d E[f(z)]/du for every polynomial f of that degree. The
Gaussian log-likelihood has degree 2. Rates are bounded by e^16, up to which float32 holds every
integer (by e^10.6 in float16). A membrane that is no floating-point tensor raises ``TypeError``,
NaN or infinity in it ``ValueError``. The shape of the noise of relaxed estimators depends on the
largest rate, so they support neither ``torch.compile(fullgraph=True)`` nor ``torch.func.vmap``.

To write an estimator, extend :class:`Exact` with a dataclass. Compiled kernels run it as long as
its counts are Poisson, and models that use it can be saved once it is registered under a name:

>>> import torch
>>> from dataclasses import dataclass
>>> @ESTIMATORS.register("halfway")
... @dataclass
... class halfway(Exact):
...     share: float = 0.5
...     def slope(self, spk, rate):
...         return self.share * spk + (1 - self.share) * rate
>>> from_config(to_config(halfway(0.3)))
halfway(share=0.3)

>>> spike_grad = midpoint(generator=torch.Generator().manual_seed(0))
>>> mem = torch.tensor([-8.0, 0.0, 3.0], requires_grad=True)
>>> spk = spike_grad(mem)
>>> spk.sum().backward()
>>> bool((spk == spk.round()).all()), torch.allclose(mem.grad, (spk + mem.exp()) / 2)
(True, True)
"""

from typing import Any

from ipvae_snn.surrogate.estimator import (
    ESTIMATORS,
    Assumptions,
    Estimator,
    require_estimator,
)
from ipvae_snn.surrogate.exact import Exact, bernoulli, midpoint, rate, rounded
from ipvae_snn.surrogate.relaxed import eat, gumbel

__all__ = [
    "ESTIMATORS",
    "Assumptions",
    "Estimator",
    "Exact",
    "bernoulli",
    "eat",
    "from_config",
    "gumbel",
    "midpoint",
    "rate",
    "require_estimator",
    "rounded",
    "to_config",
]


def to_config(spike_grad: Any) -> dict[str, Any]:
    """An estimator as plain data: ``{"name": "eat", "temp": 0.1, "indicator": "cubic"}``.

    Raises:
        TypeError: ``spike_grad`` is not registered in ``ESTIMATORS``.
    """
    return ESTIMATORS.to_config(spike_grad)


def from_config(config: dict[str, Any]) -> Any:
    """The estimator that :func:`to_config` describes.

    Raises:
        ValueError: the name or an argument is unknown.

    >>> from_config({"name": "eat", "temp": 0.5})
    eat(temp=0.5, indicator='cubic')
    """
    return ESTIMATORS.from_config(config)
