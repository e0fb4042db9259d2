"""The Poisson neuron: its equation, its lateral weights, and invalid options and inputs."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, surrogate
from ipvae_snn import functional as F

CURRENT = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def make(**options):
    torch.manual_seed(2)
    return IPVAENeuron(nn.Linear(6, 10, bias=False), **options)


def test_one_timestep_is_the_equation():
    neuron = make(leak=0.1, lateral_scale=0.7, step=0.5, bias=0.2, mem_init=-1.0, clamp=3.0)
    spk = torch.tensor([[0.0, 1, 0, 2, 0, 5]]).expand(4, 6)
    mem = torch.randn(4, 6)
    _, stepped = neuron(CURRENT, spk, mem)
    phi = neuron.lateral.decoder.weight
    variance = 0.35 * phi.square().sum(0)
    h = 0.5 * (CURRENT - 0.7 * spk @ phi.T @ phi - variance - 0.2 - 0.1 * (mem + 1.0))
    expected = F.soft_clamp(mem + F.soft_clamp(h, 3.0), 3.0)
    torch.testing.assert_close(stepped, expected)


def test_spikes_are_drawn_from_the_updated_membrane():
    neuron = make(spike_grad=surrogate.rounded())
    spk, mem = neuron(CURRENT * 5)
    assert torch.equal(spk, mem.exp().round())


def test_the_decoder_is_shared_not_copied():
    decoder = nn.Linear(6, 10, bias=False)
    neuron = IPVAENeuron(decoder)
    assert neuron.lateral.decoder is decoder
    with torch.no_grad():
        decoder.weight.mul_(2)
    torch.testing.assert_close(neuron.gram(), decoder.weight.T @ decoder.weight)
    x = torch.rand(3, 10)
    torch.testing.assert_close(neuron.drive(x), x @ decoder.weight)


def test_log_scale_weights_pixels():
    log_scale = nn.Parameter(torch.linspace(-1, 1, 10))
    neuron = make(log_scale=log_scale)
    precision = torch.exp(-2 * 3.45 * torch.tanh(log_scale / 3.45))
    phi = neuron.lateral.decoder.weight
    torch.testing.assert_close(neuron.gram(), phi.T @ torch.diag(precision) @ phi)
    assert neuron.lateral.log_scale is log_scale


def test_fixed_gram_stays_and_learned_gram_stays_positive_semidefinite():
    gram = torch.tensor([[2.0, -0.5], [-0.5, 1.0]])
    fixed = IPVAENeuron(2, gram=gram)
    assert torch.equal(fixed.gram(), gram)
    assert "lateral" not in dict(fixed.named_parameters())
    learned = IPVAENeuron(2, gram=gram, learn_gram=True)
    torch.testing.assert_close(learned.gram(), gram)
    for neuron in (learned, IPVAENeuron(5)):
        optimizer = torch.optim.SGD(neuron.parameters(), lr=1.0)
        for _ in range(20):
            optimizer.zero_grad()
            neuron.gram().square().sum().neg().add(neuron.gram().sum()).backward()
            torch.nn.utils.clip_grad_norm_(neuron.parameters(), 1.0)
            optimizer.step()
        values = torch.linalg.eigvalsh(neuron.gram().detach().double())
        assert values.min() >= -1e-5 * values.max()


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"threshold": 0.5}, "mem_init"),
        ({"learn_threshold": True}, "learned instead"),
        ({"inhibition": True}, "lateral_scale"),
        ({"reset_mechanism": "zero"}, "diagonal of gram"),
        ({"reset_mechanism": "none"}, "diagonal of gram"),
        ({"reset_delay": False}, "next timestep"),
        ({"graded_spikes_factor": 2.0}, "next layer"),
        ({"learn_graded_spikes_factor": True}, "next layer"),
        ({"step": 0.0}, "step"),
        ({"bias": -1.0}, "bias"),
        ({"bias": torch.ones(3)}, "bias must be a number or have shape"),
        ({"mem_init": math.nan}, "mem_init"),
        ({"log_scale": torch.zeros(3)}, "log_scale"),
        ({"gram": torch.eye(6)}, "decoder already"),
    ],
    ids=str,
)
def test_unsupported_snntorch_options_are_refused(option, says):
    with pytest.raises(ValueError, match=says):
        make(**option)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((nn.Linear(6, 10),), {}, ValueError, "no bias"),
        (("six",), {}, TypeError, "first argument"),
        ((0,), {}, ValueError, "at least 1"),
        ((3,), {"gram": torch.rand(3, 3)}, ValueError, "symmetric"),
        ((3,), {"gram": torch.eye(2)}, ValueError, r"\(3, 3\)"),
        ((3,), {"gram": torch.full((3, 3), math.inf)}, ValueError, "infinite"),
        ((2,), {"gram": -torch.eye(2), "learn_gram": True}, ValueError, "positive semidefinite"),
        ((3,), {"log_scale": torch.zeros(3)}, ValueError, "decoder"),
        ((3,), {"spike_grad": "atan"}, TypeError, "callable"),
        ((3,), {"state_quant": 8}, TypeError, "callable"),
    ],
)
def test_invalid_construction_is_refused(arguments, options, error, says):
    with pytest.raises(error, match=says):
        IPVAENeuron(*arguments, **options)


def test_assigning_reset_mechanism_is_refused():
    with pytest.raises(ValueError, match="diagonal of gram"):
        make().reset_mechanism = "zero"


@pytest.mark.parametrize(
    ("input_", "error", "says"),
    [
        (torch.rand(4, 10), ValueError, r"neuron\.drive"),
        (torch.rand(4, 5), ValueError, r"\(\.\.\., 6\)"),
        (torch.ones(4, 6, dtype=torch.int32), TypeError, "floating point"),
        (torch.rand(4, 6).double(), TypeError, "float64"),
        ([[1.0] * 6], TypeError, "torch.Tensor"),
        (torch.full((4, 6), math.nan), ValueError, "24 NaN"),
        (torch.full((4, 6), -math.inf), ValueError, "infinite"),
    ],
)
def test_bad_input_is_refused_and_keeps_the_state(input_, error, says):
    neuron = make()
    neuron(CURRENT)
    spk, mem = neuron.spk, neuron.mem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=says):
            neuron(input_)
    assert neuron.spk is spk
    assert neuron.mem is mem


def test_explicit_states_must_fit():
    neuron = make()
    with pytest.raises(ValueError, match="shape of input_"):
        neuron(CURRENT, torch.zeros(3, 6), torch.zeros(3, 6))
    with pytest.raises(TypeError, match="mem is"):
        neuron(CURRENT, torch.zeros(4, 6), torch.zeros(4, 6).double())


def test_a_float64_decoder_makes_a_float64_neuron():
    neuron = IPVAENeuron(nn.Linear(6, 10, bias=False, dtype=torch.float64))
    spk, _ = neuron(neuron.drive(torch.rand(3, 10, dtype=torch.float64)))
    assert spk.dtype == torch.float64


@pytest.mark.parametrize("learn", [False, True])
def test_a_float64_gram_is_converted(learn):
    gram = torch.eye(6, dtype=torch.float64)
    assert IPVAENeuron(6, gram=gram, learn_gram=learn)(CURRENT)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("log_scale", "error"),
    [
        (0.0, TypeError),
        (torch.zeros(10).double(), TypeError),
        (torch.full((10,), math.nan), ValueError),
    ],
)
def test_bad_log_scale_is_refused(log_scale, error):
    with pytest.raises(error, match="log_scale"):
        make(log_scale=log_scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_explicit_states_with_nan_or_infinity_are_refused(bad):
    good, wrong = torch.zeros(4, 6), torch.full((4, 6), bad)
    for states in ((good, wrong), (wrong, good)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            make()(CURRENT, *states)


@pytest.mark.parametrize("result", [lambda u: u[:1], lambda u: 1.0])
def test_callables_that_change_the_shape_are_refused(result):
    neuron = make(state_quant=result)
    with pytest.raises(ValueError, match="state_quant"):
        neuron(CURRENT)
    assert neuron.mem.shape == (0,)
    with pytest.raises(ValueError, match="spike_grad must map membranes"):
        make(spike_grad=result)


def test_a_tensor_threshold_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        make(threshold=torch.ones(6))


def test_numpy_numbers_are_accepted():
    assert IPVAENeuron(np.int64(6), step=np.float32(0.1)).features == 6
