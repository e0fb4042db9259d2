"""A stream of frames is a run of the model, by events or by convolutions."""

import math

import pytest
import torch

from ipvae_snn import surrogate
from ipvae_snn.kernels import native
from ipvae_snn.models import ConvIPVAE, ImageStream

SIZE = (21, 34)


def made(**options):
    torch.manual_seed(0)
    model = ConvIPVAE(2, 6, 8, 3, init_std=0.1, **options).eval()
    with torch.no_grad():
        model.neuron.mem_init.fill_(-1.0)
        model.raw_log_scale.copy_(torch.tensor([0.3, -0.2]))
    return model


@pytest.mark.parametrize("most_events", [None, -1, 10**9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stream_is_a_run(most_events, dtype):
    model = made(spike_grad=surrogate.rounded()).to(dtype)
    with torch.no_grad():
        model.neuron.mem_init.fill_(0.4)
    frames = torch.randn(4, 2, *SIZE, dtype=dtype)
    stream = ImageStream(model, SIZE)
    if most_events is not None and native.available() and dtype == torch.float32:
        stream._stepper.most_events = most_events
    run = model.run(frames[:, None], record=("spk", "mem"))
    assert run.spk.any()
    for t, frame in enumerate(frames):
        spk, mem = stream.push(frame)
        torch.testing.assert_close(mem, run.mem[t, 0], rtol=1e-4, atol=1e-4)
        assert torch.equal(spk, run.spk[t, 0])
    stayed = model.run(frames[3:], 3, record=(), state=run.state).state
    spk, mem = stream.push(num_steps=3)
    torch.testing.assert_close(mem, stayed.mem[0], rtol=1e-4, atol=1e-4)
    assert stream.timestep == 7


def test_draws_follow_the_law_of_rates():
    model = made()
    frame = torch.randn(2, *SIZE)
    counts = torch.stack([ImageStream(model, SIZE, seed=s).push(frame).spk for s in range(200)])
    rate = ImageStream(model, SIZE, seed=0).push(frame).mem.exp()  # of one timestep: no draw yet
    deviation = (counts.mean(0) - rate) / (rate / 200).sqrt()
    assert float(deviation.abs().max()) < 6
    assert abs(float(deviation.mean())) < 5 / math.sqrt(deviation.numel())
    one, other = (ImageStream(model, SIZE, seed=3).push(frame, 5) for _ in range(2))
    assert torch.equal(one.spk, other.spk)


def test_reset_forgets_state_and_frame():
    model = made(spike_grad=surrogate.rounded())
    stream = ImageStream(model, SIZE)
    first = stream.push(torch.randn(2, *SIZE), 3)
    stream.reset()
    assert stream.timestep == 0
    assert torch.equal(stream.push().mem, ImageStream(model, SIZE).push().mem)
    assert not torch.equal(stream.state.mem, first.mem)
    assert ImageStream(made(), SIZE, seed=0).push().spk.any()


def test_the_weights_are_those_of_its_start():
    model = made(spike_grad=surrogate.rounded())
    frame, stream = torch.randn(2, *SIZE), ImageStream(model, SIZE)
    expected = ImageStream(model, SIZE).push(frame, 2).mem
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.neuron.mem_init.zero_()
    assert torch.equal(stream.push(frame, 2).mem, expected)


def test_bad_calls_are_refused():
    model, frame = made(), torch.randn(2, *SIZE)
    stream = ImageStream(model, SIZE, seed=0)
    stream.push(frame)
    before = stream.state
    for wrong in (frame[:, 1:], frame[None], torch.full_like(frame, math.nan)):
        with pytest.raises(ValueError, match="a frame"):
            stream.push(wrong)
    with pytest.raises(TypeError, match="a frame"):
        stream.push(frame.int())
    with pytest.raises(ValueError, match="num_steps"):
        stream.push(frame, 0)
    assert torch.equal(stream.state.mem, before.mem)
    with pytest.raises(TypeError, match="ConvIPVAE"):
        ImageStream(model.neuron, SIZE)
