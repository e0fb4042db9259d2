"""Archives of arrays with members that are none: these are left out, and nothing is unpickled."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from ipvae_snn import data

BYTES = np.random.default_rng(0).integers(0, 256, (20, 9, 7), dtype=np.uint8)


class Harmful:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


FOREIGN = {
    "objects": ("meta.npy", npy(np.array([Harmful()], dtype=object))),
    "a dictionary": ("meta.npy", npy(np.array({"a": Harmful()}, dtype=object))),
    "a record": ("meta.npy", npy(np.zeros(3, dtype=[("a", "f4"), ("b", "i2")]))),
    "dates": ("meta.npy", npy(np.zeros(3, dtype="M8[s]"))),
    "a pickle": ("meta.npy", pickle.dumps(Harmful())),
    "another suffix": ("meta.pkl", pickle.dumps(Harmful())),
    "a text": ("meta", b"about these images"),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_member_that_is_no_array_of_numbers_is_left_out(
    tmp_path, monkeypatch, foreign, before, large
):
    members = [("x.npy", npy(BYTES)), foreign]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in reversed(members) if before else members:
            archive.writestr(name, content)
    if large:
        monkeypatch.setattr(data, "IN_MEMORY", 100)
    dataset = data.load(tmp_path / "a.npz")
    assert len(dataset.train) == 16
    assert "read: x (20); left out, as no array of numbers: 'meta" in dataset.description


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_refusal_names_what_was_left_out(tmp_path, foreign):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(*foreign)
    with pytest.raises(ValueError, match=r"holds no images: .* left out, .*'meta"):
        data.load(tmp_path / "a.npz")


def test_an_archive_says_what_was_read_whatever_its_suffix(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=BYTES, x_test=BYTES[:4])
    np.save(tmp_path / "b.npy", BYTES)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    read = "to train on: x_train (20); held out: x_test (4)"
    assert read in data.load(tmp_path / "a.npy").description
    assert "read:" not in data.load(tmp_path / "b.npz").description


def test_texts_and_complex_numbers_beside_images_are_no_images(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES, names=np.full((2, 2, 2), "x"), waves=BYTES[:2] * 1j)
    assert "read: x (20)" in data.load(tmp_path / "a.npz").description


def test_a_lone_array_of_objects_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(np.array([Harmful()], dtype=object)))
    with pytest.raises(ValueError, match=r"a\.npy holds Python objects: expected numbers or text"):
        data.load(tmp_path / "a.npy")
