"""The command ``export``: a run's model for a toolchain, and what it costs."""

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from ipvae_snn import data, export
from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn._utils.files import atomic_write, require_free_file
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.runs import open_run, pick, read

CALIBRATION_SAMPLES = 100
TARGETS: dict[str, dict[str, Any]] = {
    "nir": {"form": "exact", "reset": "subtract", "levels": export.LEVELS},
    "xylo": {"gain": 1.0, "threshold": 2.5, "input_as": "spikes"},
    "fixed-point": {
        "weight_bits": 8,
        "state_bits": 16,
        "emission": "rounded",
        "input_bits": 12,
        "input_range": 8.0,
    },
}
"""What can be written, and the options of each with their defaults."""


def export_run(arguments: argparse.Namespace) -> None:
    """Write the model of a run in another form, and print the fidelity table."""
    options = _options(arguments)
    out = arguments.out
    require_free_file(out)
    require_integer(arguments.samples, "samples", least=2)
    require_integer(arguments.steps, "steps")
    seed, progress = require_seed(arguments.seed), not arguments.quiet
    model, config = open_run(arguments.run)
    trained = config["data"]
    dataset = data.load(
        arguments.data or trained["source"],
        treat=arguments.treat or trained.get("treat", "auto"),
        data_dir=arguments.data_dir or trained.get("data_dir", "."),
        patches=(CALIBRATION_SAMPLES, arguments.samples),
        seed=config["training"]["seed"],
    )
    values = dataset.shape[0] * dataset.shape[1]
    if values != model.in_features:
        raise ValueError(
            f"{arguments.run} takes inputs of {model.in_features} values, these have "
            f"{values}: give it data of the kind it was trained on (--data, --as)"
        )
    known = read(pick(dataset.train, CALIBRATION_SAMPLES, seed))
    x = read(pick(dataset.test, arguments.samples, seed))
    forms = {"nir": _nir, "xylo": _xylo, "fixed-point": _fixed_point}
    with atomic_write(out) as part:  # a table that fails leaves no file behind
        compared = forms[arguments.to](model, known, options, part, progress)
        result = export.report(compared, model, x, arguments.steps, seed=seed, progress=progress)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB; compared on {dataset.description}")
    print(result)


def _nir(
    model: IPVAE, known: Tensor, options: dict[str, Any], part: Path, progress: bool
) -> list[Any]:
    form, reset, portable = options["form"], options["reset"], None
    if form == "portable":
        portable = export.calibrate(model, known, reset, progress=progress)
    graph = export.to_nir(model, form, levels=options["levels"], portable=portable)
    export.write(part, graph)
    compared = [export.read(part)]
    if form == "portable":
        run_in = export.in_norse if reset == "zero" else export.in_sinabs
        try:
            compared.append(run_in(graph))
        except ImportError as error:
            print(f"not run in the toolchain itself: {error}")
    return compared


def _xylo(
    model: IPVAE, known: Tensor, options: dict[str, Any], part: Path, progress: bool
) -> list[Any]:
    export.to_xylo(model, known, **options).save(part)
    return [export.XyloNetwork.load(part)]


def _fixed_point(
    model: IPVAE, known: Tensor, options: dict[str, Any], part: Path, progress: bool
) -> list[Any]:
    export.to_fixed_point(model, **options).save(part)
    compared: list[Any] = [export.FixedPoint.load(part)]
    if options["emission"] == "rounded":
        compared.insert(0, export.rounded_source(model))
    return compared


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of what is to be written; ``ValueError`` where one of another was given."""
    for target, defaults in TARGETS.items():
        given = [name for name in defaults if getattr(arguments, name) is not None]
        if given and target != arguments.to:
            raise ValueError(
                f"--{given[0].replace('_', '-')} belongs to --to {target}, not to "
                f"--to {arguments.to}: leave it out"
            )
    if arguments.to == "nir":
        other, form = ("levels", "exact") if arguments.form == "portable" else ("reset", "portable")
        if getattr(arguments, other) is not None:
            raise ValueError(f"--{other} belongs to --form {form}: leave it out")
    chosen = {name: getattr(arguments, name) for name in TARGETS[arguments.to]}
    return {n: TARGETS[arguments.to][n] if v is None else v for n, v in chosen.items()}
