"""Signals that ask a training to stop: it finishes its iteration, and keeps what it has learned."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""SIGHUP is what comes when the terminal goes; some systems have none."""


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and has: its checkpoint is written.

    Attributes:
        signum: the signal that asked.
        iteration: iterations done.
        checkpoint: where they are kept.
        advice: what to do about it, for people.
    """

    advice = "call fit with this checkpoint again to go on"

    def __init__(self, signum: int, iteration: int, checkpoint: Path) -> None:
        self.signum, self.iteration, self.checkpoint = signum, iteration, checkpoint
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after iteration {iteration}; {checkpoint} "
            "holds all of it"
        )


class Asked:
    """Which signal asked to stop, 0 if none did."""

    signum = 0


@contextmanager
def deferred_signals(wanted: bool = True) -> Iterator[Asked]:
    """A block in which :data:`SIGNALS` are taken down; a second SIGINT acts as it usually does.

    Only a program's main thread can listen; elsewhere, and if not ``wanted``, nothing changes.
    """
    asked = Asked()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    found = {int(number): signal.getsignal(number) for number in SIGNALS}
    # What is ignored, as in the background of a shell, or handled by no Python, stays so.
    usual = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def take_down(number: int, frame: FrameType | None) -> None:
        asked.signum = number
        restore(signal.SIGINT)

    def restore(*numbers: int) -> None:
        for number in usual.keys() & set(numbers):
            signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, take_down)
    try:
        yield asked
    finally:
        restore(*usual)
    if asked.signum:  # nobody came to ask, and nothing else went wrong: as if it came now
        signal.raise_signal(asked.signum)
