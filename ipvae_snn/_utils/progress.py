"""Progress bars: redrawn in place on a terminal, a line now and then in a log."""

import sys
from contextlib import suppress
from typing import Any

from tqdm.auto import tqdm

LOG_INTERVAL = 5
"""Seconds between two lines in a log."""
LOG_LINE = "{desc}: {n_fmt}/{total_fmt}{postfix}, {remaining} left, {rate_fmt}"
IN_NOTEBOOK = any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__)


class _Log:
    """A stream that gets each state of a bar as a line of its own."""

    def write(self, text: str) -> None:
        line = text.strip()  # of the carriage return, and of blanks over the end of the last state
        if line:
            with suppress(OSError):  # a log on a full disk ends no training
                sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def progress_bar(total: int | None, desc: str, *, shown: bool, **options: Any) -> Any:
    """A ``tqdm`` bar on stderr; where that is no terminal, a line at the start, at the end, and
    every :data:`LOG_INTERVAL` seconds between.

    Args:
        total: how many updates there will be, if that is known.
        desc: what goes on.
        shown: whether there is to be a bar at all.
        options: further ones of ``tqdm``.
    """
    if sys.stderr is None:  # a process without a console
        shown = False
    elif not (sys.stderr.isatty() or IN_NOTEBOOK):
        interval = {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "miniters": 1}
        line = {} if total is None else {"bar_format": LOG_LINE}
        options = {"file": _Log(), **interval, **line, **options}
    return tqdm(total=total, desc=desc, disable=not shown, **options)
