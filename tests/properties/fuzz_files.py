"""Damaged files by the thousand: ``python -m tests.properties.fuzz_files --count 10000``.

Every file is read in a worker process with a limit of time and of memory, so that a crash or a hang
inside a C library is seen, is told of its file, and the run goes on. A reader may accept a file,
and then whatever it read has to work, or refuse it with a ValueError, TypeError or OSError that
says something. All else is a failure; the command then ends with status 1 and ``--keep FOLDER``
keeps the files.

A new kind is an entry of :data:`KINDS`.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from tests.properties import valid_data, valid_files
from tests.properties.mutations import mutated

REFUSALS = (ValueError, TypeError, OSError)
FOREIGN = (json.JSONDecodeError, UnicodeError)
"""Kinds of ValueError that speak of bytes and not of the file."""
ROOM_BYTES = 3 * 2**30
"""Address space that a worker may take beside what it has at its start."""
GROWTH_BYTES = 2**28
"""Resident memory that reading one small file may take."""


class Kind(NamedTuple):
    """How to make a valid file, and how to read and use one."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    suffix: str


KINDS: dict[str, Kind] = {
    "nir": Kind(valid_files.make_exact_nir, valid_files.read_nir, ".nir"),
    "nir-portable": Kind(valid_files.make_portable_nir, valid_files.read_nir, ".nir"),
    "nir-network": Kind(valid_files.make_network_nir, valid_files.read_nir, ".nir"),
    "fixed-point": Kind(valid_files.make_fixed_point, valid_files.read_fixed_point, ".npz"),
    "xylo": Kind(valid_files.make_xylo, valid_files.read_xylo, ".npz"),
    "model": Kind(valid_files.make_model, valid_files.read_model, ".pt"),
    "checkpoint": Kind(valid_files.make_checkpoint, valid_files.use_checkpoint, ".ckpt"),
    "config": Kind(valid_files.make_config, valid_files.use_config, ".json"),
    "idx": Kind(valid_data.make_idx, valid_data.read_idx_values, ".idx"),
    "idx.gz": Kind(valid_data.make_idx, valid_data.read_idx_values, ".idx.gz"),
    "npy": Kind(valid_data.make_npy, valid_data.read_data_set, ".npy"),
    "npz": Kind(valid_data.make_npz, valid_data.read_data_set, ".npz"),
    **{
        suffix: Kind(valid_data.make_image, valid_data.read_picture, f".{suffix}")
        for suffix in ("png", "jpg", "tif", "gif", "bmp", "pgm", "webp")
    },
}


class Outcome(NamedTuple):
    """What became of one damaged file."""

    kind: str
    seed: str
    damage: str
    result: str
    """``accepted``, the name of a refusal, or ``crash``, ``hang``, ``memory``, ``wrong``."""
    message: str = ""

    @property
    def failed(self) -> bool:
        return self.result in ("crash", "hang", "memory", "wrong")


def attempt(path: Path, read: Callable[[Path], object]) -> tuple[str, str]:
    """Read one file: the result and the message of an :class:`Outcome`."""
    try:
        read(path)
    except REFUSALS as error:
        message = str(error)
        if not message or isinstance(error, FOREIGN):
            return "wrong", f"not a sentence of ours: {error!r}"
        return type(error).__name__, message
    except BaseException as error:  # whatever it is, it should not have come out
        return "wrong", f"{type(error).__name__}: {error}"
    return "accepted", ""


def _work(kind: str, content: bytes, jobs: Connection) -> None:
    """A worker: reads the file of each seed that comes, and sends what became of it."""
    warnings.simplefilter("ignore")
    taken = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{KINDS[kind].suffix}"
        while (seed := jobs.recv()) is not None:
            damage, damaged = mutated(content, seed)
            path.write_bytes(damaged)
            jobs.send(damage)
            before = _new_peak()
            result, message = attempt(path, KINDS[kind].read)
            grown = _status("VmHWM") - before
            if grown > GROWTH_BYTES:
                result, message = "memory", f"took {grown >> 20} MiB ({result} {message})"
            jobs.send((result, message[:300]))


def _status(field: str) -> int:
    """A size of this process, in bytes, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _new_peak() -> int:
    """Start the peak of resident memory anew, where the kernel allows it; the peak then."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


