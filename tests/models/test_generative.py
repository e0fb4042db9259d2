"""The question of a timestep: answers of every kind against one another and against autograd."""

import itertools
import math

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, Recorder, load_model, surrogate
from ipvae_snn import functional as F
from ipvae_snn.models import Bernoulli, Gaussian, Likelihood, NetworkDecoder, StudentT
from ipvae_snn.models.generative import DecodedLikelihood, LinearDecoder, LinearGaussian
from ipvae_snn.neurons import State

M, K, B = 7, 5, 4


class CauchyByAutograd(Likelihood):
    """Without a score of its own."""

    def nll(self, x, eta):
        return (torch.log1p((x - eta).square()) + math.log(math.pi)).sum(-1)

    def mean(self, eta):
        return eta


def network():
    return nn.Sequential(nn.Linear(K, 6), nn.Tanh(), nn.Linear(6, M)).double()


def spikes():
    return torch.randint(0, 4, (B, K)).double()


def inputs(*shape):
    return torch.rand(*shape, B, M, dtype=torch.float64)


def test_the_linear_gaussian_model_answers_by_its_quadratic_form():
    torch.manual_seed(0)
    model = IPVAE(M, K, init_std=0.5).double()
    nn.init.uniform_(model.neuron.lateral.log_scale, -1, 1)
    x, z = inputs(), spikes()
    linear = LinearGaussian(model.neuron.lateral)
    answer, form = linear.given(x).feedback(z), linear.quadratic(x)
    inhibition = z @ form.gram
    torch.testing.assert_close(answer.current, form.drive - inhibition)
    energy = form.energy - 2 * (form.drive * z).sum(-1) + (z * inhibition).sum(-1)
    torch.testing.assert_close(answer.nll, 0.5 * energy + form.constant)


@pytest.mark.parametrize(
    "likelihood", [Gaussian(M), Bernoulli(), CauchyByAutograd()], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("learning", [True, False])
def test_currents_are_gradients_of_the_likelihood(likelihood, learning):
    torch.manual_seed(0)
    decoder, x, z = network(), inputs(), spikes()
    likelihood = likelihood.double()
    with torch.set_grad_enabled(learning):
        answer = DecodedLikelihood(decoder, likelihood).given(x).feedback(z)
    assert answer.current.requires_grad == answer.nll.requires_grad == learning
    z = z.requires_grad_()
    nll = likelihood.nll(x, decoder(z))
    (slope,) = torch.autograd.grad(nll.sum(), z)
    torch.testing.assert_close(answer.current, -slope)
    torch.testing.assert_close(answer.nll, nll)


def test_both_ways_learn_the_same_of_one_model():
    """The linear Gaussian model by kernels and by vector–Jacobian products, without noise."""
    torch.manual_seed(0)
    fused = IPVAE(M, K, init_std=0.5, spike_grad=surrogate.rounded()).double()
    nn.init.uniform_(fused.neuron.mem_init, -1, 1)
    generic = IPVAE(
        M, K, decoder=LinearDecoder(K, M), likelihood=Gaussian(M), spike_grad=surrogate.rounded()
    ).double()  # fmt: skip
    with torch.no_grad():
        generic.decoded.decoder.weight.copy_(fused.weight)
        generic.neuron.mem_init.copy_(fused.neuron.mem_init)
    for x in (inputs(), inputs(6)):
        found = []
        for model in (fused, generic):
            model.zero_grad()
            loss = model.loss(x, 6, beta=0.7)
            loss.backward()
            scale = (
                model.neuron.lateral.log_scale
                if model is fused
                else (model.decoded.likelihood.raw_log_scale)
            )
            weight = model.decoder.weight
            own = [model.neuron.mem_init, model.neuron.log_bias, model.neuron.log_step]
            found.append([loss.detach(), *(p.grad for p in (weight, scale, *own))])
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "likelihood", [Gaussian(M), Bernoulli()], ids=lambda law: type(law).__name__
)
def test_the_variance_term_is_half_the_curvature_of_the_cost(likelihood):
    """By second derivatives of the cost in each count, which autograd takes."""
    torch.manual_seed(0)
    model = IPVAE(M, K, decoder=LinearDecoder(K, M, 0.5), likelihood=likelihood).double()
    x, spk = inputs().round(), torch.poisson(torch.ones(B, K, dtype=torch.float64))
    assert model.neuron.form == "exact"

    def cost(z):
        return likelihood.nll(x, model.decoder(z)).sum()

    hessian = torch.autograd.functional.hessian(cost, spk).reshape(B * K, B * K)
    wanted = 0.5 * hessian.diagonal().reshape(B, K)
    with torch.no_grad():
        currents = [
            model.generative.given(x, form).feedback(spk).current for form in ("exact", "published")
        ]
    torch.testing.assert_close(currents[1] - currents[0], wanted)


