"""Choices between forms of a product: kept from run to run, and without effect on spikes."""

import json
import subprocess
import sys

import pytest
import torch

from ipvae_snn import IPVAE
from ipvae_snn.kernels import choices as module
from ipvae_snn.kernels import native, native_adjoint, rows, unroll
from ipvae_snn.kernels.choices import Choices, choices
from ipvae_snn.models import BaseModel

pytestmark = pytest.mark.skipif(not native.available(), reason="no compiled kernels here")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, in which what is measured is made up: 0.1, 0.2, ..."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(module.SWITCH, raising=False)
    calls = []

    def measured(rows, latents):
        calls.append((rows, latents))
        return Choices(lateral=0.1 * len(calls))

    monkeypatch.setattr(module, "_measured", measured)
    module._choices.cache_clear()
    yield tmp_path / "ipvae_snn"
    module._choices.cache_clear()


def test_answers_are_kept(folder):
    assert choices(50, 100).lateral == 0.1
    assert choices(64, 128).lateral == 0.1  # of one class
    assert choices(64, 129).lateral == 0.2
    module._choices.cache_clear()  # as another process
    assert choices(40, 120).lateral == 0.1
    assert choices(10**6, 10**6) == choices(256, 2048)
    (path,) = folder.glob("choices-*.json")
    assert len(json.loads(path.read_text())) == 3


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{", '{"64 × 128, 1 threads": {"lateral": 2.0}}', '{"x": {"own": 1}}', '{"a": 1}'],
)
def test_a_damaged_file_is_measured_again(folder, content):
    choices(50, 100)
    (path,) = folder.glob("choices-*.json")
    path.write_text(content)
    module._choices.cache_clear()
    assert choices(50, 100).lateral == 0.2
    module._choices.cache_clear()
    assert choices(50, 100).lateral == 0.2


def test_nothing_is_measured_where_it_could_not_be_kept(folder, monkeypatch):
    monkeypatch.setenv(module.SWITCH, "0")
    assert choices(50, 100) == Choices(own_product=True)
    monkeypatch.delenv(module.SWITCH)
    module._choices.cache_clear()
    folder.parent.chmod(0o777)
    folder.mkdir(mode=0o777, exist_ok=True)
    folder.chmod(0o777)  # others could write to it
    assert choices(50, 1000) == Choices()


def test_measuring_draws_nothing_and_gives_shares():
    before = torch.get_rng_state()
    measured = module._measured(8, 64)
    assert module._is_valid(measured)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("batch", [3, 8, 50])
@pytest.mark.parametrize("changing", [False, True])
def test_choices_change_no_spike_and_gradients_little(monkeypatch, batch, changing):
    torch.manual_seed(0)
    model = IPVAE(20, 70, init_std=0.3)
    x = torch.randn(9, batch, 20) if changing else torch.randn(batch, 20)

    def results(kept):
        for user in (native_adjoint, rows, unroll):
            monkeypatch.setattr(user, "choices", lambda rows, latents: kept)
        model.zero_grad()
        out = model.run(x, 9, seed=1)
        with model.seeded(1):
            model.loss(x, 9).backward()
        return out.spk, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, gradients = results(Choices(1.0, 1.0, 1.0, False))
    for kept in (
        Choices(0.0, 0.0, 0.0, False), Choices(0.0, 0.0, 1.0, True), Choices(0.5, 0.5, 0.0, True),
    ):  # fmt: skip
        spk, found = results(kept)
        assert torch.equal(spk, expected)
        for grad, other in zip(found, gradients, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (0, 7), (301, 7)])
def test_sparse_products_are_products(monkeypatch, shape):
    torch.manual_seed(0)
    counts, weight = torch.poisson(torch.full(shape, 0.2)), torch.randn(7, 70)
    exact = (counts.double() @ weight.double()).float()
    for share in (0.0, 1.0):
        monkeypatch.setattr(rows, "choices", lambda *_, share=share: Choices(decoder=share))
        torch.testing.assert_close(rows.sparse_products(counts, weight), exact)


@pytest.mark.parametrize("batch", [1, 9])
def test_sums_over_spikes_are_those_of_dense_codes(monkeypatch, batch):
    torch.manual_seed(0)
    model, x = IPVAE(20, 70, init_std=0.3), torch.randn(batch, 20)
    spk = torch.poisson(torch.full((3, batch, 70), 0.1))
    monkeypatch.setattr(rows, "choices", lambda *_: Choices(decoder=1.0))
    with torch.no_grad():
        assert rows.code_sums(spk, model.weight.mT, x) is not None
        for found, expected in zip(
            model.code_sums(spk, x), BaseModel.code_sums(model, spk, x), strict=True
        ):
            for value, other in zip(found, expected, strict=True):
                torch.testing.assert_close(value, other)


def test_processes_wait_for_one_answer(folder):
    choices(50, 100)
    (path,) = folder.glob("choices-*.json")
    path.unlink()
    module._choices.cache_clear()
    code = (
        "from ipvae_snn.kernels import choices as c\n"
        "import os\n"
        "c._measured = lambda *_: c.Choices(lateral=os.getpid() % 997 / 1000)\n"
        "print(c.choices(50, 100).lateral)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1
    assert all(run.returncode == 0 for run in runs)
