"""The command ``ipvae-snn``: demo, train, evaluate."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ipvae_snn import data
from ipvae_snn.runs import TRAIN_PATCHES, RunConfig, evaluate_run, free_folder, train_run
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
A run folder holds model.pt, config.json, history.csv, metrics.json and figures/*.png. It appears
when it is complete; a folder that exists is never touched.
"""
EXAMPLES = """\
examples:
  ipvae-snn demo
  ipvae-snn train --data natural --out runs/natural --iterations 5000
  ipvae-snn train --data path/to/mnist.npz --out runs/mnist
  ipvae-snn evaluate runs/mnist --data path/to/other_digits.npz --steps 1000
"""
# What suits patches and what suits images as they are differs; both are short recipes for a CPU.
PATCH_DEFAULTS: dict[str, Any] = {}
SAMPLE_DEFAULTS: dict[str, Any] = {"steps": 32, "beta": 32.0, "lr": 5e-3, "grad_clip": 3000.0}


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
        commands, "demo", "learn natural image patches in two minutes, and show it", RUN_HELP
    )
    demo.add_argument("--out", type=Path, help="run folder (default: runs/demo, or the next free)")
    _common(demo)

    train = _command(commands, "train", "train on a data set", DATA_HELP + "\n" + RUN_HELP)
    train.add_argument("--data", required=True, help="natural, digits, mnist or a path; see below")
    train.add_argument("--out", type=Path, required=True, help="run folder to make")
    _data_options(train)
    model = train.add_argument_group("model")
    model.add_argument("--latents", type=int, default=512, help="neurons K (default: 512)")
    model.add_argument(
        "--clamp", type=float, default=None, help="largest membrane in nats (default: 5)"
    )
    model.add_argument(
        "--estimator", choices=ESTIMATORS, default="midpoint",
        help="how learning differentiates spike counts (default: midpoint)",
    )  # fmt: skip
    recipe = train.add_argument_group("recipe (defaults in brackets: patches / samples)")
    for name, kind, text in (
        ("steps", int, "timesteps T per sample"),
        ("beta", float, "final weight of the KL"),
        ("iterations", int, "optimizer steps"),
        ("batch", int, "samples per step"),
        ("lr", float, "peak learning rate"),
    ):
        shown = [{**_recipe_defaults(), **part}[name] for part in (PATCH_DEFAULTS, SAMPLE_DEFAULTS)]
        recipe.add_argument(
            f"--{name}", type=kind, default=None, help=f"{text} [{shown[0]:g} / {shown[1]:g}]"
        )
    _common(train)
    _evaluation_options(train, "--eval-steps")

    evaluate = _command(commands, "evaluate", "measure a run on held-out samples", DATA_HELP)
    evaluate.add_argument("run", type=Path, help="run folder of train or demo")
    evaluate.add_argument("--data", required=True, help="natural, digits, mnist or a path")
    evaluate.add_argument(
        "--out", type=Path,
        help="folder for metrics.json and figures (default: a new one in RUN/evaluations)",
    )  # fmt: skip
    _data_options(evaluate)
    _evaluation_options(evaluate, "--steps")
    _common(evaluate)
    return root


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


def _evaluation_options(command: argparse.ArgumentParser, steps_flag: str) -> None:
    command.add_argument(
        steps_flag, dest="eval_steps", type=int, default=1000,
        help="timesteps in the evaluation (default: 1000)",
    )  # fmt: skip
    command.add_argument(
        "--samples", type=int, default=500, help="held-out samples to evaluate (default: 500)"
    )


def _recipe_defaults() -> dict[str, Any]:
    return {f.name: f.default for f in fields(TrainConfig)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        {"demo": _demo, "train": _train, "evaluate": _evaluate}[arguments.command](arguments)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"ipvae-snn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ipvae-snn: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _demo(arguments: argparse.Namespace) -> None:
    out = arguments.out or free_folder(Path("runs") / "demo")
    everything = parser().parse_args(["train", "--data", "natural", "--out", str(out)])
    for name in ("seed", "device", "quiet"):
        setattr(everything, name, getattr(arguments, name))
    _train(everything)


def _train(arguments: argparse.Namespace) -> None:
    _refuse_existing(arguments.out)
    dataset = data.load(
        arguments.data,
        treat=arguments.treat,
        data_dir=arguments.data_dir,
        patches=(TRAIN_PATCHES, max(arguments.samples, 2)),
        seed=arguments.seed,
    )
    print(f"data: {dataset.description}")
    chosen = ("steps", "beta", "iterations", "batch", "lr")
    defaults = PATCH_DEFAULTS if dataset.kind == "patches" else SAMPLE_DEFAULTS
    given = {n: getattr(arguments, n) for n in chosen if getattr(arguments, n) is not None}
    training = TrainConfig(
        **{**defaults, **given},
        seed=arguments.seed,
        device=arguments.device,
        progress=not arguments.quiet,
    )
    model: dict[str, Any] = {
        "latents": arguments.latents,
        "spike_grad": {"name": arguments.estimator},
    }
    if arguments.clamp is not None:
        model["clamp"] = arguments.clamp
    config = RunConfig(
        data={
            "source": str(arguments.data),
            "treat": arguments.treat,
            "data_dir": str(arguments.data_dir),
        },
        model=model,
        training=training,
        eval_steps=arguments.eval_steps,
        eval_samples=arguments.samples,
    )
    train_run(arguments.out, dataset, config, progress=not arguments.quiet)


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        _refuse_existing(arguments.out)
    dataset = data.load(
        arguments.data,
        treat=arguments.treat,
        data_dir=arguments.data_dir,
        patches=(0, max(arguments.samples, 2)),
        seed=arguments.seed,
    )
    print(f"data: {dataset.description}")
    name = Path(arguments.data).stem or "data"
    evaluate_run(
        arguments.run,
        dataset,
        arguments.out or free_folder(arguments.run / "evaluations" / name),
        num_steps=arguments.eval_steps,
        samples=arguments.samples,
        seed=arguments.seed,
        device=arguments.device,
        progress=not arguments.quiet,
    )


def _refuse_existing(out: Path) -> None:
    """Say so before the work, not after it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already: name another folder, or remove it first")


if __name__ == "__main__":
    sys.exit(main())