def test_the_form_is_exact_where_decoder_and_likelihood_say_how():
    assert IPVAE(M, K, likelihood=Bernoulli()).neuron.form == "exact"
    assert IPVAE(M, K, likelihood=CauchyByAutograd()).neuron.form == "published"
    assert IPVAE(M, K, likelihood=CauchyByAutograd(), form="exact").run(torch.rand(B, M), 2)
    model = IPVAE(M, K, decoder=network().float())
    assert model.neuron.form == "published"
    exact = IPVAE(M, K, decoder=network().float(), form="exact")
    assert exact.neuron.form == "exact"
    exact.decoder = network().float()
    assert exact.run(torch.rand(B, M), 2).mem.isfinite().all()


@pytest.mark.parametrize(
    "law", [Bernoulli(), StudentT(M, 1.5, learn_scale=False)], ids=["no outliers", "outliers"]
)
def test_the_variance_term_of_any_decoder(law, monkeypatch):
    """Row by row of few outputs; by random signs of many, which is right on average."""
    torch.manual_seed(0)
    generative = DecodedLikelihood(network(), law)
    x, spk = inputs().round() * 3, spikes()
    x = x if isinstance(law, StudentT) else x.clamp(max=1)
    jacobian = torch.autograd.functional.jacobian(lambda z: generative.decoder(z).sum(0), spk)
    curvature = law.curvature(x, generative.decoder(spk)).detach()
    wanted = torch.einsum("bm,mbk->bk", curvature, jacobian.square())

    def term():
        given = [generative.given(x, form).feedback(spk).current for form in ("published", "exact")]
        return 2 * (given[0] - given[1])

    with torch.no_grad():
        torch.testing.assert_close(term(), wanted)
        monkeypatch.setattr("ipvae_snn.models.generative.FEW_OUTPUTS", 0)
        drawn = torch.stack([term() for _ in range(1000)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - wanted).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize(
    "law", [Bernoulli(), Gaussian(M, learn_scale=False)], ids=["curved", "flat"]
)
@pytest.mark.parametrize("few", [0, 16])
def test_the_variance_term_of_any_decoder_learns(law, few, monkeypatch):
    """Its gradient is that of the term with the same signs, by finite differences."""
    monkeypatch.setattr("ipvae_snn.models.generative.FEW_OUTPUTS", few)
    torch.manual_seed(0)
    generative = DecodedLikelihood(network(), law)
    x, spk, weight = inputs().round(), spikes(), next(generative.parameters())

    def total():
        torch.manual_seed(1)
        return generative.given(x, "exact").feedback(spk).current.square().sum()

    (found,) = torch.autograd.grad(total(), weight)
    step = 1e-6
    for place in ((0, 0), (3, 2)):
        values = []
        for sign in (1, -1):
            weight.data[place] += sign * step
            values.append(float(total().detach()))
            weight.data[place] -= sign * step
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("law", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("form", ["exact", "published"])
def test_what_was_not_seen_does_not_count(law, form):
    """As of a model that has no such pixels."""
    torch.manual_seed(0)
    laws = {"bernoulli": (Bernoulli(), Bernoulli()), "gaussian": (Gaussian(M), Gaussian(M - 2))}
    models = []
    for pixels, likelihood in zip((M, M - 2), laws[law], strict=True):
        decoder = LinearDecoder(K, pixels, 0.5)
        model = IPVAE(
            pixels, K, decoder=decoder, likelihood=likelihood, form=form,
            spike_grad=surrogate.rounded(),
        )  # fmt: skip
        models.append(model.double())
    whole, part = models
    with torch.no_grad():
        part.decoder.weight.copy_(whole.decoder.weight[2:])
        part.neuron.mem_init.copy_(whole.neuron.mem_init.uniform_(-1, 1))
    x, mask = inputs().round(), torch.ones(M)
    mask[:2] = 0
    hidden = x.clone()
    hidden[:, :2] = math.nan
    fields = ("spk", "mem", "nll", "kl")
    wanted = part.run(x[:, 2:], 5, record=fields)
    for found in (whole.run(x, 5, record=fields, mask=mask), whole.run(hidden, 5, mask="nan")):
        for name in fields:
            torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    rows = torch.stack([mask, torch.ones(M), mask, mask])
    mixed = whole.run(x, 5, mask=rows, sample_seeds=torch.arange(B))
    torch.testing.assert_close(mixed.mem[:, 0], wanted.mem[:, 0])
    torch.testing.assert_close(mixed.mem[:, 1], whole.run(x, 5).mem[:, 1])
    with pytest.raises(ValueError, match="precisions belong to the linear decoder"):
        whole.run(x, 5, mask=0.5 * mask)


def test_masks_need_independent_pixels():
    model = IPVAE(M, K, likelihood=CauchyByAutograd())
    with pytest.raises(ValueError, match="subclass of OfPixels, got CauchyByAutograd"):
        model.run(torch.rand(B, M), 3, mask=torch.ones(M))


def test_inputs_that_the_law_cannot_have_are_refused():
    model = IPVAE(M, K, likelihood=Bernoulli())
    with pytest.raises(ValueError, match="Bernoulli is a law of values from 0 to 1"):
        model.loss(3 * torch.ones(B, M), 3)


def test_gradients_equal_a_loop_written_down():
    """Through the current of every timestep, for a network under Bernoulli pixels."""
    torch.manual_seed(0)
    model = IPVAE(M, K, decoder=network(), likelihood=Bernoulli(), clamp=4.0).double()
    nn.init.uniform_(model.neuron.mem_init, -1, 1)
    x, steps, beta = inputs().round(), 5, 0.6
    out = model.run(x, steps, record=("spk",), seed=2)
    with model.seeded(2):
        loss = model.loss(x, steps, beta)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters)

    def clamped(v):
        return 4.0 - nn.functional.softplus(4.0 - v.clamp(min=-8.0))

    neuron, total = model.neuron, 0.0
    mem, spk = neuron.mem_init.expand(B, K), torch.zeros(B, K, dtype=torch.float64)
    for drawn in out.spk:
        z = spk if spk.requires_grad else spk.requires_grad_()
        log_p = -Bernoulli().nll(x, model.decoder(z)).sum()
        (current,) = torch.autograd.grad(log_p, z, create_graph=True)
        h = neuron.log_step.exp() * (current - neuron.log_bias.exp())
        before, mem = mem, clamped(mem + clamped(h))
        slope = ((drawn + mem.exp()) / 2).detach()
        spk = drawn.detach() + slope * (mem - mem.detach())
        kl = mem.exp() * (mem - before) - mem.exp() + before.exp()
        total = total + (Bernoulli().nll(x, model.decoder(spk)) + beta * kl.sum(-1)).mean()
    expected = total / steps * 256 / M
    torch.testing.assert_close(loss, expected)
    for one, two in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = IPVAE(M, K, decoder=network(), likelihood=Bernoulli()).double()
    nn.init.uniform_(model.neuron.mem_init, -1, 1)
    return model


def test_a_run_may_be_cut_and_thinned_out(model):
    x = inputs()
    whole = model.run(x, 6, seed=3)
    with model.seeded(3):
        first = model.run(x, 2)
        second = model.run(x, 4, state=first.state)
    for name in ("spk", "mem", "nll", "kl"):
        pieces = torch.cat([getattr(first, name), getattr(second, name)])
        assert torch.equal(getattr(whole, name), pieces)
    thin = model.run(x, 6, seed=3, every=2)
    assert torch.equal(thin.mem, whole.mem[1::2])
    assert torch.equal(thin.nll, whole.nll[1::2])


def test_input_may_change(model):
    x = inputs(5)
    whole = model.run(x, seed=3)
    state, mems, nlls = None, [], []
    with model.seeded(3):
        for frame in x:
            out = model.run(frame, 1, state=state)
            state = out.state
            mems.append(out.mem)
            nlls.append(out.nll)
    assert torch.equal(torch.cat(mems), whole.mem)
    assert torch.equal(torch.cat(nlls), whole.nll)


def test_samples_may_have_seeds_of_their_own(model):
    x, seeds = inputs(), torch.tensor([5, 9, 2, 7])
    whole = model.run(x, 6, seed=1, sample_seeds=seeds)
    alone = model.run(x[2:3], 6, seed=1, sample_seeds=seeds[2:3])
    assert torch.equal(whole.spk[:, 2:3], alone.spk)


def test_a_recorder_sees_all_of_it(model):
    x = inputs()
    expected = model.run(x, 6, seed=1, record=("spk", "mem"))
    with Recorder(model) as recorder:
        out = model.run(x, 6, seed=1, every=3)
    assert torch.equal(recorder.mem, expected.mem)
    assert torch.equal(recorder.spk, expected.spk)
    assert torch.equal(out.mem, expected.mem[2::3])


def test_inference_keeps_no_graph(model):
    with torch.no_grad():
        out = model.run(inputs(), 4)
    assert not any(part.requires_grad for part in (out.spk, out.mem, out.nll, out.kl))
    assert model.weight.shape == (M, K)


def test_a_decoder_may_be_replaced_by_one_that_fits(model):
    other = network()
    model.decoder = other
    assert model.decoder is other
    model.loss(inputs(), 3).backward()
    assert other[0].weight.grad is not None
    with pytest.raises(ValueError, match="must map"):
        model.decoder = nn.Linear(K, M + 1).double()
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        model.decoder = torch.zeros(M, K)
    assert model.decoder is other


def test_the_linear_decoder_may_be_replaced_too():
    model = IPVAE(M, K)
    phi = nn.Linear(K, M, bias=False)
    model.decoder = phi
    assert model.decoder is model.neuron.lateral.decoder is phi
    model.loss(torch.rand(B, M), 3).backward()
    assert phi.weight.grad is not None
    for wrong, message in (
        (nn.Linear(K, M), "no bias"),
        (nn.Linear(K + 1, M, bias=False), "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decoder = wrong
    with pytest.raises(TypeError, match=r"nn\.Linear"):
        model.neuron.lateral.decoder = nn.Identity()
    assert model.decoder is phi


@pytest.mark.parametrize(
    ("name", "value"),
    [("clamp", 40.0), ("clamp", math.nan), ("leak", math.nan), ("leak", 1.5), ("leak", "much"),
     ("lateral_scale", -1.0), ("lateral_scale", math.inf)],
)  # fmt: skip
def test_settings_of_a_neuron_are_checked_when_they_are_set(name, value):
    model = IPVAE(M, K)
    before = getattr(model.neuron, name)
    with pytest.raises((ValueError, TypeError), match=name):
        setattr(model.neuron, name, value)
    assert getattr(model.neuron, name) == before


def test_decoders_work_in_inference_mode_and_in_place():
    decoder = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(K, M))
    model = IPVAE(M, K, decoder=decoder)
    with torch.inference_mode():
        out = model.run(torch.rand(B, M), 3)
    assert torch.isfinite(out.nll).all()
    model.loss(torch.rand(B, M), 3).backward()
    assert decoder[1].weight.grad is not None


def test_looking_at_a_decoder_leaves_its_statistics_alone():
    decoder = nn.Sequential(nn.Linear(K, M), nn.BatchNorm1d(M))
    IPVAE(M, K, decoder=decoder)
    assert decoder[1].num_batches_tracked == 0
    assert decoder[1].training


def test_a_decoder_without_gradient_is_refused():
    class Detached(nn.Linear):
        def forward(self, spk):
            return super().forward(spk).detach()

    with pytest.raises(ValueError, match="must depend on the spikes"):
        IPVAE(M, K, decoder=Detached(K, M)).loss(torch.rand(B, M), 2)


def test_settings_are_checked_when_they_are_set():
    model = IPVAE(M, K)
    with pytest.raises(ValueError, match="form must be"):
        model.kl_form = "x"
    assert model.kl_form == "exact"
    with pytest.raises(TypeError, match=r"must be torch\.float32"):
        model.decoder = nn.Linear(K, M, bias=False).double()
    assert model.decoder.weight.dtype == torch.float32


def _steep() -> IPVAE:
    """A network that one count moves by several standard deviations."""
    torch.manual_seed(0)
    decoder = NetworkDecoder(12, 20, [24], gain=12.0)
    likelihood = Gaussian(20, learn_scale=False, scale=0.3)
    return IPVAE(20, 12, decoder=decoder, likelihood=likelihood, step=0.2, form="published").eval()


def test_halved_steps_find_what_full_ones_jump_over():
    model = _steep()
    with torch.no_grad():
        x = model.decoder(torch.poisson(torch.full((30, 12), 0.7)))
    full = model.run(x, 60, record=("nll",), seed=0).nll[-20:].mean()
    model.halvings = 6
    halved = model.run(x, 60, record=("nll",), seed=0).nll[-20:].mean()
    assert halved < 0.5 * full


def test_halved_steps_do_not_raise_the_free_energy_where_some_share_does_not():
    """One timestep, against a list of all shares."""
    model = _steep()
    x = torch.randn(40, 20)
    spk, mem = torch.poisson(torch.ones(40, 12)), torch.zeros(40, 12)
    whole = model.run(x, 1, state=State(spk, mem), record=("mem",)).mem[0]
    model.halvings = 4
    found = model.run(x, 1, state=State(spk, mem), record=("mem",)).mem[0]

    def energy(u: torch.Tensor) -> torch.Tensor:
        rate = u.exp()
        return model.nll_of(rate, x) + (model.neuron.log_bias.exp() * rate).sum(-1)

    with torch.no_grad():
        shares = [mem + 0.5**n * (whole - mem) for n in range(5)]
        for row in range(40):
            allowed = [u for u in shares if energy(u)[row] <= energy(mem)[row]]
            first = (allowed or shares[-1:])[0]
            torch.testing.assert_close(found[row], first[row])


def test_halvings_are_of_generic_decoders_and_kept(tmp_path):
    with pytest.raises(ValueError, match="halvings must be 0 without"):
        IPVAE(20, 12, halvings=2)
    model = _steep()
    for bad in (-1, 1.5, None):
        with pytest.raises((TypeError, ValueError), match="halvings"):
            model.halvings = bad
    model.halvings = 3
    model.save(tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").halvings == 3
    x = torch.randn(8, 20)
    model.train().loss(x, 5).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("gain", "form", "most"),
    [(0, "exact", 0.01), (2, "exact", 0.1), (2, "published", 0.2), (4, "published", 0.5)],
)
def test_inference_finds_what_sums_over_all_codes_say(seed, gain, form, most):
    """Two neurons under binary pixels, by a linear decoder (gain 0) or a network: the free energy
    of settled rates, summed over codes, is above −log p(x), and above its least value over all
    rates by so many nats on average."""
    torch.manual_seed(seed)
    decoder = NetworkDecoder(2, 12, [8], gain=gain) if gain else LinearDecoder(2, 12, 0.7)
    if gain:
        decoder.layers[2].weight.data *= 3
    options = {"form": form, "step": 0.02, "bias": 1e-6, "leak": 1.0, "clamp": 10.0}
    model = IPVAE(12, 2, decoder=decoder, likelihood=Bernoulli(), **options).double().eval()
    model.neuron.mem_init.data.fill_(-0.5)
    codes = torch.tensor(list(itertools.product(range(40), repeat=2))).double()
    with torch.no_grad():
        x = torch.bernoulli(torch.sigmoid(decoder(torch.poisson(torch.full((6, 2), 1.5).double()))))
        nll = torch.stack([model.nll_of(codes, row.expand(len(codes), -1)) for row in x])
    prior = model.neuron.mem_init.detach().expand(6, 2)

    def log_prob(mem):
        mem = mem[..., None, :]
        return (codes * mem - mem.exp() - torch.lgamma(codes + 1)).sum(-1)

    def energy(mem):
        return (log_prob(mem).exp() * nll).sum(-1) + F.poisson_kl(mem, prior).sum(-1)

    best = prior.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([best], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = energy(best).sum()
        total.backward()
        return total

    optimizer.step(closure)
    mem = model.run(x, 2500, record=("mem",), seed=0).mem[500:]
    found = energy(mem.exp().mean(0).log())
    assert (found > -torch.logsumexp(log_prob(prior) - nll, -1)).all()
    gap = (found - energy(best.detach())).mean()
    assert -1e-6 < gap < most
