"""The functions of the commands other than ``train`` and ``export``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import bench, data, diagnostics
from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn._utils.files import require_free_folder
from ipvae_snn._utils.options import given
from ipvae_snn._utils.text import printable
from ipvae_snn.cli.export import export_run
from ipvae_snn.cli.options import bench_options, parser, tune_options
from ipvae_snn.cli.train import absolute_source, train
from ipvae_snn.runs import (
    evaluate_run,
    free_folder,
    open_run,
    pick,
    read,
    read_config,
    recorded_data,
    require_same_kind,
    tune_run,
)
from ipvae_snn.runs.photographs import decode_photograph, encode_photograph, free_files
from ipvae_snn.runs.questions import (
    FITTED_TO,
    impute_run,
    read_values,
    sample_run,
    shown,
    stream_run,
)
from ipvae_snn.runs.report import write_report
from ipvae_snn.runs.whole_images import KIND, whitened

TUNED_ON = 200, 12
"""Samples to tune on: flat ones, and crops of whole images, which take longer."""


def _demo(arguments: argparse.Namespace) -> None:
    arguments.out = arguments.out or free_folder(Path("runs") / "demo")
    options = parser("train").parse_args(
        ["train", "--data", "natural", "--recipe", "fast", "--out", str(arguments.out)]
    )
    for name in ("seed", "device", "quiet"):
        setattr(options, name, getattr(arguments, name))
    train(options)


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        require_free_folder(arguments.out)
    _require_evaluation_options(arguments)
    dataset = _load_data(arguments, read_config(arguments.run))
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


def _require_evaluation_options(arguments: argparse.Namespace, min_steps: int = 1) -> None:
    """Check them before any data is read."""
    require_integer(arguments.eval_steps, "steps", least=min_steps)
    require_integer(arguments.samples, "samples", least=2)


def _load_data(arguments: argparse.Namespace, config: dict[str, Any]) -> data.Dataset:
    """Load ``--data``, or the data set of the run.

    All images of a new data set are test samples; of the data set of the run, only those that it
    held out.
    """
    saved = config["data"]
    source, treat, data_dir = arguments.data, arguments.treat, arguments.data_dir
    axis = arguments.axis
    if source is None:
        saved = recorded_data(arguments.run, config)
        source, axis = saved["source"], saved.get("axis")
        treat, data_dir = saved.get("treat", treat), saved.get("data_dir", data_dir)
    dataset = data.load(
        source,
        treat=treat,
        data_dir=data_dir,
        axis=axis,
        patches=(0, arguments.samples),
        seed=config["training"]["seed"],
        hold_out=absolute_source(source) == absolute_source(saved["source"]),
    )
    print(f"data: {printable(dataset.description)}")
    return dataset


def _check(arguments: argparse.Namespace) -> int:
    _require_evaluation_options(arguments, diagnostics.MIN_STEPS)
    model, config = open_run(arguments.run, arguments.device)
    x = _held_out_samples(arguments, config, model)
    report = diagnostics.check(
        model,
        x,
        shape=tuple(config["sample_shape"]),
        num_steps=arguments.eval_steps,
        samples=len(x),
        seed=arguments.seed,
    )
    print(report)
    return int(not report.healthy)


def _report(arguments: argparse.Namespace) -> None:
    _require_evaluation_options(arguments)
    model, config = open_run(arguments.run, arguments.device)
    x = _held_out_samples(arguments, config, model)
    steps, seed = arguments.eval_steps, arguments.seed
    path = write_report(arguments.run, model, x, config, num_steps=steps, seed=seed)
    print(f"report: {path}, {path.stat().st_size / 1e6:.1f} MB")


def _held_out_samples(arguments: argparse.Namespace, config: dict[str, Any], model: Any) -> Tensor:
    dataset = _load_data(arguments, config)
    require_same_kind(arguments.run, config, dataset)
    dataset = whitened(dataset, model, "test")
    return read(pick(dataset.test, arguments.samples, arguments.seed)).to(arguments.device)


def _tune(arguments: argparse.Namespace) -> None:
    run = arguments.run
    if arguments.out is not None:
        require_free_folder(arguments.out)
    require_integer(arguments.eval_steps, "steps")
    config = read_config(run)
    if arguments.samples is None:
        arguments.samples = TUNED_ON[config["sample_kind"] == KIND]
    require_integer(arguments.samples, "samples", least=2)
    patches = 2 * arguments.samples, config["eval_samples"]
    dataset = _load_learned(arguments, config, patches)
    name = run if run.name else run.resolve()
    out = arguments.out or free_folder(name.with_name(f"{name.name}-tuned"))
    tune_run(
        run,
        dataset,
        out,
        device=arguments.device,
        progress=not arguments.quiet,
        num_steps=arguments.eval_steps,
        samples=arguments.samples,
        seed=arguments.seed,
        **given(arguments, tune_options()),
    )
    print(f"run folder: {out}")


def _load_learned(
    arguments: argparse.Namespace, config: dict[str, Any], patches: tuple[int, int]
) -> data.Dataset:
    """What the run learned from, with so many patches to learn from and held out."""
    source = recorded_data(arguments.run, config, arguments.data, arguments.data_dir)
    dataset = data.load(
        source["source"],
        treat=source.get("treat", "auto"),
        data_dir=source.get("data_dir", "."),
        axis=source.get("axis"),
        stream=source.get("stream"),
        patches=patches,
        seed=config["training"]["seed"],
    )
    print(f"data: {printable(dataset.description)}")
    return dataset


def _encode(arguments: argparse.Namespace) -> None:
    encode_photograph(
        arguments.run,
        arguments.photograph,
        arguments.out,
        num_steps=arguments.steps,
        graded=arguments.graded,
        seed=require_seed(arguments.seed),
        device=arguments.device,
    )


def _decode(arguments: argparse.Namespace) -> None:
    decode_photograph(arguments.run, arguments.spikes, arguments.out, arguments.device)
    print(f"photograph: {arguments.out}")


def _sample(arguments: argparse.Namespace) -> None:
    free_files(arguments.out)
    count = require_integer(arguments.count, "--count")
    num_steps = require_integer(arguments.steps, "--steps")
    config = read_config(arguments.run)
    sample_run(
        arguments.run,
        _load_learned(arguments, config, (FITTED_TO, 1)),
        arguments.out,
        count=count,
        label=arguments.label,
        noise=arguments.noise,
        num_steps=num_steps,
        seed=require_seed(arguments.seed),
        device=arguments.device,
    )


def _impute(arguments: argparse.Namespace) -> None:
    free_files(arguments.out)
    _require_evaluation_options(arguments)
    model, config = open_run(arguments.run, arguments.device)
    shape = tuple(config["sample_shape"])
    if arguments.values is None:
        x = _held_out_samples(arguments, config, model)
    else:
        if arguments.data is not None:
            raise ValueError("--values and --data both say what to fill in: leave out one of them")
        x = read_values(arguments.values, model, shape).to(arguments.device)
    seed = require_seed(arguments.seed)
    shape = tuple(x.shape[1:]) if x.ndim > 2 else shape  # crops may be larger than those learned
    impute_run(
        model,
        x,
        shown(x, shape, arguments.missing, arguments.block, seed),
        arguments.out,
        shape,
        num_steps=arguments.eval_steps,
        draws=arguments.draws,
        level=arguments.level,
        seed=seed,
    )


def _stream(arguments: argparse.Namespace) -> None:
    out = arguments.out or free_folder(arguments.run / "streams" / "stream")
    require_free_folder(out)
    _require_evaluation_options(arguments)
    model, config = open_run(arguments.run, arguments.device)
    stream_run(
        model,
        _held_out_samples(arguments, config, model),
        out,
        learn=arguments.learn,
        lr=arguments.lr,
        steps_each=arguments.eval_steps,
        seed=require_seed(arguments.seed),
        progress=not arguments.quiet,
    )


def _bench(arguments: argparse.Namespace) -> None:
    out = arguments.out or free_folder(Path("runs") / "bench")
    require_free_folder(out)
    if arguments.threads is not None:
        torch.set_num_threads(require_integer(arguments.threads, "--threads"))
    result = bench.measure(**given(arguments, bench_options()), progress=not arguments.quiet)
    print(bench.table(result))
    bench.save(result, out)
    print(f"bench.json and bench.png are in {out}")


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "demo": _demo,
    "train": train,
    "evaluate": _evaluate,
    "check": _check,
    "report": _report,
    "tune": _tune,
    "encode": _encode,
    "decode": _decode,
    "sample": _sample,
    "impute": _impute,
    "stream": _stream,
    "export": export_run,
    "bench": _bench,
}
