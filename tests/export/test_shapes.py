"""Shapes in graphs of other programs: values act on their own neurons, or are refused."""

import itertools

import h5py
import numpy as np
import pytest
import torch

from ipvae_snn import export

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


def series(shape, out, /, **nodes):
    """A graph with these nodes one after another, of which nir checks no types."""
    nodes = {"input": nir.Input(np.array(shape)), **nodes, "output": nir.Output(np.array(out))}
    return nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)


def lif(shape, threshold=0.1):
    tau, one, zero = (np.full(shape, value, np.float32) for value in (2, 1, 0))
    return nir.LIF(tau, one, zero, np.full(shape, threshold, np.float32))


def convolution(kernel, channels=1, groups=1):
    weight = np.ones((4, channels // groups, *kernel), np.float32)
    return nir.Conv2d((8, 8), weight, 1, 0, 1, groups, np.arange(4, dtype=np.float32))


STRETCHED = {
    "a neuron for each of one input": (series([1], [6], n=lif((6,))), "r has shape"),
    "a value for each column": (series([2, 4, 4], [2, 4, 4], n=lif((4,))), "r has shape"),
    "a value for each sample": (series([6], [6], n=lif((3, 6))), "r has shape"),
    "two batches": (series([6], [6], n=lif((1, 1, 6))), "r has shape"),
    "scales of columns": (series([3, 4], [3, 4], n=nir.Scale(np.ones(4))), "scale has shape"),
    "weights of columns": (series([3, 4], [3, 2], n=nir.Linear(np.ones((2, 4)))), r"takes \(4,\)"),
    "a bias that adds an axis": (
        series([4], [3, 2], n=nir.Affine(np.ones((2, 4)), np.ones((3, 2)))),
        "bias has shape",
    ),
    "samples as channels": (series([8, 8], [4, 6, 6], n=convolution((3, 3), 3)), "channels and 2"),
    "the batch is flattened": (
        series([2, 3], [6], n=nir.Flatten({"input": None}, -3, -1)),
        "flatten the batch",
    ),
    "another output": (series([6], [5], output_of=lif((6,))), r"declares \(5,\)"),
}


@pytest.mark.parametrize("name", STRETCHED)
def test_arrays_that_would_be_stretched_over_other_axes_are_refused(name):
    graph, message = STRETCHED[name]
    x = torch.ones(3, *graph.nodes["input"].input_type["input"])
    with pytest.raises(ValueError, match=rf"node '.*' cannot take its input.*{message}"):
        export.from_nir(graph)(x)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2, 1, 1), (1, 3, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_arrays_that_fit_axis_by_axis_are_taken(shape):
    threshold = np.linspace(0.1, 0.6, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    x = torch.rand(5, 2, 3, 4)
    found = export.from_nir(series([2, 3, 4], [2, 3, 4], n=nir.Threshold(threshold)))(x)
    assert torch.equal(found, (x > torch.from_numpy(threshold)).float())


@pytest.mark.parametrize("number", [float, np.float64, np.int8])
def test_sizes_of_kernels_are_whole_numbers_of_any_type(number):
    x, node = torch.rand(2, 1, 8, 8), convolution((3, 3))
    expected = export.from_nir(series([1, 8, 8], [4, 6, 6], n=node))(x)
    node.stride, node.dilation = np.array([1, 1], number), number(1)
    assert torch.equal(export.from_nir(series([1, 8, 8], [4, 6, 6], n=node))(x), expected)
    node.stride = np.array([1.5, 1])
    with pytest.raises(ValueError, match="node 'n' cannot take its input"):
        export.from_nir(series([1, 8, 8], [4, 6, 6], n=node))(x)


def test_a_network_and_its_graph_share_no_numbers():
    scale, x = np.arange(6, dtype=np.float32)[::-1], torch.ones(1, 6)
    graph = series([6], [6], n=nir.Scale(scale))
    one, other = export.from_nir(graph), export.from_nir(graph)
    one.load_state_dict({name: 0 * value for name, value in one.state_dict().items()})
    assert torch.equal(other(x), torch.arange(6.0).flip(0)[None])
    scale[:] = 7
    assert torch.equal(one(x), 0 * x)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_weights_of_several_channels_multiply_each_its_own(batch):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3))
    x = torch.rand(batch, 2, 4)
    found = export.from_nir(series([2, 4], [2, 3], n=nir.Affine(weight, bias)))(x)
    expected = np.einsum("coi,bci->bco", weight, x.numpy()) + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1), (2, 3)])
