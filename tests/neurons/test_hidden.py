"""States move and are copied with a neuron, but are no part of the model."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from ipvae_snn import IPVAE, IPVAENeuron, reset, surrogate

K = 4
STATES = ("spk", "mem")


def network(**options):
    torch.manual_seed(0)
    neuron = IPVAENeuron(K, init_hidden=True, mem_init=-1.0, learn_step=True, **options)
    return nn.Sequential(nn.Linear(3, K), neuron)


def advanced(**options):
    net = network(**options)
    net(torch.rand(2, 3))
    return net


def listed(net):
    return {name.rpartition(".")[2] for name, _ in net.named_buffers()}


def test_states_are_not_listed_nor_saved():
    for net in (network(), advanced(), copy.deepcopy(advanced()), advanced().double()):
        assert not listed(net) & set(STATES)
        assert not any(name.endswith((".spk", ".mem")) for name in net.state_dict())
        assert listed(net) == {"threshold", "graded_spikes_factor", "reset_mechanism_val"}


@pytest.mark.parametrize(
    "move", [lambda n: n.double(), lambda n: n.to(torch.float64), lambda n: n.to("meta")]
)
def test_states_move_with_the_module(move):
    net = advanced()
    move(net)
    for name in STATES:
        state = getattr(net[1], name)
        assert (state.dtype, state.device) == (net[0].weight.dtype, net[0].weight.device)
        assert state.shape == (2, K)


def test_states_are_shared_with_other_processes():
    neuron = advanced().share_memory()[1]
    assert neuron.spk.is_shared()
    assert neuron.mem.is_shared()


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_have_the_states(duplicate):
    neuron = advanced()[1]
    twin = duplicate(neuron)
    assert torch.equal(twin.mem, neuron.mem)
    assert torch.equal(twin.spk, neuron.spk)
    assert not twin.mem.requires_grad
    assert not listed(twin) & set(STATES)
    before = neuron.mem
    twin.reset_mem()
    twin(torch.rand(5, K))
    assert neuron.mem is before


def test_a_pickle_of_earlier_releases_has_plain_buffers():
    neuron = advanced()[1]
    old = pickle.loads(pickle.dumps(neuron.__getstate__()))
    assert type(old["_buffers"]) is dict
    assert set(STATES) <= set(old["_buffers"])
    twin = IPVAENeuron.__new__(IPVAENeuron)
    twin.__setstate__(old)
    assert torch.equal(twin.mem, neuron.mem)
    assert not listed(twin) & set(STATES)


AVERAGES = {
    "mean": {},
    "EMA": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "SWA": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
}


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("use_buffers", [True, False])
def test_averages_of_models_take_only_model_state(options, use_buffers):
    if use_buffers and options is AVERAGES["SWA"]:
        pytest.skip("torch divides no integer buffers, such as snnTorch's reset_mechanism_val")
    net = network(gram=torch.eye(K))
    average = swa_utils.AveragedModel(net, use_buffers=use_buffers, **options)
    for batch in (4, 2, 7):
        reset(net)
        net(torch.rand(batch, 3))
        average.update_parameters(net)
    assert average.module[1].mem.shape == (0,)
    assert average(torch.rand(5, 3)).shape == (5, K)
    assert net[1].mem.shape == (7, K)
    torch.testing.assert_close(average.module[0].weight, net[0].weight)


def test_update_bn_runs_a_network_with_states():
    net = network()
    net.insert(1, nn.BatchNorm1d(K))
    average = swa_utils.AveragedModel(net)
    swa_utils.update_bn([torch.rand(6, 3) for _ in range(3)], average)
    assert average.module[1].num_batches_tracked == 3


# -- transforms, the meta device, threads ---------------------------------------------------------


def in_steps(net, x):
    return torch.stack([net(frame) for frame in x])


def carried(net, x):
    return torch.cat([net[1].run(net[0](x[:2])).spk, net[1].run(net[0](x[2:]), carry=True).spk])


def mapped(net, x, call):
    return torch.func.vmap(lambda sample: call(net, sample), 1, 1, randomness="different")(x)


def differentiated(net, x, call):
    module = Called(net, call)

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x,)).sum()

    return torch.func.grad(loss)(dict(module.named_parameters()))


class Called(nn.Module):
    def __init__(self, net, call):
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x):
        return self.call(self.net, x)


@pytest.mark.parametrize("transform", [mapped, differentiated])
@pytest.mark.parametrize("call", [in_steps, carried])
def test_a_transform_that_would_lose_the_state_is_refused(transform, call):
    net, x = network(), torch.rand(4, 2, 3)
    with pytest.raises(RuntimeError, match=r"torch\.func transform.*reset_mem\(\)"):
        transform(net, x, call)
    reset(net)
    transform(net, x, lambda net, x: net[1].run(net[0](x)).spk)
    reset(net)
    assert in_steps(net, x).shape == (4, 2, K)


def test_nothing_goes_on_from_the_meta_device():
    net = advanced(spike_grad=surrogate.rounded())
    weights, x = copy.deepcopy(net.state_dict()), torch.rand(2, 3)
    net.to("meta").to_empty(device="cpu").load_state_dict(weights)
    assert torch.equal(net(x), network(spike_grad=surrogate.rounded())(x))


@pytest.mark.parametrize("make", [network, lambda: IPVAE(3, K)], ids=["network", "model"])
def test_weights_may_be_assigned(make):
    weights = make().state_dict()
    with torch.device("meta"):
        net = make()
    net.load_state_dict(weights, assign=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[name])
    threshold = next(name for name in weights if name.endswith("threshold"))
    with pytest.raises(RuntimeError, match="no meaning for a Poisson neuron"):
        net.load_state_dict({**weights, threshold: torch.tensor(2.0)}, assign=True)


def test_a_replica_lists_no_states():
    assert not listed(advanced()[1]._replicate_for_data_parallel()) & set(STATES)


class Reset(IPVAENeuron):
    """Another thread resets all neurons whenever a buffer of this one is registered."""

    def register_buffer(self, *arguments, **options):
        IPVAENeuron.reset_hidden()
        super().register_buffer(*arguments, **options)


def test_a_neuron_may_be_made_while_all_are_reset():
    assert Reset(K).mem.shape == (0,)
