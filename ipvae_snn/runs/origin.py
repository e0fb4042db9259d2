"""Where the data of a run lie: the paths in its ``config.json`` are followed for who wrote them.

A run folder may come from somebody else, and its figures and its report go back to them: a path in
it could name any file of this user. So the paths are sealed with a key of the user when the run is
made, and without that seal they are to be named again.
"""

import hmac
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ipvae_snn._utils.files import require_no_link
from ipvae_snn._utils.private import private_folder, read_private

KEY_BYTES = 32
WITHOUT_FILES = ("natural", "digits")
"""Data sets that are read from installed packages."""


def seal(source: Mapping[str, Any]) -> str:
    """The seal of this user for the data of a run; empty where no key can be kept."""
    try:
        folder = private_folder("XDG_STATE_HOME", ".local/state")
        key = _read_key(folder) or _make_key(folder)
    except (OSError, ValueError, NotImplementedError):  # the last one from disks without locks
        return ""
    return _digest(key, source)


def recorded_data(
    run: str | Path,
    config: Mapping[str, Any],
    source: str | None = None,
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """The data of a run, as arguments of :func:`ipvae_snn.data.load`.

    Args:
        run: the folder.
        config: its ``config.json``, as :func:`~ipvae_snn.runs.read_config` gives it.
        source, data_dir: what the user names now, in place of what is recorded.

    Raises:
        ValueError: it records a path, this user did not, and names none now.
    """
    given = {"source": source, "data_dir": data_dir}
    used = {**config["data"], **{n: value for n, value in given.items() if value is not None}}
    name, flag = ("data_dir", "--data-dir") if used["source"] == "mnist" else ("source", "--data")
    foreign = given[name] is None and used["source"] not in WITHOUT_FILES and name in used
    if foreign and not _is_sealed(config):
        path = str(used[name])
        told = shlex.quote(path) if path.isprintable() else "and their path"
        raise ValueError(
            f"the data of {run} lie outside it, in {path!r}, and it may be somebody else's: it was "
            f"not made by this user on this machine; to read them, say {flag} {told}"
        )
    return used


def _is_sealed(config: Mapping[str, Any]) -> bool:
    try:
        key = _read_key(private_folder("XDG_STATE_HOME", ".local/state"))
    except OSError:
        return False
    told = str(config.get("seal", "")).encode(errors="replace")
    return key is not None and hmac.compare_digest(_digest(key, config["data"]).encode(), told)


def _digest(key: bytes, source: Mapping[str, Any]) -> str:
    return hmac.digest(key, json.dumps(source, sort_keys=True).encode(), "sha256").hex()


def _read_key(folder: Path) -> bytes | None:
    key = read_private(folder / "key")
    return key if key is not None and len(key) == KEY_BYTES else None


def _make_key(folder: Path) -> bytes:
    lock = folder / ".key.lock"
    require_no_link(lock)
    with FileLock(lock):  # of two processes that make the first key, one reads the other's
        key = _read_key(folder)
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            (folder / "key").unlink(missing_ok=True)
            with open(
                os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(key)
    return key
