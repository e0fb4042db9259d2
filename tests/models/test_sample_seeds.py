"""Seeds per sample: the spikes of a sample do not depend on the rest of the batch."""

import pytest
import torch

from ipvae_snn import IPVAE, surrogate
from ipvae_snn.kernels import native


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("estimator", [surrogate.midpoint, surrogate.bernoulli])
def test_with_sample_seeds_spikes_do_not_depend_on_the_other_samples(dtype, moving, estimator):
    model = IPVAE(40, 70, init_std=0.3, spike_grad=estimator()).to(dtype)
    x = torch.randn(*((12,) if moving else ()), 9, 40, dtype=dtype)
    seeds = torch.randint(-(2**62), 2**62, (9,))
    together = model.run(x, 12, seed=3, sample_seeds=seeds)
    for chosen in ([8, 2, 5], [0], [4, 4, 1, 6, 7]):
        some = model.run(x[..., chosen, :], 12, seed=3, sample_seeds=seeds[chosen])
        for name in ("spk", "mem", "nll", "kl"):
            assert torch.equal(getattr(together, name)[:, chosen], getattr(some, name)), name
    assert not torch.equal(model.run(x, 12, seed=4, sample_seeds=seeds).spk, together.spk)
    assert not torch.equal(model.run(x, 12, seed=3, sample_seeds=seeds + 1).spk, together.spk)


def test_sample_seeds_0_to_b_draw_like_no_sample_seeds():
    model = IPVAE(40, 70, init_std=0.3).double().float()
    x = torch.randn(200, 40)
    if not native.supports_tensors(model.weight):
        pytest.skip("no compiled kernels")
    state = model.neuron.initial_state((200, 70))
    x[:] = x[0]  # equal drives, however a matrix product rounds its rows
    plain = model.run(x, 5, seed=1, state=state)
    seeded = model.run(x, 5, seed=1, state=state, sample_seeds=torch.arange(200))
    assert (plain.spk == seeded.spk).float().mean() > 0.999


def test_gradients_with_sample_seeds_equal_those_without():
    model = IPVAE(12, 10, init_std=0.3, spike_grad=surrogate.rounded()).double()
    x = torch.randn(6, 12, dtype=torch.float64)
    grads = []
    for seeds in (None, torch.arange(6)):
        model.zero_grad()
        out = model.run(x, 8, record=("nll", "kl"), sample_seeds=seeds)
        (out.nll + out.kl).mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for whole, single in zip(*grads, strict=True):
        assert torch.allclose(whole, single, atol=1e-12)


@pytest.mark.parametrize(
    ("seeds", "error"),
    [
        (torch.arange(3), ValueError),
        (torch.zeros(4), TypeError),
        ([0, 1, 2, 3], TypeError),
        (torch.zeros(4, 1, dtype=torch.int64), ValueError),
    ],
    ids=str,
)
def test_bad_sample_seeds_are_refused(seeds, error):
    with pytest.raises(error, match="sample_seeds"):
        IPVAE(5, 3).run(torch.rand(4, 5), 2, sample_seeds=seeds)
