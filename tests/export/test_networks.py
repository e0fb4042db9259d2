"""Networks as graphs: scales, biases, pooling and recurrence around their neurons."""

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn
from torch.nn.utils import prune

from ipvae_snn import IPVAE, IPVAENeuron, export
from ipvae_snn.neurons.lateral import ConvLateral, NoLateral, Recurrent
from tests.export.networks import STEPS, convolutional, leaky, outputs, poisson

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(
    "neuron", [leaky(1.0, reset_mechanism="zero"), snn.Synaptic(0.5, 0.8, init_hidden=True)]
)
def test_an_output_scale_is_folded_before_the_next_neuron(neuron, reset):
    torch.manual_seed(0)
    first, last, same = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 8, bias=False)
    ours = poisson(8)
    with torch.no_grad():
        same.weight.copy_(torch.eye(8))
    portable = export.Portable(reset, 0.35, 2.0, 1.0)
    direct, apart = (
        export.GraphNetwork(export.to_nir(nn.Sequential(*parts), "portable", portable=portable))
        for parts in ((first, ours, neuron, last), (first, ours, same, neuron, last))
    )
    x = 3 * torch.rand(4, 6)
    expected = outputs(apart, x)
    assert expected.std() > 0
    torch.testing.assert_close(outputs(direct, x), expected)


def test_folding_leaves_nodes_of_extra_map_unchanged():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = nir.Affine(np.eye(8, dtype=np.float32), np.zeros(8, np.float32))

    mine = Mine()
    graphs = [
        export.to_nir(
            nn.Sequential(mine, leaky(0.9)), "portable", extra_map={Mine: lambda m: m.node}
        )
        for _ in range(2)
    ]
    assert (mine.node.weight == np.eye(8)).all()
    assert graphs[0].nodes["l01_1_user"].weight[0, 0] == graphs[1].nodes["l01_1_user"].weight[0, 0]


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_pooling_after_a_neuron_survives_a_file(tmp_path, nested):
    torch.manual_seed(0)
    network = convolutional(leaky)
    graph = export.to_nir(network, nested=nested, input_shape=(2, 4, 4))
    export.write(tmp_path / "graph.nir", graph)
    x = torch.rand(3, 2, 4, 4)
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = outputs(export.from_nir(tmp_path / "graph.nir"), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("form", ["exact", "portable"])
def test_a_recurrent_bias_stays_when_poisson_neurons_are_restored(form, nested):
    torch.manual_seed(0)
    mechanism = "zero" if form == "portable" else "subtract"
    recurrent = snn.RLeaky(
        0.8, linear_features=8, threshold=0.3, reset_mechanism=mechanism, init_hidden=True
    )
    with torch.no_grad():
        recurrent.recurrent.bias.fill_(0.5)
    network = nn.Sequential(nn.Linear(6, 8), recurrent, nn.Linear(8, 8), poisson(8))
    graph = export.to_nir(network, form, nested=nested)
    x = torch.rand(4, 6)
    graphs = (export.from_nir(graph), export.from_nir(graph, stochastic=False))
    first = []
    for back in graphs:
        layers = [spk[:, :8] for spk, _ in back.unroll(x, STEPS, seed=0)]
        first.append(torch.stack(layers))
    assert first[0].sum() > 0
    assert torch.equal(*first)


def test_neurons_without_lateral_weights_are_restored():
    neuron = IPVAENeuron(NoLateral(8), init_hidden=True, mem_init=-0.5, step=0.3, clamp=3.0)
    network, x = nn.Sequential(nn.Linear(6, 8), neuron), 3 * torch.rand(4, 6)
    back = export.from_nir(export.to_nir(network), stochastic=True)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    torch.manual_seed(5)
    assert expected.sum() > 0
    assert torch.equal(outputs(back, x), expected)


def test_networks_in_double_precision_are_restored_in_single():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), poisson(8), nn.Linear(8, 2)).double()
    back = export.from_nir(export.to_nir(network))
    assert back(torch.rand(3, 6, dtype=torch.float64)).dtype == torch.float32


def test_metadata_name_the_reset_and_notes_a_changed_one():
    zero = nn.Sequential(nn.Linear(6, 8), leaky(reset_mechanism="zero"))
    graph = export.to_nir(zero, "portable")
    assert "its reset 'zero' becomes 'subtract'" in str(graph.metadata["notes"])
    assert export.to_nir(zero).metadata["reset"] == "zero"
    assert export.to_nir(nn.Sequential(nn.Linear(6, 8), leaky())).metadata["reset"] == "none"
    assert "noise" not in graph.metadata


DERIVED = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", DERIVED)
def test_weights_that_are_computed_from_others_are_exported_as_they_are_now(name):
    network, x = nn.Sequential(DERIVED[name](nn.Linear(6, 3))).eval(), torch.rand(4, 6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    graph = export.to_nir(network)
    torch.testing.assert_close(export.from_nir(graph)(x), network(x).detach())


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("form", ["exact", "portable"])
@pytest.mark.parametrize("name", DERIVED)
def test_models_with_such_weights_are_restored_with_plain_ones(name, form):
    torch.manual_seed(0)
    model, x = IPVAE(6, 8, init_std=0.5).eval(), torch.rand(4, 6)
    DERIVED[name](model.decoder)
    neuron = IPVAENeuron(DERIVED[name](nn.Linear(8, 6, bias=False)), init_hidden=True)
    back = export.from_nir(export.to_nir(model, form), stochastic=True)
    assert torch.equal(back.run(x, 20, seed=0).spk, model.run(x, 20, seed=0).spk)
    network = nn.Sequential(nn.Linear(6, 8), neuron).eval()
    restored = export.from_nir(export.to_nir(network, form), stochastic=True)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    torch.manual_seed(5)
    assert torch.equal(outputs(restored, x), expected)


def test_layers_that_are_in_the_network_twice_are_exported_twice():
    torch.manual_seed(0)
    layer, pool = nn.Conv2d(2, 2, 3, padding=1), nn.AvgPool2d(2)
    pair = nn.Sequential(layer, pool)
    network, x = nn.Sequential(pair, pair, layer), torch.rand(3, 2, 8, 8)
    graph = export.to_nir(network, input_shape=(2, 8, 8))
    torch.testing.assert_close(export.from_nir(graph)(x), network(x).detach())


def test_oblong_pools_stay_pools(tmp_path):
    network, x = (
        nn.Sequential(nn.AvgPool2d((2, 4)), nn.Flatten(), nn.Linear(8, 3)),
        torch.rand(3, 1, 8, 8),
    )
    graph = export.to_nir(network, "portable", input_shape=(1, 8, 8))
    export.write(tmp_path / "a.nir", graph)
    torch.testing.assert_close(export.from_nir(tmp_path / "a.nir")(x), network(x).detach())


@pytest.mark.parametrize(
    ("neuron", "says"),
    [
        (IPVAENeuron(4, dim=1), "channels of a map"),
        (IPVAENeuron(ConvLateral(4), dim=1), "channels of a map"),
        (IPVAENeuron(Recurrent(4), dim=1), "not symmetric"),
    ],
)
def test_layers_that_no_graph_can_carry_are_refused_by_name(neuron, says):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), neuron)
    with pytest.raises(ValueError, match=says):
        export.to_nir(net, input_shape=(1, 8, 8))
