"""Pitfalls of snnTorch 1.0.0 that can affect a plugin: each test fails if this package has one.

P1 to P26 number a list of known pitfalls. Left out, as this package has no such code: P13
(StateLeaky's factor), P14 (surrogate LSO), P17 and P18 (options of snnTorch's own monitors), and
P21 to P24 and P26 (exporters, tested in tests/export).
"""

import copy
import subprocess
import sys

import matplotlib as mpl
import pytest
import snntorch as snn
import torch
from matplotlib.figure import Figure
from torch import nn

from ipvae_snn import IPVAENeuron, detach, plotting, reset, surrogate

K = 5
CURRENT = torch.rand(3, K, generator=torch.Generator().manual_seed(0)) * 3


def hidden(**options):
    return IPVAENeuron(K, init_hidden=True, **options)


def test_p01_no_global_list_keeps_a_neuron_alive():
    hidden()  # one entry represents all
    before = len(snn.SpikingNeuron.instances)
    neuron = hidden()
    assert len(snn.SpikingNeuron.instances) == before
    assert neuron not in snn.SpikingNeuron.instances


def test_p02_our_reset_works_after_snntorch_rebinds_its_registry():
    snn.Leaky.init()
    try:
        net = nn.Sequential(hidden(), snn.Leaky(0.9, init_hidden=True))
        net(CURRENT)
        reset(net)
        assert not net[0].spk.any()
        assert not net[1].mem.any()
        net(CURRENT)
        IPVAENeuron.reset_hidden()
        assert not net[0].spk.any()
    finally:
        del snn.Leaky.instances


def test_p03_copies_are_reset_too():
    twin = copy.deepcopy(hidden())
    twin(CURRENT)
    IPVAENeuron.detach_hidden()
    assert not twin.mem.requires_grad


@pytest.mark.skipif(not hasattr(snn, "DeltaLeaky"), reason="this snnTorch has no DeltaLeaky")
def test_p04_an_unused_neuron_does_not_break_our_reset():
    elsewhere = snn.DeltaLeaky(beta=0.9)
    net = nn.Sequential(hidden())
    net(CURRENT)
    reset(net)
    reset(elsewhere)


def test_p05_nested_neurons_of_both_packages_are_reset():
    inner = nn.Sequential(nn.Sequential(hidden()), snn.Leaky(0.9, init_hidden=True))
    net = nn.Sequential(nn.Linear(K, K), inner)
    net(CURRENT)
    reset(net)
    assert torch.equal(inner[0][0].mem, inner[0][0].mem_init.expand(3, K))
    assert not inner[1].mem.any()


def test_p06_detach_reaches_every_class_in_a_mixed_network():
    net = nn.Sequential(
        nn.Linear(K, K),
        snn.Leaky(0.9, init_hidden=True),
        nn.Linear(K, K),
        hidden(),
        nn.Linear(K, K),
        snn.Synaptic(0.9, 0.8, init_hidden=True),
        nn.Linear(K, K),
        snn.RSynaptic(0.9, 0.8, linear_features=K, init_hidden=True),
    )
    net(CURRENT)
    net(CURRENT)
    detach(net)
    for module in net.modules():
        values = {**module._buffers, **vars(module)}.values()
        assert all(v.grad_fn is None for v in values if isinstance(v, torch.Tensor))
    net(CURRENT).sum().backward()  # the next window has a graph of its own


def test_p07_a_call_that_raises_changes_nothing():
    neuron = hidden()
    neuron(CURRENT)
    spk, mem = neuron.spk, neuron.mem
    with pytest.raises(TypeError):
        neuron(CURRENT, torch.zeros(3, K), torch.zeros(3, K))
    with pytest.raises(ValueError, match="NaN"):
        neuron(CURRENT * float("nan"))
    assert neuron.spk is spk
    assert neuron.mem is mem


def test_p08_a_state_of_another_shape_is_never_dropped_silently():
    with pytest.raises(ValueError, match="shape of input_"):
        IPVAENeuron(K)(CURRENT, torch.zeros(1, K), torch.zeros(1, K))
    neuron = hidden()
    neuron(CURRENT)
    with pytest.warns(UserWarning, match="reset_mem"):
        neuron(CURRENT[:2])


def test_p09_assigned_options_take_effect_or_are_refused():
    neuron = hidden()
    with pytest.raises(ValueError, match="diagonal"):
        neuron.reset_mechanism = "zero"
    assert neuron.reset_mechanism == "subtract"
    # Options that may change after construction take effect at once.
    with torch.no_grad():
        neuron.mem_init.zero_()
        neuron.lateral_scale = 0.0
        neuron.clamp = 0.5
        out = neuron.run(CURRENT.expand(40, 3, K)).mem
    assert out.max() <= 0.5


