"""Small problems whose posteriors are known, because all counts are gone through."""

import math

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F

PIXELS, MOST = 8, 200  # no count comes near the latter
LEFT_OUT = 1e-10  # posterior mass per neuron that enumeration may leave out


class Problem:
    """Samples x (B, M) of a model, and their posteriors, all in float64."""

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
        self.n = torch.arange(MOST, dtype=torch.float64)
        alone = self.n * (self.drive + self.mem_init)[..., None] - (self.n + 1).lgamma()
        # What of log p(z, x) a neuron's count n says without the others, (B, K, MOST).
        self.alone = alone - 0.5 * self.gram.diagonal()[:, None] * self.n.square()
        # What no count says, (B,).
        self.rest = self.mem_init.exp().sum() + 0.5 * self.energy + self.constant
        self.solve()

    def solve(self) -> None:
        """log p(x) and the moments of p(z | x), by enumeration.

        All G are ≥ 0, so that others can only lower p(n + 1) / p(n) of a neuron: from the ratios it
        would have alone follows a bound of its tail, and with that how far to count.
        """
        ceiling = (self.alone - self.alone.cummax(-1).values).exp()
        tail = ceiling.flip(-1).cumsum(-1).flip(-1)  # ≥ P(count ≥ n)
        counts = (tail > LEFT_OUT).sum(-1)
        self.left_out = float(tail.gather(-1, counts[..., None]).sum((-1, -2)).max())
        found = []
        for drive, top in zip(self.drive, counts.tolist(), strict=True):
            z = torch.cartesian_prod(*(self.n[:t] for t in top))
            log = z @ (drive + self.mem_init) - (z + 1).lgamma().sum(-1)
            log -= 0.5 * ((z @ self.gram) * z).sum(-1)
            law = log.softmax(0)
            mean = law @ z
            found.append((log.logsumexp(0), mean, (z.mT * law) @ z - mean.outer(mean)))
        evidence, self.mean, self.covariance = (
            torch.stack(part) for part in zip(*found, strict=True)
        )
        self.evidence = evidence - self.rest

    def kl(self, mem: Tensor) -> Tensor:
        """KL(Poisson(e^mem) ‖ p(z | x)), exact: counts cost λ·G_kk/2 more than rates would, for
        their variance."""
        rate, known = mem.exp(), (self.drive, self.energy, self.constant)
        nll = F.gaussian_nll_gram(rate, rate @ self.gram, *known) + rate @ self.gram.diagonal() / 2
        return nll + F.poisson_kl(mem, self.mem_init).sum(-1) + self.evidence

    def best_poisson(self) -> Tensor:
        """The minimum of the KL, which is convex in the rates, by Newton's method on its natural
        gradient λG + G_kk/2 − d + u − u₀."""
        mem, own = self.mem_init.expand_as(self.drive), self.gram.diagonal()
        for _ in range(100):
            slope = mem.exp() @ self.gram + own / 2 - self.drive + mem - self.mem_init
            curvature = self.gram * mem.exp()[:, None] + torch.eye(len(own), dtype=own.dtype)
            mem = mem - torch.linalg.solve(curvature, slope).clamp(-1, 1)
        return mem

    def best_independent(self, sweeps: int) -> tuple[Tensor, float]:
        """KL and Fano factor of independent laws, each in turn made the best for the others' means,
        from the true means on: a minimum, if perhaps not the lowest."""
        others, mean = self.gram - self.gram.diagonal().diag(), self.mean.clone()
        for _ in range(sweeps):
            for k in range(mean.shape[1]):
                log = self.alone[:, k] - self.n * (mean @ others[k])[:, None]
                mean[:, k] = log.softmax(-1) @ self.n
        log = (self.alone - self.n * (mean @ others)[..., None]).log_softmax(-1)
        law = log.exp()
        mean, variance = law @ self.n, law @ self.n.square() - (law @ self.n).square()
        energy = (law * (log - self.alone)).sum((-1, -2)) + 0.5 * (mean * (mean @ others)).sum(-1)
        return energy + self.rest + self.evidence, float(variance.sum() / mean.sum())

    def told(self, model: nn.Module) -> nn.Module:
        """The model, with Φ, σ and u₀, none of which it will learn."""
        raw = F.LOG_SCALE_BOUND * torch.atanh(self.log_scale / F.LOG_SCALE_BOUND)
        known = {"decoder.weight": self.weight, "log_scale": raw, "mem_init": self.mem_init}
        for name, parameter in model.double().named_parameters():
            for end, value in known.items():
                if name.endswith(end):
                    parameter.requires_grad_(False).copy_(value)
        return model.eval()
