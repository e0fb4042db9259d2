"""Model files: saved and loaded exactly, and refused where damaged or unsafe."""

import pytest
import torch

from ipvae_snn import IPVAE, surrogate

X = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(1)
    return IPVAE(12, 7, init_std=0.3)


@pytest.mark.parametrize("spike_grad", [None, surrogate.eat(0.3, "sigmoid")], ids=repr)
def test_save_and_load(tmp_path, spike_grad):
    model = IPVAE(
        12, 7, spike_grad=spike_grad, clamp=4.0, leak=0.1, lateral_scale=0.5, learn_bias=False,
        kl_form="published",
    )  # fmt: skip
    model.save(tmp_path / "model.pt")
    again = IPVAE.load(tmp_path / "model.pt")
    assert again.config() == model.config()
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert torch.equal(again.eval().run(X, 9, seed=0).mem, model.eval().run(X, 9, seed=0).mem)
    torch.load(tmp_path / "model.pt", weights_only=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


class PrintsWhenUnpickled:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("kind", ["bomb", "truncated", "text", "foreign", "newer", "shapes"])
def test_a_bad_file_is_refused_and_its_code_never_runs(model, tmp_path, kind, capsys):
    path = tmp_path / "model.pt"
    model.save(path)
    content = torch.load(path, weights_only=True)
    if kind == "bomb":
        torch.save({**content, "config": PrintsWhenUnpickled()}, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("not a model")
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif kind == "newer":
        torch.save({**content, "version": 99}, path)
    else:
        torch.save({**content, "config": {**content["config"], "latents": 8}}, path)
    with pytest.raises(ValueError, match=r"model\.pt"):
        IPVAE.load(path)
    assert capsys.readouterr().out == ""


def test_a_missing_file_and_a_missing_folder(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"IPVAE\.save"):
        IPVAE.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="does not exist"):
        model.save(tmp_path / "no" / "model.pt")


def test_a_failed_save_keeps_the_old_file(model, tmp_path):
    model.save(tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    model.neuron.spike_grad = torch.exp  # has no config
    with pytest.raises(TypeError, match="midpoint"):
        model.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_files_keep_the_dtype(tmp_path, dtype):
    IPVAE(12, 7).to(dtype).save(tmp_path / "model.pt")
    assert IPVAE.load(tmp_path / "model.pt").decoder.weight.dtype == dtype


def test_files_keep_later_changes_and_loading_leaves_the_random_state_untouched(model, tmp_path):
    model.neuron.lateral_scale, model.neuron.leak, model.neuron.clamp = 0.5, 0.1, 3.0
    model.save(tmp_path / "model.pt")
    state = torch.get_rng_state()
    again = IPVAE.load(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.neuron.lateral_scale, again.neuron.leak, again.neuron.clamp) == (0.5, 0.1, 3.0)
    assert not again.training
    with pytest.raises(ValueError, match="device"):
        IPVAE.load(tmp_path / "model.pt", device="nowhere")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_numbers_are_refused(dtype, tmp_path):
    path = tmp_path / "m.pt"
    IPVAE(6, 5).save(path)
    content = torch.load(path, weights_only=True)
    weights = content["weights"]
    weights["neuron.log_bias"] = weights["neuron.log_bias"].to(dtype)
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"neuron\.log_bias is {dtype}, not torch.float32"):
        IPVAE.load(path)
