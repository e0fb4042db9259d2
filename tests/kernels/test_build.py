"""Building and loading of the compiled kernels: cache, permissions, missing or broken compiler."""

import ctypes
import os
import subprocess
import sys

import pytest

from ipvae_snn.kernels import build, native

NATIVE = pytest.mark.skipif(
    not native.available(), reason=f"no kernels: {native.unavailable_reason()}"
)


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
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_a_missing_or_broken_compiler_is_named(monkeypatch, tmp_path, compiler):
    use_empty_cache(monkeypatch, tmp_path, CC=compiler)
    with pytest.raises(build.BuildError, match=compiler):
        build.load()
    left = tmp_path / "cache" / "ipvae_snn"
    assert not left.exists() or not list(left.iterdir())


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
def test_models_run_without_compiled_kernels(environment, says, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert says in done.stdout