@pytest.mark.parametrize("value", [1, 1.0])
def test_p10_integer_options_become_floats(value):
    neuron = IPVAENeuron(K, step=value, bias=value, mem_init=value, leak=0, clamp=5)
    assert all(p.dtype == torch.float32 for p in neuron.parameters())
    assert neuron(CURRENT)[1].dtype == torch.float32


def test_p11_no_graph_break():
    explained = torch._dynamo.explain(hidden())(CURRENT)
    assert explained.graph_break_count == 0


def test_p12_the_state_has_the_shape_of_the_neurons_not_of_the_pixels():
    decoder = nn.Linear(K, 17, bias=False)
    neuron = IPVAENeuron(decoder, init_hidden=True, output=True, spike_grad=surrogate.rounded())
    current = neuron.drive(torch.rand(3, 17))
    first = neuron(current)[1]
    second = neuron(current)[1]
    assert first.shape == (3, K)
    assert not torch.equal(first, second)  # the state was kept, not reset


def test_p15_surrogates_support_vmap_and_keep_the_dtype():
    mem = torch.randn(4, K).double()
    for make in surrogate.ESTIMATORS.values():
        assert make()(mem).dtype == torch.float64
    spk = torch.func.vmap(surrogate.midpoint(), randomness="different")(mem)
    assert spk.shape == mem.shape


def test_p16_detach_works_on_views_and_deepcopy_after_a_forward_pass():
    net = nn.Sequential(nn.Linear(K, K), hidden())
    net(CURRENT)
    copy.deepcopy(net[1])
    net[1].mem = net[1].mem[:]  # a view
    detach(net)
    assert not net[1].mem.requires_grad
    # Tensors that were returned before are not changed in place.
    spk, mem = IPVAENeuron(K)(CURRENT)
    before = mem.detach().clone()
    neuron = IPVAENeuron(K)
    neuron(CURRENT, spk, mem)
    neuron.reset_mem()
    assert torch.equal(mem, before)
    assert mem.requires_grad


def test_p19_raster_shows_counts_and_refuses_3d():
    ax = Figure().subplots()
    plotting.raster(torch.full((4, 2), 5.0), ax=ax)
    assert ax.collections[0].get_array().sum() == 40
    with pytest.raises(ValueError, match=r"\(T, K\)"):
        plotting.raster(torch.zeros(4, 2, 3))
    plotting.membranes(torch.zeros(4, 2, requires_grad=True), ax=Figure().subplots())


def test_p20_plotting_changes_no_global_settings():
    before = dict(mpl.rcParams)
    ax = Figure().subplots()
    assert plotting.membranes(torch.randn(9, 2), ax=ax) is ax  # fewer neurons than it would show
    assert dict(mpl.rcParams) == before
    code = "import sys, ipvae_snn, ipvae_snn.plotting; print('pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("current", [1e30, 3e38, -3e38])
def test_p25_counts_never_overflow(current):
    spk, mem = IPVAENeuron(K).eval().run(torch.full((5, 3, K), current))
    assert torch.isfinite(mem).all()
    assert (spk >= 0).all()
    assert (spk <= torch.exp(torch.tensor(6.0))).all()
    assert 0 < surrogate.midpoint().sample(torch.tensor([1e30])) < 2**24
    with pytest.raises(ValueError, match="infinite"):
        surrogate.midpoint().sample(torch.tensor([float("inf")]))


def test_our_neuron_is_not_a_leaky_for_exporters():
    assert not isinstance(hidden(), snn.Leaky)
    assert isinstance(hidden(), snn.SpikingNeuron)


def test_its_own_nir_export_says_what_to_use_instead():
    export_nir = pytest.importorskip("snntorch.export_nir", reason="nirtorch is not installed")
    net = nn.Sequential(nn.Linear(4, 6), IPVAENeuron(6, init_hidden=True))
    with pytest.raises(NotImplementedError, match=r"ipvae_snn\.export\.to_nir"):
        export_nir._extract_snntorch_module(net[1])


@pytest.mark.parametrize(
    ("options", "instead"),
    [({"beta": 0.9}, "leak = 1 - beta"), ({"learn_beta": True}, "leak is not learned"),
     ({"linear_features": 4}, "lateral weights"), ({"all_to_all": False}, "lateral weights"),
     ({"alpha": 0.9}, "synaptic"), ({"kernel_size": 3}, "dim=1")],
)  # fmt: skip
def test_its_other_arguments_are_refused_with_what_to_use(options, instead):
    with pytest.raises(TypeError, match=instead):
        IPVAENeuron(4, **options)


def test_its_first_argument_is_not_ours():
    with pytest.raises(TypeError, match=r"the place of beta in snntorch\.Leaky"):
        IPVAENeuron(0.9)
