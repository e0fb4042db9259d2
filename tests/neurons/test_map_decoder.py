"""Neurons on maps with the lateral weights of a convolutional decoder."""

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, reset, surrogate
from ipvae_snn.neurons.lateral import SharedMapDecoder

LAYERS = {
    "3, stride 1": (nn.ConvTranspose2d, (5, 1, 3, 1), (6, 7)),
    "5, stride 2": (nn.ConvTranspose2d, (5, 3, 5, 2), (6, 4)),
    "8×5, strides 4, 3": (nn.ConvTranspose2d, (4, 2, (8, 5), (4, 3)), (3, 5)),
    "4, stride 4": (nn.ConvTranspose2d, (4, 1, 4, 4), (3, 2)),
    "sound": (nn.ConvTranspose1d, (5, 1, 9, 2), (11,)),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    kind, sizes, places = request.param
    return kind(*sizes, bias=False).double(), places


def test_inhibition_is_what_the_decoder_says(layer):
    decoder, places = layer
    neuron = IPVAENeuron(decoder)
    z = torch.poisson(torch.full((2, decoder.in_channels, *places), 0.5, dtype=torch.float64))
    z.requires_grad_()
    (expected,) = torch.autograd.grad(0.5 * decoder(z).square().sum(), z)
    lateral = neuron.lateral
    found = lateral.inhibition(z.detach().movedim(1, -1), lateral.gram()).movedim(-1, 1)
    torch.testing.assert_close(found, expected)
    norm = decoder.weight.square().flatten(1).sum(1)
    torch.testing.assert_close(lateral.diagonal(lateral.gram()), norm)
    x = torch.randn_like(decoder(z))
    z.grad = None
    (drive,) = torch.autograd.grad((x * decoder(z)).sum(), z)
    torch.testing.assert_close(neuron.drive(x), drive)
    torch.testing.assert_close(neuron.drive(x.expand(3, *x.shape))[1], drive)


def test_a_timestep_follows_the_error_of_the_decoder(layer):
    decoder, places = layer
    neuron = IPVAENeuron(decoder, spike_grad=surrogate.rounded(), init_hidden=True, step=0.1,
                         bias=1e-6, mem_init=0.5, clamp=16.0)  # fmt: skip
    neuron.double()
    x = decoder(torch.rand(2, decoder.in_channels, *places, dtype=torch.float64)).detach()
    reset(neuron)
    with torch.no_grad():
        for _ in range(2):
            spk = neuron(neuron.drive(x))
    before = neuron.mem.detach()
    z = spk.detach().requires_grad_()
    half = 0.5 * decoder.weight.square().flatten(1).sum(1)
    (grad,) = torch.autograd.grad(0.5 * (x - decoder(z)).square().sum(), z)
    with torch.no_grad():
        neuron(neuron.drive(x))
    shift = half[(None, slice(None), *(None,) * len(places))] + 1e-6
    torch.testing.assert_close(neuron.mem - before, -0.1 * (grad + shift), rtol=1e-4, atol=1e-5)


def test_its_weights_are_shared_and_learn():
    decoder = nn.ConvTranspose2d(4, 1, 5, stride=2, bias=False)
    neuron = IPVAENeuron(decoder)
    assert neuron.lateral.decoder is decoder
    assert (neuron.dim, neuron.form) == (1, "exact")
    x = torch.rand(3, 1, 11, 13)
    spk, _ = neuron.run(neuron.drive(x).expand(6, 3, 4, 4, 5))
    (x - decoder(spk[-1])).square().sum().backward()
    assert decoder.weight.grad.abs().sum() > 0
    with torch.no_grad():
        decoder.weight.mul_(2)
    assert torch.equal(neuron.gram(), SharedMapDecoder(decoder).gram())


def test_what_does_not_fit_is_refused():
    decoder = nn.ConvTranspose2d(4, 1, 5, stride=2, bias=False)
    for wrong in (nn.ConvTranspose2d(4, 1, 5), nn.ConvTranspose2d(4, 1, 5, padding=1, bias=False)):
        with pytest.raises(ValueError, match="decoder must have"):
            IPVAENeuron(wrong)
    with pytest.raises(ValueError, match="already gives the lateral weights"):
        IPVAENeuron(decoder, learn_gram=True)
    with pytest.raises(ValueError, match="linear decoder"):
        IPVAENeuron(decoder, log_scale=torch.zeros(1))
    neuron = IPVAENeuron(decoder)
    for shape in ((1, 1, 12, 13), (1, 2, 11, 13), (1, 1, 3, 13)):
        with pytest.raises(ValueError, match="x must have 1 channel"):
            neuron.drive(torch.rand(shape))
    with pytest.raises(ValueError, match="weights of shape"):
        neuron.lateral.decoder = nn.ConvTranspose2d(4, 1, 5, stride=1, bias=False)
    with pytest.raises(ValueError, match="maps of 2 dimensions"):
        IPVAENeuron(decoder, dim=-1)(torch.rand(3, 4))
