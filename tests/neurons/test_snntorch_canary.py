"""Behaviours of snnTorch that this package relies on; a release that changes one fails here.

Written for snnTorch 1.0.0.
"""

import inspect

import pytest
import snntorch as snn
import torch
from snntorch import functional as SF
from snntorch import spikegen, utils
from snntorch.functional import probe

from ipvae_snn import IPVAENeuron
from ipvae_snn.neurons.base import FOREIGN


def test_the_base_constructor_takes_our_options():
    accepted = inspect.signature(snn.SpikingNeuron.__init__).parameters
    assert {"spike_grad", "init_hidden", "state_quant", "output"} <= set(accepted)
    defaults = {
        "threshold": 1.0,
        "spike_grad": None,
        "surrogate_disable": False,
        "init_hidden": False,
        "inhibition": False,
        "learn_threshold": False,
        "reset_mechanism": "subtract",
        "state_quant": False,
        "output": False,
        "graded_spikes_factor": 1.0,
        "learn_graded_spikes_factor": False,
    }
    ours = inspect.signature(IPVAENeuron.__init__).parameters
    for name, default in defaults.items():
        assert accepted[name].default == default, name
        assert (FOREIGN[name][0] if name in FOREIGN else ours[name].default) == default, name
        assert name in FOREIGN or ours[name].kind is inspect.Parameter.KEYWORD_ONLY, name


def test_the_base_registers_these_buffers():
    buffers = dict(IPVAENeuron(2).named_buffers())
    assert {"threshold", "graded_spikes_factor", "reset_mechanism_val"} <= set(buffers)


def test_neurons_can_be_removed_from_the_base_registry():
    assert hasattr(snn.SpikingNeuron, "instances")
    leaky = snn.Leaky(0.9)
    assert leaky in snn.SpikingNeuron.instances
    snn.SpikingNeuron.instances.remove(leaky)


def test_the_reset_mechanism_setter_can_refuse():
    with pytest.raises(ValueError, match="diagonal"):
        IPVAENeuron(2).reset_mechanism = "none"


def test_rleaky_takes_input_spk_mem_and_returns_spk_mem():
    parameters = list(inspect.signature(snn.RLeaky.forward).parameters)
    assert parameters[:4] == ["self", "input_", "spk", "mem"]
    assert list(inspect.signature(IPVAENeuron.forward).parameters)[:4] == parameters[:4]
    rleaky = snn.RLeaky(0.9, linear_features=3)
    spk, mem = rleaky(torch.rand(2, 3), *rleaky.reset_mem())
    assert spk.shape == mem.shape == (2, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: snn.Leaky(0.9, init_hidden=True),
        lambda: snn.Synaptic(0.9, 0.8, init_hidden=True),
        lambda: snn.Alpha(0.9, 0.8, init_hidden=True),
        lambda: snn.Lapicque(0.9, init_hidden=True),
        lambda: snn.RLeaky(0.9, linear_features=3, init_hidden=True),
        lambda: snn.RSynaptic(0.9, 0.8, linear_features=3, init_hidden=True),
    ],
)
def test_reset_mem_of_snntorch_neurons_zeroes_their_state(make):
    neuron = make()
    neuron(torch.rand(2, 3) + 1)
    states = neuron.reset_mem()
    states = states if isinstance(states, tuple) else (states,)
    assert all(not state.any() for state in states)


def test_utils_reset_finds_only_direct_children():
    """The reason for ``ipvae_snn.reset``. If this fails, snnTorch resets nested neurons."""
    net = torch.nn.Sequential(torch.nn.Sequential(IPVAENeuron(3, init_hidden=True)))
    net(torch.ones(2, 3))
    before = net[0][0].mem.clone()
    utils.reset(net)
    assert torch.equal(net[0][0].mem, before)


def test_monitors_read_buffers_by_name():
    neuron = IPVAENeuron(3, init_hidden=True)
    monitor = probe.AttributeMonitor("mem", False, torch.nn.Sequential(neuron), IPVAENeuron)
    neuron(torch.ones(2, 3))
    assert torch.equal(monitor.records[0], neuron.mem)
    monitor.remove_hooks()


# -- losses and accuracy that stay meaningful for counts ------------------------------------------

SPK = torch.tensor([[[3.0, 0.0]], [[2.0, 1.0]]])  # (T, B, C): 5 spikes against 1
TARGET = torch.tensor([0])


def test_accuracy_rate_is_the_argmax_of_summed_counts():
    assert SF.accuracy_rate(SPK, TARGET) == 1.0
    assert SF.accuracy_rate(SPK, 1 - TARGET) == 0.0


def test_rate_and_membrane_losses_take_counts_or_membranes_as_logits():
    by_step = torch.nn.functional.cross_entropy(
        SPK.flatten(0, 1), TARGET.expand(2), reduction="sum"
    )
    assert SF.ce_rate_loss()(SPK, TARGET).item() == pytest.approx(by_step.item() / 2)
    total = torch.nn.functional.cross_entropy(SPK.sum(0), TARGET)
    assert SF.ce_count_loss()(SPK, TARGET).item() == pytest.approx(total.item())
    assert torch.isfinite(SF.ce_max_membrane_loss()(SPK, TARGET))


def test_mse_count_loss_expects_at_most_one_spike_per_timestep():
    """Its targets are fractions of the timesteps, so more spikes than timesteps miss any target."""
    loss = SF.mse_count_loss(correct_rate=1.0, incorrect_rate=0.0)
    one_per_step = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert loss(one_per_step, TARGET) == 0
    assert loss(SPK, TARGET) > 0


def test_spikegen_output_is_valid_input():
    for spikes in (
        spikegen.rate(torch.rand(4, 6), num_steps=5),
        spikegen.latency(torch.rand(4, 6), num_steps=5),
    ):
        spk, mem = IPVAENeuron(6).run(spikes)
        assert spk.shape == mem.shape == (5, 4, 6)
    first = spikegen.delta(torch.rand(5, 6), threshold=0.1)
    assert IPVAENeuron(6).run(first).spk.shape == (5, 6)


def test_spikeplot_draws_one_dot_per_spiking_timestep():
    pytest.importorskip("pandas", reason="snntorch.spikeplot needs pandas")
    import matplotlib.pyplot as plt
    from snntorch import spikeplot

    spk = IPVAENeuron(6, mem_init=0.0).run(torch.rand(20, 1, 6)).spk[:, 0].detach()
    _, ax = plt.subplots()
    spikeplot.raster(spk, ax)
    # It draws one dot per entry with spikes, whatever the count; our raster shows counts.
    assert len(ax.collections[0].get_offsets()) == int((spk > 0).sum())
    plt.close("all")
