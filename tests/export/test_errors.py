"""Errors of exports: what cannot be exported or read is named, and leaves no file behind."""

import h5py
import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, export
from ipvae_snn.baselines import LCA
from ipvae_snn.models import NetworkDecoder, likelihoods

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return IPVAE(in_features=16, latents=8, init_std=0.4).eval()


class Mine(nn.Module):
    """A module without a translation."""


class Doubled(nn.Linear):
    """A layer whose weights do not say what it computes."""

    def forward(self, x):
        return 2 * super().forward(x)


class Packed(nn.Module):
    """A module whose state is no tensor, as those of quantize_dynamic."""

    def get_extra_state(self):
        return torch.qint8, (1, 2)


class Residual(nn.Sequential):
    """Layers that are not run one after another alone."""

    def forward(self, x):
        return x + super().forward(x)


def leaky(**options):
    return snn.Leaky(0.9, init_hidden=True, **options)


UNSUPPORTED = {
    "Lapicque": (lambda: snn.Lapicque(0.9), "Lapicque has no translation"),
    "Alpha": (lambda: snn.Alpha(0.9, 0.8), "Alpha has no translation"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(8), "BatchNorm1d has no translation"),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), "MaxPool2d has no translation"),
    "Mine": (Mine, r"Mine has no translation.*extra_map"),
    "inhibition": (lambda: leaky(inhibition=True), "inhibition=True"),
    "graded": (lambda: leaky(graded_spikes_factor=2.0), "graded_spikes_factor must be 1"),
    "reset_delay": (lambda: leaky(reset_delay=False), "reset_delay=False"),
    "state_quant": (lambda: leaky(state_quant=lambda mem: mem), "state_quant"),
    "recurrent convolution": (
        lambda: snn.RLeaky(0.9, conv2d_channels=1, kernel_size=3),
        "recurrent convolutions",
    ),
    "recurrent size": (lambda: snn.RLeaky(0.9, linear_features=9), r"shape \(9,\), got \(8,\)"),
    "Linear size": (lambda: nn.Linear(7, 2), r"shape \(7,\), what comes before gives \(8,\)"),
    "IPVAENeuron size": (lambda: IPVAENeuron(7), r"currents of shape \(7,\)"),
    "Conv2d on vectors": (lambda: nn.Conv2d(1, 1, 3), r"shape \(1, H, W\), got \(8,\)"),
    "AvgPool2d on vectors": (lambda: nn.AvgPool2d(2), r"\(C, H, W\)"),
    "Flatten of the batch": (lambda: nn.Flatten(0), "start_dim=0"),
    "Flatten of the batch, from the end": (lambda: nn.Flatten(-2), "start_dim=-2"),
    "a forward of its own": (lambda: Doubled(8, 8), r"Doubled has no translation.*forward of"),
    "Sequential": (lambda: Residual(nn.Linear(8, 8)), r"Residual has no translation.*forward of"),
    "DataParallel": (lambda: nn.DataParallel(nn.Linear(8, 8)), r"what it wraps, its \.module"),
    "packed weights": (Packed, "Packed has no translation"),
}


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_module_without_translation_is_named(name):
    make, message = UNSUPPORTED[name]
    network = nn.Sequential(nn.Linear(8, 8), nn.Sequential(make()))
    with pytest.raises(ValueError, match=rf"module 1.0: .*{message}"):
        export.to_nir(network)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 1, 3, padding_mode="circular"), "padding_mode 'circular'"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.Conv2d(1, 1, (3, 5)), r"the shape is \(1, 6, 4\), but nir takes it for \(1, 6, 6\)"),
        (nn.Conv2d(1, 1, 9), r"cannot take inputs of shape \(1, 8, 8\)"),
    ],
)
def test_settings_of_image_layers_without_translation_are_named(layer, message):
    with pytest.raises(ValueError, match=message):
        export.to_nir(nn.Sequential(layer), input_shape=(1, 8, 8))


