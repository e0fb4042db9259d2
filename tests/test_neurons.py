"""The neuron by itself: its equation, and the manners of a snnTorch neuron."""

import copy
import gc
import math
import pickle
import warnings
import weakref

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, surrogate
from ipvae_snn import functional as F
from ipvae_snn.base import StatefulNeuron

CURRENT = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def make(**options):
    torch.manual_seed(2)
    return IPVAENeuron(nn.Linear(6, 10, bias=False), **options)


def test_one_step_is_the_equation():
    neuron = make(leak=0.1, lateral_scale=0.7, step=0.5, bias=0.2, mem_init=-1.0, clamp=3.0)
    spk = torch.tensor([[0.0, 1, 0, 2, 0, 5]]).expand(4, 6)
    mem = torch.randn(4, 6)
    _, stepped = neuron(CURRENT, spk, mem)
    phi = neuron.lateral.decoder.weight
    h = 0.5 * (CURRENT - 0.7 * spk @ phi.T @ phi - 0.2 - 0.1 * (mem + 1.0))
    expected = F.soft_clamp(mem + F.soft_clamp(h, 3.0), 3.0)
    torch.testing.assert_close(stepped, expected)


def test_spikes_come_from_the_membrane_of_the_same_call():
    neuron = make(spike_grad=surrogate.rounded())
    spk, mem = neuron(CURRENT * 5)
    assert torch.equal(spk, mem.exp().round())


def test_the_decoder_is_shared_never_copied():
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


# -- how it is called -----------------------------------------------------------------------------


def test_return_forms():
    spk, mem = make()(CURRENT)
    assert spk.shape == mem.shape == CURRENT.shape
    hidden = make(init_hidden=True)(CURRENT)
    assert isinstance(hidden, torch.Tensor)
    both = make(init_hidden=True, output=True)(CURRENT)
    assert torch.equal(both[1], mem)
    assert len(make(output=True)(CURRENT)) == 2


def test_hidden_and_explicit_states_give_one_trajectory():
    explicit, hidden = make(), make(init_hidden=True)
    torch.manual_seed(7)
    spk, mem = explicit.reset_mem()
    by_hand = []
    for _ in range(6):
        spk, mem = explicit(CURRENT, spk, mem)
        by_hand.append(spk)
    torch.manual_seed(7)
    assert all(torch.equal(a, hidden(CURRENT)) for a in by_hand)


def test_a_state_with_init_hidden_is_refused_and_changes_nothing():
    neuron = make(init_hidden=True)
    neuron(CURRENT)
    before = neuron.mem
    with pytest.raises(TypeError, match="init_hidden"):
        neuron(CURRENT, None, torch.zeros(4, 6))
    assert neuron.mem is before


def test_reset_mem():
    neuron = make(mem_init=-2.0)
    assert [s.shape for s in neuron.reset_mem()] == [(0,), (0,)]
    neuron(CURRENT)
    spk, mem = neuron.reset_mem()
    assert torch.equal(spk, torch.zeros(4, 6))
    assert torch.equal(mem, torch.full((4, 6), -2.0))
    mem_by_state = neuron(CURRENT, spk, mem)[1]
    neuron.reset_mem()
    assert torch.equal(neuron(CURRENT)[1], mem_by_state)


def test_after_reset_another_batch_size_is_fine():
    neuron = make(init_hidden=True)
    neuron(CURRENT)
    neuron.reset_mem()
    assert neuron(CURRENT[:2]).shape == (2, 6)


def test_a_batch_of_another_size_starts_afresh_and_says_so():
    neuron = make(init_hidden=True, output=True)
    neuron(CURRENT)
    with pytest.warns(UserWarning, match="reset_mem"):
        _, mem = neuron(CURRENT[:2])
    neuron.reset_mem()
    assert torch.equal(mem, neuron(CURRENT[:2])[1])


def test_unbatched_and_deeper_batches():
    assert make()(CURRENT[0])[0].shape == (6,)
    assert make()(CURRENT.reshape(2, 2, 6))[0].shape == (2, 2, 6)


def test_detach_hidden_cuts_every_state_and_reset_hidden_resets():
    neuron = make()
    neuron(CURRENT)
    assert neuron.spk.requires_grad
    assert neuron.mem.requires_grad
    IPVAENeuron.detach_hidden()
    assert not neuron.spk.requires_grad
    assert not neuron.mem.requires_grad
    IPVAENeuron.reset_hidden()
    assert not neuron.spk.any()


def test_back_propagation_through_time_reaches_every_parameter():
    neuron = IPVAENeuron(6)
    spk, mem = neuron.reset_mem()
    for _ in range(5):
        spk, mem = neuron(CURRENT * 3, spk, mem)
    (spk.sum() + mem.sum()).backward()
    for name, parameter in neuron.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_surrogate_disable_emits_without_gradient():
    spk, mem = make(surrogate_disable=True)(CURRENT)
    assert not spk.requires_grad
    assert mem.requires_grad


def test_state_quant_is_applied_and_keeps_the_dtype():
    neuron = make(state_quant=lambda u: (u * 4).round().double() / 4)
    _, mem = neuron(CURRENT)
    assert mem.dtype == torch.float32
    assert torch.equal(mem * 4, (mem * 4).round())


def test_custom_spike_grad():
    neuron = make(spike_grad=snn.surrogate.atan())
    spk, _ = neuron(CURRENT * 10)
    assert set(spk.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="keep the shape"):
        make(spike_grad=lambda u: u.sum())(CURRENT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    spk, mem = make().to(dtype)(CURRENT.to(dtype))
    assert spk.dtype == mem.dtype == dtype


# -- as an object ---------------------------------------------------------------------------------


def test_state_dict_has_no_state_and_fits_any_batch():
    neuron, other = make(), make()
    neuron(CURRENT)
    other(CURRENT[:1])
    assert not {"spk", "mem"} & set(neuron.state_dict())
    other.load_state_dict(neuron.state_dict())


def test_pickle_and_deepcopy_after_a_forward_pass():
    neuron = make()
    neuron(CURRENT)
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(twin.mem, neuron.mem)
        assert not twin.mem.requires_grad
        assert twin in StatefulNeuron._live
        twin(CURRENT)


def test_deleted_neurons_are_freed():
    neuron = make()
    neuron(CURRENT)
    assert neuron not in snn.SpikingNeuron.instances
    gone = weakref.ref(neuron)
    del neuron
    gc.collect()
    assert gone() is None


def test_compiles_without_a_graph_break():
    neuron = make(init_hidden=True)
    compiled = torch.compile(neuron, fullgraph=True, backend="aot_eager")
    assert all(torch.isfinite(compiled(CURRENT)).all() for _ in range(3))


def test_inside_sequential_between_snntorch_neurons():
    net = nn.Sequential(
        nn.Linear(5, 6),
        snn.Leaky(0.9, init_hidden=True),
        nn.Linear(6, 8),
        IPVAENeuron(8, init_hidden=True),
        nn.Linear(8, 3),
        snn.Leaky(0.9, init_hidden=True, output=True),
    )
    for _ in range(3):
        spk, _ = net(torch.rand(2, 5))
    spk.sum().backward()
    assert net[2].weight.grad is not None


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
def test_options_without_meaning_are_refused(option, says):
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
def test_wrong_construction(arguments, options, error, says):
    with pytest.raises(error, match=says):
        IPVAENeuron(*arguments, **options)


def test_reset_mechanism_cannot_be_assigned_silently():
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
def test_bad_input_is_refused_and_leaves_the_state(input_, error, says):
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
