"""A convolutional model unrolled over images of one size infers the same."""

import pytest
import torch

from ipvae_snn import surrogate
from ipvae_snn.models import ConvIPVAE, unrolled


@pytest.mark.parametrize("options", [{}, {"form": "published", "leak": 0.3, "lateral_scale": 0.8},
                                     {"learn_scale": False}], ids=str)  # fmt: skip
@pytest.mark.parametrize(("dimensions", "size"), [(2, (11, 9)), (2, (8, 12)), (1, (19,))])
def test_it_is_the_same_model(dimensions, size, options):
    torch.manual_seed(0)
    model = ConvIPVAE(
        2, 5, 5, 2, dimensions=dimensions, init_std=0.2, spike_grad=surrogate.rounded(), **options
    ).double()
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-1, 1)
        model.neuron.log_bias.uniform_(-3, -1)
        if model.raw_log_scale is not None:
            model.raw_log_scale.copy_(torch.tensor([0.3, -0.2]))
    flat = unrolled(model, size)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    out, expected = flat.run(x.flatten(1), 8), model.run(x, 8)
    assert out.spk.any()
    torch.testing.assert_close(out.mem, expected.mem.flatten(2), rtol=0, atol=1e-10)
    assert torch.equal(out.spk, expected.spk.flatten(2))
    for name in ("nll", "kl"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name))


def test_what_does_not_fit_is_refused():
    model = ConvIPVAE(1, 3, 4, 2)
    for size, says in (((8,), "2 number"), ((0, 8), "size"), ((4000, 4000), "smaller")):
        with pytest.raises(ValueError, match=says):
            unrolled(model, size)
    with pytest.raises(TypeError, match="ConvIPVAE"):
        unrolled(torch.nn.Linear(2, 3), (2, 2))
