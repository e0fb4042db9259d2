"""Compile the native kernels for this processor, once, and keep the result between runs.

What is written: one shared library of about 50 kB in a folder of the user's own, named after the
source, the compiler, its flags and the processor's instruction set, so that a change of any makes
a new one. Nothing is built where there is no C compiler: the package then runs on PyTorch alone.
"""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from ipvae_snn._utils.files import atomic_write

SOURCE = Path(__file__).parent
FLAGS = (
    "-std=c11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-shared", "-fPIC",
)  # fmt: skip
# OpenMP shares PyTorch's threads (both load libgomp, once); the width is GCC's only.
OPTIONAL = (("-fopenmp", "-mprefer-vector-width=512"), ("-fopenmp",), ())
TIMEOUT = 120


class BuildError(RuntimeError):
    """The native kernels cannot be had here; the message says why."""


def load() -> ctypes.CDLL:
    """The compiled kernels, built on the first call on this machine (about a second).

    Raises:
        BuildError: no compiler, one that fails, or no folder to write to.
    """
    compiler = _compiler()
    folder = _folder()
    problems = []
    for extra in OPTIONAL:
        flags = (*FLAGS, *extra)
        try:
            target = _target(compiler)
            path = folder / f"kernels-{_fingerprint(compiler, flags, target)}.so"
            if not path.exists():
                with atomic_write(path) as unfinished:
                    _run([compiler, *flags, str(SOURCE / "native.c"), "-o", str(unfinished), "-lm"])
            return ctypes.CDLL(str(path))
        except (BuildError, OSError, ValueError) as error:
            problems.append(str(error))
    raise BuildError(problems[-1])


def _compiler() -> str:
    if sys.platform == "win32":
        raise BuildError("the native kernels are not built on Windows")
    asked = os.environ.get("CC")
    for name in [asked] if asked else ["cc", "gcc", "clang"]:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C compiler found ({asked or 'cc, gcc, clang'})")


def _folder() -> Path:
    """A folder that only this user can write to: what lies in it is loaded as code."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "ipvae_snn"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        raise BuildError(f"no folder for compiled kernels: {error}") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"{folder} can be written by others: make it yours alone (chmod 700)")
    return folder


def _target(compiler: str) -> str:
    """What the compiler knows of itself and of this processor, as its predefined macros."""
    return _run([compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])


def _fingerprint(compiler: str, flags: tuple[str, ...], target: str) -> str:
    parts = [compiler, *flags, target]
    parts += [p.read_text() for p in sorted(SOURCE.glob("*.[ch]"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{command[0]} failed: {error.stderr.strip()[-400:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error
    return done.stdout
