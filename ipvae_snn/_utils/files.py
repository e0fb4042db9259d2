"""Atomic writes, locks and checks of paths: a file is written completely or not at all."""

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
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block raises nothing.

    Raises:
        ValueError: ``path`` is a folder, or its parent folder does not exist.
    """
    path = Path(path)
    _require_parent(path)
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
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; move its content there if the block raises nothing.

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
        # Keep an existing empty folder: it may be a mount point or a working directory.
        path.mkdir(exist_ok=True)
        for child in sorted(temporary.iterdir()):
            os.replace(child, path / child.name)
        missing = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty_folders(missing)


def missing_folders(path: str | Path) -> list[Path]:
    """Those of ``path`` and its parents that do not exist yet, innermost first."""
    path = Path(path).resolve()
    return [p for p in (path, *path.parents) if not p.exists()]


def remove_empty_folders(folders: Sequence[Path]) -> None:
    """Remove the folders that are empty, in this order; keep the others."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def exclusive_lock(path: str | Path | None) -> Iterator[None]:
    """Hold an exclusive lock of a file or folder; ``None`` locks nothing.

    The system releases the lock when the process ends, even if it is killed.

    Raises:
        BlockingIOError: another process holds the lock.
        ValueError: the parent folder does not exist.
    """
    if path is None:
        yield
        return
    path = Path(path)
    _require_parent(path)
    file = path / LOCK if path.is_dir() else path.with_name(f".{path.name}.lock")
    require_no_link(file)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another process is working on {path}: wait for it to end, or stop it"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # the disk may have become read-only
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def require_no_link(path: Path) -> None:
    """Raise ``ValueError`` if ``path``, which is to be written to, is a link to another file."""
    if path.is_symlink():
        raise ValueError(f"{path} is a link to {os.readlink(path)!r}: remove it first")


def require_inside(folder: Path, path: Path) -> None:
    """Raise ``ValueError`` if a link leads from ``path``, which is in ``folder``, out of it."""
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(folder)):
        raise ValueError(
            f"{path} is a link out of {folder}, to {target!r}: if that file belongs to it, put a "
            "copy in place of the link"
        )


def fsync(path: Path) -> None:
    """Flush a file or folder to disk, so that it survives a power cut."""
    with suppress(OSError):  # some systems and file systems cannot flush folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial_files(path: Path) -> None:
    """Remove temporary files of killed writers of ``path``; call under :func:`exclusive_lock`."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def require_file(path: str | Path, writer: str) -> Path:
    """The path of an existing file; else ``FileNotFoundError`` that names its ``writer``."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: expected one that {writer} wrote")
    return path


def require_free_file(path: str | Path) -> None:
    """Raise ``ValueError`` if ``path`` exists or its parent folder does not."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already: name another file, or remove it first")
    _require_parent(path)


def _require_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist")


def require_free_folder(path: str | Path) -> None:
    """Raise ``ValueError`` unless ``path`` does not exist yet or is an empty folder.

    Locks and temporary files of a killed writer do not count.
    """
    path = Path(path)
    free = path.is_dir() and all(map(_is_temporary, path.iterdir()))
    if not free and (path.exists() or path.is_symlink()):
        raise ValueError(f"{path} exists already: name another folder, or remove it first")


def _is_temporary(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(".") and path.suffix == ".part")
