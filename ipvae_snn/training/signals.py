"""Signals during a training: it finishes its iteration and writes a checkpoint before it stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""A closing terminal sends SIGHUP; Windows lacks it."""


class Stopped(KeyboardInterrupt):
    """A signal stopped a training, after its checkpoint was written.

    Attributes:
        signum: the signal.
        iteration: iterations completed.
        checkpoint: file that holds their state.
        advice: how to resume, for messages.
    """

    advice = "call fit with this checkpoint again to resume"

    def __init__(self, signum: int, iteration: int, checkpoint: Path) -> None:
        self.signum, self.iteration, self.checkpoint = signum, iteration, checkpoint
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after iteration {iteration}; {checkpoint} "
            "holds its state"
        )


class PendingSignal:
    """The signal received in a block of :func:`deferred_signals`; 0 if none was."""

    signum = 0


@contextmanager
def deferred_signals(enabled: bool = True) -> Iterator[PendingSignal]:
    """Record :data:`SIGNALS` during a block instead of handling them, for the block to poll.

    After the first signal SIGINT has its usual handler again, so that a second Ctrl-C interrupts at
    once. Python handles signals in the main thread only: in others, or if not ``enabled``, nothing
    changes.
    """
    pending = PendingSignal()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield pending
        return
    handlers = {int(number): signal.getsignal(number) for number in SIGNALS}
    # Signals stay ignored where they are, as in background jobs of a shell. None is a handler that
    # was not installed from Python, and could not be restored.
    usual = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def record(number: int, frame: FrameType | None) -> None:
        pending.signum = number
        restore(signal.SIGINT)

    def restore(*numbers: int) -> None:
        for number in usual.keys() & set(numbers):
            signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, record)
    try:
        yield pending
    finally:
        restore(*usual)
    if pending.signum:  # the block ended without polling it
        signal.raise_signal(pending.signum)
