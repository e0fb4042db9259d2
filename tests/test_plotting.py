"""Pictures: what is drawn is what was given; wrong shapes are refused; nothing global changes."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ipvae_snn import plotting


@pytest.fixture(autouse=True)
def _no_global_change():
    before, numbers = dict(mpl.rcParams), plt.get_fignums()
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")
    assert numbers == []


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def drawn(ax):
    ax.figure.canvas.draw()


def test_raster_draws_every_count_once(ax):
    spk = torch.poisson(torch.full((30, 12), 0.4))
    assert plotting.raster(spk, ax=ax, first_step=5) is ax
    dots = ax.collections[0]
    time, neuron = dots.get_offsets().data.T.astype(int)
    counts = np.zeros((30, 12))
    counts[time - 5, neuron] = dots.get_array()
    assert np.array_equal(counts, spk.numpy())
    assert dots.get_array().sum() == spk.sum()
    # A larger count is a larger dot.
    order = np.argsort(dots.get_array())
    assert (np.diff(dots.get_sizes()[order]) >= 0).all()
    labels = [int(t.get_text()) for t in ax.get_legend().get_texts()]
    assert max(labels) == spk.max()
    drawn(ax)


def test_raster_of_silence(ax):
    plotting.raster(torch.zeros(5, 3), ax=ax)
    assert len(ax.collections[0].get_offsets()) == 0
    drawn(ax)


def test_membranes_are_those_given_and_rates_are_their_exponentials(ax):
    mem = torch.randn(20, 9)
    plotting.membranes(mem, neurons=[4, 1], ax=ax)
    for line, index in zip(ax.lines, (4, 1), strict=True):
        np.testing.assert_allclose(line.get_ydata(), mem[:, index].numpy(), rtol=1e-6)
        assert line.get_xdata()[0] == 1
    drawn(ax)
    formatter = ax.child_axes[0].yaxis.get_major_formatter()
    assert formatter(0.0, 0) == "1"
    assert formatter(np.log(4.0), 0) == "4"
    assert "nats" in ax.get_ylabel()


def test_dictionary_tiles_are_the_columns_of_the_decoder(ax):
    weight = torch.randn(12, 5)
    plotting.dictionary(weight, (3, 4), order=[2, 0], columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    expected = weight[:, 2].reshape(3, 4) / weight[:, 2].abs().max()
    np.testing.assert_allclose(sheet[1:4, 1:5], expected.numpy(), rtol=1e-6)
    expected = weight[:, 0].reshape(3, 4) / weight[:, 0].abs().max()
    np.testing.assert_allclose(sheet[1:4, 6:10], expected.numpy(), rtol=1e-6)
    drawn(ax)


def test_reconstructions_show_inputs_first(ax):
    x = torch.rand(3, 12)
    plotting.reconstructions(x, {"step 1": x * 0.5, "step 9": x}, (3, 4), scale="unit", ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(sheet[1:4, 1:5], x[0].reshape(3, 4).numpy(), rtol=1e-6)
    np.testing.assert_allclose(sheet[5:8, 6:10], 0.5 * x[1].reshape(3, 4).numpy(), rtol=1e-6)
    assert [t.get_text() for t in ax.texts] == ["input", "step 1", "step 9"]
    drawn(ax)


def test_convergence_counts_steps_from_one_on_a_log_axis(ax):
    plotting.convergence({"R²": [0.1, 0.5, 0.6], "zeros": [0.9, 0.8, 0.8]}, mark=2, ax=ax)
    assert ax.get_xscale() == "log"
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert ax.lines[1].get_ydata().tolist() == [0.9, 0.8, 0.8]
    drawn(ax)


def test_training_curve(ax):
    rows = [{"iteration": 10, "r2": 0.1, "zeros": 0.9}, {"iteration": 20, "r2": 0.3, "zeros": 0.8}]
    plotting.training(rows, ax=ax)
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.3]


def test_without_axes_a_new_figure_is_made():
    assert plotting.raster(torch.ones(3, 2)).figure is plt.gcf()


@pytest.mark.parametrize(
    "call",
    [
        lambda: plotting.raster(torch.zeros(3, 4, 5)),
        lambda: plotting.raster(torch.zeros(0, 4)),
        lambda: plotting.membranes(torch.zeros(7)),
        lambda: plotting.membranes(torch.full((3, 2), float("nan"))),
        lambda: plotting.dictionary(torch.zeros(12, 5), (3, 5)),
        lambda: plotting.mosaic(torch.zeros(3, 4)),
        lambda: plotting.mosaic(torch.zeros(2, 3, 4), scale="some"),
        lambda: plotting.reconstructions(torch.zeros(2, 12), {"a": torch.zeros(3, 12)}, (3, 4)),
        lambda: plotting.convergence({"a": torch.zeros(2, 2)}),
        lambda: plotting.training([]),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
