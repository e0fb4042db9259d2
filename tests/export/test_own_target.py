"""A user's export target: registering a dataclass gives the command its name and flags."""

import copy
import inspect
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE, export
from ipvae_snn.cli import main


@dataclass
class Quantised:
    """Quantised decoder weights, in .npz.

    Attributes:
        bits: bits of a weight, sign included.
        input_range: largest input. Not used by this format.
    """

    bits: int = 8
    input_range: float = 1.0

    def __post_init__(self):
        if self.bits < 2:
            raise ValueError(f"bits must be at least 2, got {self.bits}")

    def write(self, model, calibration, path: Path, *, progress):
        constants = export.linear_gaussian(model)
        unit = np.abs(constants.weight).max() / (2 ** (self.bits - 1) - 1)
        integers = np.rint(constants.weight / unit).astype(np.int32)
        with path.open("wb") as file:
            np.savez(file, weight=integers, unit=unit, mean=calibration.mean(0))
        restored = copy.deepcopy(model)
        with torch.no_grad():
            restored.decoder.weight.copy_(torch.from_numpy(integers * unit))
        return [export.ModelSource(restored, f"decoder of {self.bits} bits")]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Registers the target for the tests of this module only."""
    monkeypatch.setattr(export.TARGETS, "_classes", dict(export.TARGETS))
    assert export.TARGETS.register("quantised")(Quantised) is Quantised


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    np.savez(folder / "images.npz", x=np.random.default_rng(0).random((30, 4, 4), np.float32))
    train = ["train", "--data", str(folder / "images.npz"), "--latents", "6", "--steps", "4"]
    quick = ["--iterations", "3", "--batch", "5", "--samples", "3", "--eval-steps", "3", "--quiet"]
    assert main([*train, *quick, "--out", str(folder / "run")]) == 0
    return folder / "run"


def exported(run, out, *options):
    quick = ["--samples", "3", "--steps", "5", "--quiet"]
    return main(["export", str(run), "--out", str(out), *quick, *options])


def test_a_target_takes_at_most_40_lines():
    assert len(inspect.getsource(Quantised).splitlines()) <= 40
    assert isinstance(Quantised(), export.Target)


def test_the_command_writes_it_and_compares_it(run, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert exported(run, out, "--to", "quantised", "--bits", "4") == 0
    assert "decoder of 4 bits" in capsys.readouterr().out
    weight = IPVAE.load(run / "model.pt").weight.detach()
    with np.load(out) as content:
        assert np.abs(content["weight"]).max() == 7
        assert np.abs(content["weight"] * content["unit"] - weight.numpy()).max() <= (
            content["unit"] / 2 + 1e-6
        )
        assert content["mean"].shape == (16,)


def test_the_help_has_its_docstring(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "quantised Quantised decoder weights, in .npz." in text
    assert "--bits BITS bits of a weight, sign included (default: 8)" in text


def test_an_option_of_the_same_name_is_one_flag(run, tmp_path, capsys):
    for target in ("quantised", "fixed-point"):
        out = tmp_path / target
        assert exported(run, out, "--to", target, "--input-range", "4") == 0
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--to fixed-point or quantised: --input-range INPUT_RANGE" in text
    assert "(default: 8 / 1)" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "quantised", "--bits", "1"], "bits must be at least 2"),
        (["--to", "quantised", "--gain", "2"], "--gain belongs to --to xylo, not to --to quant"),
        (["--to", "nir", "--bits", "4"], "--bits belongs to --to quantised, not to --to nir"),
        (["--to", "nir", "--input-range", "4"], "--input-range belongs to --to fixed-point"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(run, tmp_path, capsys, options, message):
    assert exported(run, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "default", "where"),
    [("steps", 3, "the command"), ("threshold", "high", "--to xylo")],
)
def test_an_option_with_two_meanings_stops_its_command_only(run, capsys, name, default, where):
    clash = make_dataclass(
        "Clash", [(name, type(default), field(default=default))], namespace={"write": print}
    )
    export.TARGETS.register("clash")(clash)
    assert main(["export", "--help"]) == 1
    assert capsys.readouterr().err == (
        f"ipvae-snn: the option {name!r} of --to clash (Clash) already means something else for "
        f"{where}: rename it\n"
    )
    assert main(["check", str(run), "--steps", "80", "--samples", "3"]) in (0, 1)
    assert "silence" in capsys.readouterr().out


def test_a_name_that_is_not_registered_tells_how_to_register_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        exported(tmp_path, tmp_path / "out", "--to", "mine")
    told = capsys.readouterr().err
    assert "invalid choice: 'mine'" in told
    assert "end it with sys.exit(ipvae_snn.cli.main()) and run that file" in told


def test_an_option_without_a_type_is_named(run, tmp_path, capsys):
    class Untyped:
        def __init__(self, bits=8): ...

        write = print

    export.TARGETS.register("untyped")(Untyped)
    assert exported(run, tmp_path / "out", "--to", "untyped", "--bits", "4") == 1
    assert "bits of --to untyped is no flag: annotate it with int," in capsys.readouterr().err


def write_elsewhere(self, model, calibration, path, *, progress):
    np.savez(path, x=np.zeros(3))  # appends .npz to other names
    return []


def write_nothing(self, model, calibration, path, *, progress):
    path.touch()
    return []


def return_nothing(self, model, calibration, path, *, progress):
    path.write_text("x")


def test_the_path_given_to_a_target_has_the_name_that_was_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Quantised, "write", write_elsewhere)
    assert exported(run, tmp_path / "a.npz", "--to", "quantised") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as content:
        assert content["x"].shape == (3,)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_elsewhere, "left the file it was asked for, out, unwritten, it wrote out.npz"),
        (write_nothing, "write() of Quantised left the file it was asked for, out, unwritten"),
        (return_nothing, "must return a list of what to compare with the model, [] for nothing"),
    ],
)
def test_a_target_that_breaks_its_contract_is_refused(
    run, tmp_path, capsys, monkeypatch, write, message
):
    monkeypatch.setattr(Quantised, "write", write)
    assert exported(run, tmp_path / "out", "--to", "quantised") == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_target_without_write_is_refused():
    with pytest.raises(TypeError, match="write"):
        export.TARGETS.register("writeless")(make_dataclass("Writeless", []))
    assert "writeless" not in export.TARGETS


def test_a_target_round_trips_through_plain_data():
    config = export.TARGETS.to_config(export.TARGETS["nir"](form="portable", reset="zero"))
    assert config == {"name": "nir", "form": "portable", "reset": "zero", "levels": None}
    assert export.TARGETS.from_config(config).reset == "zero"
    with pytest.raises(ValueError, match="unknown export target 'other': expected one of nir"):
        export.TARGETS.find("other")
