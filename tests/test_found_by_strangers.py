"""Defects that came out when others tried the package; each test fails if one comes back."""

import gzip
import math
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import io
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, data, metrics
from ipvae_snn.data.readers import read_idx

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)
X = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
CURRENT = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


# -- data -----------------------------------------------------------------------------------------


def write_images(folder, count, shape=(40, 50)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
        io.imsave(folder / f"{index}.png", pixels, check_contrast=False)


def test_sixteen_bit_images_keep_their_greys(tmp_path):
    ramp = np.arange(64).reshape(8, 8) * 1000
    for index in range(4):
        (tmp_path / f"{index}.pgm").write_bytes(b"P5\n8 8\n65535\n" + ramp.astype(">u2").tobytes())
        Image.fromarray(ramp.astype(np.int32)).save(tmp_path / f"{index}i.tif")
        Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / f"{index}.tif")
        io.imsave(tmp_path / f"{index}.png", ramp.astype(np.uint16), check_contrast=False)
    rows = torch.cat(data.load(tmp_path)[:2])
    expected = torch.from_numpy(ramp.reshape(1, -1) / 65535).float()
    torch.testing.assert_close(rows, expected.expand(16, 64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK"])
def test_other_image_modes(tmp_path, mode):
    for index in range(4):
        image = Image.fromarray(BYTES[index]).convert(mode)
        image.save(tmp_path / f"{index}.{'tif' if mode == 'CMYK' else 'png'}")
    rows = torch.cat(data.load(tmp_path)[:2])
    assert rows.shape == (4, 63)
    assert rows.std() > 0.2


def test_stray_files_and_old_runs_are_not_images(tmp_path):
    write_images(tmp_path, 5)
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "folder.png").mkdir()
    write_images(tmp_path / "runs" / "a" / "figures", 3, (200, 200))
    (tmp_path / "runs" / "a" / "metrics.json").write_text("{}")
    dataset = data.load(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 5


def test_small_collections_hold_out_two_samples(tmp_path):
    np.save(tmp_path / "a.npy", BYTES[:4])
    dataset = data.load(tmp_path / "a.npy")
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    whole = data.load(tmp_path / "a.npy", hold_out=False)
    assert (len(whole.train), len(whole.test)) == (0, 4)


@pytest.mark.parametrize(
    "labels", [np.zeros((20, 1), dtype=np.int64), np.zeros((20, 10), dtype=np.uint8)]
)
def test_labels_of_two_dimensions_are_not_taken_for_images(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x_train=BYTES, y_train=labels, x_test=BYTES, y_test=labels)
    assert data.load(tmp_path / "a.npz").train.shape == (20, 63)


def test_flat_arrays_beside_images_are_left_alone(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES, packed=np.zeros((20, 99), dtype=np.uint8))
    assert data.load(tmp_path / "a.npz").train.shape == (16, 63)


def test_corrupt_compression_is_one_error(tmp_path):
    noise = RNG.integers(0, 256, (50, 20, 20), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=noise)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[5000:5100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(tmp_path / "a.npz")
    idx = struct.pack(">BBBB3I", 0, 0, 8, 3, *noise.shape) + noise.tobytes()
    raw = bytearray(gzip.compress(idx))
    raw[5000:5100] = bytes(100)
    (tmp_path / "b.gz").write_bytes(raw)
    with pytest.raises(ValueError, match="cannot be read"):
        read_idx(tmp_path / "b.gz")


@pytest.mark.parametrize(
    "options",
    [{"patches": (-1, 5)}, {"patches": (10,)}, {"patch_size": 1}, {"seed": -1}],
    ids=str,
)
def test_bad_numbers(options):
    with pytest.raises(ValueError, match=r"must|patches"):
        data.load("digits", **options)


# -- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [k / 255 for k in range(0, 256, 7)])
def test_blank_samples_never_explode(level):
    blank = torch.full((1, 784), level)
    assert metrics.r2(blank, torch.zeros(1, 784)).item() in (0.0, 1.0)


def test_half_precision_does_not_overflow():
    sparsity = metrics.lifetime_sparsity(torch.full((100, 4), 50.0).half())
    assert sparsity.item() == pytest.approx(0, abs=1e-6)


# -- model ----------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return IPVAE(12, 7, init_std=0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_files_keep_the_precision(tmp_path, dtype):
    IPVAE(12, 7).to(dtype).save(tmp_path / "model.pt")
    assert IPVAE.load(tmp_path / "model.pt").decoder.weight.dtype == dtype


def test_files_keep_what_was_changed_after_construction_and_loading_draws_nothing(model, tmp_path):
    model.neuron.lateral_scale, model.neuron.leak, model.neuron.clamp = 0.5, 0.1, 3.0
    model.save(tmp_path / "model.pt")
    state = torch.get_rng_state()
    again = IPVAE.load(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.neuron.lateral_scale, again.neuron.leak, again.neuron.clamp) == (0.5, 0.1, 3.0)
    assert not again.training
    with pytest.raises(ValueError, match="device"):
        IPVAE.load(tmp_path / "model.pt", device="nowhere")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.run(X, 3, state=X), TypeError),
        (lambda m: m.run(X, 3, state=(X, X, X)), TypeError),
        (lambda m: m.run(X, 3, state=(torch.zeros(5, 7), torch.full((5, 7), 1e999))), ValueError),
        (lambda m: m.run(X * 1e38, 3), ValueError),
        (lambda m: m.run(X, 3, seed="a"), TypeError),
        (lambda m: m.run(X, 3, seed=-1), ValueError),
        (lambda m: m.decode(torch.zeros(3, 7).double()), TypeError),
        (lambda m: m.loss(X, 3, beta=float("nan")), ValueError),
        (lambda m: m.neuron(torch.zeros(5, 7), gram=torch.eye(3)), ValueError),
        (lambda m: m.neuron(torch.zeros(5, 7), [1.0], [2.0]), TypeError),
    ],
)
def test_every_misuse_is_named(model, call, error):
    with pytest.raises(error):
        call(model)


