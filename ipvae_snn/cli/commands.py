"""What each command does with its arguments."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import bench, data, diagnostics
from ipvae_snn._utils.checks import require_integer
from ipvae_snn._utils.files import require_free_folder
from ipvae_snn.cli.export import export_run
from ipvae_snn.cli.options import parser
from ipvae_snn.cli.train import resolved, train
from ipvae_snn.runs import (
    evaluate_run,
    free_folder,
    open_run,
    pick,
    read,
    read_config,
    require_same_kind,
)
from ipvae_snn.runs.report import write_report


def _demo(arguments: argparse.Namespace) -> None:
    arguments.out = arguments.out or free_folder(Path("runs") / "demo")
    everything = parser().parse_args(["train", "--data", "natural", "--out", str(arguments.out)])
    for name in ("seed", "device", "quiet"):
        setattr(everything, name, getattr(arguments, name))
    train(everything)


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        require_free_folder(arguments.out)
    require_integer(arguments.eval_steps, "steps")
    require_integer(arguments.samples, "samples", least=2)
    dataset = _unseen(arguments, read_config(arguments.run))
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


def _unseen(arguments: argparse.Namespace, trained: dict[str, Any]) -> data.Dataset:
    """The data that was asked for, and of the data a run learned from only what was held out."""
    known = trained["data"]
    source = arguments.data or known["source"]
    same = resolved(source) == resolved(known["source"])
    treat, data_dir = arguments.treat, arguments.data_dir
    if arguments.data is None:  # as it was when the run was trained
        treat, data_dir = known.get("treat", treat), known.get("data_dir", data_dir)
    dataset = data.load(
        source,
        treat=treat,
        data_dir=data_dir,
        patches=(0, arguments.samples),
        seed=trained["training"]["seed"],
        hold_out=same,
    )
    print(f"data: {dataset.description}")
    return dataset


def _check(arguments: argparse.Namespace) -> int:
    require_integer(arguments.eval_steps, "steps", least=diagnostics.MIN_STEPS)
    require_integer(arguments.samples, "samples", least=2)
    model, trained = open_run(arguments.run, arguments.device)
    x = _held_out(arguments, trained)
    report = diagnostics.check(
        model, x, shape=tuple(trained["sample_shape"]), num_steps=arguments.eval_steps,
        samples=len(x), seed=arguments.seed,
    )  # fmt: skip
    print(report)
    return int(not report.healthy)


def _report(arguments: argparse.Namespace) -> None:
    require_integer(arguments.eval_steps, "steps")
    require_integer(arguments.samples, "samples", least=2)
    model, trained = open_run(arguments.run, arguments.device)
    x = _held_out(arguments, trained)
    steps, seed = arguments.eval_steps, arguments.seed
    path = write_report(arguments.run, model, x, trained, num_steps=steps, seed=seed)
    print(f"report: {path}, {path.stat().st_size / 1e6:.1f} MB")


def _held_out(arguments: argparse.Namespace, trained: dict[str, Any]) -> Tensor:
    """Samples of :func:`_unseen` that a run's model takes."""
    dataset = _unseen(arguments, trained)
    require_same_kind(arguments.run, trained, dataset)
    return read(pick(dataset.test, arguments.samples, arguments.seed)).to(arguments.device)


def _bench(arguments: argparse.Namespace) -> None:
    out = arguments.out or free_folder(Path("runs") / "bench")
    require_free_folder(out)
    if arguments.threads is not None:
        torch.set_num_threads(require_integer(arguments.threads, "--threads"))
    result = bench.measure(
        device=arguments.device, quick=arguments.quick, precision=arguments.precision,
        progress=not arguments.quiet,
    )  # fmt: skip
    print(bench.table(result))
    bench.save(result, out)
    print(f"bench.json and bench.png are in {out}")


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "demo": _demo,
    "train": train,
    "evaluate": _evaluate,
    "check": _check,
    "report": _report,
    "export": export_run,
    "bench": _bench,
}
