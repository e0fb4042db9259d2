"""The command ``ipvae-snn``: demo, train, evaluate, check, export, bench."""

import io
import sys
from collections.abc import Sequence

from ipvae_snn.cli.commands import COMMANDS
from ipvae_snn.cli.options import parser

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
        print(f"ipvae-snn: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:  # torch says so when memory runs out
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"ipvae-snn: torch gave up: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ipvae-snn: interrupted, nothing was written", file=sys.stderr)
        return 130
    return status or 0
