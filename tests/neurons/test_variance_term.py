"""The variance term ½ diag G: the natural gradient of the expected error, exactly enumerated."""

import itertools

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, Stream, functional, load_model
from ipvae_snn.neurons import currents
from ipvae_snn.neurons.lateral import SharedDecoder

COUNTS = 60
"""Counts that are summed over: at rates below 4, others have probabilities below 1e-40."""


def free_energy(mem, rest, x, weight, log_scale):
    """E[−log p(x, z)] + E[log q(z)] of independent Poisson counts, summed over all of them."""
    counts = torch.arange(COUNTS, dtype=torch.float64)
    log_q = counts * mem[:, None] - mem.exp()[:, None] - torch.lgamma(counts + 1)
    log_p = counts * rest[:, None] - rest.exp()[:, None] - torch.lgamma(counts + 1)
    total = mem.new_zeros(())
    for indices in itertools.product(range(COUNTS), repeat=len(mem)):
        which = torch.arange(len(mem)), torch.tensor(indices)
        residual = x - weight @ counts[list(indices)]
        nll = functional.gaussian_nll(residual, log_scale)
        probability = log_q[which].sum().exp()
        total = total + probability * (nll + (log_q - log_p)[which].sum())
    return total


def natural_gradient(*args):
    """∂F/∂u divided by the Fisher information of Poisson counts in their log rate, λ."""
    mem = args[0].requires_grad_()
    (slope,) = torch.autograd.grad(free_energy(*args), mem)
    return slope / mem.detach().exp()


@pytest.mark.parametrize("latents", [1, 2])
def test_the_expected_step_is_the_natural_gradient_of_the_free_energy(latents):
    torch.manual_seed(latents)
    decoder = nn.Linear(latents, 4, bias=False).double()
    raw = torch.linspace(-0.5, 0.5, 4, dtype=torch.float64)
    neuron = IPVAENeuron(decoder, log_scale=raw, step=1.0, leak=1.0, bias=1e-6)
    x, mem = torch.randn(4).double(), torch.randn(latents).double() * 0.5
    with torch.no_grad():
        neuron.mem_init.uniform_(-1, 0)
        gram, rate = neuron.gram(), mem.exp()
        step = functional.membrane_step(
            mem,
            neuron.drive(x),
            rate @ gram,  # of expected counts, in which the step is linear
            bias=neuron.tonic(gram) - neuron.log_bias.exp(),
            leak=neuron.leak,
            mem_rest=neuron.mem_init,
        )
    assert neuron.form == "exact"
    lateral = neuron.lateral
    assert isinstance(lateral, SharedDecoder)
    log_scale = lateral.bounded_log_scale()
    wanted = natural_gradient(
        mem.clone(), neuron.mem_init.detach(), x, decoder.weight.detach(), log_scale
    )
    torch.testing.assert_close(step - mem, -wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_of_three_neurons_too(monkeypatch):
    monkeypatch.setitem(free_energy.__globals__, "COUNTS", 30)
    test_the_expected_step_is_the_natural_gradient_of_the_free_energy(3)


def pair(**options):
    """The same model in both forms."""
    models = []
    for form in ("exact", "published"):
        torch.manual_seed(0)
        models.append(IPVAE(16, 7, form=form, init_std=0.5, step=0.3, **options))
    return models


@pytest.mark.parametrize("lateral_scale", [1.0, 0.75])
def test_the_exact_form_is_the_published_one_with_a_bias_for_each_neuron(lateral_scale):
    exact, published = pair(lateral_scale=lateral_scale)
    with torch.no_grad():
        lengths = exact.decoder.weight.square().sum(0)  # σ = 1 before it has learned
        bias = published.neuron.log_bias.exp() + 0.5 * lateral_scale * lengths
        published.neuron.log_bias.copy_(bias.log())
    x = torch.randn(3, 16)
    runs = [model.run(x, 20, seed=1) for model in (exact, published)]
    assert torch.equal(runs[0].spk, runs[1].spk)
    torch.testing.assert_close(runs[0].mem, runs[1].mem)
    for model, run in zip((exact, published), runs, strict=True):
        parts = currents.parts(model.neuron, model.neuron.drive(x), run.spk, run.mem)
        wanted = -model.neuron.log_step.exp() * bias
        torch.testing.assert_close(parts.tonic[3, 1], wanted)


def test_neurons_have_the_form_of_their_weights():
    decoder = nn.Linear(3, 5, bias=False)
    assert IPVAENeuron(decoder).form == "exact"
    assert IPVAENeuron(decoder, form="published").form == "published"
    assert IPVAENeuron(3).form == "published"
    neuron = IPVAENeuron(3, form="exact", gram=torch.eye(3), bias=0.1)
    assert neuron.tonic(torch.eye(3)).tolist() == pytest.approx([0.6] * 3)
    with pytest.raises(ValueError, match=r"form must be one of \('exact', 'published'\)"):
        IPVAENeuron(decoder, form="best")
    neuron = IPVAENeuron(decoder)
    with pytest.raises(ValueError, match="form must be one of"):
        neuron.form = None
    assert neuron.form == "exact"


@pytest.mark.parametrize("form", ["exact", "published"])
def test_calls_runs_and_streams_agree(form):
    torch.manual_seed(0)
    model = IPVAE(16, 9, form=form, init_std=0.5, step=0.3).eval()
    x = torch.randn(1, 16)
    torch.manual_seed(1)
    run = model.neuron.run(model.neuron.drive(x).expand(12, 1, 9))[0]
    torch.manual_seed(1)
    spk, mem = model.neuron.reset_mem()
    spks = []
    for _ in range(12):
        spk, mem = model.neuron(model.neuron.drive(x), spk, mem)
        spks.append(spk)
    assert torch.equal(run, torch.stack(spks))
    stream = Stream(model, seed=3)
    streamed = torch.stack([stream.push(x[0]).mem for _ in range(2)])
    torch.testing.assert_close(streamed[0], model.run(x, 1, record=("mem",)).mem[0, 0])


def test_the_form_is_saved_and_files_without_one_are_published(tmp_path):
    for model in pair():
        model.save(tmp_path / "model.pt")
        assert load_model(tmp_path / "model.pt").neuron.form == model.neuron.form
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    del content["config"]["form"]
    torch.save(content, tmp_path / "older.pt")
    assert load_model(tmp_path / "older.pt").neuron.form == "published"
