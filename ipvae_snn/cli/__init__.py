"""The command ``ipvae-snn``: demo, train, evaluate, check, report, tune, encode, decode, ..."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from ipvae_snn._utils.text import printable
from ipvae_snn.cli.commands import COMMANDS
from ipvae_snn.cli.options import parser
from ipvae_snn.runs.folder import CONFIG, is_complete
from ipvae_snn.training import Stopped
from ipvae_snn.training.distributed import is_silent_rank

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for encodings that lack ² and other symbols
    argv = sys.argv[1:] if argv is None else argv
    try:
        command = next((word for word in argv if not word.startswith("-")), "")
        arguments = parser(command).parse_args(argv)
    except (ValueError, argparse.ArgumentError) as error:  # two options of one name
        return _print_error(str(error))
    try:
        status = COMMANDS[arguments.command](arguments)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        return _print_error(str(error) or type(error).__name__)
    except (RuntimeError, MemoryError) as error:  # such as out of memory
        return _print_error(f"PyTorch failed: {str(error) or type(error).__name__}")
    except Stopped as stopped:
        if not is_silent_rank():
            print(f"ipvae-snn: {stopped}; {stopped.advice}", file=sys.stderr)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        print(f"ipvae-snn: interrupted{_state_of_run(arguments)}", file=sys.stderr)
        return 130
    return status or 0


def _print_error(reason: str) -> int:
    """Print one line to stderr; returns the exit status."""
    rank = f"process {os.environ['RANK']}: " if is_silent_rank() else ""
    print(f"ipvae-snn: {rank}{printable(reason.splitlines()[0])}", file=sys.stderr)
    return 1


def _state_of_run(arguments: argparse.Namespace) -> str:
    """A note on the run folder that an interrupted command leaves."""
    run = getattr(arguments, "resume", None) or getattr(arguments, "out", None)
    if arguments.command in ("train", "demo") and run is not None and (run / CONFIG).is_file():
        if is_complete(run):
            return f"; {run} is complete"
        return f"; resume with: ipvae-snn train --resume {run}"
    return "; nothing was written"
