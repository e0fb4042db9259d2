"""Against the truth: how far inference is from exact posteriors, in nats, and through what.

Problems small enough to enumerate: x = Φz + σ·noise drawn from the model, with Φ, σ and the prior
Poisson(e^{u₀}) known; features have norm 1 and all overlap by the same cosine. KL(q ‖ p(z | x)) is
q's free energy, a closed form, plus the enumerated log p(x). It is measured of

- the best independent law of any shape that was found: the price of independence;
- the best independent Poisson: the floor; what it adds is the price of variance = mean;
- the iP-VAE's rates as steps go on, momentary ones and averages over the last half of the steps.
  "published" has no leak, and learned α, b and u₀ by the published loss with β = T. "exact": leak 1
  and b = G_kk/2 make the step the natural gradient of the whole ELBO, at rest at the floor alone;
- the P-VAE, whose encoder alone learned, on the ELBO: the floor plus the amortisation gap;
- the prior.

Data are drawn here, nothing is read from ``--data``. Five minutes of one core.

    python examples/paper/exact_posterior.py --data path/to/data
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ipvae_snn import functional as F

from lab import Lab

GRID = [(k, overlap, 0.5) for k in (2, 4, 6) for overlap in (0.0, 0.5, 0.9)]
PROBLEMS = [*GRID, (4, 0.5, 1.0), (4, 0.5, 0.25)]  # K, overlap, σ
SHOWN = (4, 0.5, 0.5)
PIXELS, MOST = 8, 200  # no count comes near the latter
LEFT_OUT = 1e-10  # posterior mass per neuron that enumeration may leave out
RULES = {  # leak, bias / G_kk, α; the clamp at 5 would be a bias of its own, (1 + λ) e⁻⁵ / α
    "exact 0.2": (1.0, 0.5, 0.2), "exact 0.05": (1.0, 0.5, 0.05), "exact 0.02": (1.0, 0.5, 0.02),
    "leak only": (1.0, 0.0, 0.02), "bias only": (0.0, 0.5, 0.02), "neither": (0.0, 0.0, 0.02),
}  # fmt: skip


class Problem(NamedTuple):
    """What is known, the samples (B, M) to infer and their d and G, and samples to learn from."""

    weight: Tensor
    log_scale: Tensor
    mem_init: Tensor
    x: Tensor
    drive: Tensor
    gram: Tensor
    train: Tensor


class Truth(NamedTuple):
    """log p(x), (B,), moments of the posterior, and a bound on the mass that was left out."""

    evidence: Tensor
    mean: Tensor
    covariance: Tensor
    left_out: float


def pose(lab: Lab, latents: int, overlap: float, noise: float, seed: int) -> Problem:
    g = torch.Generator().manual_seed(seed)
    real = {"dtype": torch.float64, "generator": g}
    cosines = (1 - overlap) * torch.eye(latents, dtype=torch.float64) + overlap
    basis = torch.linalg.qr(torch.randn(PIXELS, PIXELS, **real))[0][:, :latents]
    weight = basis @ torch.linalg.cholesky(cosines).mT
    mem_init = 1.5 * torch.rand(latents, **real) - 1.5
    count = lab.few(20_000, 200)
    z = torch.poisson(mem_init.exp().expand(count, -1), generator=g)
    x = z @ weight.mT + noise * torch.randn(count, PIXELS, **real)
    log_scale = torch.full((PIXELS,), math.log(noise), dtype=torch.float64)
    x, train = x.split([lab.few(200, 20), count - lab.few(200, 20)])
    drive, gram = F.drive(x, weight, log_scale), F.gram(weight, log_scale)
    return Problem(weight, log_scale, mem_init, x, drive, gram, train)


def own_terms(p: Problem) -> tuple[Tensor, Tensor]:
    """Counts n, and what of log p(z, x) a count says alone, (B, K, MOST), up to constants."""
    n = torch.arange(MOST, dtype=torch.float64)
    alone = n * (p.drive + p.mem_init)[..., None] - torch.lgamma(n + 1)
    return n, alone - 0.5 * p.gram.diagonal()[:, None] * n.square()


def solve(p: Problem) -> Truth:
    """By enumeration, of as many counts of each neuron as its posterior can reach.

    As all G ≥ 0, others can only lower the ratio of p(n + 1) to p(n), which ``own_terms`` gives: a
    bound of the tail that holds whatever they do.
    """
    n, alone = own_terms(p)
    ceiling = (alone - alone.cummax(-1).values).exp()
    tail = ceiling.flip(-1).cumsum(-1).flip(-1)  # of a count of n or more
    values = (tail > LEFT_OUT).sum(-1)
    left_out = tail.gather(-1, values[..., None]).sum((-1, -2)).max()
    found = []
    for drive, top in zip(p.drive, values.tolist(), strict=True):
        z = torch.cartesian_prod(*(n[:t] for t in top))
        log = z @ (drive + p.mem_init) - 0.5 * ((z @ p.gram) * z).sum(-1) - (z + 1).lgamma().sum(-1)
        law = log.softmax(0)
        mean = law @ z
        found.append((log.logsumexp(0), mean, (z.mT * law) @ z - torch.outer(mean, mean)))
    evidence, mean, covariance = (torch.stack(part) for part in zip(*found, strict=True))
    constant = p.mem_init.exp().sum() + F.nll_constant(PIXELS, p.log_scale)
    energy = 0.5 * F.input_energy(p.x, p.log_scale)
    return Truth(evidence - constant - energy, mean, covariance, float(left_out))


def free_energy(p: Problem, mem: Tensor) -> Tensor:
    """E_q[NLL] + KL(q ‖ prior) of independent Poisson(e^mem): exact, with half of λ·G_kk for the
    variance of the counts."""
    rate = mem.exp()
    energy, constant = F.input_energy(p.x, p.log_scale), F.nll_constant(PIXELS, p.log_scale)
    nll = F.gaussian_nll_gram(rate, rate @ p.gram, p.drive, energy, constant)
    return nll + 0.5 * rate @ p.gram.diagonal() + F.poisson_kl(mem, p.mem_init).sum(-1)


def best_poisson(p: Problem) -> Tensor:
    """Minimises the free energy, which is convex in the rates: there is one minimum."""
    mem = p.mem_init.repeat(len(p.x), 1).requires_grad_()
    search = torch.optim.LBFGS(
        [mem], max_iter=2000, history_size=50, tolerance_grad=1e-9, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        search.zero_grad()
        total = free_energy(p, mem).sum()
        total.backward()
        return total

    search.step(closure)
    return mem.detach()


def best_independent(p: Problem, evidence_of: Tensor, mean: Tensor, sweeps: int) -> Tensor:
    raise NotImplementedError
