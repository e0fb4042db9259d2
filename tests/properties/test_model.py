"""The model: construction, inference, loss, decoding and files, for any arguments."""

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipvae_snn import IPVAE, surrogate
from ipvae_snn.neurons.base import State
from tests.properties.common import (
    FLOATS,
    REFUSED,
    anything,
    attempt,
    awkward,
    counts,
    finite,
    mostly,
    ordinary,
    tensors,
)

M, K = 4, 3
inputs = mostly(
    ordinary((2, M)) | ordinary((3, 2, M)),
    tensors((2, M), dtypes=FLOATS) | tensors((3, 2, M), dtypes=FLOATS) | awkward,
)
steps = mostly(st.sampled_from([None, 1, 2, 3]), anything.filter(lambda n: small(n)))


def model(**options):
    torch.manual_seed(0)
    return IPVAE(M, K, init_std=0.3, **options)


@given(
    x=inputs,
    num_steps=steps,
    record=mostly(st.sampled_from([(), "spk", ("mem", "nll"), ("spk", "mem", "nll", "kl")])),
    every=mostly(st.integers(1, 4)),
    seed=mostly(st.none() | st.integers(0, 3)),
    dtype=st.sampled_from(FLOATS[:2]),
)
def test_a_run_is_valid_or_refused(x, num_steps, record, every, seed, dtype):
    made = model().to(dtype)
    out = attempt(lambda: made.run(x, num_steps, record=record, every=every, seed=seed), made)
    if out is REFUSED:
        return
    length, batch = (num_steps or len(x)) // every, x.shape[-2]
    for name, values in zip(out._fields[:-1], out[:-1], strict=True):
        assert values.shape == ((length, batch, K) if name in ("spk", "mem") else (length, batch))
        assert finite(values)
        assert values.dtype == dtype
    assert counts(out.state.spk)
    assert finite(out.state.mem)
    if "spk" in out._fields:
        assert counts(out.spk)
    if "kl" in out._fields:
        assert bool((out.kl >= 0).all())


@given(x=ordinary((2, M)), state=st.none() | awkward | st.tuples(awkward, awkward) | st.tuples(
    ordinary((2, K), least=0), ordinary((2, K))
))  # fmt: skip
def test_a_state_is_accepted_or_refused(x, state):
    made = model()
    out = attempt(lambda: made.run(x, 2, state=state), made)
    if out is not REFUSED:
        assert finite(out.spk, out.mem, out.nll, out.kl)


@given(x=ordinary((3, M)), seed=st.integers(0, 9), cut=st.integers(1, 5))
def test_a_run_resumes_from_its_state(x, seed, cut):
    made = model(spike_grad=surrogate.rounded())
    whole = made.run(x, 6, seed=seed)
    first = made.run(x, cut, seed=seed)
    second = made.run(x, 6 - cut, state=State(*first.state), seed=seed)
    assert torch.allclose(torch.cat([first.mem, second.mem]), whole.mem, atol=1e-4)


@given(x=ordinary((4, M)), order=st.permutations(range(4)))
def test_a_run_is_equivariant_to_the_order_of_samples(x, order):
    made = model(spike_grad=surrogate.rounded())
    assert torch.allclose(made.run(x, 4).mem[:, order], made.run(x[order], 4).mem, atol=1e-4)


@given(x=inputs, num_steps=steps, beta=mostly(st.floats(0, 10)))
def test_a_loss_has_gradients_or_is_refused(x, num_steps, beta):
    made = model()
    loss = attempt(lambda: made.loss(x, num_steps, beta), made)
    if loss is not REFUSED:
        assert loss.shape == ()
        assert finite(loss)
        loss.backward()
        assert finite(*(p.grad for p in made.parameters() if p.grad is not None))


