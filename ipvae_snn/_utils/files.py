"""Files that are written whole or not at all."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there if the block ends well.

    Raises:
        ValueError: the folder of ``path`` does not exist.
    """
    path = Path(path)
    _require_folder_of(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        settle(temporary)
        os.replace(temporary, path)
        settle(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes its place if the block ends well.

    Raises:
        ValueError: ``path`` exists and is not an empty folder.
    """
    require_free_folder(path)
    path = Path(path).resolve()
    missing = missing_folders(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=path.parent))
    try:
        yield temporary
        # An empty folder that is there stays: it may be a mount or somebody's working directory.
        path.mkdir(exist_ok=True)
        for child in sorted(temporary.iterdir()):
            os.replace(child, path / child.name)
        missing = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty_folders(missing)


def missing_folders(path: str | Path) -> list[Path]:
    """The folders that are not there yet, ``path`` and those above it, innermost first."""
    path = Path(path).resolve()
    return [p for p in (path, *path.parents) if not p.exists()]


def remove_empty_folders(folders: Sequence[Path]) -> None:
    """Remove those of the folders, innermost first, that hold nothing; all others stay."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def exclusive_lock(path: str | Path | None) -> Iterator[None]:
    """A block in which no other process works on ``path``, a file or a folder; None: no matter.

    Ends with the process, however that ends.

    Raises:
        OSError: another one works on it.
        ValueError: the folder it lies in does not exist.
    """
    if path is None:
        yield
        return
    path = Path(path)
    _require_folder_of(path)
    lock = FileLock(path / LOCK if path.is_dir() else path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another process is working on {path}: wait for it to end, or stop it"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # on a disk that has become read-only
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def settle(path: Path) -> None:
    """Have a file or folder on the disk before anything else is done, power cut or not."""
    with suppress(OSError):  # some systems and disks cannot, for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial_files(path: Path) -> None:
    """Remove what writers of ``path`` left when they were killed; needs :func:`exclusive_lock`."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def require_file(path: str | Path, writer: str) -> Path:
    """The path of a file; ``FileNotFoundError`` that names its ``writer`` if there is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: expected one that {writer} wrote")
    return path


def require_free_file(path: str | Path) -> None:
    """Raise ``ValueError`` if anything is at ``path``, or the folder it is to lie in is missing."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already: name another file, or remove it first")
    _require_folder_of(path)


def _require_folder_of(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist")


def require_free_folder(path: str | Path) -> None:
    """Raise ``ValueError`` unless ``path`` does not exist yet or is an empty folder.

    What a killed writer left of its own does not count.
    """
    path = Path(path)
    taken = path.is_symlink() and not path.exists()
    if path.exists():
        taken = not path.is_dir() or not all(_is_left_over(child) for child in path.iterdir())
    if taken:
        raise ValueError(f"{path} exists already: name another folder, or remove it first")


def _is_left_over(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(".") and path.suffix == ".part")
