"""Folders and files that only this user can have written, for what is trusted when it is read."""

import os
import stat
from pathlib import Path

MAX_BYTES = 2**24


def private_folder(variable: str, default: str) -> Path:
    """The folder of this package in a base folder of the user; made if it does not exist.

    Args:
        variable: environment variable of the XDG Base Directory Specification that names the base
            folder; a relative path is ignored, as the specification says.
        default: base folder without it, in the home folder.

    Raises:
        OSError: it cannot be made, or others can write to it.
    """
    base = os.environ.get(variable, "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / default) / "ipvae_snn"
    except RuntimeError as error:  # a user without a home
        raise FileNotFoundError(str(error)) from error
    if not folder.is_absolute():
        raise FileNotFoundError(f"the home folder {Path.home()} is a relative path")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _only_ours(folder.stat()):
        raise PermissionError(
            f"others can write to {folder}: make it private (chmod 700), or, if it is somebody "
            f"else's, name another base folder in {variable}"
        )
    return folder


def read_private(path: Path) -> bytes | None:
    """The content of a file if it is regular, this user's own, and nobody else can write to it.

    Links are not followed; a file of more than :data:`MAX_BYTES` is not read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            whole = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
            # By another name of the file others may have written to it before.
            return file.read() if whole and status.st_nlink == 1 and _only_ours(status) else None
    except OSError:
        return None


def _only_ours(status: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):  # Windows keeps the folders of users apart by itself
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
