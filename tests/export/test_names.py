"""Names of nodes are data: they are run, written and read back, whatever they are."""

import copy
import itertools
import json
import pickle
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from ipvae_snn import export
from tests.export.networks import leaky, outputs, poisson

nir = pytest.importorskip("nir", reason="the extra nir is not installed")

METHODS = ["pop", "type", "train", "keys", "forward", "weight", "__class__", "training", "_modules"]
FIELDS = ["metadata", "nodes", "edges", "version", "input_type", "node", "parts", "step", "n0"]
TEXTS = ["a.b", "..", "é ☃", " ", "a b", "0", "-1", "\n", "%", "%2F", "a%2Fb", "x" * 300]
PATHS = ["a/b", "a//b", "/a", "a/", "./a", "a/b/c", "type/x"]
UNWRITABLE = ["", ".", "/", "/node", "/version", "a\0b", "\0", "\ud800"]
"""Names that ``nir.write`` refuses."""
NAMES = [*METHODS, *FIELDS, *TEXTS, *PATHS, *UNWRITABLE]
ALIKE = [("a.b", "a/b"), ("a/b", "a%2Fb"), ("", "_"), ("a/b", "a_b"), ("a.b", "a_b"), ("a/", "a")]
ALIKE += [("", "%"), ("pop", "%pop"), (" ", ""), ("A", "a"), ("a/b", "a\0b"), ("é", "e\u0301")]
X = torch.rand(3, 2, generator=torch.Generator().manual_seed(1))


