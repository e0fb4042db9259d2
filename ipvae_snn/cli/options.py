"""The arguments of the command line, and its help."""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from ipvae_snn import bench, data
from ipvae_snn._utils.options import Family, Option, add_flags, options_of
from ipvae_snn.cli.export import target_help, targets
from ipvae_snn.export import TARGETS
from ipvae_snn.models import MODELS
from ipvae_snn.neurons import IPVAENeuron
from ipvae_snn.recipes import RECIPES
from ipvae_snn.runs import VALIDATION
from ipvae_snn.surrogate import ESTIMATORS
from ipvae_snn.training import TrainConfig, tune
from ipvae_snn.version import __version__

DATA_HELP = """\
data sets:
  natural   photographs from scikit-learn and scikit-image, as whitened patches
  digits    8x8 handwritten digits from scikit-learn
  mnist     mnist.npz or the four IDX files of MNIST (gzipped or not), in --data-dir
  PATH      a folder of images (with subfolders train and test, else split at random), a .npy or
            .npz of arrays (N, H, W), (N, H, W, colours) or flat (N, M), a folder of IDX files, or
            one of them
Images up to 64x64 pixels are samples in [0, 1]; larger ones are cut into whitened 16x16 patches.
The command prints which of the two; --as overrides it. Nothing is downloaded.
"""
AXIS_HELP = (
    "axis of an array that counts the images, where its shape leaves it open: 0 for (N, H, W), -1 "
    "for (H, W, N)"
)
RUN_HELP = """\
A complete run folder holds model.pt, config.json, history.csv, metrics.json and figures/*.png;
during training it holds config.json, checkpoint.pt and figures/training.png, which is redrawn
every few seconds. Files are never overwritten: --out must be a new or empty folder, and --resume
completes an interrupted run.
"""
BENCH_HELP = """\
Writes bench.json and bench.png. Each measurement is interleaved with two references, the dense
matrix products alone (the floor) and plain PyTorch: compare the ratios, not the times of different
machines or runs.
"""
CHECK_HELP = """\
Prints findings, each with a measured figure and a verdict, and with advice or its cause if it is
not healthy. The exit status is 1 if there is a problem.
"""
REPORT_HELP = """\
Writes RUN/report.html: metrics, findings, figures, and a few samples to step through timestep by
timestep. The page is self-contained: it opens from disk and loads nothing from the network. An
older report is replaced.
"""
EXPORT_HELP = """\
Prints a fidelity table: metrics of the model and of its exported form, on the same data and after
the same number of timesteps. An existing file is never overwritten.
"""
TUNE_HELP = """\
Sets the threshold, gain, step size, clamp and fineness of the counts of a trained ipvae, by
measuring candidates on --samples of the data it learned from, and the result on as many others;
held-out samples are evaluated once, at the end. Writes a run folder of its own, with tune.json and
figures/tuning.png; RUN stays as it is.
"""
ENCODE_HELP = """\
Writes the counts of the last timestep as .npz, and a picture of its name: original, reconstructions
over time, spikes, their orientation. Prints PSNR and SSIM in pixels, active neurons, spikes and
bits per pixel; bits are the entropy of the counts, each feature with a table of its own.
"""
SAMPLE_HELP = """\
Fits a prior to the codes of training samples, of each label its own, and draws from it. Writes x,
spk and label of the draws as .npz, and a picture of its name: samples of the data, and draws.
"""
IMPUTE_HELP = """\
Infers from what was seen, and writes x (filled in), mean, low and high as .npz, and a picture of
its name. NaN in --values were not seen; of other samples, --missing or --block says what to hide,
and the table how well it was found. Intervals are calibrated on seen values that are hidden first.
"""
STREAM_HELP = """\
Writes stream.json and stream.png, the error of each sample as it comes. With --learn the model
learns from it, by the local rule, and is written as model.pt; a copy that does not is shown the
same. RUN stays as it is.
"""
RESUMABLE = ("checkpoint_every", "data", "data_dir", "device", "lr", "quiet", "workers")
"""Options of ``train`` that may be given with ``--resume``."""
EXAMPLES = """\
examples:
  ipvae-snn demo
  ipvae-snn train --data natural --out runs/natural --budget 5min
  ipvae-snn train --resume runs/natural
  torchrun --nproc-per-node 2 -m ipvae_snn.cli train --data natural --out runs/two
  ipvae-snn train --data path/to/mnist.npz --out runs/mnist
  ipvae-snn export runs/natural --to nir --form portable --reset zero --out natural.nir
  ipvae-snn tune runs/natural --spikes-per-sample 300
  ipvae-snn train --data path/to/photos --decoder conv --out runs/photos
  ipvae-snn encode runs/photos photo.jpg --out spikes.npz
  ipvae-snn decode runs/photos spikes.npz --out decoded.png
  ipvae-snn sample runs/mnist --label 3 --out threes.npz
  ipvae-snn impute runs/natural --missing 0.5 --out filled.npz
  ipvae-snn stream runs/mnist --data path/to/letters.npz --learn
  ipvae-snn check runs/natural
  ipvae-snn report runs/natural
  ipvae-snn evaluate runs/mnist --data path/to/other_digits.npz --steps 1000
"""
BUDGET_HELP = (
    "time to train for, such as 90s, 5min or 2h, in place of --iterations: a copy of the model "
    "tells how many fit. Data are read before, evaluation and figures come after"
)


