"""The Poisson sampler: distribution, independence, reproducibility, and its random generator."""

import subprocess

import numpy as np
import pytest
import torch
from scipy import stats

from ipvae_snn.kernels import build, native
from ipvae_snn.kernels.sampler import poisson

NATIVE = pytest.mark.skipif(
    not native.available(), reason=f"no kernels: {native.unavailable_reason()}"
)
RATES = [e for e in (-8, -6, -4, -2, -0.5, 0, 1, 2, 2.5, 2.772, 2.773, 3, 4, 5, 7, 8.5, 10)]


@pytest.fixture(params=["native", "plain"])
def kernels(request):
    if request.param == "plain":
        request.getfixturevalue("plain_kernels")
    elif not native.available():
        pytest.skip(f"no kernels: {native.unavailable_reason()}")
    return request.param


def chi_square(counts, rate):
    """p-value of counts under Poisson(rate), in bins of at least 10 expected counts."""
    low, high = int(counts.min()), int(counts.max())
    edges, expected = [], []
    low = min(low, max(0, int(rate - 5 * rate**0.5)))
    high = max(high, int(rate + 5 * rate**0.5) + 2)
    start, mass = -1, 0.0
    for k in range(low, high + 1):
        mass = (stats.poisson.cdf(k, rate) - stats.poisson.cdf(start, rate)) * len(counts)
        if mass >= 10 and stats.poisson.sf(k, rate) * len(counts) >= 10:
            edges.append(k)
            expected.append(mass)
            start = k
    edges.append(10**9)
    expected.append(stats.poisson.sf(start, rate) * len(counts) if start >= 0 else len(counts))
    observed = np.histogram(counts, bins=[-1, *(e + 0.5 for e in edges)])[0]
    if len(expected) == 1:
        return 1.0
    return stats.chisquare(observed, np.array(expected) * len(counts) / np.sum(expected)).pvalue


def test_chi_square_rejects_other_distributions():
    counts = np.random.default_rng(0).poisson(3.0, 200_000)
    assert chi_square(counts, 3.0) > 1e-3
    assert chi_square(counts, 3.03) < 1e-3
    assert chi_square(counts + (np.arange(len(counts)) % 40 == 0), 3.0) < 1e-3


@pytest.mark.parametrize("log_rate", RATES)
def test_counts_are_poisson(log_rate, kernels):
    rate = float(np.exp(np.float32(log_rate)))
    generator = torch.Generator().manual_seed(11)
    counts = poisson(torch.full((2000, 500), rate), generator).flatten().numpy()
    assert (counts == counts.round()).all()
    assert chi_square(counts.astype(int), float(np.float32(rate))) > 1e-4


@pytest.mark.parametrize("log_rate", RATES)
def test_mean_and_variance_are_poisson(log_rate, kernels):
    rate = float(np.float32(np.exp(log_rate)))
    generator = torch.Generator().manual_seed(12)
    counts = poisson(torch.full((2000, 500), rate), generator).double().flatten()
    n = len(counts)
    assert abs(counts.mean() - rate) < 4.5 * (rate / n) ** 0.5
    fourth = rate + 3 * rate**2
    assert abs(counts.var() - rate) < 4.5 * ((fourth - rate**2) / n) ** 0.5


@NATIVE
def test_draws_are_independent():
    """No random numbers are shared between lanes, blocks, rows or calls."""
    rate = torch.full((300, 256), 1.0)
    generator = torch.Generator().manual_seed(1)
    first, second = (poisson(rate, generator) - 1 for _ in range(2))
    for shift in (1, 2, 16, 32, 48, 64, 128):
        assert abs((first * first.roll(shift, 1)).mean()) < 5 / rate.numel() ** 0.5
        assert abs((first * first.roll(shift, 0)).mean()) < 5 / rate.numel() ** 0.5
    assert abs((first * second).mean()) < 5 / rate.numel() ** 0.5


@NATIVE
def test_mixed_rates_in_one_call():
    """Slow lanes do not affect the others of their block."""
    rate = torch.tensor([3e-4, 0.2, 5.0, 15.9, 16.1, 400.0, 2e4, 0.0]).repeat(20_000, 16)
    counts = poisson(rate, torch.Generator().manual_seed(2)).double()
    mean, n = counts.mean(0), len(counts)
    z = (mean - rate[0]) / (rate[0].double() / n).sqrt().clamp(min=1e-12)
    assert (counts[:, rate[0] == 0] == 0).all()
    assert z[rate[0] > 0].abs().max() < 4.8


@NATIVE
def test_a_count_depends_only_on_key_row_and_column():
    rate = torch.rand(9, 200) * 30
    key = torch.tensor(12345)
    whole = native.poisson(rate, key)
    assert torch.equal(native.poisson(rate[:4], key), whole[:4])
    assert torch.equal(native.poisson(rate[:, :128].contiguous(), key), whole[:, :128])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(native.poisson(rate, key), whole)
    finally:
        torch.set_num_threads(before)


def test_equal_seeds_give_equal_counts_and_any_shape_is_accepted(kernels):
    rate = torch.rand(3, 4, 5) * 3
    a = poisson(rate, torch.Generator().manual_seed(3))
    b = poisson(rate, torch.Generator().manual_seed(3))
    assert torch.equal(a, b)
    assert a.shape == rate.shape
    assert poisson(torch.rand(0, 7)).shape == (0, 7)
    assert poisson(torch.tensor(2.0)).shape == ()
    assert poisson(rate.transpose(0, 2)).shape == (5, 4, 3)


PHILOX = """
#include <stdio.h>
#include "poisson.h"
int main(void) {
    uint32_t words[LANES];
    philox(0, 0, 0, 0, words);
    printf("%x %x %x %x\\n", words[0], words[16], words[32], words[48]);
    return 0;
}
"""


@NATIVE
def test_the_generator_is_philox(tmp_path):
    """The known-answer test of Random123 for a counter and a key of zeros."""
    (tmp_path / "main.c").write_text(PHILOX)
    command = [*build._compiler(), "-O1", f"-I{build.SOURCE}", "main.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