def test_extra_map_translates_a_module_of_the_user():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    def inner(module):
        ends = {"i": nir.Input(np.array([8])), "o": nir.Output(np.array([8]))}
        nodes = {**ends, "s": nir.Scale(np.full(8, 2, np.float32))}
        return nir.NIRGraph(nodes, [("i", "s"), ("s", "o")])

    network, x = nn.Sequential(Twice(), nn.Linear(8, 3)), torch.rand(2, 8)
    for translate in (inner, lambda module: nir.Scale(np.full(8, 2, np.float32))):
        graph = export.to_nir(network, extra_map={Twice: translate})
        torch.testing.assert_close(export.from_nir(graph)(x), network(x).detach())
    for edges in ([("i", "o")], [("i", "s"), ("s", "o"), ("o", "s")], [("s", "i"), ("s", "o")]):
        graph = inner(None)
        graph.edges = edges
        with pytest.raises(ValueError, match=r"an edge of the graph of extra_map\[Twice\]"):
            export.to_nir(network, extra_map={Twice: lambda module, graph=graph: graph})
    with pytest.raises(TypeError, match=r"extra_map\[Twice\] must return a nir node, got Linear"):
        export.to_nir(network, input_shape=(8,), extra_map={Twice: lambda module: nn.Linear(8, 8)})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"form": "best"}, ValueError, "form must be one of"),
        ({"levels": 0}, ValueError, "levels must be at least 1"),
        ({"form": "portable", "reset": "soft"}, ValueError, "reset must be one of"),
    ],
)
def test_bad_options_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        export.to_nir(model, **options)


def test_a_network_needs_modules_with_a_known_input_and_finite_weights(model):
    with pytest.raises(TypeError, match=r"must be a torch nn\.Module, got list"):
        export.to_nir([model])
    with pytest.raises(ValueError, match="input_shape must be given"):
        export.to_nir(nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(TypeError, match=r"input_shape must be a tuple such as .*got 4"):
        export.to_nir(nn.Sequential(nn.Linear(4, 3)), input_shape=4)
    with pytest.raises(ValueError, match=r"module at the top: .*Mine has no translation"):
        export.to_nir(Mine())
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet"):
        export.to_nir(nn.Sequential(nn.LazyLinear(3)), input_shape=(4,))
    with pytest.raises(ValueError, match=r"bfloat16 .* export a copy, \.float\(\)"):
        export.to_nir(IPVAE(16, 8).bfloat16())
    with pytest.raises(ValueError, match="no module that does anything"):
        export.to_nir(nn.Sequential(), input_shape=(3,))
    with torch.no_grad():
        model.decoder.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"decoder\.weight holds values that are NaN"):
        export.to_nir(model)


def test_arguments_that_do_not_belong_together_are_refused(model):
    with pytest.raises(ValueError, match=r"portable belongs to form='portable'"):
        export.to_nir(model, portable=export.Portable())
    with pytest.raises(TypeError, match="portable must be what calibrate returns, got str"):
        export.to_nir(model, "portable", portable="zero")
    with pytest.raises(ValueError, match=r"portable was chosen for subtract reset"):
        export.to_nir(model, "portable", reset="zero", portable=export.Portable())
    for wrong in (export.GraphNetwork, export.GraphSource, export.in_norse):
        with pytest.raises(TypeError, match=r"graph must be a nir\.NIRGraph, got str"):
            wrong("graph.nir")
    with pytest.raises(TypeError, match="must be what to_xylo made"):
        export.in_xylosim(export.to_fixed_point(IPVAE(16, 8)))
    with pytest.raises(KeyError, match="no row 'mine'"):
        export.report([], model, torch.rand(4, 16), 3).row("mine")


ANOTHER_MODEL = {
    "baseline": lambda: LCA(16, 8),
    "decoder": lambda: IPVAE(16, 8, decoder=nn.Sequential(nn.Linear(8, 16), nn.Sigmoid())),
    "likelihood": lambda: IPVAE(16, 8, likelihood=likelihoods.Bernoulli()),
}


CONVERT = {
    "to_nir": export.to_nir,
    "to_fixed_point": export.to_fixed_point,
    "rounded_source": export.rounded_source,
    "to_xylo": lambda model: export.to_xylo(model, torch.rand(5, 16)),
    "calibrate": lambda model: export.calibrate(model, torch.rand(5, 16)),
}


@pytest.mark.parametrize("name", ANOTHER_MODEL)
@pytest.mark.parametrize("convert", CONVERT)
def test_a_model_without_linear_decoder_and_gaussian_likelihood_is_refused(convert, name):
    with pytest.raises(TypeError, match="an IPVAE with a linear decoder and a Gaussian likelihood"):
        CONVERT[convert](ANOTHER_MODEL[name]())


