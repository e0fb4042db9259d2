"""NIR graphs: equal to a reference in numpy, to norse and to sinabs; restored spike by spike."""

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAE, IPVAENeuron, TrainConfig, export, fit
from ipvae_snn import functional as F
from ipvae_snn.export.graphs.poisson import FORMS
from tests.export import nir_reference

nir = pytest.importorskip("nir", reason="the extra nir is not installed")
STEPS, X = 40, torch.rand(4, 16, generator=torch.Generator().manual_seed(1))


def make_model(latents=12, seed=0, **options):
    with ipvae_snn._utils.seeding.seeded(seed):
        options = {"init_std": 0.35, "step": 0.3, "clamp": 4.0} | options
        model = IPVAE(in_features=16, latents=latents, **options)
        with torch.no_grad():
            model.neuron.mem_init.uniform_(-1.5, 0.5)
            model.neuron.log_bias.uniform_(-4, -2)
            model.neuron.lateral.log_scale.uniform_(-0.3, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def trained():
    model = make_model(latents=24, seed=3)
    samples = torch.rand(500, 16, generator=torch.Generator().manual_seed(2)).round()
    fit(model, samples, TrainConfig(iterations=60, batch=50, steps=8, lr=2e-2, progress=False))
    return model


MODELS = {
    "random": lambda trained: make_model(),
    "rank-deficient": lambda trained: make_model(latents=40),
    "leaky": lambda trained: make_model(leak=0.2),
    "lateral_scale": lambda trained: make_model(lateral_scale=0.7),
    "trained": lambda trained: trained,
}


@pytest.fixture(params=MODELS)
def model(request, trained):
    return MODELS[request.param](trained)


@pytest.fixture(params=["memory", "file"])
def through(request, tmp_path):
    """The graph itself, or read from a file."""

    def pass_on(graph):
        if request.param == "memory":
            return graph
        export.write(tmp_path / "graph.nir", graph)
        return nir.read(tmp_path / "graph.nir")

    return pass_on


def outputs(network, x, steps=STEPS, seed=None):
    return torch.stack([out for _, out in network.unroll(x, steps, seed)]).numpy()


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("form", "reset"), [("exact", "zero"), ("portable", "zero"), ("portable", "subtract")]
)
def test_graph_networks_equal_the_reference(model, through, form, reset, nested):
    graph = through(export.to_nir(model, form, reset=reset, nested=nested))
    expected, _ = nir_reference.run(graph, X.numpy(), STEPS, reset)
    network = export.from_nir(graph, stochastic=False, reset=reset)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs(network, X), expected, atol=1e-5)


def test_the_exact_form_is_the_recursion_of_the_model_with_rounded_counts(model):
    neuron, levels = model.neuron, 6
    loss = np.log1p(np.exp(-neuron.clamp))  # what the clamp of the increment takes at rest
    with torch.no_grad():
        state, gram, drive = (
            neuron.initial_state((4, model.latents)),
            neuron.gram(),
            neuron.drive(X),
        )
        spk, mem, expected = state.spk, state.mem, []
        for _ in range(STEPS):
            inhibition = neuron.lateral_scale * spk @ gram
            mem = (
                F.membrane_step(
                    mem,
                    drive,
                    inhibition,
                    step=neuron.log_step.exp(),
                    bias=neuron.tonic(gram),
                    leak=neuron.leak,
                    mem_rest=neuron.mem_init,
                )
                - loss
            )
            spk = mem.exp().round().clamp(max=levels)
            expected.append(model.decode(spk))
        found = outputs(export.GraphNetwork(export.to_nir(model, levels=levels)), X)
    assert torch.stack(expected).abs().max() > 0.1
    np.testing.assert_allclose(found, torch.stack(expected), atol=1e-4)


def test_the_thresholds_of_neurons_differ():
    graph = export.to_nir(make_model(), "portable")
    assert len(np.unique(graph.nodes["l01_2_spike"].v_threshold)) == 12


TOOLS = {"norse": ("zero", export.in_norse), "sinabs": ("subtract", export.in_sinabs)}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("tool", TOOLS)
def test_toolchains_equal_the_reference(model, through, tool, nested):
    pytest.importorskip(tool, reason=f"{tool} is not installed (extra toolchains)")
    if tool == "sinabs" and model.neuron.leak:
        pytest.skip("sinabs reads the time constant of a LIF in another way")
    reset, run_in = TOOLS[tool]
    graph = through(export.to_nir(model, "portable", reset=reset, nested=nested))
    expected, _ = nir_reference.run(graph, X.numpy(), STEPS, reset)
    found = [(spk, out) for spk, out in run_in(graph).steps(X, STEPS)]
    np.testing.assert_allclose(torch.stack([o for _, o in found]), expected, atol=1e-5)
    spikes = torch.stack([s for s, _ in found])
    assert spikes.shape == (STEPS, 4, model.latents)
    assert spikes.sum() > 0
    network = export.GraphNetwork(graph, reset)
    ours = torch.stack([spk for spk, _ in network.unroll(X, STEPS)])
    assert torch.equal(ours, spikes)


