"""Checkpoints of the authors' program: synthetic files of their structure."""

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE

M, K = 9, 5


def content(**changes):
    """A checkpoint as their program writes it for patches, but small."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    weights = {
        "layer.phi.weight": normal(M, K),
        "layer.dec_log_sigma": 0.1 * normal(1, M),
        "layer.log_bias": normal(1, K) - 3,
        "layer.log_lr.0": torch.tensor([-1.5]),
        "layer.u_init.0": normal(1, K) - 3,
        "layer.temp": torch.tensor(0.01),
        "layer.beta_inner": torch.tensor(1.0),
        "layer.eps": torch.tensor(1e-6),
        "layer.n_exp": torch.arange(16, dtype=torch.int32),
    }
    weights |= changes
    return {
        "metadata": {"global_step": np.int64(7), "loss": np.float64(0.5), "name": np.str_("iP")},
        "model": {name: value for name, value in weights.items() if value is not None},
        "model_ema": {name: 2 * v for name, v in weights.items() if v is not None},
        "optim": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": np.float32()}]},
        "scheduler": {"T_max": 3, "base_lrs": [0.002]},
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(stored):
        torch.save(stored, tmp_path / "published.pt")
        return tmp_path / "published.pt"

    return write


def test_inference_is_that_of_the_published_equations(file):
    stored = content()
    model = IPVAE.from_published(file(stored))
    assert (model.in_features, model.latents, model.clamp) == (M, K, 10.0)
    assert (model.neuron.form, model.kl_form, model.training) == ("published", "published", False)
    w = {name: value.double() for name, value in stored["model"].items()}
    x = torch.rand(3, M, dtype=torch.float64)
    out = model.double().run(x, 12, record=("spk", "mem"), seed=1)
    precision = torch.exp(-2 * 3.45 * torch.tanh(w["layer.dec_log_sigma"] / 3.45))
    mem, spk = w["layer.u_init.0"].expand(3, K), torch.zeros(3, K, dtype=torch.float64)

    def clamped(v):
        return 10 - torch.nn.functional.softplus(10 - v.clamp(min=-8))

    for now in range(12):
        error = (x - spk @ w["layer.phi.weight"].mT) * precision
        current = error @ w["layer.phi.weight"] - w["layer.log_bias"].exp()
        mem = clamped(mem + clamped(w["layer.log_lr.0"].exp() * current))
        torch.testing.assert_close(out.mem[now], mem)
        spk = out.spk[now]


def test_the_moving_averages_of_the_weights(file):
    path = file(content())
    model, averaged = IPVAE.from_published(path), IPVAE.from_published(path, ema=True)
    torch.testing.assert_close(averaged.weight, 2 * model.weight)


def test_it_is_saved_as_a_model_of_ours(file, tmp_path):
    model = IPVAE.from_published(file(content()))
    model.save(tmp_path / "own.pt")
    again, x = IPVAE.load(tmp_path / "own.pt"), torch.rand(2, M)
    assert torch.equal(again.run(x, 5, seed=0).mem, model.run(x, 5, seed=0).mem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer.log_bias": None}, "it lacks layer.log_bias"),
        ({"layer.log_lr.1": torch.zeros(1)}, "it has layer.log_lr.1 besides"),
        ({"layer.log_lr.0": None, "enc.w": torch.ones(2)}, "lacks layer.log_lr.0 and has enc.w"),
        ({"layer.u_init.0": torch.zeros(1, K + 1)}, r"u_init.0 must have shape \(1, 5\), it is"),
        ({"layer.phi.weight": torch.ones(M)}, "layer.phi.weight is no matrix"),
        ({"layer.log_bias": torch.full((1, K), torch.nan)}, "layer.log_bias in .* holds 5 NaN"),
        ({"layer.log_bias": torch.zeros(1, K).int()}, "layer.log_bias must have shape"),
        ({"layer.u_init.0": torch.full((1, K), -99.0)}, "the largest |mem_init|"),
    ],
)  # fmt: skip
def test_other_content_is_refused_by_name(file, changes, message):
    with pytest.raises(ValueError, match=message):
        IPVAE.from_published(file(content(**changes)))


@pytest.mark.parametrize(
    "stored", [[1, 2], {"state_dict": {}}, {"model": {}}, {"model": None}], ids=str
)
def test_other_files_are_refused(file, stored):
    with pytest.raises(ValueError, match="holds no weights under 'model'"):
        IPVAE.from_published(file(stored))


class Command:
    def __reduce__(self):
        return print, ("code from a file",)


def test_code_in_a_file_does_not_run(file, capsys):
    stored = content()
    stored["metadata"]["hook"] = Command()
    with pytest.raises(ValueError, match="Python objects, which could run code"):
        IPVAE.from_published(file(stored))
    assert "code" not in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        IPVAE.from_published(tmp_path / "none.pt")