def test_the_refusal_names_the_decoder_and_the_likelihood():
    model = IPVAE(16, 8, decoder=NetworkDecoder(8, 16), likelihood=likelihoods.Bernoulli())
    with pytest.raises(TypeError, match="got IPVAE with NetworkDecoder and Bernoulli"):
        export.to_nir(model)


@pytest.mark.parametrize("convert", CONVERT)
def test_a_model_without_values_is_refused(convert):
    with pytest.raises(ValueError, match="the weights are on the meta device"):
        CONVERT[convert](IPVAE(16, 8).to("meta"))


def test_a_neuron_that_is_in_the_network_twice_is_refused():
    for neuron in (leaky(), IPVAENeuron(8, init_hidden=True)):
        with pytest.raises(ValueError, match="module 2: it is there twice, with one state"):
            export.to_nir(nn.Sequential(neuron, nn.Linear(8, 8), neuron), input_shape=(8,))


def test_a_model_that_has_learned_nothing_has_no_thresholds():
    with pytest.raises(ValueError, match="thresholds from the diagonal"):
        export.to_nir(IPVAE(16, 8, init_std=0), "portable")
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        export.Portable(threshold=0)


# -- files ----------------------------------------------------------------------------------------


def test_files_without_a_graph_are_refused(tmp_path, model):
    good = tmp_path / "good.nir"
    export.write(good, export.to_nir(model))
    content = good.read_bytes()
    for name, damage in {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(999),
    }.items():
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ValueError, match="cannot be read as a NIR graph"):
            export.from_nir(tmp_path / name)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(ValueError, match="cannot be read as a NIR graph"):
        export.read(tmp_path / "foreign.h5")
    with pytest.raises(FileNotFoundError, match="is no file"):
        export.read(tmp_path / "nothing.nir")
    with pytest.raises(TypeError, match=r"path or a nir\.NIRGraph, got int"):
        export.from_nir(3)