@pytest.mark.parametrize("latents", [12, 40], ids=["full rank", "rank-deficient"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_the_restored_model_emits_the_same_spikes(through, form, nested, latents):
    model = make_model(latents)
    back = export.from_nir(through(export.to_nir(model, form, nested=nested)))
    expected = model.run(X, 1000, record=("spk",), seed=7).spk
    assert isinstance(back, IPVAE)
    assert expected.sum() > 0
    assert torch.equal(back.run(X, 1000, record=("spk",), seed=7).spk, expected)
    assert back.config() == model.config()


def test_double_models_are_restored_in_double(through):
    model = make_model().double()
    back = export.from_nir(through(export.to_nir(model)))
    x = X.double()
    assert torch.equal(back.run(x, 50, seed=0).spk, model.run(x, 50, seed=0).spk)


def hidden(source, **options):
    ready = {"init_hidden": True, "mem_init": -0.5, "step": 0.3, "clamp": 3.0}
    return IPVAENeuron(source, **{**ready, **options})


def stochastic_network():
    return nn.Sequential(
        hidden(16),
        nn.Linear(16, 12),
        hidden(nn.Linear(12, 20, bias=False), log_scale=torch.full((20,), 0.1)),
        nn.Linear(12, 9, bias=False),
        hidden(9, gram=torch.eye(9), leak=0.1, spike_grad=ipvae_snn.surrogate.bernoulli(4)),
        nn.Linear(9, 6),
    ).eval()


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("form", FORMS)
def test_restored_layers_of_a_network_emit_the_same_spikes(through, form, nested):
    torch.manual_seed(0)
    network = stochastic_network()
    graph = through(export.to_nir(network, form, nested=nested))
    back = export.from_nir(graph, stochastic=True)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = torch.stack([network(4 * X) for _ in range(100)])
    torch.manual_seed(5)
    assert np.array_equal(outputs(back, 4 * X, 100), expected)
    assert expected.std() > 0


LEAKY = {"init_hidden": True, "threshold": 0.4}
NETWORKS = {
    "Linear": lambda: [nn.Linear(16, 5)],
    "Linear without bias": lambda: [nn.Linear(16, 5, bias=False)],
    "Leaky": lambda: [nn.Linear(16, 8), snn.Leaky(0.8, **LEAKY)],
    "Leaky, first": lambda: [snn.Leaky(0.8, **LEAKY), nn.Linear(16, 3)],
    "Leaky, beta 1": lambda: [nn.Linear(16, 8), snn.Leaky(1.0, **LEAKY)],
    "Leaky, beta 0": lambda: [nn.Linear(16, 8), snn.Leaky(0.0, **LEAKY)],
    "Leaky, per neuron": lambda: [
        nn.Linear(16, 8),
        snn.Leaky(torch.linspace(0, 1, 8), threshold=torch.linspace(0.2, 1, 8), init_hidden=True),
    ],
    "Leaky, zero": lambda: [nn.Linear(16, 8), snn.Leaky(0.8, reset_mechanism="zero", **LEAKY)],
    "Leaky, none": lambda: [nn.Linear(16, 8), snn.Leaky(0.8, reset_mechanism="none", **LEAKY)],
    "Synaptic": lambda: [nn.Linear(16, 8), snn.Synaptic(0.7, 0.8, **LEAKY)],
    "RLeaky": lambda: [nn.Linear(16, 8), snn.RLeaky(0.8, linear_features=8, **LEAKY)],
    "RLeaky, one to one": lambda: [
        nn.Linear(16, 8),
        snn.RLeaky(0.8, V=torch.linspace(-1, 1, 8), all_to_all=False, **LEAKY),
    ],
    "Conv2d": lambda: [
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.Flatten(),
    ],
    "Conv2d, same": lambda: [
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3, padding="same", bias=False),
        nn.Flatten(),
    ],
    "convolutional": lambda: [
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.AvgPool2d(2),
        snn.Leaky(0.8, **LEAKY),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 4),
        nn.Identity(),
        snn.Leaky(0.5, **LEAKY),
    ],
    "nested Sequential": lambda: [nn.Sequential(nn.Linear(16, 8), snn.Leaky(0.8, **LEAKY))],
}


def made(name):
    """The exported network and its input; nn.Unflatten is applied before."""
    torch.manual_seed(4)
    network = nn.Sequential(*NETWORKS[name]()).eval()
    if isinstance(network[0], nn.Unflatten):
        return network[1:], 2 * network[0](X)
    return network, 2 * X


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_supported_module_computes_the_same_after_export(through, name, nested):
    network, x = made(name)
    shape = tuple(x.shape[1:])
    graph = through(export.to_nir(network, nested=nested, input_shape=shape))
    ipvae_snn.reset(network)
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = outputs(export.from_nir(graph), x)
    assert expected.abs().max() > 0
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if x.ndim == 2:
        np.testing.assert_allclose(nir_reference.run(graph, x.numpy(), STEPS)[0], found, atol=1e-5)