def test_weights_that_went_bad_are_named(model):
    with torch.no_grad():
        model.decoder.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights"):
        model.run(X, 3)


def test_a_half_precision_state_is_taken(model):
    state = tuple(part.half() for part in model.run(X, 3).state)
    assert model.run(X, 3, state=state).mem.dtype == torch.float32


# -- neuron ---------------------------------------------------------------------------------------


def make(**options):
    return IPVAENeuron(nn.Linear(6, 10, bias=False), **options)


def test_a_float64_decoder_makes_a_float64_neuron():
    neuron = IPVAENeuron(nn.Linear(6, 10, bias=False, dtype=torch.float64))
    spk, _ = neuron(neuron.drive(torch.rand(3, 10, dtype=torch.float64)))
    assert spk.dtype == torch.float64


@pytest.mark.parametrize("learn", [False, True])
def test_a_float64_gram_from_numpy_works(learn):
    gram = torch.eye(6, dtype=torch.float64)
    assert IPVAENeuron(6, gram=gram, learn_gram=learn)(CURRENT)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("log_scale", "error"),
    [
        (0.0, TypeError),
        (torch.zeros(10).double(), TypeError),
        (torch.full((10,), math.nan), ValueError),
    ],
)
def test_bad_log_scale(log_scale, error):
    with pytest.raises(error, match="log_scale"):
        make(log_scale=log_scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_explicit_states(bad):
    good, wrong = torch.zeros(4, 6), torch.full((4, 6), bad)
    for states in ((good, wrong), (wrong, good)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            make()(CURRENT, *states)


@pytest.mark.parametrize("result", [lambda u: u[:1], lambda u: 1.0])
@pytest.mark.parametrize("option", ["state_quant", "spike_grad"])
def test_callables_that_break_the_shape(option, result):
    neuron = make(**{option: result})
    with pytest.raises(ValueError, match=option):
        neuron(CURRENT)
    assert neuron.mem.shape == (0,)


def test_a_tensor_threshold_is_refused_too():
    with pytest.raises(ValueError, match="threshold"):
        make(threshold=torch.ones(6))


def test_numbers_of_numpy_are_numbers():
    assert IPVAENeuron(np.int64(6), step=np.float32(0.1)).features == 6


# -- runs -----------------------------------------------------------------------------------------


def test_samples_to_evaluate_come_from_all_over_a_sorted_set():
    from ipvae_snn.runs import pick

    values = torch.arange(1000.0)
    chosen = pick(values, 100, seed=0)
    assert len(chosen.unique()) == 100
    assert chosen.max() > 900
    assert torch.equal(chosen, pick(values, 100, seed=0))