CONTENT = {
    "a type that nir lacks": ("node/nodes/a/type", "Izhikevich", "'a' is of type 'Izhikevich'"),
    "a type that is none": ("node/nodes/a/type", "NIRNode", "'a' is of type 'NIRNode'"),
    "a type in a list": ("node/nodes/a/type", ["LIF", "LI"], "'a' is of type array"),
    "a number for a node": ("node/nodes/a", 3, "'a' is of type None"),
    "a node for a graph": ("node/type", "LIF", "no group 'node' of type NIRGraph"),
    "nothing": ("node", None, "no group 'node' of type NIRGraph"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_with_other_content_says_where(tmp_path, name):
    place, content, message = CONTENT[name]
    scale = nir.Scale(np.ones(2, np.float32))
    nir.write(tmp_path / "a.nir", nir.NIRGraph({"a": scale, "b": scale}, [("a", "b")]))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        del file[place]
        if content is not None:
            file[place] = content
    with pytest.raises(ValueError, match=rf"cannot be read as a NIR graph: .*{message}"):
        export.read(tmp_path / "a.nir")


@pytest.mark.parametrize("key", ["format", "reset", "kind", "form", "notes"])
def test_metadata_of_other_programs_hold_anything(key):
    graph = nir.NIRGraph.from_list(nir.Scale(np.ones(3, np.float32)))
    graph.metadata = {key: np.array([1, 2])}
    x = torch.rand(2, 3)
    assert torch.equal(export.from_nir(graph)(x), x)
    assert torch.equal(next(export.GraphSource(graph).unroll(x, 1)), torch.zeros(2, 0))


def test_the_error_of_a_node_names_it():
    zero, endless = np.zeros(3, np.float32), np.full(3, np.inf, np.float32)
    for field in ("tau", "r"):
        node = nir.LIF(zero + 1, zero + 1, zero, zero + 1)
        setattr(node, field, endless)
        with pytest.raises(ValueError, match=rf"node 'lif': {field} of .* without leak is an I"):
            export.from_nir(nir.NIRGraph.from_list(node))


def test_the_error_for_a_text_file_names_npz_and_not_pickles(tmp_path):
    (tmp_path / "text").write_text("nothing")
    for kind in (export.FixedPoint, export.XyloNetwork):
        with pytest.raises(ValueError, match=r"cannot be read as an \.npz file") as raised:
            kind.load(tmp_path / "text")
        assert "pickle" not in str(raised.value)


def test_a_file_of_a_newer_nir_names_both_versions(tmp_path, model):
    path = tmp_path / "graph.nir"
    export.write(path, export.to_nir(model))
    with h5py.File(path, "r+") as file:
        del file["version"], file["node/nodes/output/shape"]
        file["version"] = "99.0"
    with pytest.raises(ValueError, match=rf"written by nir 99\.0, {nir.version} is here"):
        export.read(path)


def test_a_newer_format_can_still_be_read_as_a_graph(model):
    graph = export.to_nir(model)
    graph.metadata["version"] = 99
    with pytest.raises(ValueError, match=r"format version 99.*stochastic=False"):
        export.from_nir(graph)
    assert isinstance(export.from_nir(graph, stochastic=False), export.GraphNetwork)


def test_weights_changed_after_the_export_are_detected(model):
    graph = export.to_nir(model)
    graph.nodes["l01_4_lateral"].weight[2, 3] += 0.01
    with pytest.raises(ValueError, match="weight of node l01_4_lateral is not what the metadata"):
        export.from_nir(graph)
    assert isinstance(export.from_nir(graph, stochastic=False), export.GraphNetwork)


@pytest.mark.parametrize("key", ["config", "weights", "options", "form"])
def test_damaged_metadata_is_named(model, key):
    graph = export.to_nir(model)
    del graph.metadata[key]
    with pytest.raises(ValueError, match="metadata of the graph is damaged"):
        export.from_nir(graph)


def test_a_graph_of_another_program_is_not_a_stochastic_model():
    graph = nir.NIRGraph.from_list(nir.Linear(np.eye(3, dtype=np.float32)))
    assert isinstance(export.from_nir(graph), export.GraphNetwork)
    with pytest.raises(ValueError, match="does not say that it was made from a stochastic model"):
        export.from_nir(graph, stochastic=True)
    delay = nir.NIRGraph.from_list(nir.Delay(np.ones(3, np.float32)))
    with pytest.raises(ValueError, match="node of type Delay cannot be run here"):
        export.from_nir(delay)


def test_an_unregistered_estimator_exports_only_the_graph(model):
    model.neuron.spike_grad = lambda mem: mem.exp().round()
    graph = export.to_nir(model)
    assert isinstance(export.from_nir(graph), export.GraphNetwork)
    network = nn.Sequential(nn.Linear(16, 8), model.neuron)
    assert isinstance(export.from_nir(export.to_nir(network)), export.GraphNetwork)


def test_writing_is_atomic(tmp_path, model):
    graph = export.to_nir(model)
    path = tmp_path / "graph.nir"
    path.write_text("what was there")
    graph.metadata["bad"] = None
    with pytest.raises(ValueError, match="cannot be written"):
        export.write(path, graph)
    assert path.read_text() == "what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["graph.nir"]
    with pytest.raises(TypeError, match=r"must be a nir\.NIRGraph"):
        export.write(path, model)


def test_a_network_of_a_graph_checks_its_input(model):
    network = export.GraphNetwork(export.to_nir(model))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 16\)"):
        network(torch.rand(2, 15))
    with pytest.raises(ValueError, match="NaN"):
        network(torch.full((2, 16), torch.nan))
    with pytest.raises(ValueError, match="num_steps must be given"):
        next(network.unroll(torch.rand(2, 16)))
    with pytest.raises(ValueError, match="reset must be one of"):
        export.GraphNetwork(export.to_nir(model), "soft")


# -- calibration and reports ----------------------------------------------------------------------


def test_calibration_and_report_validate_their_arguments(model):
    x = torch.rand(5, 16)
    with pytest.raises(TypeError, match="model must be an IPVAE"):
        export.calibrate(nn.Linear(3, 3), x)
    with pytest.raises(ValueError, match=r"data must have shape \(B, 16\)"):
        export.calibrate(model, x[:, 1:])
    with pytest.raises(ValueError, match="reset must be one of"):
        export.calibrate(model, x, "soft")
    with pytest.raises(TypeError, match="expected an IPVAE, a network"):
        export.report(3, model, x)
    with pytest.raises(ValueError, match="at least 2 samples"):
        export.report(export.to_nir(model), model, x[:1])
    other = IPVAE(in_features=16, latents=9)
    with pytest.raises(ValueError, match="not of the same model"):
        export.report(export.to_nir(other), model, x, num_steps=3)
