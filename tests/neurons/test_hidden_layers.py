"""Defaults of a hidden layer, ``IPVAENeuron(K)``, and its lateral weights ``UnitGram``."""

import pytest
import snntorch as snn
import torch
from snntorch.functional import ce_rate_loss
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, over_time, surrogate
from ipvae_snn.neurons import ConvLateral, Recurrent
from ipvae_snn.neurons.lateral import FixedGram, LearnedGram, SharedDecoder, UnitGram

K = 6


def test_a_number_alone_makes_a_hidden_layer():
    hidden = IPVAENeuron(K)
    assert type(hidden.lateral) is UnitGram
    assert (hidden.clamp, hidden.log_step.exp().item()) == pytest.approx((1.5, 1.0))
    assert ((hidden.mem_init > -1.25) & (hidden.mem_init < -0.75)).all()


@pytest.mark.parametrize(
    "make",
    [lambda: IPVAENeuron(K, dim=1), lambda: IPVAENeuron(ConvLateral(K), dim=1),
     lambda: IPVAENeuron(Recurrent(K))],
)  # fmt: skip
def test_on_maps_and_in_sequences_it_starts_farther_from_firing(make):
    neuron = make()
    assert (neuron.clamp, neuron.log_step.exp().item()) == pytest.approx((2.0, 1.0))
    assert ((neuron.mem_init > -2.5) & (neuron.mem_init < -1.5)).all()
    assert "log_step" not in dict(neuron.named_parameters())


def test_a_hidden_layer_keeps_its_step():
    """A learned one grows until membranes oscillate, and the gradients explode."""
    assert "log_step" not in dict(IPVAENeuron(K).named_parameters())
    assert "log_step" in dict(IPVAENeuron(K, learn_step=True).named_parameters())
    assert "log_step" in dict(IPVAENeuron(nn.Linear(K, 9, bias=False)).named_parameters())
    assert "log_step" in IPVAENeuron(K).state_dict()


@pytest.mark.parametrize(
    ("make", "lateral"),
    [(lambda: IPVAENeuron(nn.Linear(K, 9, bias=False)), SharedDecoder),
     (lambda: IPVAENeuron(K, gram=torch.eye(K)), FixedGram),
     (lambda: IPVAENeuron(K, gram=torch.eye(K), learn_gram=True), LearnedGram),
     (lambda: IPVAENeuron(LearnedGram.near_identity(K)), LearnedGram)],
)  # fmt: skip
def test_everything_else_has_the_settings_of_inference(make, lateral):
    neuron = make()
    assert type(neuron.lateral) is lateral
    assert (neuron.clamp, neuron.log_step.exp().item()) == pytest.approx((5.0, 0.2))
    assert ((neuron.mem_init > -6) & (neuron.mem_init < -4)).all()


def test_unit_gram_is_the_correlation_of_its_features():
    torch.manual_seed(0)
    lateral = UnitGram(torch.randn(9, K).double())
    gram = lateral.gram()
    for k in range(K):
        for m in range(K):
            a, b = lateral.factor[:, k], lateral.factor[:, m]
            torch.testing.assert_close(gram[k, m], a @ b / (a.norm() * b.norm()))
    torch.testing.assert_close(gram.diagonal(), torch.ones(K).double())
    assert torch.linalg.eigvalsh(gram)[0] > -1e-12


def test_its_gradient_is_that_of_autograd_and_leaves_lengths_alone():
    torch.manual_seed(0)
    lateral, weights = UnitGram(torch.randn(9, K).double()), torch.randn(K, K).double()
    losses = (lateral.cached_gram() * weights).sum(), (lateral.gram() * weights).sum()
    found, wanted = (torch.autograd.grad(loss, lateral.factor)[0] for loss in losses)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    along = (found * lateral.factor).sum(0)
    torch.testing.assert_close(along, torch.zeros(K).double(), rtol=0, atol=1e-12)


def test_a_feature_without_length_inhibits_nobody():
    lateral = UnitGram(torch.eye(K))
    with torch.no_grad():
        lateral.factor[:, 0] = 0
    assert torch.equal(lateral.gram()[0], torch.zeros(K))
    lateral.cached_gram().sum().backward()
    assert lateral.factor.grad.isfinite().all()


