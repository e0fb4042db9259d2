"""The command ``ipvae-snn``: demo, train, evaluate, check, export, bench."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

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
            stream.reconfigure(errors="replace")  # a terminal without R² still gets its table
    arguments = parser().parse_args(argv)
    try:
        status = COMMANDS[arguments.command](arguments)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        return _complain(str(error) or type(error).__name__)
    except (RuntimeError, MemoryError) as error:  # torch says so when memory runs out
        reason = str(error) or type(error).__name__
        return _complain(f"torch gave up: {reason}")
    except Stopped as stopped:
        if not is_silent_rank():
            print(f"ipvae-snn: {stopped}; {stopped.advice}", file=sys.stderr)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        print(f"ipvae-snn: interrupted{_left(arguments)}", file=sys.stderr)
        return 130
    return status or 0


def _complain(reason: str) -> int:
    who = f"process {os.environ['RANK']}: " if is_silent_rank() else ""
    print(f"ipvae-snn: {who}{reason.splitlines()[0]}", file=sys.stderr)  # torch says more than one
    return 1


def _left(arguments: argparse.Namespace) -> str:
    """What an interrupted command leaves behind, in words."""
    run = getattr(arguments, "resume", None) or getattr(arguments, "out", None)
    if arguments.command in ("train", "demo") and run is not None and (run / CONFIG).is_file():
        if is_complete(run):
            return f"; {run} is complete"
        return f"; go on with: ipvae-snn train --resume {run}"
    return ", nothing was written"
