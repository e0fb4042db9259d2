"""The arguments of the command line, and its help."""

import argparse
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn._utils.options import Family, Option, add_flags, options_of
from ipvae_snn.cli.export import target_help, targets
from ipvae_snn.export import TARGETS
from ipvae_snn.kernels.spec import PRECISIONS
from ipvae_snn.models import MODELS
from ipvae_snn.neurons import IPVAENeuron
from ipvae_snn.surrogate import ESTIMATORS
from ipvae_snn.training import TrainConfig
from ipvae_snn.version import __version__

DATA_HELP = """\
data sets:
  natural   photographs that scikit-learn and scikit-image carry, as whitened patches
  digits    the 8x8 handwritten digits that scikit-learn carries
  mnist     mnist.npz, or MNIST's four IDX files (gzipped or not), in --data-dir
  PATH      a folder of images (with subfolders train and test, or split by image here), a .npy or
            .npz of arrays (N, H, W), (N, H, W, colours) or flat (N, M), or a folder of IDX files
Images up to 64x64 pixels are samples as they are, in [0, 1]; larger ones are cut into whitened
16x16 patches. The run says which; --as overrides it. Nothing is ever downloaded.
"""
RUN_HELP = """\
A run folder holds model.pt, config.json, history.csv, metrics.json and figures/*.png; while it is
being made, config.json and checkpoint.pt. A folder that holds anything is never touched, but to go
on with it.
"""
BENCH_HELP = """\
Writes bench.json and bench.png. Each time is measured beside the dense matrix products of the
algorithm alone (the floor) and beside plain PyTorch, interleaved in one run: compare the ratios,
not the times of different machines or runs.
"""
CHECK_HELP = """\
Each finding has a figure, a verdict and, where it is not healthy, advice; one that another explains
says which. Ends with exit status 1 if there is a problem.
"""
REPORT_HELP = """\
Writes RUN/report.html: summary, findings, pictures, and a few samples to step through timestep by
timestep. It holds all it shows, opens from disk, and asks the network for nothing. An older report
is replaced.
"""
EXPORT_HELP = """\
Ends with the fidelity table: the model and its exported form on the same data at the same steps.
A file that exists is never overwritten.
"""
WITH_RESUME = {
    "data", "data_dir", "device", "lr", "checkpoint_every", "workers", "quiet",
}  # fmt: skip
"""Options of ``train`` that may be others when a run goes on."""
EXAMPLES = """\
examples:
  ipvae-snn demo
  ipvae-snn train --data natural --out runs/natural --iterations 5000
  ipvae-snn train --resume runs/natural
  torchrun --nproc-per-node 2 -m ipvae_snn.cli train --data natural --out runs/two
  ipvae-snn train --data path/to/mnist.npz --out runs/mnist
  ipvae-snn export runs/natural --to nir --form portable --reset zero --out natural.nir
  ipvae-snn check runs/natural
  ipvae-snn report runs/natural
  ipvae-snn evaluate runs/mnist --data path/to/other_digits.npz --steps 1000
"""
# What suits patches and what suits images as they are differs; both are short recipes for a CPU.
KIND_DEFAULTS: dict[str, dict[str, Any]] = {
    "patches": {},
    "samples": {"steps": 32, "beta": 32.0, "lr": 5e-3, "grad_clip": 3000.0},
}


def recipe_options() -> list[Option]:
    """What a training can be told: the fields of its configuration."""
    return options_of(TrainConfig, skip=("seed", "device", "progress"))


def models() -> Family:
    """The models that can be trained, and their options; β is that of the recipe."""
    skip = ("spike_grad", *(option.name for option in recipe_options()))
    options = {n: options_of(cls, skip=skip, docs=[IPVAENeuron]) for n, cls in MODELS.items()}
    return Family("--model", options)


