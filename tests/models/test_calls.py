"""Calls that PyTorch's tools make of a model: they work, or the error says what to use."""

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit
from ipvae_snn.baselines import IGVAE, LCA
from ipvae_snn.models import Bernoulli, Gaussian, LinearDecoder
from tests.every_model import make_baselines

M, K = 10, 6
X = torch.rand(8, M, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(iterations=2, batch=4, steps=2, progress=False)
MODELS = {
    "ipvae": lambda: IPVAE(M, K),
    "likelihood": lambda: IPVAE(M, K, likelihood=Bernoulli()),
    **make_baselines(M, K),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


@pytest.mark.filterwarnings("ignore")  # PyTorch's own: some of these are deprecated
@pytest.mark.parametrize(
    "use",
    [
        lambda model: model(X),
        lambda model: model(X, 5),
        lambda model: nn.DataParallel(model)(X),
        lambda model: nn.Sequential(model)(X),
        lambda model: torch.compile(model, backend="eager")(X),
        lambda model: torch.export.export(model, (X,)),
        lambda model: torch.fx.symbolic_trace(model),
        lambda model: torch.func.functional_call(model, {}, (X,)),
    ],
    ids=["call", "call with steps", "DataParallel", "Sequential", "compile", "export", "fx",
         "functional_call"],
)  # fmt: skip
def test_a_call_is_refused_with_what_to_call(model, use):
    with pytest.raises(TypeError, match=r"model\.run\(x, num_steps\) infers, model\.loss"):
        use(model)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_what_to_use(model):
    for scripted in (model, nn.Sequential(model)):
        with pytest.raises(TypeError, match=r"use torch\.compile or torch\.export"):
            torch.jit.script(scripted)


class Objective(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.loss(x, 3)


def test_a_module_that_calls_the_model_is_what_wrappers_take(model):
    objective = Objective(model)
    nn.DataParallel(objective)(X).backward()
    assert model.decoder is None or all(p.grad is not None for p in [*model.parameters()][:1])
    parameters = dict(objective.named_parameters())
    assert torch.isfinite(torch.func.functional_call(objective, parameters, (X,)))


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_are_refused_before_anything_is_computed(model):
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    if isinstance(model.decoder, nn.Linear):
        for call in (quantized.run, quantized.loss):
            with pytest.raises(TypeError, match=r"ipvae_snn\.export"):
                call(X, 3)
    else:
        quantized.run(X, 3)  # no layer of that kind


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_decoder_of_ones_own_is_refused():
    model = IPVAE(M, K, decoder=nn.Sequential(nn.Linear(K, 4), nn.Tanh(), nn.Linear(4, M)))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(ValueError, match=r"must depend on the spikes.*quantized"):
        quantized.run(X, 3)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_model_is_not_saved(model, tmp_path):
    if not isinstance(model.decoder, nn.Linear):
        return
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises((TypeError, ValueError)):
        quantized.save(tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_the_meta_device_is_named(model):
    model.to("meta")
    x = X.to("meta")
    for call in (
        lambda: model.run(x, 3),
        lambda: model.run(X, 3),
        lambda: model.loss(x, 3),
        lambda: model.decode(torch.ones(2, K, device="meta")),
        lambda: fit(model, X, CONFIG),
        lambda: evaluate(model, X, num_steps=2, progress=False),
    ):
        with pytest.raises(ValueError, match="meta device, which holds no values"):
            call()


def test_a_model_may_be_made_on_the_meta_device_and_filled(model):
    if model.has_matrix and getattr(model, "decoded", None) is not None:
        return  # its decoder is tried with numbers
    with torch.device("meta"):
        made = type(model)(M, K)
    made.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(made.run(X, 4, seed=1).nll, model.run(X, 4, seed=1).nll)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of sparse and nested tensors
@pytest.mark.parametrize(
    "kind",
    [
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        torch.Tensor.to_mkldnn,
        lambda x: torch.nested.nested_tensor([x]),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.to(torch.complex64),
        lambda x: x.long(),
        lambda x: x.sum(),
        lambda x: x[0],
        lambda x: x.double(),
        lambda x: None,
    ],
)
def test_other_kinds_of_input_are_refused(model, kind):
    for name, call in {
        "x": lambda values: model.run(values, 3),
        "spk": lambda values: model.decode(values),
    }.items():
        values = kind(X) if name == "x" else kind(torch.ones(2, K - 1))
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            call(values)


def test_weights_without_numbers_are_refused(model):
    for weight in model.parameters():
        before = weight.detach().clone()
        weight.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN or infinite"):
            model.run(X, 2)
        weight.data.copy_(before)
    model.run(X, 2)


def test_models_that_were_moved_in_part_are_refused(model):
    model.decoder.to("meta")
    for call in (lambda: model.run(X, 2), lambda: model.decode(torch.ones(2, K))):
        with pytest.raises(ValueError, match="meta device"):
            call()


def test_float64_models_take_float32(model):
    out = model.double().run(X, 2)
    assert model.run(X, 2, state=out.state).nll.dtype == torch.float64


def test_fit_needs_gradients(model):
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(ValueError, match="gradients are switched off"):
            fit(model, X, CONFIG)


@pytest.mark.parametrize(
    "data", [torch.utils.data.TensorDataset(X), torch.utils.data.DataLoader(X), X.to("meta")]
)
def test_data_of_other_kinds_are_refused(data):
    with pytest.raises((TypeError, ValueError), match=r"ipvae_snn\.data|meta device"):
        fit(IPVAE(M, K), data, CONFIG)


def test_an_empty_batch_is_refused(model):
    with pytest.raises(ValueError, match="not be empty"):
        model.run(X[:0], 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_work(model, dtype):
    out = model.to(dtype).run(X.to(dtype), 3)
    assert out.nll.dtype == dtype
    assert all(torch.isfinite(part).all() for part in out[:-1])
    model.loss(X.to(dtype), 3).backward()


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ((1, 2), TypeError),
        (torch.ones(2, 8, K), TypeError),
        ((torch.ones(8, K),), TypeError),
        ((torch.ones(7, K), torch.ones(7, K)), ValueError),
        ((torch.ones(8, K + 1), torch.ones(8, K)), ValueError),
        ((torch.full((8, K), float("nan")), torch.ones(8, K)), ValueError),
        ((torch.ones(8, K), torch.ones(7, K)), ValueError),
    ],
)
def test_a_state_that_no_run_returned_is_refused(model, state, error):
    with pytest.raises(error, match="state"):
        model.run(X, 2, state=state)
    model.run(X, 2, state=model.run(X, 2).state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(0), lambda: Gaussian(2.5), lambda: Gaussian(3, learn_scale="yes"),
        lambda: LinearDecoder(0, 3), lambda: LinearDecoder(3, -1),
        lambda: LinearDecoder(3, 3, init_std=float("nan")), lambda: LCA(M, K, nonnegative=1),
        lambda: IGVAE(M, K, relu="no"),
    ],
)  # fmt: skip
def test_parts_check_their_arguments(make):
    with pytest.raises((TypeError, ValueError), match="must be"):
        make()
