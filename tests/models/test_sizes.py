"""Sizes that a model file states are compared with its weights before memory is taken for them."""

import pytest
import torch

from ipvae_snn import IPVAE, load_model
from ipvae_snn.models import DECODERS, MODELS, Decoder, LinearDecoder
from ipvae_snn.models.likelihoods import Gaussian
from tests.properties.common import little_memory

OWN = [name for name in MODELS if not name.startswith("own-")]
HUGE = [
    {"latents": 20_000_000},
    {"in_features": 20_000_000},
    {"latents": 2**60},
    {"width": 1_000_000},
    {"encoder": "conv", "image_shape": [4000, 4000], "in_features": 16_000_000},
    {"decoder": {"name": "linear", "latents": 20_000_000, "in_features": 16}},
    {"decoder": {"name": "linear", "latents": 6, "in_features": 200_000_000}},
    {"likelihood": {"name": "gaussian", "in_features": 900_000_000}},
]


@DECODERS.register("own-picture")
class Picture(Decoder):
    """Few weights, large pictures."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.grow = torch.nn.ConvTranspose2d(latents, 16, 8, stride=8)
        self.blend = torch.nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, spk):
        return self.blend(self.grow(spk[..., None, None].expand(-1, -1, 96, 96))).flatten(1)


@pytest.fixture
def _little_memory():
    with little_memory(2**29):
        yield


def change(path, config, drop=()):
    content = torch.load(path, weights_only=True)
    weights = {n: w for n, w in content["weights"].items() if n not in drop}
    torch.save({**content, "config": {**content["config"], **config}, "weights": weights}, path)


@pytest.mark.usefixtures("_little_memory")
def test_weights_that_share_their_values_do_not_count_twice(tmp_path):
    path = tmp_path / "model.pt"
    IPVAE(16, 6).save(path)
    content, many = torch.load(path, weights_only=True), torch.zeros(2**18)
    shared = {f"a{i}": many[:] for i in range(2000)}
    decoder = {"name": "linear", "latents": 6, "in_features": 2**26}
    config = {**content["config"], "decoder": decoder}
    torch.save({**content, "weights": {**content["weights"], **shared}, "config": config}, path)
    with pytest.raises(ValueError, match="asks for a tensor of 402,653,184 values"):
        load_model(path)


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("config", HUGE, ids=str)
@pytest.mark.parametrize("name", OWN)
def test_a_size_beyond_the_weights_is_refused(name, config, tmp_path):
    path = tmp_path / "model.pt"
    MODELS[name](16, 6).save(path)
    change(path, config)
    with pytest.raises(ValueError, match=r"model\.pt does not hold a valid model") as raised:
        load_model(path)
    assert "memory" not in str(raised.value)


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("drop", [(), ("decoded.decoder.weight",)])
@pytest.mark.parametrize(
    "config", [{"latents": 20_000_000}, {"in_features": 900_000_000}, *HUGE[5:]]
)
def test_so_is_one_of_a_decoder_or_a_likelihood(config, drop, tmp_path):
    path = tmp_path / "model.pt"
    IPVAE(16, 6, decoder=LinearDecoder(6, 16), likelihood=Gaussian(16)).save(path)
    change(path, config, drop)
    with pytest.raises(ValueError, match=r"model\.pt does not hold a valid model") as raised:
        load_model(path)
    assert "memory" not in str(raised.value)


@pytest.mark.parametrize("name", OWN)
def test_models_of_any_size_load(name, tmp_path):
    large = (90, 70) if name.startswith("conv-") else (900, 700)  # features have many pixels
    for sizes in ((1, 1), (3, 500), large):
        model = MODELS[name](*sizes)
        model.save(tmp_path / "model.pt")
        same = load_model(tmp_path / "model.pt").state_dict()
        assert all(torch.equal(value, same[n]) for n, value in model.state_dict().items())


def test_a_decoder_may_make_more_than_it_holds(tmp_path):
    IPVAE(768**2, 3, decoder=Picture(3), init_std=0.1).save(tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").in_features == 768**2
