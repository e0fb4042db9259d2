"""Models with one deliberate defect each: the check reports exactly that problem."""

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit, surrogate
from ipvae_snn.diagnostics import check
from ipvae_snn.models.likelihoods import Bernoulli

SIDE, LATENTS = 8, 48
PIXELS = SIDE * SIDE


def dictionary(seed=0):
    """Localised oriented features of unit norm: Gabors at random positions."""
    draw = torch.Generator().manual_seed(seed)
    down, across = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    features = []
    for _ in range(LATENTS):
        y, x, angle, phase = (
            torch.rand(4, generator=draw) * torch.tensor([8, 8, 3.1, 6.3])
        ).tolist()
        turned = (across - x) * torch.cos(torch.tensor(angle)) + (down - y) * torch.sin(
            torch.tensor(angle)
        )
        near = torch.exp(-((across - x) ** 2 + (down - y) ** 2) / 6.0)
        feature = (near * torch.cos(1.9 * turned + phase)).flatten()
        features.append(feature / feature.norm())
    return torch.stack(features, 1)


def sparse_data(weight, count=120, active=4, strength=8.0, seed=1):
    """Sums of a few features each, with Poisson amplitudes."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.rand(count, weight.shape[1], generator=draw).argsort(1) < active
    amounts = chosen * torch.poisson(torch.full(chosen.shape, strength), generator=draw)
    return amounts @ weight.T + 0.1 * torch.randn(count, len(weight), generator=draw)


def model_of(weight, **options):
    """A healthy model without training: its features are those that the data are made of."""
    torch.manual_seed(0)
    settings = {"step": 0.06, "bias": 0.3, "learn_scale": False, **options}
    model = IPVAE(PIXELS, weight.shape[1], **settings)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.neuron.mem_init.fill_(-1.0)
    return model.eval()


def healthy():
    weight = dictionary()
    return model_of(weight), sparse_data(weight)


def rounded():
    weight = dictionary()
    return model_of(weight, spike_grad=surrogate.rounded()), sparse_data(weight)


def without_inhibition():
    weight = dictionary()
    return model_of(weight, lateral_scale=0.0, clamp=16.0, step=0.01), sparse_data(weight)


def low_clamp():
    weight = dictionary()
    return model_of(weight, clamp=1.0), sparse_data(weight, strength=20.0)


def weak_inhibition():
    weight = dictionary()
    return model_of(weight, lateral_scale=0.35, clamp=10.0), sparse_data(weight)


def small_step():
    weight = dictionary()
    return model_of(weight, step=4e-3, clamp=12.0), sparse_data(weight)


def large_step():
    weight = dictionary()
    return model_of(weight, step=0.5), sparse_data(weight)


def dense_code():
    weight = dictionary()
    return model_of(weight, bias=1e-3), sparse_data(weight, active=40, strength=8.0)


def one_sample_repeated():
    weight = dictionary()
    x = sparse_data(weight, count=1, active=6).repeat(120, 1)
    return model_of(weight), x + 0.1 * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(3)
    )


def too_sparse():
    weight = dictionary()
    return model_of(weight, bias=40.0), sparse_data(weight)


def half_silent():
    weight = dictionary()
    x = sparse_data(weight[:, : LATENTS // 2])
    weight[:, LATENTS // 2 :] = 0
    model = model_of(weight)
    model.neuron.mem_init.data[LATENTS // 2 :] = -8.0
    return model, x


def hyperactive():
    weight = dictionary()
    weight[:, 0] = 0.3 / SIDE
    x = sparse_data(weight[:, 1:]) + 0.5
    return model_of(weight, clamp=10.0), x


def duplicated_features():
    weight = dictionary()
    x = sparse_data(weight)
    weight[:, :4] = weight[:, 4:8]
    return model_of(weight), x


def smooth_features():
    down, across = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    weight = torch.stack(
        [
            torch.exp(-((down - y) ** 2 + (across - x) ** 2) / 8.0).flatten()
            for y in range(0, SIDE, 2)
            for x in range(0, SIDE, 2)
        ],
        1,
    )
    weight = weight / weight.norm(dim=0)
    x = sparse_data(weight, active=3)
    return model_of(weight), x + 1.2 * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(4)
    )


class ZeroSlope(surrogate.midpoint):
    """Its slope is 0, so no gradient passes through spikes."""

    def slope(self, spk, rate):
        return torch.zeros_like(rate)


def without_gradient():
    weight = dictionary()
    return model_of(weight, spike_grad=ZeroSlope()), sparse_data(weight)


def stored_pixels():
    weight = dictionary()
    x = sparse_data(weight)
    return model_of(weight), 255 * (x - x.min()) / (x.max() - x.min())


UNHEALTHY = {
    "input scale": stored_pixels,
    "poisson": rounded,
    "membranes": without_inhibition,
    "clamp": low_clamp,
    "free energy": weak_inhibition,
    "convergence": small_step,
    "oscillation": large_step,
    "active neurons": dense_code,
    "lifetime sparsity": one_sample_repeated,
    "silence": too_sparse,
    "silent neurons": half_silent,
    "hyperactive": hyperactive,
    "duplicates": duplicated_features,
    "smoothing": smooth_features,
    "gradient": without_gradient,
}


def test_a_healthy_model_has_no_problems():
    model, x = healthy()
    report = check(model, x, shape=(SIDE, SIDE))
    assert report.healthy, str(report)
    assert {f.name for f in report.findings} == set(UNHEALTHY)
    assert str(report).endswith("healthy")


@pytest.mark.parametrize("problem", UNHEALTHY)
def test_only_the_right_problem_is_reported(problem):
    model, x = UNHEALTHY[problem]()
    report = check(model, x, shape=(SIDE, SIDE))
    assert [f.name for f in report.problems] == [problem], str(report)
    assert report[problem].advice in " ".join(str(report).split())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "rescale",
    [
        lambda x: (255 * x).round(),
        lambda x: 255 * x,
        lambda x: (16 * x).round(),
        lambda x: 65535 * x,
        lambda x: x / 255,
        lambda x: x / 65535,
        lambda x: 0 * x,
    ],
    ids=["bytes", "floats to 255", "levels", "16 bits", "divided twice", "nearly 0", "blank"],
)
def test_inputs_of_another_scale_are_the_one_problem(rescale, trained):
    images = torch.rand(60, 16, generator=torch.Generator().manual_seed(0)).square()
    x, model = rescale(images), IPVAE(16, 8)
    if trained:
        fit(model, x + 1e-9, TrainConfig(iterations=30, steps=8, batch=30, progress=False))
    problems = check(model, x, num_steps=80).problems
    assert [f.name for f in problems if f.name != "gradient"] == ["input scale"]
    assert "divide stored pixels by their largest value" in problems[0].advice


@pytest.mark.parametrize(
    "rescale",
    [lambda x: x, lambda x: (x > 0.5).float(), lambda x: (x - x.mean()) / x.std(), lambda x: x / 9],
    ids=["images", "zeros and ones", "patches", "faint"],
)
def test_inputs_of_the_right_scale_are_healthy(rescale):
    images = torch.rand(60, 16, generator=torch.Generator().manual_seed(0)).square()
    assert check(IPVAE(16, 8), rescale(images), num_steps=80)["input scale"].healthy


def test_the_scale_of_inputs_is_not_judged_under_another_likelihood():
    model = IPVAE(16, 8, likelihood=Bernoulli())
    report = check(model, (torch.rand(20, 16) > 0.5).float(), num_steps=80)
    assert "input scale" not in report.as_dict()


@pytest.mark.parametrize("seed", [1, 2])
def test_findings_do_not_depend_on_the_seed(seed):
    model, x = healthy()
    assert check(model, x, shape=(SIDE, SIDE), seed=seed).healthy
    model, x = duplicated_features()
    assert [f.name for f in check(model, x, seed=seed).problems] == ["duplicates"]


def test_check_changes_neither_the_model_nor_the_random_state():
    model, x = healthy()
    model.train()
    model.weight.grad = torch.ones_like(model.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():  # the check enables gradients itself
        report = check(model, x, num_steps=80)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert model.neuron.log_bias.grad is None
    assert report["gradient"].healthy


def test_a_consequence_names_its_cause():
    model, x = without_inhibition()
    report = check(model, x)
    followers = [f for f in report.findings if f.follows]
    assert "free energy" in {f.name for f in followers}
    assert {f.follows for f in followers} == {"membranes"}
    assert "follows from: membranes" in str(report)
    assert report.as_dict()["membranes"]["healthy"] is False
    with pytest.raises(KeyError, match="there are"):
        report["boredom"]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((torch.nn.Linear(2, 2), torch.rand(5, 2)), {}, TypeError),
        ((IPVAE(4, 3), torch.rand(5, 5)), {}, ValueError),
        ((IPVAE(4, 3), torch.rand(1, 4)), {}, ValueError),
        ((IPVAE(4, 3), torch.full((5, 4), float("nan"))), {}, ValueError),
        ((IPVAE(4, 3), torch.rand(5, 4)), {"num_steps": 79}, ValueError),
        ((IPVAE(4, 3), torch.rand(5, 4)), {"shape": (3, 2)}, ValueError),
        ((IPVAE(4, 3), torch.rand(5, 4)), {"samples": 1}, ValueError),
    ],
)
def test_bad_input_is_refused(arguments, options, error):
    with pytest.raises(error):
        check(*arguments, **options)


@pytest.mark.parametrize("estimator", [surrogate.eat(0.1), surrogate.gumbel(0.3)])
def test_relaxed_estimators_pass_the_gradient_check(estimator):
    weight = dictionary()
    report = check(model_of(weight, spike_grad=estimator), sparse_data(weight), num_steps=80)
    assert report["gradient"].healthy
    assert report["poisson"].healthy


def test_missing_detail_is_no_problem_where_the_data_have_hardly_any():
    model, x = smooth_features()
    blurred = x - x.mean(1, keepdim=True)
    blurred = blurred @ model.weight @ torch.linalg.pinv(model.weight) + 0.05 * torch.randn(x.shape)
    assert check(model, blurred, shape=(SIDE, SIDE))["smoothing"].healthy
