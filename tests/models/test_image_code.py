"""Codes of images: what is kept, files, and what is refused."""

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE
from ipvae_snn.models import ConvIPVAE, ImageCode, Whitening, decode_image, encode_image


@pytest.fixture
def model():
    torch.manual_seed(0)
    whitening = Whitening([[1.0]], [0.4])
    model = ConvIPVAE(1, 6, 8, 3, init_std=0.3, whitening=whitening)
    with torch.no_grad():
        model.neuron.mem_init.fill_(1.0)
    return model.eval()


IMAGE = torch.rand(1, 21, 34, generator=torch.Generator().manual_seed(0))


def test_a_code_is_the_run_of_the_whitened_image(model):
    code = encode_image(model, IMAGE, (3, 8), seed=5)
    with model.seeded(5), torch.no_grad():
        first = model.run(model.whitening(IMAGE)[None], 3, record=()).state
        last = model.run(model.whitening(IMAGE)[None], 5, record=(), state=first).state
    assert torch.equal(code.spk.float(), torch.cat([first.spk, last.spk]))
    assert code.spk.dtype == torch.uint8
    assert code.spk.any()
    expected = model.whitening.inverse(model.decode(last.spk, (21, 34)))
    assert torch.allclose(decode_image(model, code)[1:], expected, rtol=1e-4, atol=1e-2)


def test_graded_counts_are_rounded_rates_and_the_model_stays_as_it_was(model):
    before = model.neuron.spike_grad
    one, other = (encode_image(model, IMAGE, (8,), graded=True, seed=s) for s in (0, 1))
    assert torch.equal(one.spk, other.spk)
    assert model.neuron.spike_grad is before
    assert not torch.equal(encode_image(model, IMAGE, (8,), seed=0).spk, one.spk)


@pytest.mark.parametrize("largest", [3, 300, 40_000])
def test_files_keep_the_code(largest, model, tmp_path):
    code = encode_image(model, IMAGE, (2, 4), seed=0)
    spk = code.spk.to(torch.int32)
    spk[0, 0, 0, 0] = largest
    ImageCode(spk, code.steps, code.size, code.dictionary).save(tmp_path / "a.npz")
    found = ImageCode.load(tmp_path / "a.npz")
    assert torch.equal(found.spk.to(torch.int32), spk)
    assert (found.steps, found.size, found.dictionary) == ((2, 4), (21, 34), code.dictionary)
    assert decode_image(model, found).shape == (2, 1, 21, 34)


def test_the_code_of_another_dictionary_is_refused(model):
    code = encode_image(model, IMAGE, (2,), seed=0)
    with torch.no_grad():
        model.decoder.weight[0] += 0.1
    with pytest.raises(ValueError, match="another dictionary"):
        decode_image(model, code)
    model.whitening = Whitening([[1.0]], [0.1])
    with pytest.raises(ValueError, match="another dictionary"):
        decode_image(model, code)


@pytest.mark.parametrize(
    "broken",
    [{"spk": np.zeros((1, 2, 3))}, {"spk": -np.ones((1, 6, 9, 14), int)}, {"steps": [0]},
     {"steps": [1, 2]}, {"size": [21]}, {"dictionary": 5}, {"spk": np.ones((1, 6, 9, 14))}],
    ids=str,
)  # fmt: skip
def test_damaged_files_are_refused(broken, model, tmp_path):
    encode_image(model, IMAGE, (2,), seed=0).save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        content = {**file, **broken}
    np.savez(tmp_path / "b.npz", **content)
    with pytest.raises(ValueError, match="damaged"):
        ImageCode.load(tmp_path / "b.npz")


def test_bad_calls_are_refused(model):
    for image in (torch.rand(3, 9, 9), torch.rand(9, 9), torch.rand(1, 0, 9)):
        with pytest.raises(ValueError, match="image must have shape"):
            encode_image(model, image)
    for steps in ((), (3, 2), (2, 2)):
        with pytest.raises(ValueError, match="ascending"):
            encode_image(model, IMAGE, steps)
    with pytest.raises(TypeError, match="ConvIPVAE"):
        encode_image(IPVAE(4, 3), IMAGE)
    with pytest.raises(ValueError, match="signals"):
        encode_image(ConvIPVAE(1, 2, 4, 2, dimensions=1), IMAGE)
    with pytest.raises(TypeError, match="ImageCode"):
        decode_image(model, IMAGE)
