"""``ipvae-snn export``: the file it writes, the table it prints, and error messages."""

import sys

import numpy as np
import pytest

from ipvae_snn import IPVAE, export
from ipvae_snn.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    command = ["train", "--data", "digits", "--latents", "24", "--steps", "8", "--quiet"]
    recipe = ["--iterations", "60", "--batch", "20", "--samples", "20", "--eval-steps", "10"]
    assert main([*command, *recipe, "--out", str(out)]) == 0
    return out


def exported(run, out, *options):
    quick = ["--samples", "10", "--steps", "20", "--quiet"]
    return main(["export", str(run), "--out", str(out), *quick, *options])


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (["--to", "nir"], "exact graph"),
        (["--to", "nir", "--form", "portable"], "portable graph, subtract reset"),
        (["--to", "nir", "--form", "portable", "--reset", "zero"], "portable graph, zero reset"),
    ],
)
def test_a_graph_is_written_and_compared_with_the_model(run, tmp_path, capsys, options, label):
    pytest.importorskip("nir", reason="the extra nir is not installed")
    out = tmp_path / "graph.nir"
    assert exported(run, out, *options) == 0
    printed = capsys.readouterr().out
    assert label in printed
    assert "stochastic original" in printed
    back, model = export.from_nir(out), IPVAE.load(run / "model.pt")
    assert (back.decoder.weight == model.decoder.weight).all()


def test_a_fixed_point_network_is_written_and_compared_with_the_model(run, tmp_path, capsys):
    out = tmp_path / "fixed.npz"
    options = ["--to", "fixed-point", "--weight-bits", "6", "--emission", "rounded"]
    assert exported(run, out, *options) == 0
    printed = capsys.readouterr().out
    assert "float, rounded" in printed
    assert "fixed point, 6-bit weights, rounded" in printed
    assert export.FixedPoint.load(out).weight_bits == 6


def test_a_xylo_network_is_written_and_compared_with_the_model(run, tmp_path, capsys):
    out = tmp_path / "xylo.npz"
    assert exported(run, out, "--to", "xylo") == 0
    assert "Xylo" in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as content:
        assert {"weights_in", "weights_rec", "threshold"} <= set(content)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "nir", "--samples", "1"], "samples must be at least 2"),
        (["--to", "nir", "--levels", "0"], "levels must be at least 1"),
        (["--to", "fixed-point", "--weight-bits", "1"], "weight_bits"),
        (["--to", "nir", "--data", "nothing.npz"], "nothing.npz"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(run, tmp_path, capsys, options, message):
    assert exported(run, tmp_path / "x", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_overwritten(run, tmp_path, capsys):
    (tmp_path / "existing").write_text("mine")
    assert exported(run, tmp_path / "existing", "--to", "nir") == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "existing").read_text() == "mine"
    assert exported(run, tmp_path / "no" / "folder", "--to", "nir") == 1
    assert "does not exist" in capsys.readouterr().err
    assert exported(tmp_path, tmp_path / "x", "--to", "nir") == 1
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "xylo", "--seed", "-1"], "seed must be at least 0"),
        (["--to", "nir", "--weight-bits", "3"], "--weight-bits belongs to --to fixed-point"),
        (["--to", "fixed-point", "--form", "exact"], "--form belongs to --to nir"),
        (["--to", "nir", "--reset", "zero"], "--reset belongs to --form portable"),
        (
            ["--to", "nir", "--form", "portable", "--levels", "3"],
            "--levels belongs to --form exact",
        ),
    ],
)
def test_an_option_of_another_target_or_form_is_refused(run, tmp_path, capsys, options, message):
    assert exported(run, tmp_path / "x", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_reach_the_target(run, tmp_path):
    out = tmp_path / "fixed.npz"
    assert exported(run, out, "--to", "fixed-point", "--input-bits", "8") == 0
    assert export.FixedPoint.load(out).input_bits == 8


def test_a_missing_toolchain_is_noted_below_the_table(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("nir", reason="the extra nir is not installed")
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    options = ["--to", "nir", "--form", "portable", "--reset", "zero"]
    assert exported(run, tmp_path / "graph.nir", *options) == 0
    assert "not run in the toolchain itself: this needs norse" in capsys.readouterr().out
