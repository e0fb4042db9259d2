"""Convolutional models as graphs of convolutions, borders included."""

import pytest
import torch

from ipvae_snn import IPVAE, export
from ipvae_snn.models import ConvIPVAE, unrolled
from ipvae_snn.surrogate import midpoint, rounded

nir = pytest.importorskip("nir")


def model_of(kernel=4, stride=2, channels=1, **options):
    torch.manual_seed(0)
    options = {"clamp": 16.0, "step": 0.04, "init_std": 0.4, "spike_grad": rounded(), **options}
    model = ConvIPVAE(channels, 5, kernel, stride, **options).double().eval()
    with torch.no_grad():
        if model.raw_log_scale is not None:
            model.raw_log_scale.uniform_(-0.3, 0.3)
        model.neuron.mem_init.uniform_(-0.5, 0.3)
        model.neuron.log_bias.uniform_(-3, -1)
    return model


def images(model, rows=4, columns=5, count=2):
    sides = rows * model.stride[0], columns * model.stride[1]
    return 2 * torch.randn(count, model.channels, *sides, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "options"),
    [
        (4, 2, 1, {}),
        (5, 2, 2, {"form": "published"}),
        (3, 1, 3, {"leak": 0.3}),
        (7, 4, 1, {"lateral_scale": 0.8, "learn_scale": False}),
        (1, 1, 1, {}),
    ],
)
def test_the_exact_graph_has_the_spikes_of_the_rounded_model(kernel, stride, channels, options):
    model = model_of(kernel, stride, channels, **options)
    x = images(model)
    graph = export.to_nir(model, input_shape=tuple(x.shape[1:]), levels=30)
    expected = model.run(x, 40, record=("spk",)).spk
    assert expected.max() > 1
    steps = list(export.GraphNetwork(graph).unroll(x.float(), 40))
    spk = torch.stack([spk for spk, _ in steps])
    torch.testing.assert_close(spk.double(), expected.flatten(2))
    image = torch.pixel_shuffle(steps[-1][1].double(), stride)
    x_hat = model.decode(expected[-1], x.shape[-2:])
    torch.testing.assert_close(image, x_hat, atol=1e-5, rtol=1e-5)


def test_it_is_the_graph_of_the_unrolled_model(tmp_path):
    model = model_of(4, 2, 2)
    x = images(model)
    maps = export.to_nir(model, input_shape=tuple(x.shape[1:]))
    flat = export.to_nir(unrolled(model, x.shape[-2:]))
    for (a, _), (b, _) in zip(
        export.GraphNetwork(maps).unroll(x.float(), 20),
        export.GraphNetwork(flat).unroll(x.flatten(1).float(), 20),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", ["exact", "portable"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_file_restores_the_stochastic_model(form, nested, tmp_path):
    model = model_of(spike_grad=midpoint())
    x = images(model)
    graph = export.to_nir(model, form, input_shape=tuple(x.shape[1:]), nested=nested)
    export.write(tmp_path / "a.nir", graph)
    back = export.from_nir(tmp_path / "a.nir")
    assert type(back) is ConvIPVAE
    torch.testing.assert_close(back.run(x, 9, seed=0).spk, model.run(x, 9, seed=0).spk)
    other = images(model, 2, 3)  # of another size
    torch.testing.assert_close(back.run(other, 5, seed=0).mem, model.run(other, 5, seed=0).mem)


def test_a_changed_graph_or_damaged_sizes_are_found():
    model = model_of()
    graph = export.to_nir(model, input_shape=(1, 8, 8))
    graph.nodes["l01_1_drive"].weight[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="changed after the export"):
        export.from_nir(graph)
    graph = export.to_nir(model, input_shape=(1, 8, 8))
    graph.metadata["config"] = graph.metadata["config"].replace('"latents": 5', '"latents": 500000')
    with pytest.raises(ValueError, match="damaged"):
        export.from_nir(graph)


def test_fidelity_and_calibration():
    model = model_of(spike_grad=midpoint())
    x = images(model, count=8).float()
    portable = export.calibrate(model, x, num_steps=32)
    shape = tuple(x.shape[1:])
    graphs = [
        export.to_nir(model, input_shape=shape),
        export.to_nir(model, "portable", portable=portable, input_shape=shape),
    ]
    own, _, exact, lif = export.report(graphs, model, x, 64).rows
    assert own.r2 is not None
    assert exact.r2 > own.r2  # without the noise of the draws
    assert exact.agreement > 0.9
    assert lif.r2_mean > 0.8 * own.r2_mean


@pytest.mark.parametrize(
    ("options", "shape", "says"),
    [
        ({}, None, "input_shape must be given"),
        ({}, (8, 8), "input_shape must be given"),
        ({}, (3, 8, 8), "input_shape must be given"),
        ({}, (1, 9, 7), "pad images to 10×8"),
        ({"kernel": (4, 2)}, (1, 8, 8), "square features"),
        ({"dimensions": 1}, (1, 8), "square features"),
    ],
)
def test_what_no_graph_of_convolutions_holds_is_refused(options, shape, says):
    with pytest.raises(ValueError, match=says):
        export.to_nir(model_of(**options), input_shape=shape)


def test_the_default_thresholds_hold_for_the_unrolled_model_too():
    model = model_of()
    flat = unrolled(model, (8, 10))
    thresholds = [
        next(node.v_threshold for node in graph.nodes.values() if hasattr(node, "v_threshold"))
        for graph in (
            export.to_nir(model, "portable", input_shape=(1, 8, 10)),
            export.to_nir(flat, "portable"),
        )
    ]
    assert isinstance(flat, IPVAE)
    torch.testing.assert_close(
        torch.from_numpy(thresholds[0]).flatten(),
        torch.from_numpy(thresholds[1]),
        rtol=0.05,
        atol=0,
    )
