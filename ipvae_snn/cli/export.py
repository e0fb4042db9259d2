"""The command ``export``: a run's model for a toolchain, and what it costs."""

import argparse
from pathlib import Path
from typing import Any

from ipvae_snn import data, export
from ipvae_snn.checks import require_whole
from ipvae_snn.model import IPVAE
from ipvae_snn.runs import open_run, pick

CALIBRATION_SAMPLES = 100
TARGETS = ("nir", "xylo", "fixed-point")


def export_run(arguments: argparse.Namespace) -> None:
    """Write the model of a run in another form, and print the fidelity table."""
    out = _free_file(arguments.out)
    require_whole(arguments.samples, "samples", least=2)
    require_whole(arguments.steps, "steps")
    model, config = open_run(arguments.run)
    trained = config["data"]
    dataset = data.load(
        arguments.data or trained["source"],
        treat=arguments.treat or trained.get("treat", "auto"),
        data_dir=arguments.data_dir or trained.get("data_dir", "."),
        patches=(CALIBRATION_SAMPLES, arguments.samples),
        seed=config["training"]["seed"],
    )
    if dataset.train.shape[1] != model.in_features:
        raise ValueError(
            f"{arguments.run} takes inputs of {model.in_features} values, these have "
            f"{dataset.train.shape[1]}: give it data of the kind it was trained on (--data, --as)"
        )
    seed, progress = arguments.seed, not arguments.quiet
    known = pick(dataset.train, CALIBRATION_SAMPLES, seed)
    x = pick(dataset.test, arguments.samples, seed)
    forms = {"nir": _nir, "xylo": _xylo, "fixed-point": _fixed_point}
    compared = forms[arguments.to](model, known, arguments, out)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
    print(f"comparing on {dataset.description}")
    print(export.report(compared, model, x, arguments.steps, seed=seed, progress=progress))


def _nir(model: IPVAE, known: Any, arguments: argparse.Namespace, out: Path) -> list[Any]:
    portable = None
    if arguments.form == "portable":
        portable = export.calibrate(model, known, arguments.reset, progress=not arguments.quiet)
    graph = export.to_nir(model, arguments.form, levels=arguments.levels, portable=portable)
    export.write(out, graph)
    compared = [export.read(out)]
    if arguments.form == "portable":
        run_in = export.in_norse if arguments.reset == "zero" else export.in_sinabs
        try:
            compared.append(run_in(graph))
        except ImportError as error:
            print(f"not run in the toolchain: {error}")
    return compared


def _xylo(model: IPVAE, known: Any, arguments: argparse.Namespace, out: Path) -> list[Any]:
    network = export.to_xylo(model, known)
    network.save(out)
    return [type(network).load(out)]


def _fixed_point(model: IPVAE, known: Any, arguments: argparse.Namespace, out: Path) -> list[Any]:
    fixed = export.to_fixed_point(
        model, arguments.weight_bits, arguments.state_bits, emission=arguments.emission
    )
    fixed.save(out)
    compared: list[Any] = [type(fixed).load(out)]
    if arguments.emission == "rounded":
        compared.insert(0, export.rounded_source(model))
    return compared


def _free_file(path: Path) -> Path:
    """``path``, unless something is there: nothing is ever overwritten."""
    if path.exists():
        raise ValueError(f"{path} exists already: name another file, or remove it first")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist")
    return path