def recipe_help() -> str:
    """The recipes and what they set, for the end of the help."""
    lines = ["recipes, and what they set in place of the defaults above:"]
    for recipe in RECIPES.values():
        values = {**recipe.training, **recipe.options}.items()
        stated = ", ".join(_as_flag(name, value) for name, value in values) or "nothing"
        lines.append(
            textwrap.fill(
                f"{recipe.about}: {stated}",
                width=98,
                initial_indent=f"  {recipe.name:<19}",
                subsequent_indent=" " * 21,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def _as_flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"no-{flag}"
    return f"{flag} {value}"


def training_options() -> list[Option]:
    """The fields of ``TrainConfig`` that are flags of ``train`` under their own names.

    ``missing`` is for Python alone: files with NaN are refused.
    """
    return options_of(TrainConfig, skip=("seed", "device", "progress", "missing"))


def models() -> Family:
    """The models that can be trained, and their options; β is an option of the training."""
    skip = ("spike_grad", *(option.name for option in training_options()))
    return Family("--model", MODELS, skip=skip, docs=[IPVAENeuron])


def estimators() -> Family:
    """The estimators, and their options but the temperature, which the training anneals.

    An option that is called like one of the training or of a model can be given in Python only.
    """
    taken = [*training_options(), *(o for options in models().options.values() for o in options)]
    skip = ("temp", "generator", *(option.name for option in taken))
    return Family("--estimator", ESTIMATORS, skip=skip)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if re.match("argument --(model|to|estimator): invalid choice", message):
            message += (
                "\nIf it is your own, import the file that registers it: end it with "
                "sys.exit(ipvae_snn.cli.main()) and run that file"
            )
        super().error(message)


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line and its help.

    Args:
        command: the command that will run. The flags of models and targets, which may clash, are
            made for it alone; ``None``: for all.
    """
    root = _Parser(
        prog="ipvae-snn",
        description="Learn a sparse spiking code of images with the iterative Poisson VAE.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"ipvae-snn {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands, with_models=command in (None, "train"))
    _add_evaluate(commands)
    for name, text, epilog, steps in (
        ("check", "check a trained model for typical problems", CHECK_HELP, 200),
        ("report", "write an HTML report of a run", REPORT_HELP, 120),
    ):
        added = _add_command(commands, name, text, epilog)
        added.add_argument("run", type=Path, help="run folder of train or demo")
        added.add_argument("--data", help="data set (default: the held-out samples of the run)")
        _add_data_options(added)
        _add_evaluation_options(added, "--steps", steps=steps, samples=200)
        _add_common_options(added)
    _add_tune(commands)
    _add_encode(commands)
    _add_decode(commands)
    _add_sample(commands)
    _add_impute(commands)
    _add_stream(commands)
    _add_export(commands, with_targets=command in (None, "export"))
    _add_bench(commands)
    return root


def _add_demo(commands: Any) -> None:
    text = "train on natural image patches for about a minute, and evaluate"
    demo = _add_command(commands, "demo", text, RUN_HELP)
    demo.add_argument("--out", type=Path, help="run folder (default: runs/demo, runs/demo-2, ...)")
    _add_common_options(demo)


def _add_train(commands: Any, with_models: bool) -> None:
    text = "train on a data set, and evaluate on its held-out samples"
    train = _add_command(commands, "train", text, f"{recipe_help()}\n\n{DATA_HELP}\n{RUN_HELP}")
    train.add_argument("--data", help="natural, digits, mnist or a path; see below")
    folder = train.add_mutually_exclusive_group(required=True)
    folder.add_argument("--out", type=Path, help="run folder to make")
    resumable = ", ".join(f"--{name.replace('_', '-')}" for name in RESUMABLE)
    folder.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="resume an interrupted run from its last checkpoint, with its own options; only "
        f"{resumable} can be given again",
    )
    _add_data_options(train)
    train.add_argument(
        "--stream",
        action="store_true",
        default=None,
        help="read samples from disk batch by batch (default: if they take more than 1 GiB)",
    )
    train.add_argument(
        "--workers", type=int, default=0, help="processes that read streamed samples (default: 0)"
    )
    train.add_argument(
        "--recipe",
        choices=RECIPES,
        help="options of the model and the training, which flags override; see below (default: "
        "natural for patches, mnist for other images; other models have their own)",
    )
    train.add_argument("--budget", nargs="+", metavar="TIME", help=BUDGET_HELP)
    model = train.add_argument_group("model")
    model.add_argument("--model", choices=MODELS, help="model (default: ipvae)")
    model.add_argument(
        "--latents",
        type=int,
        help="number of neurons, of a convolutional model at each place (default: 512; 64)",
    )
    model.add_argument(
        "--decoder",
        choices=("linear", "conv"),
        help="conv: code whole images of any size (--model conv-ipvae --as images)",
    )
    model.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        help="gradient estimator of the spike counts (default: midpoint)",
    )
    add_flags(train.add_argument_group("training"), training_options())
    _add_common_options(train)
    _add_evaluation_options(train, "--eval-steps")
    train.add_argument(
        "--validation",
        type=int,
        default=VALIDATION,
        help="training samples that are not trained on, whose R² is shown meanwhile; at most a "
        f"twentieth of all (default: {VALIDATION})",
    )
    if with_models:
        models().add_flags(train)
        estimators().add_flags(train)
    _move_defaults(train)


def _move_defaults(command: argparse.ArgumentParser) -> None:
    """Set the defaults of all options to ``None``, and ``arguments.defaults`` to their values.

    This tells options that were given from others: a resumed run has options of its own.
    """
    names = [a.dest for a in command._actions if a.dest not in ("help", "out", "resume")]
    defaults = {name: command.get_default(name) for name in names}
    command.set_defaults(**dict.fromkeys(names), defaults=defaults)


def _add_evaluate(commands: Any) -> None:
    evaluate = _add_command(commands, "evaluate", "evaluate a run on new samples", DATA_HELP)
    evaluate.add_argument("run", type=Path, help="run folder of train or demo")
    evaluate.add_argument("--data", required=True, help="natural, digits, mnist or a path")
    evaluate.add_argument(
        "--out",
        type=Path,
        help="folder for metrics.json and figures (default: a new one in RUN/evaluations)",
    )
    _add_data_options(evaluate)
    _add_evaluation_options(evaluate, "--steps")
    _add_common_options(evaluate)


def _add_tune(commands: Any) -> None:
    text = "tune a trained model for the best code within a budget of spikes"
    command = _add_command(commands, "tune", text, TUNE_HELP)
    command.add_argument("run", type=Path, help="run folder of train or demo")
    command.add_argument(
        "--out", type=Path, help="run folder to make (default: RUN-tuned, RUN-tuned-2, ...)"
    )
    command.add_argument("--data", help="where the data of the run lie now, if elsewhere")
    command.add_argument("--data-dir", type=Path, help="folder of mnist")
    add_flags(command, tune_options())
    _add_evaluation_options(command, "--steps", steps=400, samples=None)
    _add_common_options(command)


def _add_encode(commands: Any) -> None:
    text = "code a photograph as spikes, by a run with --decoder conv"
    command = _add_command(commands, "encode", text, ENCODE_HELP)
    command.add_argument("run", type=Path, help="run folder of train --decoder conv")
    command.add_argument("photograph", type=Path, help="image file of any size")
    command.add_argument("--out", type=Path, required=True, help="file .npz to write")
    command.add_argument("--steps", type=int, default=64, help="timesteps (default: 64)")
    command.add_argument(
        "--graded", action="store_true", help="counts are rounded rates instead of draws"
    )
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")


def _add_decode(commands: Any) -> None:
    text = "make the photograph of the spikes that encode wrote"
    command = _add_command(commands, "decode", text, "")
    command.add_argument("run", type=Path, help="run folder that encoded it")
    command.add_argument("spikes", type=Path, help="file .npz of encode")
    command.add_argument("--out", type=Path, required=True, help="file .png to write")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")


def _add_sample(commands: Any) -> None:
    command = _add_command(commands, "sample", "draw samples from a trained model", SAMPLE_HELP)
    command.add_argument("run", type=Path, help="run folder of train or demo")
    command.add_argument("--out", type=Path, required=True, help="file .npz to write")
    command.add_argument("--count", type=int, default=64, help="samples to draw (default: 64)")
    command.add_argument(
        "--label", type=int, help="of all draws (default: as often as in the data)"
    )
    command.add_argument("--noise", action="store_true", help="add the noise of pixels")
    command.add_argument("--data", help="where the data of the run lie now, if elsewhere")
    command.add_argument("--data-dir", type=Path, help="folder of mnist")
    command.add_argument(
        "--steps", type=int, default=128, help="timesteps before a code (default: 128)"
    )
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")


def _add_impute(commands: Any) -> None:
    command = _add_command(commands, "impute", "fill in what is missing of samples", IMPUTE_HELP)
    command.add_argument("run", type=Path, help="run folder of train or demo")
    command.add_argument("--out", type=Path, required=True, help="file .npz to write")
    command.add_argument(
        "--values", type=Path, metavar="FILE.npy", help="samples as the model takes them, with NaN"
    )
    command.add_argument("--data", help="data set (default: the held-out samples of the run)")
    command.add_argument("--missing", type=float, metavar="SHARE", help="hide values at random")
    command.add_argument("--block", type=float, metavar="SHARE", help="hide a square of each image")
    command.add_argument("--draws", type=int, default=64, help="of the spikes (default: 64)")
    command.add_argument(
        "--level", type=float, default=0.9, help="probability of the interval (default: 0.9)"
    )
    _add_data_options(command)
    _add_evaluation_options(command, "--steps", steps=256, samples=200)
    _add_common_options(command)


def _add_stream(commands: Any) -> None:
    text = "show samples one after the other to a model that never starts anew"
    command = _add_command(commands, "stream", text, STREAM_HELP)
    command.add_argument("run", type=Path, help="run folder of train or demo")
    command.add_argument("--data", help="data set (default: the held-out samples of the run)")
    command.add_argument(
        "--out", type=Path, help="folder to make (default: a new one in RUN/streams)"
    )
    command.add_argument("--learn", action="store_true", help="learn from what is shown")
    command.add_argument("--lr", type=float, default=0.02, help="learning rate (default: 0.02)")
    _add_data_options(command)
    _add_evaluation_options(command, "--steps", steps=32, samples=1000)
    _add_common_options(command)


def tune_options() -> list[Option]:
    """The arguments of :func:`ipvae_snn.tune` with flags of their own; others are as elsewhere."""
    return options_of(tune, skip=("num_steps", "samples", "seed", "progress"))


def _add_export(commands: Any, with_targets: bool) -> None:
    text = "export a run to a neuromorphic toolchain, and measure the fidelity"
    export = _add_command(commands, "export", text, f"{target_help()}\n{EXPORT_HELP}")
    export.add_argument("run", type=Path, help="run folder of train or demo")
    export.add_argument("--to", choices=TARGETS, required=True, help="export target; see below")
    export.add_argument("--out", type=Path, required=True, help="file to write")
    export.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="of a run with --decoder conv: the images that its neurons are laid out for "
        "(default: 16 16)",
    )
    fidelity = export.add_argument_group("fidelity")
    fidelity.add_argument("--data", help="data set (default: the held-out samples of the run)")
    fidelity.add_argument("--as", dest="treat", choices=data.TREATMENTS, help="see train --help")
    fidelity.add_argument("--data-dir", type=Path, help="folder of mnist")
    fidelity.add_argument("--axis", type=int, help=AXIS_HELP)
    fidelity.add_argument("--samples", type=int, default=100, help="samples (default: 100)")
    fidelity.add_argument("--steps", type=int, default=256, help="timesteps (default: 256)")
    export.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    export.add_argument("--quiet", action="store_true", help="show no progress bars")
    if with_targets:
        targets().add_flags(export)


def _add_bench(commands: Any) -> None:
    text = "measure the speed of training, inference and streaming on this machine"
    command = _add_command(commands, "bench", text, BENCH_HELP)
    command.add_argument(
        "--out", type=Path, help="folder to make (default: runs/bench, runs/bench-2, ...)"
    )
    command.add_argument("--threads", type=int, help="CPU threads (default: chosen by PyTorch)")
    add_flags(command, bench_options())
    command.add_argument("--quiet", action="store_true", help="show no progress bar")


def bench_options() -> list[Option]:
    """The arguments of :func:`ipvae_snn.bench.measure` that are flags of ``bench``."""
    return options_of(bench.measure, skip=("progress",))


def _add_command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_common_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    command.add_argument("--quiet", action="store_true", help="show no progress bars")


def _add_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--as",
        dest="treat",
        choices=data.TREATMENTS,
        default="auto",
        help="samples: small images as they are; patches of photographs; images, colour: whole "
        "ones, with --decoder conv (default: by image size)",
    )
    command.add_argument(
        "--data-dir", type=Path, default=Path("."), help="folder of mnist (default: .)"
    )
    command.add_argument("--axis", type=int, help=AXIS_HELP)


def _add_evaluation_options(
    command: argparse.ArgumentParser,
    steps_flag: str,
    steps: int = 1000,
    samples: int | None = 500,
) -> None:
    command.add_argument(
        steps_flag,
        dest="eval_steps",
        type=int,
        default=steps,
        help=f"timesteps to evaluate (default: {steps})",
    )
    command.add_argument(
        "--samples",
        type=int,
        default=samples,
        help=f"samples to evaluate (default: {samples or '200, or 12 crops of whole images'})",
    )
