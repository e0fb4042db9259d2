"""What the properties found: each of these once crashed, hung, gave NaN or changed a state."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import (
    IPVAE,
    IPVAENeuron,
    Recorder,
    Stream,
    currents,
    export,
    metrics,
    sound,
    surrogate,
)
from ipvae_snn import functional as F
from tests.properties.common import REFUSED, attempt

HUGE = 10**400
ones = torch.ones


def graph_of(**nodes):
    nir = pytest.importorskip("nir")
    shape = np.array([2])
    inner = {"input": nir.Input(shape), **nodes, "output": nir.Output(shape)}
    names = list(inner)
    return nir.NIRGraph(inner, list(itertools.pairwise(names)), type_check=False)


def node(kind, **fields):
    nir = pytest.importorskip("nir")
    return getattr(nir, kind)(**{k: np.asarray(v) for k, v in fields.items()})


def unrolled(graph, x=None, reset="zero"):
    network = export.from_nir(graph, reset=reset)
    return list(network.unroll(ones(1, 2) if x is None else x, 2))


def constant_loss(x, start):
    return torch.zeros(())


CALLS = {
    "gram of a vector": lambda: F.gram(ones(3)),
    "drive of other pixels": lambda: F.drive(ones(2, 3), ones(4, 2)),
    "drive of another dtype": lambda: F.drive(ones(2, 4).double(), ones(4, 2)),
    "scale of other pixels": lambda: F.gaussian_nll(ones(2, 3), ones(2)),
    "KL of other shapes": lambda: F.poisson_kl(ones(2), ones(3)),
    "a step of other shapes": lambda: F.membrane_step(ones(2), ones(3), ones(2)),
    "soft clamp of complex": lambda: F.soft_clamp(ones(2, dtype=torch.complex64), 1.0),
    "soft clamp at 2^64": lambda: F.soft_clamp(ones(2), HUGE),
    "no pixels": lambda: F.free_energy(ones(1, 1), ones(1, 1), 1.0, 0),
    "generator": lambda: surrogate.midpoint(generator=0),
    "substeps": lambda: surrogate.bernoulli(HUGE),
    "indicator": lambda: surrogate.eat(indicator=[]),
    "estimator's name": lambda: surrogate.from_config({"name": []}),
    "step beyond floats": lambda: IPVAENeuron(3, step=HUGE),
    "bias beyond floats": lambda: IPVAENeuron(3, bias=HUGE),
    "complex bias": lambda: IPVAENeuron(3, bias=1j),
    "init_hidden is a tensor": lambda: IPVAENeuron(3, init_hidden=ones(2)),
    "learn_step is text": lambda: IPVAENeuron(3, learn_step="no"),
    "2^31 neurons": lambda: IPVAENeuron(2**31),
    "leak, after weights were drawn": lambda: IPVAENeuron(3, leak=7),
    "bias, after weights were drawn": lambda: IPVAENeuron(3, bias=ones(4)),
    "gram is a number": lambda: IPVAENeuron(3)(ones(2, 3), gram=1.0),
    "gram of another dtype": lambda: IPVAENeuron(3)(ones(2, 3), gram=torch.eye(3).double()),
    "gram of NaN": lambda: IPVAENeuron(3)(ones(2, 3), gram=torch.full((3, 3), math.nan)),
    "drive of infinity": lambda: IPVAENeuron(nn.Linear(3, 2, bias=False)).drive(
        torch.full((1, 2), math.inf)
    ),
    "windows of nothing": lambda: ipvae_snn.tbptt(nn.Linear(2, 2), None, constant_loss, window=1),
    "windows of True": lambda: ipvae_snn.tbptt(
        nn.Linear(2, 2), ones(2, 1, 2), constant_loss, window=True
    ),
    "a loss of nothing": lambda: ipvae_snn.tbptt(
        nn.Linear(2, 2), ones(2, 1, 2), constant_loss, window=1
    ),
    "R² of NaN": lambda: metrics.r2(torch.full((2, 3), math.nan), ones(2, 3)),
    "R² beyond floats": lambda: metrics.r2(torch.rand(2, 3), torch.full((2, 3), 1e38)),
    "zeros of NaN": lambda: metrics.zeros(torch.full((2, 3), math.nan)),
    "use of a number": lambda: metrics.by_use(ones(())),
    "use of no neurons": lambda: metrics.by_use(ones(2, 0)),
    "labels are none": lambda: metrics.probe_accuracy(ones(2, 2), None, ones(2, 2), None),
    "one label": lambda: metrics.probe_accuracy(
        ones(2, 2), torch.tensor([1, 1]), ones(2, 2), torch.tensor([1, 1])
    ),
    "distance of NaN": lambda: metrics.rate_distortion_distance(math.nan, 0.5),
    "convergence of objects": lambda: metrics.convergence_step([object()]),
    "spikes below 0": lambda: metrics.spike_triggered(-ones(3), ones(3)),
    "synops of another dtype": lambda: metrics.synops(
        nn.Sequential(nn.Linear(2, 3), IPVAENeuron(3, init_hidden=True)), ones(1, 2).double(), 2
    ),
    "parts of a state": lambda: currents.parts(
        IPVAENeuron(3), ones(2, 3), ones(4, 2, 3), ones(4, 2, 3), state=(ones(()), None)
    ),
    "clicks without end": lambda: sound.save_clicks("x.wav", torch.full((2,), 1e38)),
    "neurons are objects": lambda: Recorder(IPVAE(2, 3), neurons=object()),
    "neurons are complex": lambda: Recorder(IPVAE(2, 3), neurons=ones(1, dtype=torch.complex64)),
    "neurons are flags": lambda: Recorder(IPVAE(2, 3), neurons=torch.tensor([True])),
    "levels": lambda: export.to_nir(IPVAE(2, 3), levels=10**9),
    "complex thresholds": lambda: unrolled(graph_of(a=node("Threshold", threshold=[1j, 1j]))),
    "NaN in a graph": lambda: unrolled(graph_of(a=node("Scale", scale=[math.nan, 1.0]))),
    "τ = 0": lambda: unrolled(
        graph_of(a=node("LI", tau=[0.0, 1.0], r=[1.0, 1.0], v_leak=[0.0, 0.0]))
    ),
    "threshold 0": lambda: unrolled(
        graph_of(a=node("IF", r=[1.0, 1.0], v_threshold=[0.0, 1.0], v_reset=[0.0, 0.0])),
        reset="subtract",
    ),
    "shapes in a graph": lambda: unrolled(graph_of(a=node("Scale", scale=[1.0, 1.0, 1.0]))),
    "growth beyond floats": lambda: unrolled(graph_of(a=node("I", r=[3e38, 1.0])), 3 * ones(1, 2)),
    "an input that is none": lambda: unrolled(graph_of(a=node("Scale", scale=[1.0, 1.0])), 3),
    "stochastic is text": lambda: export.from_nir(graph_of(), stochastic="yes"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = not any(name in call.__code__.co_names for name in ("Linear", "IPVAE", "rand"))
    in_place = "IPVAENeuron" in call.__code__.co_names and len(call.__code__.co_names) > 1
    assert attempt(call, random_state=random and not in_place) is REFUSED
    assert not list(tmp_path.iterdir())


def test_edges_to_nowhere_and_no_way_to_the_output():
    nir = pytest.importorskip("nir")
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    for edges in ([("input", "nowhere")], [], [("output", "input")]):
        with pytest.raises(ValueError, match=r"edge|path"):
            export.GraphNetwork(nir.NIRGraph(ends, edges, type_check=False))


def test_integer_arrays_in_graphs_are_numbers():
    ((spk, out), _) = unrolled(graph_of(a=node("Threshold", threshold=[0, 2])))
    assert out.tolist() == [[1.0, 0.0]]
    assert spk.tolist() == [[1.0, 0.0]]


def test_numbers_of_numpy_count_as_others_do():
    four = np.uint8(4)
    spk = torch.tensor([0.0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert len(metrics.spike_triggered(spk, spk, before=four, after=four)) == 9
    stream = Stream(IPVAE(2, 3), seed=0)
    for _ in range(70):
        stream.push(num_steps=four)
    assert stream.timestep == 280
    assert type(export.Portable(gain=np.float32(0.5)).gain) is float
    model = IPVAE(4, 3)
    assert export.report([], model, torch.rand(3, 4), four).num_steps == 4


def test_half_precision_features_are_tuned():
    tuned = metrics.feature_tuning(torch.rand(16, 2).half(), (4, 4))
    assert all(bool(values.isfinite().all()) for values in tuned)
    wide = metrics.feature_tuning(torch.rand(16, 2).double(), (4, 4))
    assert all(values.dtype == torch.float64 for values in wide)


def test_a_graph_that_refuses_an_input_keeps_its_state():
    network = export.GraphNetwork(graph_of(a=node("I", r=[1e38, 1.0])))
    network(ones(1, 2))
    before = network._states
    with pytest.raises(ValueError, match="output of node"):
        network(torch.full((1, 2), 1e3))
    assert network._states is before


def test_membranes_that_start_where_no_kl_can_be_had_are_refused():
    with pytest.raises(ValueError, match="mem_init must be at least -60"):
        IPVAENeuron(3, mem_init=-1e4)
    edge = IPVAENeuron(3, mem_init=-60.0)
    assert torch.isfinite(edge.run(torch.ones(2, 1, 3))[1]).all()