def test_a_read_out_hears_the_loss_though_it_is_silent():
    assert IPVAENeuron(K).spike_grad == surrogate.midpoint()
    assert IPVAENeuron(K, output=True).spike_grad == surrogate.midpoint(floor=0.5)
    own = surrogate.rate()
    assert IPVAENeuron(K, output=True, spike_grad=own).spike_grad is own
    decoder = nn.Linear(K, 9, bias=False)
    assert IPVAENeuron(decoder, output=True).spike_grad == surrogate.midpoint()
    assert IPVAENeuron(K, dim=1).spike_grad == surrogate.midpoint(floor=0.1)
    assert IPVAENeuron(K, dim=-1).spike_grad == surrogate.midpoint()
    assert IPVAENeuron(K, gram=torch.eye(K), dim=1).spike_grad == surrogate.midpoint()


@pytest.mark.parametrize("estimator", [surrogate.midpoint, surrogate.rate, surrogate.rounded])
@pytest.mark.parametrize("way", ["run", "steps", "float64"])
def test_the_floor_of_a_slope_is_the_same_in_all_kernels(estimator, way):
    dtype = torch.float64 if way == "float64" else torch.float32
    neuron = IPVAENeuron(K, gram=torch.zeros(K, K), mem_init=-7.0, spike_grad=estimator(floor=0.2))
    neuron = neuron.to(dtype)
    current = torch.full((4, 3, K), 0.1, dtype=dtype, requires_grad=True)
    if way == "steps":
        ipvae_snn.reset(neuron)
        spk, mem = neuron.reset_mem()
        rows = []
        for now in current:
            spk, mem = neuron(now, spk, mem)
            rows.append((spk, mem))
        spk, mem = map(torch.stack, zip(*rows, strict=True))
    else:
        spk, mem = neuron.run(current)
    assert not spk.any()
    by_spk, by_mem = (
        torch.autograd.grad(v.sum(), current, retain_graph=True)[0] for v in (spk, mem)
    )
    torch.testing.assert_close(by_spk, 0.2 * by_mem, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_convolutional_network_wakes_under_a_loss_of_spike_counts(seed):
    """That of snnTorch's tutorial 6, its read-out replaced, too, at the learning rate there."""
    torch.manual_seed(seed)
    options = {"beta": 0.5, "init_hidden": True}
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.MaxPool2d(2), snn.Leaky(**options),
        nn.Conv2d(12, 64, 3, padding=1), nn.MaxPool2d(2), snn.Leaky(**options), nn.Flatten(),
        nn.Linear(256, 10), snn.Leaky(**options, output=True),
    )  # fmt: skip
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    net = ipvae_snn.from_snntorch(net, x[:2]).network
    optimizer, loss_of = torch.optim.Adam(net.parameters(), lr=1e-2), ce_rate_loss()
    for _ in range(5):
        for batch in torch.randperm(1400).split(128):
            loss = loss_of(over_time(net, x[batch], 25).spk, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        counts = over_time(net, x[1400:], 25).spk.sum(0)
    assert (counts.argmax(1) == labels[1400:]).float().mean() > 0.4


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_swap_learns_at_a_high_learning_rate(seed):
    """Two classes in noise, at chance before; the read-out is one of our layers, too."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(20, 32), IPVAENeuron(32, init_hidden=True), nn.Linear(32, 2),
        IPVAENeuron(2, init_hidden=True, output=True),
    )  # fmt: skip
    labels = torch.arange(400) % 2
    x = torch.randn(400, 20) + 1.5 * torch.nn.functional.one_hot(labels, 20)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(6):
        for batch in torch.randperm(400).split(50):
            mem = over_time(net, x[batch], 15).mem
            loss = nn.functional.cross_entropy(mem.mean(0), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ipvae_snn.reset(net)
    with torch.no_grad():
        accuracy = (over_time(net, x, 15).spk.sum(0).argmax(1) == labels).float().mean()
    assert accuracy > 0.75
