"""Damaged files are refused with a message before memory is allocated. Longer runs: fuzz_files."""

import itertools
import json
import mmap
import os
import signal
import zipfile
import zlib

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE, export
from ipvae_snn._utils.untrusted import read_npy_array, read_npz_arrays
from tests.properties import fuzz_files
from tests.properties.common import little_memory
from tests.properties.fuzz_files import KINDS, attempt, fuzz, main, table, valid_content
from tests.properties.mutations import mutated, mutations

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")
# For a mutated zip bomb, torch may unpack a gibibyte before it refuses the file.
WITHOUT_BOMBS = {"model"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    content, path = valid_content(kind), tmp_path / f"damaged{KINDS[kind].suffix}"
    for name, damaged in mutations(content, 15, seed=3):
        if name == "zip_bomb" and kind in WITHOUT_BOMBS:
            continue
        path.write_bytes(damaged)
        with little_memory():
            result, message = attempt(path, KINDS[kind].read)
        assert result != "wrong", (name, message)


def test_damage_depends_only_on_the_seed():
    content = valid_content("fixed-point")
    some = list(mutations(content, 20, seed=1))
    assert some == list(mutations(content, 25, seed=1))[:20]
    assert some[7] == mutated(content, "1/7")
    assert some != list(mutations(content, 20, seed=2))
    assert all(damaged != content for _, damaged in some)


def test_crashes_hangs_and_memory_use_are_reported_per_file(monkeypatch):
    def read(path):
        content = path.read_bytes()
        kind = zlib.crc32(content) % 3
        if content == bytes(1000):
            return
        if kind == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        while kind == 1:
            pass
        # A new mapping: the allocator might reuse memory, and then nothing would grow.
        np.frombuffer(mmap.mmap(-1, 2**26), dtype=np.uint8)[:] = 1
        raise KeyError("odd")

    made = KINDS["model"]._replace(make=lambda p: p.write_bytes(bytes(1000)), read=read)
    monkeypatch.setitem(KINDS, "bad", made)
    monkeypatch.setattr(fuzz_files, "GROWTH_BYTES", 2**25)
    outcomes = list(fuzz("bad", 9, seed=5, seconds=0.5))
    assert {o.seed for o in outcomes} == {f"5/{n}" for n in range(9)}
    assert {o.result for o in outcomes} == {"crash", "hang", "memory"}
    assert all(o.failed for o in outcomes)
    assert f"{len(outcomes):,}" in table(outcomes)


def test_the_command_reports_counts(capsys):
    assert main(["--count", "8", "--kind", "fixed-point,xylo", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "8 files in" in printed
    assert "fixed-point" in printed


def test_a_zip_bomb_model_is_refused_before_memory_is_allocated(tmp_path):
    damaged = (mutated(valid_content("model"), f"bomb/{n}") for n in itertools.count())
    (tmp_path / "model.pt").write_bytes(next(d for name, d in damaged if name == "zip_bomb"))
    before = fuzz_files._new_peak()
    with pytest.raises(ValueError, match="bytes"):
        IPVAE.load(tmp_path / "model.pt")
    assert fuzz_files._status("VmHWM") - before < 2**28


@pytest.mark.parametrize("value", [1e12, float("inf"), float("nan")])
def test_a_model_with_impossible_values_is_refused(value, tmp_path):
    IPVAE(4, 3).save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["weights"]["neuron.mem_init"].fill_(value)
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="mem_init"):
        IPVAE.load(tmp_path / "model.pt")


def test_a_model_whose_config_contradicts_its_weights_allocates_no_memory(tmp_path):
    IPVAE(4, 3).save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["config"]["latents"] = 3 * 10**7
    torch.save(content, tmp_path / "model.pt")
    before = fuzz_files._new_peak()
    with little_memory(2**32), pytest.raises(ValueError, match="latents"):
        IPVAE.load(tmp_path / "model.pt")
    assert fuzz_files._status("VmHWM") - before < 2**28


@pytest.mark.parametrize(("kind", "seed"), [("nir", "42/623"), ("nir-portable", "42/226")])
def test_graph_texts_that_claim_to_be_long_allocate_no_memory(kind, seed, tmp_path):
    pytest.importorskip("nir", reason="graphs need the extra nir")
    (tmp_path / "a.nir").write_bytes(mutated(valid_content(kind), seed)[1])
    before = fuzz_files._new_peak()
    with pytest.raises(ValueError, match=r"a\.nir cannot be read as a NIR graph"):
        export.read(tmp_path / "a.nir")
    assert fuzz_files._status("VmHWM") - before < 2**27


# -- .npy and .npz ----------------------------------------------------------------------------


def with_header(text, body=b"", version=b"\1\0", length=None):
    data = text.encode("latin1")
    size = (len(data) if length is None else length).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + data + body


def header(shape="(2,)", descr="'<f8'", order="False"):
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")


ABSURD = {
    "huge": header("(1000000000000,)"),
    "beyond int64": header("(9223372036854775808,)"),
    "empty but huge": header("(0, 1000000000000)"),
    "negative": header("(-1,)"),
    "bool": header("(True,)"),
    "many axes": header("(" + "1," * 70 + ")"),
    "deep": header("(" * 3000),
    "digits": header("(" + "9" * 5000 + ",)"),
    "objects": header(descr="'|O'"),
    "fields": header(descr="[('a', '<f8')]"),
    "long text": header(descr="'<U1000000000'"),
    "no order": header(order="2"),
    "no bytes": header(),
    "more bytes": header() + bytes(17),
    "long header": with_header("{}", version=b"\2\0", length=2**32 - 1),
    "version 3": with_header("{}", version=b"\3\0"),
    "nothing": b"",
    "text": b"hello",
}


@pytest.mark.parametrize("content", ABSURD.values(), ids=ABSURD)
def test_absurd_headers_are_refused_before_memory_is_allocated(content, tmp_path):
    alone, packed = tmp_path / "a.npy", tmp_path / "a.npz"
    alone.write_bytes(content)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", content)
    with little_memory(2**27):
        for read, path in ((read_npy_array, alone), (read_npz_arrays, packed)):
            with pytest.raises(ValueError, match=r"a\.npy"):
                read(path, limit_bytes=2**40)


def test_arrays_of_all_kinds_are_read_back(tmp_path):
    arrays = {
        "number": np.array(3), "text": np.array("ü"), "texts": np.array([["a", ""]]),
        "none": np.zeros((0, 3)), "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.arange(3) > 1, "big": np.arange(3, dtype=">i4"), "bytes": np.array([b"a"]),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        back = read_npz_arrays(tmp_path / "a.npz", 2**20)
        assert list(back) == list(arrays)
    np.save(tmp_path / "turned.npy", arrays["turned"])
    back["turned"] = read_npy_array(tmp_path / "turned.npy", 2**20)
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert (back[name] == array).all()
        assert back[name].flags.writeable


def test_the_total_size_of_an_archive_is_limited(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(2**20), b=np.zeros(2**20))
    with pytest.raises(ValueError, match=r"unpacks to 16,777,\d+ bytes: expected at most"):
        read_npz_arrays(path, 10 * 2**20)
    with pytest.raises(FileNotFoundError):
        read_npz_arrays(tmp_path / "none.npz", 1)


@pytest.mark.parametrize("load", [export.FixedPoint.load, export.XyloNetwork.load])
def test_zip_bombs_are_refused_before_memory_is_allocated(load, tmp_path):
    kind = "xylo" if load == export.XyloNetwork.load else "fixed-point"
    damaged = (mutated(valid_content(kind), f"bomb/{n}") for n in itertools.count())
    bomb = next(content for name, content in damaged if name == "zip_bomb")
    (tmp_path / "bomb.npz").write_bytes(bomb)
    with little_memory(2**28), pytest.raises(ValueError, match="unpacks to"):
        load(tmp_path / "bomb.npz")


def test_arrays_too_large_to_read_back_are_not_written(tmp_path):
    from ipvae_snn._utils.npz_files import write_npz

    large = np.broadcast_to(np.float32(0), (2**14, 2**15))
    with pytest.raises(ValueError, match="too large for a file"):
        write_npz(tmp_path / "a.npz", "kind", 1, {"a": large})
    assert not list(tmp_path.iterdir())


# -- HDF5 -------------------------------------------------------------------------------------


def circle(file):
    file["node/nodes/again"] = file["node"]


def deflated_beyond(file):
    data = file.create_dataset("node/x", (1024,), "u1", chunks=(1024,), compression="gzip")
    data.id.write_direct_chunk((0,), zlib.compress(bytes(2**27), 1))


HARMFUL = {
    "declared, never written": lambda f: f.create_dataset("node/x", (10**12,), "f4", chunks=(64,)),
    "declared, contiguous": lambda f: f.create_dataset("node/x", (2**40,), "f4"),
    "huge chunks": lambda f: f.create_dataset("node/x", (2**33,), "u1", chunks=(2**31,)),
    "circle": circle,
    "soft link": lambda f: f.__setitem__("node/x", h5py.SoftLink("/node")),
    "other file": lambda f: f.__setitem__("node/x", h5py.ExternalLink("/etc/x.h5", "/")),
    "bytes of another file": lambda f: f.create_dataset(
        "node/x", (4,), "u1", external=[("/etc/hostname", 0, 4)]
    ),
    "unpacks to more": deflated_beyond,
    "reference": lambda f: f.__setitem__("node/x", f["node"].ref),
}


@pytest.mark.parametrize("harm", HARMFUL.values(), ids=HARMFUL)
def test_harmful_graphs_are_refused_before_memory_is_allocated(harm, tmp_path):
    path = tmp_path / "a.nir"
    path.write_bytes(valid_content("nir"))
    with h5py.File(path, "r+") as file:
        harm(file)
    with little_memory(2**28), pytest.raises(ValueError, match="a NIR graph: '/node"):
        export.read(path)


def test_an_endless_text_heap_is_refused(tmp_path):
    content = bytearray(valid_content("nir"))
    heap = content.index(b"GCOL") + 16
    first = 16 + -(-int.from_bytes(content[heap + 8 : heap + 16], "little") // 8) * 8
    content[heap + first : heap + first + 16] = bytes(16)  # an entry of length 0 never advances
    (tmp_path / "a.nir").write_bytes(content)
    with pytest.raises(ValueError, match="its variable-length strings are damaged"):
        export.read(tmp_path / "a.nir")


def test_metadata_that_contradicts_the_weights_allocates_no_memory(tmp_path):
    graph = export.to_nir(IPVAE(4, 3))
    for name, key, value in (
        ("config", "latents", 10**9),
        ("config", "in_features", 10**9),
        ("options", "levels", 4000),
    ):
        other = export.to_nir(IPVAE(4, 3))
        other.metadata[name] = json.dumps({**json.loads(graph.metadata[name]), key: value})
        with little_memory(2**28), pytest.raises(ValueError, match="metadata of the graph"):
            export.from_nir(other)
