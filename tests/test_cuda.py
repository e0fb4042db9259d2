"""Everything once on a GPU: the same numbers as on the CPU, where nothing is drawn, else in law."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ipvae_snn import IPVAE, IPVAENeuron, Stream, TrainConfig, baselines, evaluate, fit, surrogate
from ipvae_snn.data.sources import InMemory, Part
from ipvae_snn.diagnostics import check
from ipvae_snn.kernels import cuda_graphs
from ipvae_snn.models import Bernoulli

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    # torch's own, while it compiles
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CONFIG = TrainConfig(
    iterations=12, batch=16, steps=6, checkpoint_every=4, log_every=4, progress=False
)


def make(dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = IPVAE(24, 40, init_std=0.3, **options).to(dtype)
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-3, 1)
        model.neuron.lateral.log_scale.uniform_(-0.5, 0.5)
    return model, torch.randn(30, 24, dtype=dtype)


def gradients(model, x, steps=9, beta=1.3):
    model.zero_grad()
    loss = model.loss(x, steps, beta)
    loss.backward()
    return [loss.detach().cpu(), *(p.grad.cpu() for p in model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {"leak": 0.2, "lateral_scale": 0.7}], ids=str)
@pytest.mark.parametrize("kl_form", ["exact", "published"])
def test_without_noise_a_gpu_gives_what_the_cpu_does(dtype, options, kl_form):
    """Recorded once, replayed with other weights and another clamp."""
    model, x = make(dtype, spike_grad=surrogate.rounded(), kl_form=kl_form, clamp=4.0, **options)
    on_gpu = copy.deepcopy(model).cuda()
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for clamp in (4.0, 3.0):
        model.neuron.clamp = on_gpu.neuron.clamp = clamp
        for a, b in zip(gradients(model, x), gradients(on_gpu, x.cuda()), strict=True):
            scale = a.abs().max().clamp(min=1e-3)
            assert (a - b).abs().max() <= tolerance * scale
        with torch.no_grad():
            for one, two in zip(model.parameters(), on_gpu.parameters(), strict=True):
                one.mul_(0.9)
                two.copy_(one)
    assert len(cuda_graphs._recordings) <= cuda_graphs.MAX_RECORDINGS


def test_poisson_counts_have_their_law():
    model, _ = make()
    model.cuda()
    with torch.no_grad():
        model.neuron.mem_init.copy_(torch.linspace(-3, 4, 40))
        model.decoder.weight.zero_()
    spk = model.run(torch.zeros(20_000, 24, device="cuda"), 1, seed=1).spk[0].double()
    out = model.run(torch.zeros(2, 24, device="cuda"), 1, record=("mem",))
    rate = out.mem[0, 0].exp().double()
    z = (spk.mean(0) - rate) / (rate / len(spk)).sqrt()
    assert z.abs().max() < 5
    assert ((spk.var(0) / rate - 1).abs() < 0.1).all()


def test_equal_seeds_give_equal_spikes_and_leave_the_global_state():
    model, x = make()
    model.cuda()
    before = torch.cuda.get_rng_state()
    one, two = (model.run(x.cuda(), 20, seed=3).spk for _ in range(2))
    other = model.run(x.cuda(), 20, seed=4).spk
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.cuda.get_rng_state())
    again = model.run(x.cuda(), 20).spk
    assert not torch.equal(again, model.run(x.cuda(), 20).spk)


@pytest.mark.parametrize("own", [False, True], ids=["", "own generator"])
def test_recordings_draw_what_the_plain_loop_draws(own, monkeypatch):
    """A recording is replayed with the generator of each call, and moves it on."""
    runs = []
    for recorded in (True, False):
        generator = torch.Generator("cuda").manual_seed(8) if own else None
        model, x = make(spike_grad=surrogate.midpoint(generator=generator))
        model.cuda()
        if not recorded:
            monkeypatch.setattr(cuda_graphs, "supports", lambda spec: False)
        torch.cuda.manual_seed(7)
        runs.append([model.run(x.cuda(), 11, seed=s).spk for s in (1, 2**40, 1, None, None)])
        assert recorded == any(key[0] != "backward" for key in cuda_graphs._recordings)
        monkeypatch.setattr(cuda_graphs, "_recordings", type(cuda_graphs._recordings)())
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one, two)
    first, far, again, free, more = runs[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, far)
    assert not torch.equal(free, more)


def test_neurons_run_step_and_learn():
    torch.manual_seed(0)
    neuron = IPVAENeuron(12, spike_grad=surrogate.rounded(), mem_init=0.5)
    on_gpu = copy.deepcopy(neuron).cuda()
    x = torch.randn(9, 4, 12)
    expected = neuron.run(x)
    torch.testing.assert_close(on_gpu.run(x.cuda()).mem.cpu(), expected.mem, rtol=1e-3, atol=1e-4)
    state = on_gpu.reset_mem()
    for frame in x.cuda():
        state = on_gpu(frame, *state)
    torch.testing.assert_close(state[1].cpu(), expected.mem[-1], rtol=1e-3, atol=1e-4)
    (state[1].sum() + state[0].sum()).backward()
    expected.mem[-1].sum().backward()
    assert on_gpu.lateral.factor.grad.isfinite().all()
    before = on_gpu.lateral.cached_gram().detach().clone()
    torch.optim.SGD(on_gpu.parameters(), lr=0.1).step()
    assert not torch.equal(on_gpu.lateral.cached_gram(), before)
    torch.testing.assert_close(on_gpu.lateral.cached_gram(), on_gpu.gram())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_calls_have_the_gradients_of_others(reentrant):
    def gradients(wrap):
        torch.manual_seed(0)
        neuron = IPVAENeuron(12, mem_init=0.5).cuda()
        frames = torch.rand(6, 4, 12, device="cuda", requires_grad=True)
        spk, mem = wrap(neuron, frames[0], *neuron.reset_mem())
        spk, mem = wrap(neuron, frames[1], spk, mem)
        total = (spk * mem).sum() + (wrap(lambda x: neuron.run(x).spk, frames) ** 2).sum()
        assert spk.any()
        total.backward()
        return [frames.grad, *(p.grad for p in neuron.parameters())]

    def checkpointed(call, *args):
        return checkpoint(call, *args, use_reentrant=reentrant)

    plain = gradients(lambda call, *args: call(*args))
    for ours, expected in zip(gradients(checkpointed), plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: IPVAE(24, 40),
        lambda: IPVAE(24, 40, spike_grad=surrogate.eat(0.5)),
        lambda: IPVAE(24, 40, likelihood=Bernoulli()),
        lambda: IPVAE(24, 40, decoder=nn.Sequential(nn.Linear(40, 24), nn.Tanh())),
        lambda: baselines.IGVAE(24, 40),
        lambda: baselines.LCA(24, 40),
        lambda: baselines.PoissonVAE(24, 40, width=32),
    ],
    ids=["ipvae", "relaxed", "bernoulli", "own decoder", "igvae", "lca", "poisson-vae"],
)
def test_fit_evaluate_and_check(make_model):
    torch.manual_seed(0)
    x = torch.rand(60, 24)
    model = make_model()
    config = TrainConfig(**{**vars(CONFIG), "device": "cuda"})
    history = fit(model, Part(InMemory(x), torch.arange(50)), config, validation=x[50:])
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert "r2_val" in history[-1]
    assert model.like.is_cuda
    assert math.isfinite(evaluate(model, x.cuda(), 12).at(12)["r2"])
    assert check(model, x.cuda(), num_steps=80).findings


def test_checkpoints_and_models_go_from_one_device_to_the_other(tmp_path):
    """A training that begins on one device goes on on the other."""
    x = torch.rand(60, 24)
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        path = tmp_path / f"{first}.ckpt"

        def config(device):
            return TrainConfig(**{**vars(CONFIG), "device": device})

        fit(IPVAE(24, 40), x, config(first), checkpoint=path)
        model = IPVAE(24, 40)
        assert len(fit(model, x, config(second), checkpoint=path)) == 3
        model.save(tmp_path / "model.pt")
        for device in ("cpu", "cuda"):
            loaded = IPVAE.load(tmp_path / "model.pt", device=device)
            assert loaded.like.device.type == device
            torch.testing.assert_close(loaded.weight.cpu(), model.weight.cpu())


def test_a_stream_lives_on_the_gpu():
    model, x = make(spike_grad=surrogate.rounded())
    stream, on_gpu = Stream(model), Stream(copy.deepcopy(model).cuda())
    for frame in x[:6]:
        mem = stream.push(frame).mem
        torch.testing.assert_close(on_gpu.push(frame.cuda()).mem.cpu(), mem, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_less_exact_products_cost_little(precision):
    model, x = make(spike_grad=surrogate.rate())
    nn.init.normal_(model.decoder.weight, std=0.05)  # no explosion, which would amplify anything
    model.cuda()
    found = []
    for model.precision in ("float32", precision):
        with model.seeded(3):
            found.append(gradients(model, x.cuda())[-1])
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_the_command_trains_under_torchrun_with_nccl(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
        "-m", "ipvae_snn.cli", "train", "--data", "digits", "--out", str(tmp_path / "run"),
        "--device", "cuda", "--iterations", "6", "--eval-steps", "10", "--samples", "20",
        "--latents", "16", "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "model.pt").exists()
