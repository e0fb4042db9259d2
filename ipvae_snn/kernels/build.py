"""Compile the native kernels for this processor, and cache the library between runs.

The cache is one shared library of about 50 kB in a folder of the user. Its name is a hash of the
source, the compiler, its flags and the instruction set, so that a change of any of them builds a
new one. Without a C compiler nothing is built, and the package runs on PyTorch alone.
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
FLAGS = ("-std=c11", "-O3", "-march=native", "-shared", "-fPIC")
FLOAT_FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
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
    folder = _folder()
    problems = []
    for extra in OPTIONAL:
        flags = (*FLAGS, *FLOAT_FLAGS, *extra)
        try:
            target = _target(compiler)
            path = folder / f"kernels-{_fingerprint(compiler, flags, target)}.so"
            if not path.exists():
                with atomic_write(path) as temporary:
                    _run([compiler, *flags, str(SOURCE / "native.c"), "-o", str(temporary), "-lm"])
            return ctypes.CDLL(str(path))
        except (BuildError, OSError, ValueError) as error:
            problems.append(str(error))
    raise BuildError(problems[-1])


def _compiler() -> str:
    if sys.platform == "win32":
        raise BuildError("the native kernels are not built on Windows")
    chosen = os.environ.get("CC")
    for name in [chosen] if chosen else ["cc", "gcc", "clang"]:
        path = shutil.which(name)
        if path:
            return path
    raise BuildError(f"no C compiler found ({chosen or 'cc, gcc, clang'})")


def _folder() -> Path:
    """The cache folder; only this user may write to it, as its files are loaded as code."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "ipvae_snn"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        raise BuildError(f"no folder for compiled kernels: {error}") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others can write to {folder}: make it private (chmod 700)")
    return folder


def _target(compiler: str) -> str:
    """The compiler's version and the instruction set, as the predefined macros."""
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
