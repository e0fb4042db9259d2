"""Building and loading of the compiled kernels: cache, permissions, missing or broken compiler."""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import warnings

import pytest

from ipvae_snn.kernels import build, native

NATIVE = pytest.mark.skipif(
    not native.available(), reason=f"no kernels: {native.unavailable_reason()}"
)


@pytest.fixture(autouse=True)
def compile_quickly(monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("-O0", *[flag for flag in build.FLAGS if flag != "-O3"]))


def use_empty_cache(monkeypatch, tmp_path, **environment):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@NATIVE
def test_kernels_are_built_once_and_cached(monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    assert isinstance(build.load(), ctypes.CDLL)
    (path,) = (tmp_path / "cache" / "ipvae_snn").iterdir()
    made = path.stat().st_mtime_ns
    build.load()
    assert path.stat().st_mtime_ns == made
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@NATIVE
def test_a_cache_folder_that_others_can_write_to_is_refused(monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    folder = tmp_path / "cache" / "ipvae_snn"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(build.BuildError, match="chmod 700"):
        build.load()


@pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows")
@pytest.mark.parametrize(
    "compiler",
    [
        "no-such-compiler",
        "false",
        "no-such-wrapper gcc",
        "gcc --no-such-option",
        "gcc -E",
        "true",
        "/",
        "gcc '",
    ],
)
def test_a_missing_or_broken_compiler_is_named(monkeypatch, tmp_path, compiler):
    use_empty_cache(monkeypatch, tmp_path, CC=compiler)
    with pytest.raises(build.BuildError, match=compiler.split()[0]):
        build.load()
    left = tmp_path / "cache" / "ipvae_snn"
    assert not left.exists() or not list(left.iterdir())


def built(tmp_path):
    """The one library in the cache."""
    (path,) = (tmp_path / "cache" / "ipvae_snn").iterdir()
    return path


def started(say):
    """Another process, which a bad library may end: a function that gives what it says."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which it leaves alone
        child = os.fork()
    if not child:
        os.write(writes, say().encode())
        os._exit(0)
    os.close(writes)

    def said():
        with open(reads, "rb") as pipe:
            text = pipe.read().decode()
        assert os.waitpid(child, 0)[1] == 0
        return text

    return said


def in_a_process(say):
    return started(say)()


def kernels():
    """Whether this process loads its kernels, else why not."""
    text = str(native._load.__wrapped__())
    return "loaded" if text.startswith("<CDLL") else text


def loads_in_a_process():
    return in_a_process(kernels)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A library that leaves a mark where it is loaded."""
    folder = tmp_path_factory.mktemp("foreign")
    source, library = folder / "foreign.c", folder / "foreign.so"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void f(void)"
        f'{{fclose(fopen("{folder}/ran", "w"));}}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


def replaced(path, content):
    path.unlink()
    path.write_bytes(content)


def linked(path, target):
    path.unlink()
    path.symlink_to(target)


def made_a_folder(path):
    path.unlink()
    path.mkdir()


TAMPERED = {
    "foreign": lambda path, foreign: replaced(path, foreign.read_bytes()),
    "appended": lambda path, foreign: path.write_bytes(path.read_bytes() + b"\0"),
    "truncated": lambda path, foreign: os.truncate(path, path.stat().st_size // 2),
    "a page": lambda path, foreign: os.truncate(path, 4096),
    "empty": lambda path, foreign: os.truncate(path, 0),
    "huge": lambda path, foreign: os.truncate(path, 2**40),
    "text": lambda path, foreign: replaced(path, b"#!/bin/sh"),
    "link": lambda path, foreign: linked(path, foreign),
    "broken link": lambda path, foreign: linked(path, "nowhere"),
    "folder": lambda path, foreign: made_a_folder(path),
    "pipe": lambda path, foreign: (path.unlink(), os.mkfifo(path)),
    "writable": lambda path, foreign: path.chmod(0o666),
    "two names": lambda path, foreign: os.link(path, path.parent.parent / "other"),
}


@NATIVE
@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_cached_file_that_is_not_what_was_built_is_built_again(
    tamper, foreign, monkeypatch, tmp_path
):
    use_empty_cache(monkeypatch, tmp_path)
    assert loads_in_a_process() == "loaded"  # not here: what is loaded stays so
    path = built(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tamper(path, foreign)
    assert loads_in_a_process() == "loaded"
    assert not (foreign.parent / "ran").exists()
    left = [p for p in path.parent.iterdir() if p.is_file() and not p.is_symlink()]
    assert all(not p.stat().st_mode & 0o077 for p in left)
    if path.is_file():  # a folder of its name is left, and the next choice of options built
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


@NATIVE
def test_a_file_planted_while_the_folder_was_writable_is_not_loaded(foreign, monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    assert loads_in_a_process() == "loaded"  # not here: what is loaded stays so
    path = built(tmp_path)
    path.parent.chmod(0o777)
    replaced(path, foreign.read_bytes())
    shutil.copy(foreign, path.with_name(path.name[: path.name.rindex("-")] + ".so"))
    with pytest.raises(build.BuildError, match="chmod 700"):
        build.load()
    path.parent.chmod(0o700)  # as the message says
    assert loads_in_a_process() == "loaded"
    assert not (foreign.parent / "ran").exists()


@NATIVE
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid(), reason="only root gives files away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_belongs_to_another_user_is_not_loaded(what, monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    assert loads_in_a_process() == "loaded"  # not here: what is loaded stays so
    path = built(tmp_path)
    os.chown(path if what == "file" else path.parent, 65534, 65534)
    said = loads_in_a_process()
    assert said == "loaded" if what == "file" else "somebody else's, name another" in said
    assert path.stat().st_uid == 0


@NATIVE
def test_a_library_without_our_functions_is_a_reason_and_no_crash(foreign, monkeypatch):
    monkeypatch.setattr(build, "load", lambda: ctypes.CDLL(str(foreign)))
    assert "lacks a function" in str(native._load.__wrapped__())


@NATIVE
@pytest.mark.parametrize("kind", ["file", "read-only", "broken link", "no home", "relative home"])
def test_a_cache_folder_that_cannot_be_used_is_a_reason(kind, monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    cache = tmp_path / "cache"
    if kind == "file":
        cache.write_text("")
    elif kind == "broken link":
        cache.symlink_to(tmp_path / "none" / "cache")
    elif kind == "read-only":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", "home" if kind == "relative home" else "/proc/none")
    with pytest.raises(build.BuildError, match="no folder for compiled kernels"):
        build.load()


@NATIVE
@pytest.mark.parametrize("relative", ["cache", "./cache", "../cache", "", "~/cache"])
def test_a_relative_cache_folder_is_ignored(relative, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    build.load()
    assert len(list((tmp_path / "home/.cache/ipvae_snn").iterdir())) == 1
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_dir()) == [
        ".cache", "here", "home", "ipvae_snn",
    ]  # fmt: skip


@NATIVE
def test_processes_that_build_at_once_all_load(monkeypatch, tmp_path):
    use_empty_cache(monkeypatch, tmp_path)
    processes = [started(kernels) for _ in range(4)]
    assert [said() for said in processes] == ["loaded"] * 4
    assert stat.S_IMODE(built(tmp_path).stat().st_mode) == 0o600


@NATIVE
@pytest.mark.parametrize(
    "command",
    [
        "gcc -O2", "  gcc  ", "{tmp}/wrap gcc", "'{tmp}/a b/cc' -O1", "{tmp}/a\\ b/cc",
        "{tmp}/a b/cc", 'gcc "-DA=a b"', "clang", "clang -O2",
    ],
)  # fmt: skip
def test_the_compiler_may_have_options_and_wrappers(command, monkeypatch, tmp_path):
    if shutil.which(command.split()[0].strip("'\"")) is None and "{tmp}" not in command:
        pytest.skip(f"no {command.split()[0]} on this machine")
    (tmp_path / "a b").mkdir()
    for name, line in (("wrap", '"$@"'), ("a b/cc", 'cc "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (tmp_path / name).chmod(0o755)
    use_empty_cache(monkeypatch, tmp_path, CC=command.format(tmp=tmp_path))
    assert isinstance(build.load(), ctypes.CDLL)
    build.load()
    assert built(tmp_path).is_file()


@NATIVE
def test_fast_math_in_cc_does_not_make_the_process_flush_small_numbers(monkeypatch, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    use_empty_cache(monkeypatch, tmp_path, CC="gcc -ffast-math")
    smallest = sys.float_info.min
    said = in_a_process(lambda: f"{native._load.__wrapped__()} {smallest / 2}")
    assert said.startswith("<CDLL")
    assert said.endswith(str(smallest / 2))


@pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows")
@pytest.mark.parametrize("quick", ["", "case $* in *-dM*) exit;; esac\n"], ids=["always", "build"])
def test_a_compiler_that_hangs_is_waited_for_once(quick, monkeypatch, tmp_path):
    compiler = tmp_path / "hangs"
    compiler.write_text(f"#!/bin/sh\n{quick}echo >> {tmp_path}/calls\nexec sleep 9\n")
    compiler.chmod(0o755)
    use_empty_cache(monkeypatch, tmp_path, CC=str(compiler))
    monkeypatch.setattr(build, "TIMEOUT", 0.5)
    with pytest.raises(build.BuildError, match="timed out"):
        build.load()
    assert (tmp_path / "calls").read_text() == "\n"


SCRIPT = """
import torch
from ipvae_snn import IPVAE, Stream
from ipvae_snn.kernels import native
assert not native.available(), native.unavailable_reason()
model = IPVAE(6, 5)
model.loss(torch.rand(3, 6), 4).backward()
Stream(model, seed=0).push(torch.rand(6), 3)
print(native.unavailable_reason())
"""


@pytest.mark.parametrize(
    ("environment", "says"), [({"IPVAE_SNN_NATIVE": "0"}, "=0"), ({"CC": "no-cc"}, "no-cc")]
)
@pytest.mark.slow
def test_models_run_without_compiled_kernels(environment, says, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert says in done.stdout
