"""Small problems with exact posteriors, computed by enumerating all spike counts."""

import math

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F

PIXELS, MAX_COUNT = 8, 200  # counts stay far below the latter
MAX_TAIL = 1e-10  # posterior mass per neuron that enumeration may leave out


class Problem:
    """Samples x (B, M) drawn from a model, and their exact posteriors, all in float64."""

    def __init__(
        self, latents: int, overlap: float, noise: float, seed: int, *, train: int, test: int
    ) -> None:
        g = torch.Generator().manual_seed(seed)
        real = {"dtype": torch.float64, "generator": g}
        basis = torch.linalg.qr(torch.randn(PIXELS, PIXELS, **real))[0][:, :latents]
        cosines = (1 - overlap) * torch.eye(latents, dtype=torch.float64) + overlap
        self.weight = basis @ torch.linalg.cholesky(cosines).mT
        self.log_scale = torch.full((PIXELS,), math.log(noise), dtype=torch.float64)
        self.mem_init = 1.5 * torch.rand(latents, **real) - 1.5
        z = torch.poisson(self.mem_init.exp().expand(train + test, -1), generator=g)
        x = z @ self.weight.mT + noise * torch.randn(len(z), PIXELS, **real)
        self.x, self.train = x[:test], x[test:]
        self.gram = F.gram(self.weight, self.log_scale)
        self.drive = F.drive(self.x, self.weight, self.log_scale)
        self.energy = F.input_energy(self.x, self.log_scale)
        self.constant = F.nll_constant(PIXELS, self.log_scale)
        self.n = torch.arange(MAX_COUNT, dtype=torch.float64)
        linear = self.n * (self.drive + self.mem_init)[..., None] - (self.n + 1).lgamma()
        # Terms of log p(z, x) in the count n of one neuron alone, (B, K, MAX_COUNT).
        self.own_terms = linear - 0.5 * self.gram.diagonal()[:, None] * self.n.square()
        # Minus the terms of log p(z, x) without any count, (B,).
        self.rest = self.mem_init.exp().sum() + 0.5 * self.energy + self.constant
        self.solve()

    def solve(self) -> None:
        """log p(x) and the moments of p(z | x), by enumeration.

        All entries of G are ≥ 0, so other neurons can only lower the ratio p(n + 1) / p(n) of a
        neuron. The ratios of the neuron alone thus bound its tail, which says where to truncate.
        """
        bound = (self.own_terms - self.own_terms.cummax(-1).values).exp()
        tail = bound.flip(-1).cumsum(-1).flip(-1)  # ≥ P(count ≥ n)
        counts = (tail > MAX_TAIL).sum(-1)
        self.left_out = float(tail.gather(-1, counts[..., None]).sum((-1, -2)).max())
        moments = []
        for drive, top in zip(self.drive, counts.tolist(), strict=True):
            z = torch.cartesian_prod(*(self.n[:t] for t in top))
            log_p = z @ (drive + self.mem_init) - (z + 1).lgamma().sum(-1)
            log_p -= 0.5 * ((z @ self.gram) * z).sum(-1)
            p = log_p.softmax(0)
            mean = p @ z
            moments.append((log_p.logsumexp(0), mean, (z.mT * p) @ z - mean.outer(mean)))
        evidence, self.mean, self.covariance = map(torch.stack, zip(*moments, strict=True))
        self.evidence = evidence - self.rest

    def kl(self, mem: Tensor) -> Tensor:
        """Exact KL(Poisson(e^mem) ‖ p(z | x)): the variance of counts adds λ·G_kk/2 to the error of
        the rates."""
        rate, known = mem.exp(), (self.drive, self.energy, self.constant)
        nll = F.gaussian_nll_gram(rate, rate @ self.gram, *known) + rate @ self.gram.diagonal() / 2
        return nll + F.poisson_kl(mem, self.mem_init).sum(-1) + self.evidence

    def best_poisson(self) -> Tensor:
        """Membranes of the Poisson with the smallest KL, which is convex in the rates: Newton's
        method on its natural gradient λG + G_kk/2 − d + u − u₀."""
        mem, own = self.mem_init.expand_as(self.drive), self.gram.diagonal()
        for _ in range(100):
            slope = mem.exp() @ self.gram + own / 2 - self.drive + mem - self.mem_init
            curvature = self.gram * mem.exp()[:, None] + torch.eye(len(own), dtype=own.dtype)
            mem = mem - torch.linalg.solve(curvature, slope).clamp(-1, 1)
        return mem

    def best_independent(self, sweeps: int) -> tuple[Tensor, float]:
        """KL and Fano factor of the best factorised distribution, by coordinate descent.

        Starts at the true means; each factor in turn becomes optimal given the means of the others.
        The minimum that is reached is not proven to be the global one.
        """
        others, mean = self.gram - self.gram.diagonal().diag(), self.mean.clone()
        for _ in range(sweeps):
            for k in range(mean.shape[1]):
                log_q = self.own_terms[:, k] - self.n * (mean @ others[k])[:, None]
                mean[:, k] = log_q.softmax(-1) @ self.n
        log_q = (self.own_terms - self.n * (mean @ others)[..., None]).log_softmax(-1)
        q = log_q.exp()
        mean, variance = q @ self.n, q @ self.n.square() - (q @ self.n).square()
        energy = (q * (log_q - self.own_terms)).sum((-1, -2))
        energy = energy + 0.5 * (mean * (mean @ others)).sum(-1)
        return energy + self.rest + self.evidence, float(variance.sum() / mean.sum())

    def with_true_parameters(self, model: nn.Module) -> nn.Module:
        """The model with the true Φ, σ and u₀ copied in and frozen."""
        raw = F.LOG_SCALE_BOUND * torch.atanh(self.log_scale / F.LOG_SCALE_BOUND)
        true = {"decoder.weight": self.weight, "log_scale": raw, "mem_init": self.mem_init}
        for name, parameter in model.double().named_parameters():
            for ending, value in true.items():
                if name.endswith(ending):
                    parameter.requires_grad_(False).copy_(value)
        return model.eval()
