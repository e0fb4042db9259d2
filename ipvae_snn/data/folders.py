"""The files of a folder: no hidden ones, and those in linked folders once."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def files_below(folder: Path, without: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """All paths in a folder and its subfolders, but for hidden ones and subfolders.

    Folders that links lead to are read after the others, and each only once, so that loops end and
    no image is read twice. Links to a folder that this one is in are not followed.

    Args:
        folder: the folder.
        without: which subfolders to leave out.

    Raises:
        OSError: a folder cannot be read; what is in it may be the test images.
    """
    waiting, seen = deque([folder]), set(map(_identity, folder.resolve().parents))
    while waiting:
        current = waiting.popleft()
        if (identity := _identity(current)) in seen:
            continue
        seen.add(identity)
        with os.scandir(current) as entries:
            found = sorted((entry for entry in entries if entry.name[0] != "."), key=_name)
        for entry in found:
            path, linked = current / entry.name, entry.is_symlink()
            if not (path.is_dir() if linked else entry.is_dir()):  # the first: links to themselves
                yield path
            elif not without(path):
                (waiting.append if linked else waiting.appendleft)(path)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