def parser() -> argparse.ArgumentParser:
    """The command line and its help."""
    root = argparse.ArgumentParser(
        prog="ipvae-snn",
        description="Learn a sparse spiking code of images with the iterative Poisson VAE.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"ipvae-snn {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(
        commands, "demo", "learn natural image patches in half a minute, and show it", RUN_HELP
    )
    demo.add_argument("--out", type=Path, help="run folder (default: runs/demo, or the next free)")
    _common(demo)

    train = _command(commands, "train", "train on a data set", DATA_HELP + "\n" + RUN_HELP)
    train.add_argument("--data", help="natural, digits, mnist or a path; see below")
    start = train.add_mutually_exclusive_group(required=True)
    start.add_argument("--out", type=Path, help="run folder to make")
    start.add_argument(
        "--resume", type=Path, metavar="RUN",
        help="go on with a run that was interrupted, from its last checkpoint; of the other "
        "options it takes "
        + ", ".join(f"--{name.replace('_', '-')}" for name in sorted(WITH_RESUME)),
    )  # fmt: skip
    _data_options(train)
    train.add_argument(
        "--stream", action="store_const", const=True, default=None,
        help="read samples from disk batch by batch (default: where they take more than 1 GiB)",
    )  # fmt: skip
    train.add_argument(
        "--workers", type=int, default=0, help="processes that read streamed samples (default: 0)"
    )
    model = train.add_argument_group("model")
    model.add_argument(
        "--model", choices=MODELS, default="ipvae", help="which one (default: ipvae)"
    )
    model.add_argument("--latents", type=int, default=512, help="neurons K (default: 512)")
    model.add_argument(
        "--estimator", choices=ESTIMATORS, default="midpoint",
        help="how learning differentiates spike counts (default: midpoint)",
    )  # fmt: skip
    recipe = train.add_argument_group("recipe (defaults of an ipvae: patches / samples)")
    for option in recipe_options():
        defaults = {"patches": option.default, "samples": option.default}
        for kind, own in KIND_DEFAULTS.items():
            defaults[kind] = own.get(option.name, option.default)
        shown = " / ".join(f"{value}" for value in dict.fromkeys(defaults.values()))
        add_flags(recipe, [option._replace(default=shown)])
    _common(train)
    _evaluation_options(train, "--eval-steps")
    models().add_flags(train)
    _leave_defaults_open(train)

    evaluate = _command(commands, "evaluate", "measure a run on samples it has not seen", DATA_HELP)
    evaluate.add_argument("run", type=Path, help="run folder of train or demo")
    evaluate.add_argument("--data", required=True, help="natural, digits, mnist or a path")
    evaluate.add_argument(
        "--out", type=Path,
        help="folder for metrics.json and figures (default: a new one in RUN/evaluations)",
    )  # fmt: skip
    _data_options(evaluate)
    _evaluation_options(evaluate, "--steps")
    _common(evaluate)

    for name, text, epilog, steps in (
        ("check", "look for the signatures of a model that went wrong", CHECK_HELP, 200),
        ("report", "write a run as one page to look at", REPORT_HELP, 120),
    ):
        look = _command(commands, name, text, epilog)
        look.add_argument("run", type=Path, help="run folder of train or demo")
        look.add_argument("--data", help="data set (default: what the run held out)")
        _data_options(look)
        _evaluation_options(look, "--steps", steps=steps, samples=200)
        _common(look)

    export = _command(
        commands,
        "export",
        "export a run to a neuromorphic toolchain, and measure the fidelity",
        f"{target_help()}\n{EXPORT_HELP}",
    )
    export.add_argument("run", type=Path, help="run folder of train or demo")
    export.add_argument("--to", choices=TARGETS, required=True, help="what to write; see below")
    export.add_argument("--out", type=Path, required=True, help="file to make")
    compared = export.add_argument_group("what the fidelity is measured on")
    compared.add_argument("--data", help="data set (default: what the run held out)")
    compared.add_argument("--as", dest="treat", choices=data.TREATMENTS, help="see train --help")
    compared.add_argument("--data-dir", type=Path, help="where mnist lies")
    compared.add_argument("--samples", type=int, default=100, help="samples (default: 100)")
    compared.add_argument("--steps", type=int, default=256, help="timesteps (default: 256)")
    export.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    export.add_argument("--quiet", action="store_true", help="no progress bars")
    targets().add_flags(export)

    bench = _command(
        commands, "bench", "measure how fast this machine runs the network", BENCH_HELP
    )
    bench.add_argument("--out", type=Path, help="folder to make (default: runs/bench, or the next)")
    bench.add_argument("--quick", action="store_true", help="fewer and smaller shapes")
    bench.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    bench.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    _precision(bench)
    bench.add_argument("--quiet", action="store_true", help="no progress bar")
    return root


def _leave_defaults_open(command: argparse.ArgumentParser) -> None:
    """What was not given is None, and ``defaults`` has what it stands for: a run that goes on has
    options of its own, and must be told what was given."""
    names = [a.dest for a in command._actions if a.dest not in ("help", "out", "resume")]
    defaults = {name: command.get_default(name) for name in names}
    command.set_defaults(**dict.fromkeys(names), defaults=defaults)


def _precision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--precision", choices=PRECISIONS, default="float32",
        help="of the products with the lateral weights (default: float32)",
    )  # fmt: skip


def _command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def _data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--as", dest="treat", choices=data.TREATMENTS, default="auto",
        help="take images whole, or cut patches (default: by their size)",
    )  # fmt: skip
    command.add_argument(
        "--data-dir", type=Path, default=Path("."), help="where mnist lies (default: here)"
    )


def _evaluation_options(
    command: argparse.ArgumentParser, steps_flag: str, steps: int = 1000, samples: int = 500
) -> None:
    command.add_argument(
        steps_flag, dest="eval_steps", type=int, default=steps,
        help=f"timesteps in the evaluation (default: {steps})",
    )  # fmt: skip
    command.add_argument(
        "--samples", type=int, default=samples, help=f"samples to evaluate (default: {samples})"
    )