@given(x=ordinary((2, M)), beta=st.floats(0, 3))
def test_the_loss_is_the_mean_free_energy(x, beta):
    made = model(spike_grad=surrogate.rounded())
    out = made.run(x, 5)
    expected = (out.nll + beta * out.kl).double().mean() * (256 / M)
    assert torch.allclose(made.loss(x, 5, beta).double(), expected, rtol=1e-4)


@given(spk=awkward | tensors((2, K), dtypes=FLOATS) | tensors((2, 3, K), dtypes=FLOATS))
def test_decoding_equals_the_dense_product_or_is_refused(spk):
    made = model()
    x_hat = attempt(lambda: made.decode(spk))
    if x_hat is not REFUSED:
        assert x_hat.shape == (*spk.shape[:-1], M)
        if finite(spk) and bool((spk.abs() < 1e6).all()):
            reference = spk.detach().double() @ made.weight.detach().double().mT
            assert torch.allclose(x_hat.double(), reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_decoding_that_would_overflow_is_refused(value):
    made = model()
    made.weight.detach().fill_(5.0)
    with pytest.raises(ValueError, match="spk"):
        made.decode(torch.full((K,), value))


@pytest.mark.parametrize(
    "options",
    [{"step": np.float64(0.3)}, {"latents": np.int64(3)}, {"step": Fraction(1, 3)}],
    ids=str,
)
def test_options_of_other_number_types_are_saved_and_loaded(options, tmp_path):
    IPVAE(M, **{"latents": K, **options}).save(tmp_path / "model.pt")
    IPVAE.load(tmp_path / "model.pt")


def test_refused_options_leave_the_random_state_untouched():
    assert attempt(lambda: IPVAE(M, K, clamp=1e300)) is REFUSED


estimators = st.sampled_from([make() for make in surrogate.ESTIMATORS.values()])
OPTIONS = {
    "clamp": st.floats(-7, 16), "step": st.floats(1e-6, 9), "bias": st.floats(1e-6, 9),
    "leak": st.floats(0, 1), "lateral_scale": st.floats(0, 3), "learn_step": st.booleans(),
    "learn_bias": st.booleans(), "learn_mem_init": st.booleans(), "learn_scale": st.booleans(),
    "kl_form": st.sampled_from(["exact", "published"]), "init_std": st.floats(0, 9),
    "spike_grad": estimators,
}  # fmt: skip


def small(size):
    return not isinstance(size, int) or size < 9


@given(
    sizes=st.tuples(*[mostly(st.sampled_from([M, K]), anything.filter(small))] * 2),
    options=st.fixed_dictionaries({}, optional={n: mostly(v) for n, v in OPTIONS.items()}),
)
def test_valid_models_run_save_and_load(sizes, options):
    made = attempt(lambda: IPVAE(*sizes, **options), random_state=False)
    if made is REFUSED:
        return
    x = torch.ones(2, made.in_features)
    made.eval()
    out = attempt(lambda: made.run(x, 3, seed=1), made)
    assert out is REFUSED or finite(out.spk, out.mem, out.nll, out.kl)
    if any(isinstance(value, np.generic | Fraction) for value in (*sizes, *options.values())):
        return  # see test_options_of_other_number_types_are_saved_and_loaded
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        made.save(path)
        back = IPVAE.load(path)
        assert [p.name for p in path.parent.iterdir()] == ["model.pt"]
    for name, value in made.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    assert back.config() == made.config()
    if out is not REFUSED:
        assert torch.equal(back.run(x, 3, seed=1).spk, out.spk)


@given(path=anything | st.text(max_size=20) | st.sampled_from(["a\nb.pt", "a\0b", "", ".", "/"]))
def test_paths_are_accepted_or_refused(path):
    with tempfile.TemporaryDirectory() as folder:
        inside = f"{folder}/{path}" if isinstance(path, str) else path
        if isinstance(path, int) or (isinstance(path, str) and ".." in path):
            return
        made = model()
        saved = attempt(lambda: made.save(inside))
        loaded = attempt(lambda: IPVAE.load(inside))
        assert (saved is REFUSED) == (loaded is REFUSED)
