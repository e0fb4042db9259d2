"""Attributes of neurons are checked when they are set, and inputs are not mistaken for others."""

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron
from ipvae_snn.neurons.lateral import FixedGram

K, M = 8, 12
NAN = float("nan")


def of_decoder():
    return IPVAENeuron(nn.Linear(K, M, bias=False), log_scale=nn.Parameter(torch.zeros(M)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clamp", 40.0), ("clamp", NAN), ("clamp", "high"), ("leak", NAN), ("leak", 2),
        ("leak", True), ("lateral_scale", NAN), ("lateral_scale", -1), ("state_quant", 8),
        ("state_quant", True), ("spike_grad", None), ("spike_grad", "atan"),
        ("observers", None), ("observers", [3]), ("observers", print), ("init_hidden", "yes"),
        ("output", 1), ("surrogate_disable", None), ("threshold", 0.5),
        ("threshold", torch.ones(K)), ("inhibition", True), ("graded_spikes_factor", 2.0),
        ("reset_mechanism", "zero"), ("learn_threshold", True), ("reset_delay", False),
        ("step", 0.5), ("bias", 0.1), ("bias", torch.ones(K)), ("learn_step", False),
        ("learn_bias", True), ("mem_init", -1.0), ("mem_init", nn.Parameter(torch.ones(K + 1))),
        ("log_bias", nn.Parameter(torch.ones(2, K))), ("log_step", nn.Parameter(torch.ones(K))),
        ("lateral", nn.Linear(K, K)), ("lateral", torch.eye(K)),
        ("lateral", IPVAENeuron(3).lateral),
        ("clamp", nn.Parameter(torch.tensor(2.0))), ("leak", nn.Identity()),
        ("lateral_scale", 1e39), ("mem_init", None), ("log_bias", None), ("log_step", None),
        ("mem_init", nn.Parameter(torch.full((K,), NAN))),
        ("mem_init", nn.Parameter(torch.tensor(100.0))),
        ("log_step", nn.Parameter(torch.tensor(100.0))), ("mem", torch.full((2, K), NAN)),
        ("mem", None), ("spk", -torch.ones(2, K)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [lambda: IPVAENeuron(K), of_decoder], ids=["own", "decoder"])
def test_what_the_constructor_would_refuse_is_refused_later(make, name, value):
    neuron = make()
    before = dict(neuron.named_parameters()), repr(neuron), neuron.lateral, neuron.spike_grad
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(neuron, name, value)
    after = dict(neuron.named_parameters()), repr(neuron), neuron.lateral, neuron.spike_grad
    assert after == before
    neuron(torch.ones(2, K))


def test_what_the_constructor_would_take_may_be_set_later():
    neuron = of_decoder()
    neuron.clamp, neuron.leak, neuron.lateral_scale = 3, 0.1, 0
    neuron.state_quant = lambda mem: mem.round()
    neuron.state_quant = False
    neuron.output, neuron.surrogate_disable = True, True
    neuron.log_bias = nn.Parameter(torch.full((K,), -3.0))
    neuron.mem_init = nn.Parameter(torch.tensor(-1.0))
    neuron.lateral = FixedGram(torch.eye(K))
    neuron(torch.ones(2, K))
    assert torch.equal(neuron.gram(), torch.eye(K))


@pytest.mark.parametrize(
    ("make", "name", "value", "says"),
    [
        (of_decoder, "log_scale", nn.Parameter(torch.zeros(3)), "log_scale must have shape"),
        (of_decoder, "log_scale", nn.Parameter(torch.full((M,), NAN)), "NaN"),
        (of_decoder, "decoder", nn.Linear(K, M), "no bias"),
        (of_decoder, "decoder", nn.Linear(K, M + 1, bias=False), "shape"),
        (lambda: IPVAENeuron(K), "factor", nn.Parameter(torch.eye(K + 1)), "factor"),
        (lambda: IPVAENeuron(K, gram=torch.eye(K)), "weight", torch.rand(K, K), "symmetric"),
        (lambda: IPVAENeuron(K, gram=torch.eye(K)), "weight", torch.eye(K + 1), "shape"),
    ],
)
def test_lateral_weights_are_checked_when_they_are_set(make, name, value, says):
    neuron = make()
    gram = neuron.gram()
    with pytest.raises((TypeError, ValueError), match=says):
        setattr(neuron.lateral, name, value)
    assert torch.equal(neuron.gram(), gram)


@pytest.mark.parametrize("gram", [torch.rand(3, 4), torch.rand(4), torch.tensor(1.0), [[1.0]]])
def test_a_fixed_gram_is_a_symmetric_matrix(gram):
    with pytest.raises((TypeError, ValueError), match="gram"):
        FixedGram(gram)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: setattr(d, "weight", nn.Parameter(torch.rand(M, 3))), "shape"),
        (lambda d: setattr(d, "bias", nn.Parameter(torch.rand(M))), "no bias"),
    ],
)
def test_a_decoder_changed_from_outside_is_refused(change, says):
    neuron = of_decoder()
    change(neuron.lateral.decoder)
    for call in (lambda: neuron(torch.ones(2, K)), lambda: neuron.drive(torch.ones(2, M)),
                 neuron.gram):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n: n.lateral.decoder.double(), "weight of the lateral weights is"),
        (lambda n: n.register_parameter("log_bias", nn.Parameter(torch.ones(K).double())),
         "log_bias is"),
        (lambda n: n.register_parameter("mem_init", nn.Parameter(torch.ones(K + 1))), "mem_init"),
        (lambda n: n.log_step.data.fill_(100.0), "step holds"),
        (lambda n: n.to(torch.complex64), "nothing is computed"),
        (lambda n: setattr(n.lateral.decoder, "weight", None), "no weights"),
        (lambda n: setattr(n.lateral.decoder, "forward", torch.zeros_like), "forward of its own"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # PyTorch's own: complex modules are new
def test_parameters_that_do_not_fit_together_are_named(change, says):
    neuron = of_decoder()
    change(neuron)
    for call in (neuron, lambda input_: neuron.run(input_[None])):
        with pytest.raises((TypeError, ValueError), match=says):
            call(torch.ones(2, K))


@pytest.mark.parametrize("make", [lambda: IPVAENeuron(K), of_decoder], ids=["own", "decoder"])
def test_weights_may_be_assigned(make):
    with torch.device("meta"):
        neuron = make()
    for dtype in (torch.float32, torch.float64):
        neuron.load_state_dict(make().to(dtype).state_dict(), assign=True)
        neuron.reset_mem()
        assert neuron.run(torch.ones(1, 2, K, dtype=dtype)).mem.dtype == dtype


def test_one_bias_for_all_neurons_learns():
    neuron = IPVAENeuron(K, leak=0.1)
    neuron.log_bias = nn.Parameter(torch.tensor(-3.0))
    neuron.mem_init = nn.Parameter(torch.tensor(-1.0))
    neuron(torch.ones(2, K))[1].sum().backward()
    neuron.run(torch.ones(3, 2, K)).mem.sum().backward()
    assert neuron.log_bias.grad.shape == neuron.mem_init.grad.shape == ()


@pytest.mark.parametrize("value", [torch.ones(K).to_sparse(), torch.ones(K, device="meta")])
def test_initial_values_are_dense(value):
    with pytest.raises(TypeError, match="dense tensor that holds values"):
        IPVAENeuron(K, bias=value)


# -- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, K), (2, 3, 5, K), (2, K, K, K), (2, 2, 3, 4, K)])
def test_maps_need_to_say_where_the_neurons_are(hidden, shape):
    neuron, maps = IPVAENeuron(K, init_hidden=hidden), torch.rand(shape)
    for call in (lambda: neuron(maps), lambda: neuron.run(maps.expand(3, *shape)),
                 lambda: neuron.run(maps[None], carry=True)):  # fmt: skip
        with pytest.raises(ValueError, match="dim=1"):
            call()
    assert neuron.mem.shape == (0,)
    assert IPVAENeuron(K * 5 * K)(torch.rand(2, K, 5, K).flatten(1))[0].shape == (2, K * 5 * K)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of sparse and nested tensors
@pytest.mark.parametrize(
    "kind",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        torch.Tensor.to_mkldnn,
        lambda x: torch.nested.nested_tensor([x]),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.to(torch.complex64),
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        torch.Tensor.sum,
        lambda x: 1.0,
    ],
)
def test_other_kinds_of_input_are_refused(kind):
    neuron, input_ = IPVAENeuron(K), kind(torch.rand(2, K))
    for call in (neuron, neuron.run):
        with pytest.raises((TypeError, ValueError), match="input_"):
            call(input_)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own: TorchScript is deprecated
@pytest.mark.parametrize(
    "use",
    [
        torch.jit.script,
        lambda neuron: torch.jit.script(nn.Sequential(neuron)),
        lambda neuron: torch.jit.trace(neuron, torch.rand(2, K), check_trace=False),
    ],
    ids=["script", "script of a network", "trace"],
)
def test_torchscript_is_refused_with_what_to_use(use):
    with pytest.raises(TypeError, match=r"use torch\.compile or torch\.export"):
        use(IPVAENeuron(K, init_hidden=True))


def test_neurons_on_the_meta_device():
    with torch.device("meta"):
        neuron = IPVAENeuron(K)
    for call in (neuron, neuron.run):
        with pytest.raises(ValueError, match="meta device, which holds no values"):
            call(torch.rand(2, K, device="meta"))
    made = IPVAENeuron(K)
    neuron.to_empty(device="cpu").load_state_dict(made.state_dict())
    assert torch.equal(neuron.gram(), made.gram())