class _Worker:
    """A process and the file that it is at."""

    def __init__(self, kind: str, content: bytes) -> None:
        self.kind, self.content = kind, content
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.jobs, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(self.kind, self.content, theirs))
        self.process.start()
        theirs.close()

    def give(self, seed: str, seconds: float) -> None:
        self.seed, self.damage = seed, "?"
        self.due = time.monotonic() + seconds
        self.jobs.send(seed)

    def outcome(self) -> Outcome | None:
        """What became of the file, or ``None`` where only its damage is known as yet."""
        try:
            came = self.jobs.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return self._failed("crash", f"exit code {self.process.exitcode}")
        if isinstance(came, str):
            self.damage = came
            return None
        return Outcome(self.kind, self.seed, self.damage, *came)

    def hung(self, seconds: float) -> Outcome:
        self.process.kill()
        self.process.join()
        return self._failed("hang", f"not done after {seconds:g} s")

    def _failed(self, result: str, message: str) -> Outcome:
        self._start()
        return Outcome(self.kind, self.seed, self.damage, result, message)

    def end(self) -> None:
        self.jobs.send(None)
        self.process.join()


def fuzz(
    kind: str, count: int, *, seed: int = 0, jobs: int = 1, seconds: float = 10.0
) -> Iterable[Outcome]:
    """Read ``count`` damaged files of a kind; outcomes in the order in which they come."""
    content = valid_content(kind)
    workers = [_Worker(kind, content) for _ in range(min(jobs, count))]
    waiting = [f"{seed}/{n}" for n in reversed(range(count))]
    for worker in workers:
        worker.give(waiting.pop(), seconds)
    busy = {worker.jobs: worker for worker in workers}
    while busy:
        ready = wait(list(busy), timeout=0.5)
        late = [c for c, w in busy.items() if c not in ready and time.monotonic() > w.due]
        for connection in (*ready, *late):
            worker = busy[connection]
            outcome = worker.hung(seconds) if connection in late else worker.outcome()
            if outcome is None:
                continue
            yield outcome
            del busy[connection]
            if waiting:
                worker.give(waiting.pop(), seconds)
                busy[worker.jobs] = worker
            else:
                worker.end()


def valid_content(kind: str) -> bytes:
    """The bytes of a valid file, which its reader accepts."""
    make, read, suffix = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"valid{suffix}"
        make(path)
        read(path)
        return path.read_bytes()


def table(outcomes: list[Outcome]) -> str:
    """One line per kind: what became of its files."""
    bad = ("crash", "hang", "memory", "wrong")
    lines = [f"{'':14}{'files':>7}{'accepted':>9}" + "".join(f"{b:>8}" for b in bad) + "  refused"]
    for kind in [*dict.fromkeys(o.kind for o in outcomes), "all"]:
        counts = Counter(o.result for o in outcomes if kind in (o.kind, "all"))
        numbers = f"{sum(counts.values()):7,}{counts['accepted']:9,}"
        refused = ", ".join(
            f"{name} {n:,}" for name, n in counts.most_common() if name not in ("accepted", *bad)
        )
        lines.append(
            f"{kind:14}{numbers}" + "".join(f"{counts[b]:8,}" for b in bad) + f"  {refused}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("tests.properties.fuzz_files", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="files over all kinds")
    parser.add_argument("--kind", default=",".join(KINDS), help="kinds, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--seconds", type=float, default=10.0, help="time limit of one file")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    chosen = parser.parse_args(arguments)
    kinds = chosen.kind.split(",")
    outcomes: list[Outcome] = []
    started = time.monotonic()
    with tqdm(total=chosen.count, unit="file", disable=None) as progress:
        for n, kind in enumerate(kinds):
            count = (chosen.count * (n + 1)) // len(kinds) - (chosen.count * n) // len(kinds)
            progress.set_description(kind)
            for outcome in fuzz(
                kind, count, seed=chosen.seed, jobs=chosen.jobs, seconds=chosen.seconds
            ):
                outcomes.append(outcome)
                progress.update()
    failures = [o for o in outcomes if o.failed]
    for o in failures:
        print(f"{o.result}: {o.kind} {o.seed} {o.damage}: {o.message}")
        if chosen.keep:
            chosen.keep.mkdir(parents=True, exist_ok=True)
            name = f"{o.result}-{o.kind}-{o.seed.replace('/', '-')}{KINDS[o.kind].suffix}"
            (chosen.keep / name).write_bytes(mutated(valid_content(o.kind), o.seed)[1])
    print(table(outcomes))
    print(f"{len(outcomes):,} files in {time.monotonic() - started:.0f} s, seed {chosen.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