def test_norse_runs_leaky_neurons_that_reset_to_zero_as_snntorch_does(through):
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    network, x = made("Leaky, zero")
    graph = through(export.to_nir(network, "portable", reset="zero"))
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = torch.stack([out for _, out in export.in_norse(graph).steps(x, STEPS)])
    assert expected.sum() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


NEURONS = {
    "Synaptic": lambda reset: snn.Synaptic(0.7, 0.8, reset_mechanism=reset, **LEAKY),
    "RLeaky": lambda reset: snn.RLeaky(0.8, linear_features=8, reset_mechanism=reset, **LEAKY),
    "Leaky": lambda reset: snn.Leaky(1.0, reset_mechanism=reset, **LEAKY),
}


@pytest.mark.parametrize("mechanism", ["zero", "subtract"])
@pytest.mark.parametrize("name", NEURONS)
def test_norse_runs_other_neurons_as_the_graph_specifies(through, name, mechanism):
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(16, 8), NEURONS[name](mechanism))
    graph = through(export.to_nir(network, "portable", reset="zero"))
    assert (name in str(graph.metadata["notes"])) == (name != "Leaky" or mechanism != "zero")
    expected, _ = nir_reference.run(graph, 2 * X.numpy(), STEPS)
    found = torch.stack([out for _, out in export.in_norse(graph).steps(2 * X, STEPS)])
    assert expected.sum() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


NODES = {
    "Affine": lambda: nir.Affine(weight([8, 16]), weight([8])),
    "Linear": lambda: nir.Linear(weight([8, 16])),
    "Scale": lambda: nir.Scale(weight([16])),
    "Threshold": lambda: nir.Threshold(weight([16])),
    "I": lambda: nir.I(weight([16])),
    "LI": lambda: nir.LI(tau([16]), weight([16]), weight([16])),
    "IF": lambda: nir.IF(weight([16]), weight([16]), weight([16]) - 1),
    "LIF": lambda: nir.LIF(tau([16]), weight([16]), weight([16]), weight([16]), weight([16]) - 1),
    "CubaLI": lambda: nir.CubaLI(tau([16]), tau([16]), weight([16]), weight([16]), weight([16])),
    "CubaLIF": lambda: nir.CubaLIF(
        tau([16]), tau([16]), weight([16]), weight([16]), weight([16]), w_in=weight([16])
    ),
}


def weight(shape):
    rng = np.random.default_rng(len(shape) + shape[0])
    return rng.uniform(0.1, 1, shape).astype(np.float32)


def tau(shape):
    return 1 + 5 * weight(shape)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", NODES)
def test_every_node_equals_the_reference(through, kind, reset):
    node = NODES[kind]()
    ends = {"a": nir.Input(np.array([16])), "c": nir.Output(node.output_type["output"])}
    graph = through(nir.NIRGraph({**ends, "b": node}, [("a", "b"), ("b", "c")]))
    network = export.from_nir(graph, reset=reset)
    expected, _ = nir_reference.run(graph, X.numpy(), STEPS, reset)
    np.testing.assert_allclose(outputs(network, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten"])
def test_image_nodes_equal_those_of_pytorch(through, kind):
    image = torch.rand(2, 3, 8, 8) if kind != "Conv1d" else torch.rand(2, 3, 8)
    two = np.array([2, 2])
    node, expected = {
        "Conv1d": lambda: (
            nir.Conv1d(8, weight([4, 3, 3]), 2, 1, 1, 1, weight([4])),
            torch.conv1d(
                image, torch.from_numpy(weight([4, 3, 3])), torch.from_numpy(weight([4])), 2, 1
            ),
        ),
        "Conv2d": lambda: (
            nir.Conv2d((8, 8), weight([4, 3, 3, 3]), (2, 1), (1, 0), (1, 2), 1, weight([4])),
            torch.conv2d(
                image,
                torch.from_numpy(weight([4, 3, 3, 3])),
                torch.from_numpy(weight([4])),
                (2, 1),
                (1, 0),
                (1, 2),
            ),
        ),
        "SumPool2d": lambda: (
            nir.SumPool2d(two, two, 0 * two),
            4 * nn.functional.avg_pool2d(image, 2),
        ),
        "AvgPool2d": lambda: (nir.AvgPool2d(two, two, 0 * two), nn.functional.avg_pool2d(image, 2)),
        "Flatten": lambda: (nir.Flatten({"input": np.array([3, 8, 8])}, 0, -1), image.flatten(1)),
    }[kind]()
    source = nir.Input(np.array(image.shape[1:]))
    sink = nir.Output(np.array(expected.shape[1:]))
    graph = nir.NIRGraph({"a": source, "b": node, "c": sink}, [("a", "b"), ("b", "c")])
    found = export.from_nir(through(graph))(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
