"""The command ``ipvae-snn``: demo, train, evaluate."""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ipvae_snn import bench, data
from ipvae_snn.checks import require_device, require_number, require_whole
from ipvae_snn.files import require_free_folder
from ipvae_snn.functional import MEM_FLOOR
from ipvae_snn.kernels.job import PRECISIONS
from ipvae_snn.neurons import CLAMP, CLAMP_MAX
from ipvae_snn.runs import (
    TRAIN_PATCHES,
    RunConfig,
    evaluate_run,
    free_folder,
    read_config,
    train_run,
)
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
when it is complete; a folder that holds anything is never touched.
"""
BENCH_HELP = """\
Writes bench.json and bench.png. Each time is measured beside the dense matrix products of the
algorithm alone (the floor) and beside plain PyTorch, interleaved in one run: compare the ratios,
not the times of different machines or runs.
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
        commands, "demo", "learn natural image patches in half a minute, and show it", RUN_HELP
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
        "--clamp", type=float, default=CLAMP, help=f"largest membrane in nats (default: {CLAMP:g})"
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
    _precision(train)
    _common(train)
    _evaluation_options(train, "--eval-steps")

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


def _evaluation_options(command: argparse.ArgumentParser, steps_flag: str) -> None:
    command.add_argument(
        steps_flag, dest="eval_steps", type=int, default=1000,
        help="timesteps in the evaluation (default: 1000)",
    )  # fmt: skip
    command.add_argument(
        "--samples", type=int, default=500, help="samples to evaluate (default: 500)"
    )


def _recipe_defaults() -> dict[str, Any]:
    return {f.name: f.default for f in fields(TrainConfig)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without R² still gets its table
    arguments = parser().parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        print(f"ipvae-snn: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:  # torch says so when memory runs out
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"ipvae-snn: torch gave up: {reason}", file=sys.stderr)
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
    require_free_folder(arguments.out)
    _run_config(arguments, "samples")  # options are refused before data is read
    dataset = data.load(
        arguments.data,
        treat=arguments.treat,
        data_dir=arguments.data_dir,
        patches=(TRAIN_PATCHES, arguments.samples),
        seed=arguments.seed,
    )
    print(f"data: {dataset.description}")
    config = _run_config(arguments, dataset.kind)
    train_run(arguments.out, dataset, config, progress=not arguments.quiet)


def _resolved(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _run_config(arguments: argparse.Namespace, kind: str) -> RunConfig:
    chosen = ("steps", "beta", "iterations", "batch", "lr")
    defaults = PATCH_DEFAULTS if kind == "patches" else SAMPLE_DEFAULTS
    given = {n: getattr(arguments, n) for n in chosen if getattr(arguments, n) is not None}
    return RunConfig(
        data={
            "source": str(arguments.data),
            "treat": arguments.treat,
            "data_dir": str(arguments.data_dir),
        },
        model={
            "latents": require_whole(arguments.latents, "latents"),
            "clamp": require_number(arguments.clamp, "clamp", MEM_FLOOR + 1, CLAMP_MAX),
            "spike_grad": {"name": arguments.estimator},
        },
        training=TrainConfig(
            **{**defaults, **given},
            seed=arguments.seed,
            device=str(require_device(arguments.device)),
            precision=arguments.precision,
            progress=not arguments.quiet,
        ),
        eval_steps=arguments.eval_steps,
        eval_samples=arguments.samples,
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        require_free_folder(arguments.out)
    require_whole(arguments.eval_steps, "steps")
    require_whole(arguments.samples, "samples", least=2)
    trained = read_config(arguments.run)
    # Of the data it learned from, a run may only see what was held out then.
    same = _resolved(arguments.data) == _resolved(trained["data"]["source"])
    dataset = data.load(
        arguments.data,
        treat=arguments.treat,
        data_dir=arguments.data_dir,
        patches=(0, arguments.samples),
        seed=trained["training"]["seed"],
        hold_out=same,
    )
    print(f"data: {dataset.description}")
    name = Path(arguments.data).resolve().stem
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


def _bench(arguments: argparse.Namespace) -> None:
    out = arguments.out or free_folder(Path("runs") / "bench")
    require_free_folder(out)
    if arguments.threads is not None:
        torch.set_num_threads(require_whole(arguments.threads, "--threads"))
    result = bench.measure(
        device=arguments.device, quick=arguments.quick, precision=arguments.precision,
        progress=not arguments.quiet,
    )  # fmt: skip
    print(bench.table(result))
    bench.save(result, out)
    print(f"bench.json and bench.png are in {out}")


COMMANDS = {"demo": _demo, "train": _train, "evaluate": _evaluate, "bench": _bench}


if __name__ == "__main__":
    sys.exit(main())
