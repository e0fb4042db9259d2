"""Compile the native kernels for this processor, and cache the library between runs.

The cache is one shared library of about 50 kB in a folder of the user. Its name holds two hashes:
one of the source, the compiler, its flags and the instruction set, so that a change of any of them
builds a new one, and one of its content, so that a file that is damaged, or that others put there,
is not loaded: it would run as code. Without a C compiler nothing is built, and the package runs on
PyTorch alone.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ipvae_snn._utils.files import fsync
from ipvae_snn._utils.private import private_folder, read_private

SOURCE = Path(__file__).parent
FLAGS = ("-std=c11", "-O3", "-march=native", "-shared", "-fPIC")
# A -ffast-math of CC is undone: with it, GCC links code that makes the whole process flush small
# numbers to zero once the library is loaded.
FLOAT_FLAGS = ("-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# Tried in turn. The vector width is an option of GCC alone. With OpenMP the kernels use the threads
# of PyTorch: both load libgomp, once.
OPTIONAL = (("-fopenmp", "-mprefer-vector-width=512"), ("-fopenmp",), ())
TIMEOUT = 120
"""Seconds for one run of the compiler."""


class BuildError(RuntimeError):
    """The native kernels are not available; the message says why."""


def load() -> ctypes.CDLL:
    """The compiled kernels; the first call on a machine builds them, in about a second.

    Raises:
        BuildError: missing or broken compiler, or no folder to write to.
    """
    compiler = _compiler()
    try:
        folder = private_folder("XDG_CACHE_HOME", ".cache")
    except OSError as error:
        raise BuildError(f"no folder for compiled kernels: {error}") from error
    target, problems = _target(compiler), []
    for extra in OPTIONAL:
        command = [*compiler, *FLAGS, *FLOAT_FLAGS, *extra]
        try:
            name = f"kernels-{_fingerprint(command, target)}"
            return ctypes.CDLL(str(_cached(folder, name) or _build(folder, name, command)))
        except (BuildError, OSError, ValueError) as error:
            if isinstance(error.__cause__, subprocess.TimeoutExpired):
                raise  # it would hang again
            problems.append(str(error))
    raise BuildError(problems[-1])


def _compiler() -> list[str]:
    """The command of the compiler, and the options that ``CC`` gives it, as a shell reads them."""
    if sys.platform == "win32":
        raise BuildError("the native kernels are not built on Windows")
    chosen = os.environ.get("CC", "").strip()
    for candidate in [chosen] if chosen else ["cc", "gcc", "clang"]:
        if shutil.which(candidate):  # a path with spaces, too
            return [candidate]
        try:
            words = shlex.split(candidate)
        except ValueError as error:
            raise BuildError(f"CC={chosen} cannot be read as a command: {error}") from error
        if words and shutil.which(words[0]):
            return words
    raise BuildError(f"no C compiler found ({chosen or 'cc, gcc, clang'})")


def _cached(folder: Path, name: str) -> Path | None:
    """The library of this name whose content is what was built."""
    for path in folder.glob(f"{name}-*.so"):
        content = read_private(path)
        if content is not None and path.name == _file_name(name, content):
            return path
    return None


def _build(folder: Path, name: str, command: list[str]) -> Path:
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as scratch:
        made = Path(scratch) / "kernels.so"
        _run([*command, str(SOURCE / "native.c"), "-o", str(made), "-lm"])
        if not made.is_file():
            raise BuildError(f"{shlex.join(command)} wrote no library")
        made.chmod(0o600)
        try:
            ctypes.CDLL(str(made))
        except OSError as error:  # in the cache it would be found again and again
            reason = str(error).removeprefix(f"{made}: ")
            raise BuildError(f"{shlex.join(command)} wrote no library: {reason}") from error
        fsync(made)
        path = folder / _file_name(name, made.read_bytes())
        os.replace(made, path)
        return path


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()}.so"


def _target(compiler: list[str]) -> str:
    """The compiler's version and the instruction set, as the predefined macros."""
    return _run([*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])


def _fingerprint(command: list[str], target: str) -> str:
    path = shutil.which(command[0]) or command[0]
    parts = [part.encode(errors="surrogateescape") for part in (path, *command[1:], target)]
    parts += [p.read_bytes() for p in sorted(SOURCE.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip()[-400:] or f"it ended with status {error.returncode}"
        raise BuildError(f"{command[0]} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error
    return done.stdout
