"""Fuzzing of the file readers: ``python -m tests.properties.fuzz_files --count 10000``.

Every damaged file is read in a worker process with limits on time and memory, so that a crash or a
hang inside a C library is detected and reported with its file, and the run continues. A reader may
accept a file, and then its content must be usable, or refuse it with a ValueError, TypeError or
OSError that has a message. Anything else is a failure: the command then exits with status 1, and
``--keep FOLDER`` keeps the files.

To add a kind of file, add an entry to :data:`KINDS`.
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
"""Kinds of ValueError that a reader should translate: they describe bytes, not the file."""
EXTRA_BYTES = 3 * 2**30
"""Address space that a worker may use beyond what it has at its start."""
GROWTH_BYTES = 2**28
"""Resident memory that reading one small file may use."""


class Kind(NamedTuple):
    """Functions that write a valid file, and that read and use one."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    suffix: str


KINDS: dict[str, Kind] = {
    "nir": Kind(valid_files.make_exact_nir, valid_files.read_nir, ".nir"),
    "nir-portable": Kind(valid_files.make_portable_nir, valid_files.read_nir, ".nir"),
    "nir-network": Kind(valid_files.make_network_nir, valid_files.read_nir, ".nir"),
    "nir-foreign": Kind(valid_files.make_foreign_nir, valid_files.read_foreign_nir, ".nir"),
    "fixed-point": Kind(valid_files.make_fixed_point, valid_files.read_fixed_point, ".npz"),
    "xylo": Kind(valid_files.make_xylo, valid_files.read_xylo, ".npz"),
    "model": Kind(valid_files.make_model, valid_files.read_model, ".pt"),
    "checkpoint": Kind(valid_files.make_checkpoint, valid_files.use_checkpoint, ".ckpt"),
    "config": Kind(valid_files.make_config, valid_files.use_config, ".json"),
    "idx": Kind(valid_data.make_idx, valid_data.read_idx_values, ".idx"),
    "idx.gz": Kind(valid_data.make_idx, valid_data.read_idx_values, ".idx.gz"),
    "npy": Kind(valid_data.make_npy, valid_data.read_data_set, ".npy"),
    "npz": Kind(valid_data.make_npz, valid_data.read_data_set, ".npz"),
    "npz-named": Kind(valid_data.make_named_npz, valid_data.read_data_set, ".npz"),
    "turned.jpg": Kind(valid_data.make_turned, valid_data.read_picture, ".jpg"),
    "turned.tif": Kind(valid_data.make_turned, valid_data.read_picture, ".tif"),
    "turned.png": Kind(valid_data.make_turned, valid_data.read_picture, ".png"),
    "opacity.png": Kind(valid_data.make_transparent, valid_data.read_picture, ".png"),
    "palette.png": Kind(valid_data.make_transparent, valid_data.read_picture, ".palette.png"),
    "opacity.gif": Kind(valid_data.make_transparent, valid_data.read_picture, ".gif"),
    "preview.tif": Kind(valid_data.make_pages, valid_data.read_picture, ".tif"),
    **{
        suffix: Kind(valid_data.make_image, valid_data.read_picture, f".{suffix}")
        for suffix in ("png", "jpg", "tif", "gif", "bmp", "pgm", "webp")
    },
}


class Outcome(NamedTuple):
    """Result of reading one damaged file."""

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
            return "wrong", f"not a message of the package: {error!r}"
        return type(error).__name__, message
    except BaseException as error:  # any other exception is a failure
        return "wrong", f"{type(error).__name__}: {error}"
    return "accepted", ""


def _work(kind: str, content: bytes, jobs: Connection) -> None:
    """Main loop of a worker: receives a seed, reads that damaged file, sends back the result."""
    warnings.simplefilter("ignore")
    used = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, resource.RLIM_INFINITY))
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
    """A memory size of this process in bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _new_peak() -> int:
    """Reset the peak of resident memory, where the kernel allows it; return the peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


class _Worker:
    """A worker process and the file it is reading."""

    def __init__(self, kind: str, content: bytes) -> None:
        self.kind, self.content = kind, content
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.jobs, worker_end = context.Pipe()
        self.process = context.Process(target=_work, args=(self.kind, self.content, worker_end))
        self.process.start()
        worker_end.close()

    def give(self, seed: str, seconds: float) -> None:
        self.seed, self.damage = seed, "?"
        self.due = time.monotonic() + seconds
        self.jobs.send(seed)

    def outcome(self) -> Outcome | None:
        """The result of the file; ``None`` while only the name of its damage has arrived."""
        try:
            received = self.jobs.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return self._failed("crash", f"exit code {self.process.exitcode}")
        if isinstance(received, str):
            self.damage = received
            return None
        return Outcome(self.kind, self.seed, self.damage, *received)

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
    """Read ``count`` damaged files of a kind; yields outcomes as they arrive."""
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
    """The bytes of a valid file, checked with its reader."""
    make, read, suffix = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"valid{suffix}"
        make(path)
        read(path)
        return path.read_bytes()


def table(outcomes: list[Outcome]) -> str:
    """One line per kind with the counts of its results."""
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
    parser.add_argument("--kind", default=",".join(KINDS), help="kinds, separated by commas")
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
