"""The command ``export``: writes the model of a run for a toolchain, and measures fidelity."""

import argparse
import inspect

from ipvae_snn import data, export
from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn._utils.files import atomic_write, require_free_file
from ipvae_snn._utils.options import Family, options_of
from ipvae_snn.runs import open_run, pick, read

CALIBRATION_SAMPLES = 100


def export_run(arguments: argparse.Namespace) -> None:
    """Export the model of a run, and print the fidelity table."""
    target = export.TARGETS.find(arguments.to)(**targets().given(arguments, arguments.to))
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
    calibration = read(pick(dataset.train, CALIBRATION_SAMPLES, seed))
    x = read(pick(dataset.test, arguments.samples, seed))
    with atomic_write(out) as temporary:  # a report that fails leaves no file behind
        exported = target.write(model, calibration, temporary, progress=progress)
        result = export.report(exported, model, x, arguments.steps, seed=seed, progress=progress)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB; compared on {dataset.description}")
    print(result)


def targets() -> Family:
    """The export targets and their options."""
    return Family("--to", {name: options_of(cls) for name, cls in export.TARGETS.items()})


def target_help() -> str:
    """A line for each target: its name, and the first line of its docstring."""
    docs = {name: str(inspect.getdoc(target)) for name, target in export.TARGETS.items()}
    return "".join(f"{name:<12} {doc.splitlines()[0]}\n" for name, doc in docs.items())