def series(names, inner=None):
    """A graph of scales of its own for each name, one after another; ``inner`` in their middle."""
    nodes = {name: nir.Scale(np.array([1 + n / 8, 2 / n], "f4")) for n, name in enumerate(names, 1)}
    if inner is not None:
        nodes[names[len(names) // 2]] = inner
    shape = np.array([2])
    nodes = {"input": nir.Input(shape), **nodes, "output": nir.Output(shape)}
    return nir.NIRGraph(nodes, list(itertools.pairwise(nodes)))


def scaled(*numbers):
    """What scales of these numbers make of ``X``."""
    n = torch.tensor(numbers)
    return X * torch.stack(((1 + n / 8).prod(), (2 / n).prod()))


def assert_same_names(graph, expected):
    assert graph.nodes.keys() == expected.nodes.keys()
    assert sorted(graph.edges) == sorted(expected.edges)
    for name, node in expected.nodes.items():
        if hasattr(node, "nodes"):
            assert_same_names(graph.nodes[name], node)


def through(path, graph):
    """The graph after a file, with the names that it had."""
    export.write(path, graph)
    read = export.read(path)
    assert_same_names(read, graph)
    return read


@pytest.mark.parametrize("names", [*zip(NAMES), *ALIKE], ids=lambda names: ascii(names)[:30])
def test_graphs_with_any_names_are_run_and_written(tmp_path, names):
    graph = series(names)
    for same in (graph, through(tmp_path / "a.nir", graph)):
        network = export.from_nir(same)
        torch.testing.assert_close(network(X), scaled(*range(1, len(names) + 1)))
        assert network.outputs.keys() == {"input", *names, "output"}


def test_all_names_together(tmp_path):
    network = export.from_nir(through(tmp_path / "a.nir", series(NAMES)))
    torch.testing.assert_close(network(X), scaled(*range(1, len(NAMES) + 1)))
    assert list(network.outputs) == ["input", *NAMES, "output"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_subgraphs_and_nodes_in_them_have_any_names(tmp_path, name):
    graph = series([name, "sub" + name, "last"], inner=series(["first", name]))
    network = export.from_nir(through(tmp_path / "a.nir", graph))
    torch.testing.assert_close(network(X), scaled(1, 1, 2, 3))
    assert f"sub{name}.{name}" in network.outputs


def test_a_node_of_a_subgraph_is_not_mistaken_for_one_outside(tmp_path):
    names = ["a.b", "a", "a..b"]
    graph = series(names, inner=series(["b", ".b"]))
    for same in (graph, through(tmp_path / "a.nir", graph)):
        network = export.from_nir(same)
        torch.testing.assert_close(network(X), scaled(1, 1, 2, 3))
        assert len(network.outputs) == 2 + 2 + 2


def test_edges_that_close_cycles_keep_their_names(tmp_path):
    graph = series(["pop", "a/b", ""])
    graph.edges += [("", "pop"), ("a/b", "a/b")]
    expected = series(["x", "y", "z"])
    expected.edges += [("z", "x"), ("y", "y")]
    found = outputs(export.from_nir(through(tmp_path / "a.nir", graph)), X, 5)
    assert torch.equal(found, outputs(export.from_nir(expected), X, 5))


@pytest.mark.parametrize("names", [METHODS, ["a.b", "a/b", "%"]], ids=["methods", "paths"])
def test_networks_with_any_names_are_copied_and_have_a_state(names):
    network = export.from_nir(series(names))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    assert len(copied.state_dict()) == len(names)
    other = series(names)
    for node in other.nodes.values():
        if hasattr(node, "scale"):
            node.scale = 0 * node.scale
    zero = export.from_nir(other)
    zero.load_state_dict(copied.state_dict())
    assert torch.equal(zero(X), network(X))


def test_names_of_nodes_are_text(tmp_path):
    graph = series([3])
    for use in (export.from_nir, export.GraphSource, lambda g: export.write(tmp_path / "a", g)):
        for refused in (graph, series(["a"], inner=graph)):
            with pytest.raises(TypeError, match="names of nodes must be text, got 3: name it '3'"):
                use(refused)
    assert not list(tmp_path.iterdir())


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [*zip(n for n in NAMES if n not in UNWRITABLE), ("a", "a/b", "a/b/c", "d/e")]
)
def test_files_of_other_programs_have_any_names(tmp_path, names):
    for graph in (series(names), series(["s", "t", "u"], inner=series(names))):
        nir.write(tmp_path / "a.nir", graph)
        read = export.read(tmp_path / "a.nir")
        assert_same_names(read, graph)
        assert torch.equal(export.from_nir(read)(X), export.from_nir(graph)(X))


def test_other_programs_read_similar_names(tmp_path):
    names = ["a/b", "a_b", "pop"]
    export.write(tmp_path / "a.nir", series(names))
    read = nir.read(tmp_path / "a.nir")
    assert read.nodes.keys() == {"input", "a_b_2", "a_b", "pop", "output"}
    torch.testing.assert_close(export.from_nir(read)(X), scaled(1, 2, 3))


def test_writing_leaves_the_graph_alone(tmp_path):
    graph = series(["a/b", "s", ""], inner=series(["."]))
    before = copy.deepcopy(graph)
    through(tmp_path / "a.nir", graph)
    assert_same_names(graph, before)
    assert graph.metadata == graph.nodes["s"].metadata == {}
    assert through(tmp_path / "b.nir", export.read(tmp_path / "a.nir")).metadata == {}


DAMAGE = ['{"a": "input"}', '{"b": "c"}', '{"a": 3}', "[1]", "text", "[" * 100_000]


@pytest.mark.parametrize("names", DAMAGE, ids=lambda names: names[:20])
def test_damaged_names_are_refused(tmp_path, names):
    export.write(tmp_path / "a.nir", series(["a"]))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        file["node/metadata/ipvae_snn_names"] = names
    with pytest.raises(ValueError, match=r"a\.nir cannot be read as a NIR graph"):
        export.read(tmp_path / "a.nir")


@pytest.mark.parametrize("name", ["/node", "/node/nodes", "/version", "a/scale", "b/c", "/"])
def test_edges_to_what_is_no_node_are_refused(tmp_path, name):
    export.write(tmp_path / "a.nir", series(["a"]))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        del file["node/edges"]
        file["node/edges"] = [("input", name), ("a", "output")]
    with pytest.raises(ValueError, match=r"a\.nir cannot be read as a NIR graph"):
        export.read(tmp_path / "a.nir")


# -- networks and toolchains ----------------------------------------------------------------------


class Mine(nn.Module):
    """A module with a translation of its own."""


@pytest.mark.parametrize("form", ["exact", "portable"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_layers_and_nodes_of_users_keep_their_meaning_when_exported(tmp_path, form, nested):
    layers = [
        nn.Linear(2, 2),
        leaky(),
        Mine(),
        nn.Linear(2, 2),
        poisson(2),
        nn.Sequential(nn.Linear(2, 2)),
    ]
    odd = ["weight", "a/b", "é ☃", "0", "keys", "n0"]
    torch.manual_seed(0)
    networks = (nn.Sequential(OrderedDict(zip(odd, layers, strict=True))), nn.Sequential(*layers))
    found = []
    for network, names in zip(networks, (["", "a/b", "pop"], ["x", "y", "z"]), strict=True):
        extra = {Mine: lambda module, names=names: series(names)}
        graph = export.to_nir(network, form, nested=nested, extra_map=extra)
        graph = through(tmp_path / "a.nir", graph)
        for stochastic in (True, False):
            back = export.from_nir(graph, stochastic=stochastic)
            found.append(torch.stack([out for _, out in back.unroll(9 * X, 30, seed=0)]))
    assert all(out.std() > 0 for out in found)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("tool", ["norse", "sinabs"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(
    "names", [("pop", "type"), ("graph", "forward"), ("a.b", "a_b"), ("a/b", ""), ("state", "0")]
)
def test_toolchains_run_graphs_with_any_names(tool, nested, names):
    pytest.importorskip(tool, reason=f"{tool} is not installed (extra toolchains)")
    run_in = {"norse": export.in_norse, "sinabs": export.in_sinabs}[tool]
    graph = series(names)
    graph.nodes[names[0]] = nir.Affine(np.eye(2, dtype="f4"), np.ones(2, "f4"))
    graph.nodes[names[1]] = nir.IF(np.ones(2, "f4"), np.full(2, 1.5, "f4"))
    if nested:
        graph = series(["sub.graph"], inner=graph)
    found = list(run_in(graph).unroll(X, 20))
    expected = list(export.GraphSource(graph, run_in.tool_reset).unroll(X, 20))
    assert torch.stack(found).sum() > 0
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_the_names_in_a_file_are_plain_text(tmp_path):
    export.write(tmp_path / "a.nir", series(["a/é", "b"]))
    with h5py.File(tmp_path / "a.nir") as file:
        text = file["node/metadata/ipvae_snn_names"][()].decode("ascii")
    assert json.loads(text) == {"a_é": "a/é"}
