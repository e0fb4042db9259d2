"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes its place if the block ends well.

    Raises:
        ValueError: ``path`` exists and is not an empty folder.
    """
    require_free_folder(path)
    path = Path(path).resolve()
    missing = [p for p in path.parents if not p.exists()]
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
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


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
    """Raise ``ValueError`` unless ``path`` does not exist yet or is an empty folder."""
    path = Path(path)
    taken = path.is_symlink() if not path.exists() else not path.is_dir() or any(path.iterdir())
    if taken:
        raise ValueError(f"{path} exists already: name another folder, or remove it first")
