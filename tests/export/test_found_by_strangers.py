"""What people who tried the export for the first time ran into."""

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, TrainConfig, data, export, fit, metrics
from ipvae_snn.cli import main
from tests.export import nir_reading

nir = pytest.importorskip("nir", reason="the extra nir is not installed")
STEPS = 30


def leaky(beta=0.8, **options):
    return snn.Leaky(beta, init_hidden=True, **{"threshold": 0.4, **options})


def poisson(features):
    return IPVAENeuron(features, init_hidden=True, mem_init=-0.5, step=0.3, clamp=3.0)


def outputs(network, x, steps=STEPS):
    return torch.stack([out for _, out in network.unroll(x, steps)])


@pytest.fixture(scope="module")
def overlapping():
    """A model whose features overlap so much that low thresholds run away."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")
    digits = data.load("digits")
    torch.manual_seed(0)
    model = IPVAE(64, 128)
    config = TrainConfig(iterations=200, lr=5e-3, beta=16.0, grad_clip=3000.0, progress=False)
    fit(model, digits.train, config)
    return model, digits.test[:60]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_calibration_is_no_worse_than_the_default_where_features_overlap(overlapping, reset):
    model, x = overlapping
    portable = export.calibrate(model, x[:30], reset)
    graphs = [export.to_nir(model, "portable", portable=portable)]
    graphs.append(export.to_nir(model, "portable", reset=reset))
    original, _, calibrated, default = export.report(graphs, model, x[30:], 128).rows
    assert calibrated.r2 > default.r2 - 0.02
    assert calibrated.r2 > 0.8 * original.r2
    assert original.r2 > 0.3


def test_the_default_thresholds_do_not_run_away_where_features_overlap(overlapping):
    model, x = overlapping
    row = export.report(export.to_nir(model, "portable"), model, x, 128).rows[-1]
    assert row.r2 > 0.5
    assert not any("ran away" in note for note in row.notes)


def test_calibration_that_falls_short_of_the_model_says_so(overlapping, monkeypatch):
    monkeypatch.setattr("ipvae_snn.export.graphs.calibration.AIM", 10.0)
    model, x = overlapping
    with pytest.warns(UserWarning, match="the portable form reconstructs with R² .* at best"):
        export.calibrate(model, x, num_steps=8)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(
    "neuron", [leaky(1.0, reset_mechanism="zero"), snn.Synaptic(0.5, 0.8, init_hidden=True)]
)
def test_a_scale_does_not_jump_over_a_neuron(neuron, reset):
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


def test_the_users_own_nodes_stay_as_they_are():
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


def convolutional(neuron):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, padding=1), neuron(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 5), neuron(),
    )  # fmt: skip


def test_norse_runs_convolutions_with_pooling_as_snntorch_does():
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    torch.manual_seed(0)
    network = convolutional(lambda: leaky(reset_mechanism="zero", threshold=0.2))
    x = torch.rand(3, 2, 4, 4)
    graph = export.to_nir(network, "portable", reset="zero", input_shape=(2, 4, 4))
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = torch.stack([out for _, out in export.in_norse(graph).steps(x, STEPS)])
    assert expected.sum() > 0
    assert torch.equal(found, expected)


def test_sinabs_runs_convolutions_with_pooling():
    pytest.importorskip("sinabs", reason="sinabs is not installed (extra toolchains)")
    torch.manual_seed(0)
    network, x = convolutional(lambda: leaky(1.0)), torch.rand(3, 2, 4, 4)
    graph = export.to_nir(network, "portable", input_shape=(2, 4, 4))
    found = torch.stack([out for _, out in export.in_sinabs(graph).steps(x, STEPS)])
    assert found.sum() > 0
    torch.testing.assert_close(found, outputs(export.GraphNetwork(graph, "subtract"), x))


def test_a_network_that_ends_in_poisson_neurons_runs_in_norse():
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    torch.manual_seed(0)
    graph = export.to_nir(nn.Sequential(nn.Linear(6, 8), poisson(8)), "portable", reset="zero")
    x = 3 * torch.rand(4, 6)
    found = torch.stack([out for _, out in export.in_norse(graph).steps(x, STEPS)])
    expected, _ = nir_reading.run(graph, x.numpy(), STEPS)
    assert found.sum() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_pooling_behind_a_neuron_survives_a_file(tmp_path, nested):
    torch.manual_seed(0)
    network = convolutional(leaky)
    graph = export.to_nir(network, nested=nested, input_shape=(2, 4, 4))
    export.write(tmp_path / "graph.nir", graph)
    x = torch.rand(3, 2, 4, 4)
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = outputs(export.from_nir(tmp_path / "graph.nir"), x)
    torch.testing.assert_close(found, expected)


def test_large_counts_are_counted_and_runaways_named():
    model = IPVAE(in_features=16, latents=24, init_std=1e-4, clamp=16.0)
    with torch.no_grad():
        model.neuron.mem_init.fill_(11.0)
    x = torch.rand(4, 16)
    row = export.report([], model, x, 3).rows[0]
    expected = model.run(x, 3, record=("spk",), seed=0).spk.detach().sum((0, 2)).mean()
    assert row.spikes == pytest.approx(float(expected), rel=1e-3)
    assert row.spikes > 3 * 24 * 50_000
    runaway = nn.Sequential(nn.Linear(16, 24), snn.Leaky(1.0, threshold=1e-6, init_hidden=True))
    graph = export.to_nir(runaway, "portable")
    assert "ran away" in str(export.report(graph, runaway, 10 * x, 20))


def test_networks_in_double_precision_come_back_in_single():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), poisson(8), nn.Linear(8, 2)).double()
    back = export.from_nir(export.to_nir(network))
    assert back(torch.rand(3, 6, dtype=torch.float64)).dtype == torch.float32


def test_a_reset_that_changes_is_noted_and_the_graph_says_how_it_is_to_be_read():
    zero = nn.Sequential(nn.Linear(6, 8), leaky(reset_mechanism="zero"))
    graph = export.to_nir(zero, "portable")
    assert "its reset 'zero' becomes 'subtract'" in str(graph.metadata["notes"])
    assert export.to_nir(zero).metadata["reset"] == "zero"
    assert export.to_nir(nn.Sequential(nn.Linear(6, 8), leaky())).metadata["reset"] == "none"
    assert "noise" not in graph.metadata


def test_arguments_that_do_not_belong_together_are_refused(overlapping):
    model, x = overlapping
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
        export.report([], model, x, 3).row("mine")


def test_missing_sinabs_says_how_it_is_installed(overlapping, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sinabs.nir", None)
    graph = export.to_nir(overlapping[0], "portable")
    with pytest.raises(ImportError, match=r"pip install --no-deps sinabs"):
        export.in_sinabs(graph)


def test_toolchains_leave_the_random_state_alone(overlapping):
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    model, x = overlapping
    before = torch.random.get_rng_state()
    export.report(export.in_norse(export.to_nir(model, "portable")), model, x, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_foreign_file_is_not_said_to_hold_pickles(tmp_path):
    (tmp_path / "text").write_text("nothing")
    for kind in (export.FixedPoint, export.XyloNetwork):
        with pytest.raises(ValueError, match=r"cannot be read as an \.npz file") as raised:
            kind.load(tmp_path / "text")
        assert "pickle" not in str(raised.value)


@pytest.mark.parametrize("name", ["clamp_table", "exp_table", "log_table"])
def test_tables_that_could_overflow_are_refused(tmp_path, name):
    path = tmp_path / "fixed.npz"
    export.to_fixed_point(IPVAE(16, 8)).save(path)
    content = dict(np.load(path))
    np.savez(path, **{**content, name: content[name] * np.int32(-1000)})
    with pytest.raises(ValueError, match="tables do not fit"):
        export.FixedPoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 1e6 * torch.rand(20, 16)}, "scale data"),
        ({"nan": True}, r"log_bias holds 1 NaN"),
    ],
)
def test_xylo_names_what_the_user_set(change, message):
    torch.manual_seed(0)
    model = IPVAE(16, 24, init_std=0.3)
    if change.pop("nan", False):
        with torch.no_grad():
            model.neuron.log_bias[0] = torch.nan
    samples = change.pop("data", torch.rand(20, 16))
    with pytest.raises(ValueError, match=message):
        export.to_xylo(model, samples, **change)


def test_a_layer_used_twice_is_counted_at_each_place():
    torch.manual_seed(0)
    lin = nn.Linear(12, 12)
    network = nn.Sequential(lin, leaky(0.5), lin)
    rows = metrics.synops(network, torch.rand(4, 12), num_steps=3).rows
    assert [row.layer for row in rows] == ["0 Linear", "1 Leaky", "0 Linear (2)"]
    assert (rows[0].macs, rows[0].synops) == (144, 0)
    assert (rows[2].macs, rows[2].synops) == (0, 12 * rows[1].spikes)


def test_the_command_leaves_nothing_behind_that_failed_and_ignores_no_option(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out.npz"
    quick = ["--iterations", "3", "--batch", "5", "--eval-steps", "3", "--samples", "5"]
    main(["train", "--data", "digits", "--latents", "8", "--out", str(run), "--quiet", *quick])
    command = ["export", str(run), "--out", str(out), "--quiet", "--samples", "5", "--steps", "3"]
    for options, message in (
        (["--to", "xylo", "--seed", "-1"], "seed must be at least 0"),
        (["--to", "nir", "--weight-bits", "3"], "--weight-bits belongs to --to fixed-point"),
        (["--to", "fixed-point", "--form", "exact"], "--form belongs to --to nir"),
        (["--to", "nir", "--reset", "zero"], "--reset belongs to --form portable"),
        (
            ["--to", "nir", "--form", "portable", "--levels", "3"],
            "--levels belongs to --form exact",
        ),
    ):
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert main([*command, "--to", "fixed-point", "--input-bits", "8"]) == 0
    assert export.FixedPoint.load(out).input_bits == 8


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("form", ["exact", "portable"])
def test_a_recurrent_bias_stays_where_poisson_neurons_come_back(form, nested):
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


@pytest.mark.parametrize("name", ["clamp_table", "exp_table", "log_table"])
def test_tables_that_are_no_tables_of_their_functions_are_refused(tmp_path, name):
    path = tmp_path / "fixed.npz"
    export.to_fixed_point(IPVAE(16, 8)).save(path)
    content = dict(np.load(path))
    np.savez(path, **{**content, name: content[name][::-1]})
    with pytest.raises(ValueError, match="tables do not fit"):
        export.FixedPoint.load(path)


def test_a_network_in_double_precision_is_compared_on_single_samples():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), poisson(8), nn.Linear(8, 2)).double()
    row = export.report(export.to_nir(network), network, torch.rand(3, 6), num_steps=5).rows[0]
    assert row.same == 1


def test_a_model_that_has_learned_nothing_is_named_as_such():
    with pytest.raises(ValueError, match="train the model first"):
        export.to_xylo(IPVAE(16, 8, init_std=1e-4), torch.rand(20, 16))