def test_the_state_of_other_samples_is_not_gone_on_with(first, second):
    network, other = (export.from_nir(series([6], [6], n=lif((6,), 0.8))) for _ in range(2))
    network(torch.ones(first, 6))
    with pytest.raises(ValueError, match=rf"x has {second} samples, the state is of {first}: call"):
        network(torch.ones(second, 6))
    other(torch.ones(first, 6))
    assert torch.equal(network(torch.ones(first, 6)), other(torch.ones(first, 6)))
    network.reset()
    assert len(network(torch.ones(second, 6))) == second


def test_there_are_no_spikes_before_the_first_timestep():
    with pytest.raises(ValueError, match="no spikes yet"):
        export.from_nir(series([6], [6], n=lif((6,)))).spikes()


# -- files ----------------------------------------------------------------------------------------

UNTYPED = {
    "one value": series([6], [6], n=lif((1,))),
    "one value in a subgraph": series([6], [6], n=series([6], [6], m=lif((1,)))),
    "kernel": series([1, 8, 8], [4, 6, 4], n=convolution((3, 5))),
    "groups": series([4, 8, 8], [4, 6, 6], n=convolution((3, 3), 4, 4)),
}


@pytest.mark.parametrize("name", UNTYPED)
def test_files_whose_shapes_nir_gets_wrong_are_read_and_run(tmp_path, name):
    graph = UNTYPED[name]
    nir.write(tmp_path / "a.nir", graph)
    x = torch.rand(2, *graph.nodes["input"].input_type["input"])
    found = export.from_nir(tmp_path / "a.nir")(x)
    assert found.std() > 0
    assert torch.equal(found, export.from_nir(graph)(x))


def test_values_without_an_axis_are_read(tmp_path):
    nir.write(tmp_path / "a.nir", series([6], [6], n=lif((6,), 0.3)))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        node = file["node/nodes/n"]
        for field in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
            value = node[field][0]
            del node[field]
            node[field] = value
    x = torch.rand(2, 6)
    expected = export.from_nir(series([6], [6], n=lif((6,), 0.3)))(x)
    assert torch.equal(export.from_nir(tmp_path / "a.nir")(x), expected)
    assert expected.std() > 0


# -- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("partner", ["drive", "ring"])
def test_a_node_that_no_input_reaches_is_not_left_out(partner):
    graph = series([2], [2], n=lif((2,)))
    graph.nodes |= {"drive": lif((2,)), "ring": lif((2,))}
    graph.edges += [("drive", "n"), (partner, "drive")]
    with pytest.raises(ValueError, match="node 'drive' leads to node 'n', but no path leads from"):
        export.from_nir(graph)
    graph.nodes["zero"] = nir.Linear(np.zeros((2, 2)))
    graph.edges += [("input", "zero"), ("zero", "drive"), ("zero", "ring")]
    assert "drive" in export.from_nir(graph)._order


def test_an_edge_that_is_there_twice_is_refused():
    graph = series([2], [2], n=nir.Scale(np.ones(2)))
    graph.edges.append(("input", "n"))
    for refused in (graph, series([2], [2], outer=graph)):
        with pytest.raises(ValueError, match=r"twice: \('input', 'n'\)"):
            export.from_nir(refused)
