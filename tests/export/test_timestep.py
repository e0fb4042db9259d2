"""Graphs whose time constants are in seconds: run with their timestep, refused without."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, export
from tests.export import nir_reference
from tests.export.networks import STEPS, leaky, outputs, poisson

nir = pytest.importorskip("nir", reason="the extra nir is not installed")
DT = 1e-4
WAYS = {
    "from_nir": lambda graph, **options: export.from_nir(graph, **options),
    "GraphNetwork": lambda graph, **options: export.GraphNetwork(graph, **options),
    "GraphSource": lambda graph, **options: export.GraphSource(graph, **options),
}


def values(shape, least, most, seed):
    return np.random.default_rng(seed).uniform(least, most, shape).astype(np.float32)


def neuron(kind, shape, dt):
    """A node with time constants of 1.5 to 30 timesteps."""
    rows = {name: values(shape, 0.1, 1, n) for n, name in enumerate(("v_leak", "v_threshold"))}
    tau, tau_syn = values(shape, 1.5, 30, 5) * dt, values(shape, 1.5, 30, 6) * dt
    r, reset = values(shape, 1, 2, 2), values(shape, -0.5, 0, 3)
    return {
        "I": lambda: nir.I(r / dt),
        "IF": lambda: nir.IF(r / dt, rows["v_threshold"], reset),
        "LI": lambda: nir.LI(tau, r, rows["v_leak"]),
        "LIF": lambda: nir.LIF(tau, r, **rows, v_reset=reset),
        "CubaLI": lambda: nir.CubaLI(tau, tau_syn, r, rows["v_leak"], r),
        "CubaLIF": lambda: nir.CubaLIF(tau, tau_syn, r, **rows, w_in=r, v_reset=reset),
    }[kind]()


NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")


def series(**nodes):
    """A graph with these nodes one after another."""
    shape = np.array([6])
    nodes = {"input": nir.Input(shape), **nodes, "output": nir.Output(shape)}
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False)


X = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))


# -- published graphs -----------------------------------------------------------------------------


@pytest.fixture
def published(data_dir):
    if not (data_dir / "nir" / "lif_norse.nir").is_file():
        pytest.skip("the folder of data sets has no published graphs")
    return data_dir / "nir"


def lif_of_norse(published):
    """Input, membranes and spikes of a leaky neuron, simulated by norse; dt = 0.1 ms."""
    columns = np.genfromtxt(published / "lif_norse.csv", delimiter=",", dtype=np.float32).T
    return (torch.from_numpy(column.copy()).reshape(-1, 1, 1) for column in columns)


@pytest.mark.parametrize("way", ["from_nir", "GraphNetwork"])
def test_a_published_neuron_gives_its_published_spikes(published, way):
    x, membranes, spikes = lif_of_norse(published)
    network = WAYS[way](export.read(published / "lif_norse.nir"), dt=DT)
    assert spikes.sum() == 4
    for t, (spk, out) in enumerate(network.unroll(x)):
        assert torch.equal(out, spikes[t])
        assert torch.equal(spk, spikes[t])
        torch.testing.assert_close(network._states["1"], membranes[t], rtol=0, atol=1e-7)


def test_norse_gives_the_same_spikes_in_seconds(published):
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    graph = export.read(published / "lif_norse.nir")
    theirs, ours = (
        torch.stack(list(source.unroll(torch.ones(1, 1), 500)))
        for source in (export.in_norse(graph, dt=DT), export.GraphSource(graph, dt=DT))
    )
    assert theirs.sum() > 4
    assert torch.equal(theirs, ours)


def test_a_published_neuron_that_drives_itself_drives_no_other(published):
    network = export.from_nir(published / "two_lif_neurons.nir", dt=DT)
    steps = list(network.unroll(torch.zeros(1, 1), 1000))
    assert sum(float(out.sum()) for _, out in steps) == 0
    # v_leak = 1.2 above the threshold of 1: log 6 = 1.79 time constants of 100 timesteps a spike
    assert [t for t, (spk, _) in enumerate(steps, 1) if spk[0, 0]] == [179, 358, 537, 716, 895]


def test_a_published_network_without_time_constants_counts_timesteps(published):
    graph = export.read(published / "cnn_sinabs.nir")
    x = (torch.rand(10, 2, 2, 34, 34) < 0.2).float()
    found = [outputs(export.from_nir(graph, dt=dt), x, 10) for dt in (None, 1)]
    membranes: dict[str, torch.Tensor] = {}
    expected = torch.stack([_convolutional(graph, frame, membranes) for frame in x])
    assert expected.sum() > 0
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], expected)


def _convolutional(graph, x, membranes):
    """A timestep of integrate-and-fire layers 0, 1, …, 12, in plain PyTorch."""
    for name in map(str, range(13)):
        node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
        if kind in ("Conv2d", "Affine"):
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            sizes = (tuple(n.tolist()) for n in (node.stride, node.padding)) if x.ndim > 2 else ()
            x = torch.conv2d(x, weight, bias, *sizes) if x.ndim > 2 else x @ weight.mT + bias
        elif kind == "SumPool2d":
            x = 4 * nn.functional.avg_pool2d(x, 2)
        elif kind == "Flatten":
            x = x.flatten(1)
        else:
            v = membranes.get(name, 0) + torch.from_numpy(node.r) * x
            x = (v > torch.from_numpy(node.v_threshold)).float()
            membranes[name] = torch.where(x > 0, torch.from_numpy(node.v_reset), v)
    return x


# -- every neuron ---------------------------------------------------------------------------------


def assert_equals_the_reference(graph, reset, dt):
    expected, _ = nir_reference.run(graph, X.numpy(), STEPS, reset, float(dt))
    found = outputs(export.from_nir(graph, reset=reset, dt=dt), X)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (1,), ()], ids=["per neuron", "one value", "scalar"])
@pytest.mark.parametrize("dt", [1e-4, np.float32(1e-3), 3])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", NEURONS)
def test_every_neuron_equals_the_reference_at_any_timestep(kind, reset, dt, shape):
    assert_equals_the_reference(series(n=neuron(kind, shape, float(dt))), reset, dt)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_graphs_of_all_neurons_and_subgraphs_equal_the_reference(reset):
    weight = nir.Linear(values((6, 6), 0, 1, 9))
    inner = series(l=neuron("LIF", (6,), DT), m=weight, n=neuron("IF", (6,), DT))
    graph = series(a=neuron("CubaLIF", (6,), DT), b=weight, c=inner, d=neuron("LI", (6,), DT))
    graph.edges.append(("d", "a"))
    assert_equals_the_reference(graph, reset, DT)


@pytest.mark.parametrize("kind", NEURONS)
def test_a_timestep_in_seconds_equals_time_constants_in_timesteps_to_the_bit(kind):
    graph, dt = series(n=neuron(kind, (6,), 1.0)), 2.0**-12
    seconds = neuron(kind, (6,), 1.0)
    for name, value in vars(seconds).items():
        if name.startswith("tau"):
            setattr(seconds, name, value * np.float32(dt))
        elif name == "r" and kind in ("I", "IF"):
            seconds.r = value / np.float32(dt)
    found = outputs(export.from_nir(series(n=seconds), dt=dt), X)
    assert torch.equal(found, outputs(export.from_nir(graph), X))


# -- refusals -------------------------------------------------------------------------------------


def short(kind, field):
    """Two nodes, of which the second has one short time constant."""
    node = neuron(kind, (6,), 1.0)
    getattr(node, field)[2] = 0.0025
    return series(a=neuron(kind, (6,), 1.0), fast=node)


FIELDS = [("LI", "tau"), ("LIF", "tau"), ("CubaLI", "tau_mem"), ("CubaLIF", "tau_syn")]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_time_constant_below_the_timestep_is_refused(way, kind, field):
    named = rf"node 'fast' \({kind}\) has {field} = 0\.0025, shorter than the timestep, dt = "
    with pytest.raises(
        ValueError, match=rf"{named}1: if .* in seconds, pass dt .* such as dt=1e-4"
    ):
        WAYS[way](short(kind, field))
    with pytest.raises(ValueError, match=rf"{named}0\.01: pass a shorter dt"):
        WAYS[way](short(kind, field), dt=0.01)
    WAYS[way](short(kind, field), dt=0.0025)


def test_a_time_constant_in_a_subgraph_is_refused_by_norse_and_reports_too():
    graph = series(outer=short("LIF", "tau"))
    with pytest.raises(ValueError, match=r"node 'outer\.fast' \(LIF\) has tau = 0\.0025"):
        export.report(graph, IPVAE(6, 6), X, 3)
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    with pytest.raises(ValueError, match=r"node 'outer\.fast' \(LIF\) has tau = 0\.0025"):
        export.in_norse(graph)


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 3e-5, 0.7])
def test_a_time_constant_of_one_timestep_is_taken_in_single_precision_too(dt):
    tau, zero = np.full(6, dt, np.float32), np.zeros(6, np.float32)
    out = export.from_nir(series(n=nir.LI(tau, zero + 1, zero)), dt=dt)(X)
    torch.testing.assert_close(out, X)


@pytest.mark.parametrize(
    ("dt", "error"),
    [(0, ValueError), (-1e-4, ValueError), (np.nan, ValueError), (np.inf, ValueError),
     (10**400, ValueError), ("1e-4", TypeError), (True, TypeError), (torch.tensor(1.0), TypeError)],
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_a_timestep_must_be_a_positive_number(way, dt, error):
    with pytest.raises(error, match="dt must be a"):
        WAYS[way](series(n=neuron("LIF", (6,), 1.0)), dt=dt)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_time_constants_must_be_positive(tau):
    node = neuron("LIF", (6,), 1.0)
    node.tau[1] = tau
    with pytest.raises(ValueError, match="tau of a LIF node must be above 0"):
        export.from_nir(series(n=node))


# -- graphs of this package -----------------------------------------------------------------------

OWN = {
    "exact": lambda: export.to_nir(IPVAE(6, 6, leak=1.0, step=1.6)),
    "portable": lambda: export.to_nir(IPVAE(6, 6, leak=1.0, step=1.6), "portable"),
    "nested": lambda: export.to_nir(IPVAE(6, 6, leak=1.0, step=1.6), nested=True),
    "network": lambda: export.to_nir(nn.Sequential(nn.Linear(6, 8), leaky(0.0), poisson(8))),
}


@pytest.mark.parametrize("stochastic", [None, False])
@pytest.mark.parametrize("name", OWN)
def test_exported_graphs_count_timesteps(name, stochastic):
    graph = OWN[name]()
    export.from_nir(graph, stochastic=stochastic)
    export.from_nir(graph, stochastic=stochastic, dt=1.0)
    with pytest.raises(ValueError, match=r"dt must be left out, got 0\.001"):
        export.from_nir(graph, stochastic=stochastic, dt=1e-3)


def test_time_constants_of_extra_map_are_in_timesteps():
    class Mine(nn.Module):
        pass

    for node in (nir.LIF(*np.full((4, 6), 0.02)), series(n=nir.LI(*np.full((3, 6), 0.02)))):
        extra = {Mine: lambda module, node=node: node}
        with pytest.raises(ValueError, match=r"module 0: .*tau = 0\.02.*extra_map in timesteps"):
            export.to_nir(nn.Sequential(Mine()), input_shape=(6,), extra_map=extra)


RUNAWAY = {
    "a leak of several membranes a timestep": lambda: export.to_nir(
        nn.Sequential(IPVAENeuron(6, leak=1.0, step=5.0, clamp=3.0, gram=0.5 * torch.eye(6)))
    ),
    "a loop": lambda: _loop(nir.I(np.ones(6))),
    "a loop through neurons that reset": lambda: _loop(
        nir.LI(*np.ones((3, 6))), nir.IF(*np.ones((2, 6)))
    ),
}


def _loop(*nodes):
    weight = nir.Scale(np.full(6, 3e4))
    graph = series(a=nodes[0], w=weight, **({"z": nodes[1]} if len(nodes) > 1 else {}))
    graph.edges.append(("w", "a"))
    return graph


@pytest.mark.parametrize("name", RUNAWAY)
def test_a_graph_that_runs_away_does_not_blame_its_input(name):
    network = export.from_nir(RUNAWAY[name](), stochastic=False)
    with pytest.raises(
        ValueError, match=r"node '.*' holds .* NaN or infinite .*the graph runs away"
    ):
        list(network.unroll(X, 300))
