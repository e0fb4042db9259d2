"""Figures show the values passed in, refuse wrong shapes and leave global settings alone."""

import shutil

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ipvae_snn import IPVAE, currents, metrics, plotting
from ipvae_snn import functional as F
from ipvae_snn.plotting.animation import _TrialFigure


@pytest.fixture(autouse=True)
def _global_state_is_unchanged():
    before, numbers = dict(mpl.rcParams), plt.get_fignums()
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")
    assert numbers == []


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def render(ax):
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
    # Larger counts have larger dots.
    order = np.argsort(dots.get_array())
    assert (np.diff(dots.get_sizes()[order]) >= 0).all()
    labels = [int(t.get_text()) for t in ax.get_legend().get_texts()]
    assert max(labels) == spk.max()
    render(ax)


def test_raster_without_spikes(ax):
    plotting.raster(torch.zeros(5, 3), ax=ax)
    assert len(ax.collections[0].get_offsets()) == 0
    render(ax)


def test_membrane_traces_and_rate_axis(ax):
    mem = torch.randn(20, 9)
    plotting.membranes(mem, neurons=[4, 1], ax=ax)
    for line, index in zip(ax.lines, (4, 1), strict=True):
        np.testing.assert_allclose(line.get_ydata(), mem[:, index].numpy(), rtol=1e-6)
        assert line.get_xdata()[0] == 1
    render(ax)
    formatter = ax.child_axes[0].yaxis.get_major_formatter()
    assert formatter(0.0, 0) == "1"
    assert formatter(np.log(4.0), 0) == "4"
    assert "nats" in ax.get_ylabel()


def test_dictionary_tiles_are_columns_of_the_decoder(ax):
    weight = torch.randn(12, 5)
    plotting.dictionary(weight, (3, 4), order=[2, 0], columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    expected = weight[:, 2].reshape(3, 4) / weight[:, 2].abs().max()
    np.testing.assert_allclose(sheet[1:4, 1:5], expected.numpy(), rtol=1e-6)
    expected = weight[:, 0].reshape(3, 4) / weight[:, 0].abs().max()
    np.testing.assert_allclose(sheet[1:4, 6:10], expected.numpy(), rtol=1e-6)
    render(ax)


def test_tiles_in_colour_keep_zero_at_mid_grey(ax):
    weight = torch.zeros(3 * 4, 2)
    weight[0, 0], weight[11, 1] = 2.0, -1.0  # red above left; no blue below right
    plotting.dictionary(weight, (3, 2, 2), order=[0, 1], columns=2, ax=ax)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (4, 7, 3)
    assert sheet[1, 1].tolist() == [1, 0.5, 0.5]
    assert sheet[2, 5].tolist() == [0.5, 0.5, 0]
    assert sheet[2, 1].tolist() == [0.5, 0.5, 0.5]
    render(ax)


def test_reconstructions_in_colour_and_of_one_channel(ax):
    x = torch.rand(2, 3 * 6)
    plotting.reconstructions(x, {"same": x}, (3, 2, 3), scale="unit", ax=ax)
    assert np.allclose(ax.images[0].get_array()[1:3, 1:4], x[0].reshape(3, 2, 3).permute(1, 2, 0))
    plotting.reconstructions(x, {"same": x}, (1, 3, 6), scale="unit", ax=plotting.canvas())


def test_photographs_are_clipped(ax):
    grey, colour = torch.tensor([[[-1.0, 0.5, 2.0]]]), torch.rand(3, 4, 5)
    assert plotting.photograph(grey, ax=ax).images[0].get_array().tolist() == [[0, 0.5, 1]]
    shown = plotting.photograph(colour, ax=plotting.canvas()).images[0].get_array()
    assert np.allclose(shown, colour.permute(1, 2, 0))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        plotting.photograph(torch.rand(2, 4, 5))


def test_activity_sums_the_features_of_a_place(ax):
    spk = torch.poisson(torch.full((3, 4, 5), 0.5))
    assert np.array_equal(plotting.activity(spk, ax=ax).images[0].get_array(), spk.sum(0))
    render(ax)


def test_places_show_the_channels_of_a_place_together(ax):
    spk = torch.zeros(5, 3, 2, 4)
    spk[1, 2, 1, 3], spk[4, 0, 0, 1] = 2, 1
    plotting.places(spk, shown=[7, 1], ax=ax)
    time, row = ax.collections[0].get_offsets().data.T.astype(int)
    assert sorted(zip(time.tolist(), row.tolist(), strict=True)) == [(2, 2), (5, 3)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1, 3", "0, 1"]
    render(ax)


def test_tiling_places_features_by_orientation_and_frequency(ax):
    plotting.tiling([10.0, 190.0], [0.1, 0.2], [0.0, -90.0], ax=ax)
    dots = ax.collections[0]
    assert np.allclose(dots.get_offsets(), [[10, 0.1], [10, 0.2]])
    assert np.allclose(dots.get_array(), [0, 270])
    render(ax)


def test_orientations_have_the_hue_of_what_fires(ax):
    spk = torch.zeros(3, 1, 4)
    spk[0, 0, 0] = spk[1, 0, 1] = spk[2, 0, 2] = 4
    plotting.orientations(spk, torch.tensor([0.0, 60.0, 120.0]), ax=ax)
    colours = ax.images[0].get_array()[0]
    assert np.allclose(colours[:3], np.eye(3), atol=1e-6)
    assert np.allclose(colours[3], 0)
    render(ax)


def test_reconstructions_show_inputs_first(ax):
    x = torch.rand(3, 12)
    plotting.reconstructions(x, {"step 1": x * 0.5, "step 9": x}, (3, 4), scale="unit", ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(sheet[1:4, 1:5], x[0].reshape(3, 4).numpy(), rtol=1e-6)
    np.testing.assert_allclose(sheet[5:8, 6:10], 0.5 * x[1].reshape(3, 4).numpy(), rtol=1e-6)
    assert [t.get_text() for t in ax.texts] == ["input", "step 1", "step 9"]
    render(ax)


def test_convergence_counts_steps_from_one_on_a_log_axis(ax):
    plotting.convergence({"R²": [0.1, 0.5, 0.6], "zeros": [0.9, 0.8, 0.8]}, mark=2, ax=ax)
    assert ax.get_xscale() == "log"
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert ax.lines[1].get_ydata().tolist() == [0.9, 0.8, 0.8]
    render(ax)


def test_training_curve(ax):
    rows = [{"iteration": 10, "r2": 0.1, "zeros": 0.9}, {"iteration": 20, "r2": 0.3, "zeros": 0.8}]
    plotting.training(rows, ax=ax)
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.3]
    plotting.training([rows[0], {**rows[1], "r2_val": 0.2}], ax=ax.figure.add_subplot())
    measured = ax.figure.axes[1].lines[2]
    assert (measured.get_xdata().tolist(), measured.get_ydata().tolist()) == ([20], [0.2])
    render(ax)


def test_the_band_between_the_two_lines_of_the_loss_is_the_weighted_kl(ax):
    rows = [
        {"iteration": 10 * n, "nll": -5.0 + 1e9 * (n == 1), "kl": float(n), "beta": 0.5}
        for n in range(1, 101)
    ]
    plotting.loss(rows, ax=ax)
    total, nll = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose((total - nll)[1:], [0.5 * n for n in range(2, 101)])
    low, high = ax.get_ylim()
    assert low < -5
    assert 40 < high < 60  # the first values do not hide all others
    render(ax)


def test_schedules_have_an_axis_each(ax):
    rows = [{"iteration": n, "lr": 0.1 / n, "beta": 4.0 * n} for n in (1, 2)]
    plotting.schedules(rows, ax=ax)
    left, right = (axes.lines[0].get_ydata().tolist() for axes in ax.figure.axes)
    assert (left, right) == ([0.1, 0.05], [4.0, 8.0])
    plotting.schedules([{"iteration": 1, "lr": 0.0, "beta": 0.0}], ax=ax)
    render(ax)


def test_without_ax_a_pyplot_figure_is_made():
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
        lambda: plotting.loss([{"iteration": 1, "nll": 1.0}]),
        lambda: plotting.schedules([{"iteration": 1, "lr": 1.0, "beta": float("nan")}]),
        lambda: plotting.raster(torch.zeros(3, 4), order=[4]),
        lambda: plotting.raster(-torch.ones(3, 4)),
        lambda: plotting.raster(torch.ones(3, 4), dots="round"),
        lambda: plotting.trials(torch.zeros(3, 4)),
        lambda: plotting.currents({}),
        lambda: plotting.currents({"drive": [1.0], "tonic": [1.0, 2.0]}),
        lambda: plotting.currents({"drive": [1.0]}, smooth=2),
        lambda: plotting.gram(torch.zeros(3, 4)),
        lambda: plotting.spectra({"a": [[0.1, 0.0], [0.2, 0.0]]}),
        lambda: plotting.competition(torch.zeros(3, 3), 3),
        lambda: plotting.competition(torch.zeros(3, 3), 1, neighbours=3),
        lambda: plotting.competition(
            torch.zeros(3, 3), 1, weight=torch.zeros(4, 2), shape=(2, 2), neighbours=2
        ),
        lambda: plotting.spectra({}),
        lambda: plotting.convergence([0.1, 0.2]),
        lambda: plotting.spectra({"a": torch.zeros(3, 3)}),
        lambda: plotting.rate_distortion({"a": torch.zeros(3, 3)}),
        lambda: plotting.trade_off([[1.0]], marks={"a": (1, 1)}),
        lambda: plotting.trade_off([[1.0, 0.5]], marks={}),
        lambda: plotting.spike_triggered(torch.zeros(3, 2), first_lag=0, labels=["a"]),
        lambda: plotting.tuning([0.0, 1.0], [1.0]),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()


@pytest.fixture
def spk():
    return torch.poisson(torch.full((30, 12), 0.4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dots", ["size", "colour", "both"])
def test_sorted_raster_has_the_same_counts(ax, spk, dots):
    order = metrics.by_use(spk)
    plotting.raster(spk, order=order, dots=dots, ax=ax)
    time, row = ax.collections[0].get_offsets().data.T.astype(int)
    shown = np.zeros((30, 12))
    shown[time - 1, row] = ax.collections[0].get_array()
    assert np.array_equal(shown, spk[:, order].numpy())
    assert (np.diff(shown.sum(0)) <= 0).all()
    sizes, colours = ax.collections[0].get_sizes(), ax.collections[0].to_rgba([1, 3])
    assert (len(set(sizes)) > 1) == (dots != "colour")
    assert (colours[0] != colours[1]).any() == (dots != "size")
    render(ax)


def test_trials_form_blocks_of_rows(ax):
    spk = torch.poisson(torch.full((9, 5, 7), 0.7))
    plotting.trials(spk, neurons=[6, 2], ax=ax)
    time, row = ax.collections[0].get_offsets().data.T.astype(int)
    shown = np.zeros((9, 10))
    shown[time - 1, row] = ax.collections[0].get_array()
    assert np.array_equal(shown, torch.cat([spk[:, :, 6], spk[:, :, 2]], 1).numpy())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["6", "2"]
    render(ax)


@pytest.mark.parametrize("moving", [False, True])
def test_currents_add_up_to_the_change_of_the_membrane(ax, moving):
    model = IPVAE(16, 8, init_std=0.5, leak=0.1, lateral_scale=0.8, clamp=3.0)
    model.neuron.mem_init.data.zero_()
    x = torch.rand(12, 3, 16) if moving else torch.rand(3, 16)
    out = model.run(x, 12, seed=0)
    parts = currents.parts(model.neuron, model.neuron.drive(x), out.spk, out.mem)
    before = torch.cat([model.neuron.mem_init.expand(1, 3, -1), out.mem[:-1]])
    torch.testing.assert_close(sum(parts), out.mem - before, atol=1e-5, rtol=0)
    # ``self`` is inhibition by the neuron's own spikes, ``lateral`` by those of other neurons.
    gram, step = model.neuron.gram() * 0.8, model.neuron.log_step.exp()
    own = -step * torch.cat([torch.zeros(1, 3, 8), out.spk[:-1]]) * gram.diagonal()
    torch.testing.assert_close(parts.self, own.detach())
    chosen = parts.of(2, 5)
    plotting.currents(chosen, ax=ax)
    heights = {c.get_label(): np.array([b.get_height() for b in c]) for c in ax.containers}
    for name, values in chosen.items():
        np.testing.assert_allclose(heights[name], values.numpy(), atol=1e-6)
    np.testing.assert_allclose(
        ax.lines[0].get_ydata(), (out.mem - before)[:, 2, 5].detach().numpy(), atol=1e-5
    )
    render(ax)


def test_smoothed_currents(ax):
    plotting.currents({"drive": [1.0, 3.0, 5.0, 7.0, 9.0], "tonic": [-1.0] * 5}, smooth=2, ax=ax)
    assert [bar.get_height() for bar in ax.containers[0]] == [2.0, 6.0]
    assert ax.lines[0].get_xdata().tolist() == [1.5, 3.5]


def test_spike_triggered_lags_start_before_the_spike(ax):
    average = torch.arange(8.0).reshape(4, 2)
    plotting.spike_triggered(
        average, first_lag=-1, labels=["a", "b"], chance=torch.tensor([2.0, 3.0]), ax=ax
    )
    assert ax.lines[0].get_xdata().tolist() == [-1, 0, 1, 2]
    assert ax.lines[2].get_ydata().tolist() == [1.0, 3.0, 5.0, 7.0]
    render(ax)


def test_competition_draws_the_strongest_neighbours(ax):
    weight = torch.randn(9, 6)
    gram = F.gram(weight)
    plotting.competition(gram, 2, weight=weight, shape=(3, 3), neighbours=3, ax=ax)
    row = gram[2].clone()
    row[2] = 0
    expected = set(row.abs().argsort(descending=True)[:3].tolist())
    assert "Neuron 2" in ax.get_title()
    assert expected == {int(t.get_text()) for t in ax.texts if t.get_text().isdecimal()}
    tile = ax.images[0].get_array()
    np.testing.assert_allclose(tile, weight[:, 2].reshape(3, 3).numpy(), rtol=1e-6)
    strengths = [line.get_linewidth() for line in ax.lines]
    assert len(strengths) == 3
    assert max(strengths) == pytest.approx(5.3)
    render(ax)
    plotting.competition(gram, 2, neighbours=5, ax=Figure().subplots())


def test_gram_follows_the_order(ax):
    matrix = torch.arange(9.0).reshape(3, 3)
    plotting.gram(matrix, order=[2, 0], ax=ax)
    assert np.asarray(ax.images[0].get_array()).tolist() == [[8.0, 6.0], [2.0, 0.0]]


def test_rate_distortion_points_and_circles(ax):
    plotting.rate_distortion({"a": [[0.8, 0.9], [0.7, 0.95]]}, radii=(0.5,), ax=ax)
    assert ax.lines[0].get_ydata().tolist() == [0.9, 0.95]
    circle = np.stack(ax.lines[1].get_data(), 1)
    np.testing.assert_allclose(np.hypot(*(1 - circle.T)), 0.5)


def test_trade_off_marks_and_front(ax):
    tried = [[10, 0.5], [20, 0.3], [15, 0.6], [30, 0.4], [30, 0.2]]
    plotting.trade_off(tried, marks={"before": (20, 0.3), "after": (30, 0.2)}, budget=31, ax=ax)
    dots, front, before, after, budget = ax.lines
    assert np.stack(dots.get_data(), 1).tolist() == tried
    assert np.stack(front.get_data(), 1).tolist() == [[10, 0.5], [20, 0.3], [30, 0.2]]
    assert [line.get_xydata().tolist() for line in (before, after)] == [[[20, 0.3]], [[30, 0.2]]]
    assert list(budget.get_xdata()) == [31, 31]
    assert ax.get_xlim()[0] < 20
    assert ax.get_xlim()[1] > 31
    assert ax.get_ylim()[0] < 0.2
    assert ax.get_ylim()[1] > 0.3
    render(ax)


def test_spectra_and_tuning(ax):
    x = torch.rand(5, 64)
    pairs = metrics.radial_spectrum(x, (8, 8))
    plotting.spectra({"inputs": pairs}, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), pairs[:, 1].numpy(), rtol=1e-6)
    render(ax)
    other = Figure().subplots()
    plotting.tuning([0, 90, 180], {"a": [1.0, 2.0, 1.0], "b": [0.0, 0.5, 0.0]}, ax=other)
    assert other.lines[1].get_ydata().tolist() == [0.0, 0.5, 0.0]


def test_colours_are_legible_on_a_dark_background():
    ax = plotting.canvas(dark=True)
    plotting.raster(torch.poisson(torch.ones(8, 4)), ax=ax)
    background = np.array(to_rgb(ax.get_facecolor()))
    texts = [*ax.get_legend().get_texts(), ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels()]
    for text in texts:
        assert np.abs(np.array(to_rgb(text.get_color())) - background).max() > 0.5
    colours = ax.collections[0].to_rgba([1.0, 2.0])[:, :3]
    assert np.abs(colours - background).max(1).min() > 0.3


@pytest.mark.parametrize("name", ["trial.gif", "trial.mp4"])
def test_animation_has_a_frame_for_every_nth_timestep(tmp_path, name):
    model = IPVAE(16, 8, init_std=0.5)
    x = torch.rand(1, 16)
    out = model.run(x, 9, seed=0)
    spk, mem, x_hat = out.spk[:, 0], out.mem[:, 0], model.decode(out.spk[:, 0])
    if name.endswith("mp4") and shutil.which("ffmpeg") is None:
        with pytest.raises(RuntimeError, match="ffmpeg"):
            plotting.animate(tmp_path / name, spk, mem, x_hat, (4, 4))
        return
    path = plotting.animate(tmp_path / name, spk, mem, x_hat, (4, 4), x=x[0], every=2, dpi=40)
    assert list(tmp_path.iterdir()) == [path]
    if name.endswith("gif"):
        with Image.open(path) as image:
            assert image.n_frames == 4
    else:
        assert path.stat().st_size > 1000


def test_animation_hides_later_timesteps():
    spk = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    trial = _TrialFigure(spk, spk, torch.rand(3, 4), torch.rand(4), (2, 2), [0, 1], dark=False)
    trial.show(1)
    assert ((trial.points.get_sizes() > 0) == (trial.times <= 2)).all()
    assert np.isnan(trial.lines[0][0].get_ydata()[2])
    assert "spikes: 2" in trial.title.get_text()


@pytest.mark.parametrize(
    "call",
    [
        lambda path: plotting.animate(path / "f.avi", *[torch.zeros(3, 4)] * 3, (2, 2)),
        lambda path: plotting.animate(path / "f.gif", *[torch.zeros(3, 4)] * 3, (2, 3)),
        lambda path: plotting.animate(path / "f.gif", *[torch.zeros(3, 4)] * 3, (2, 2), every=4),
        lambda path: plotting.animate(
            path / "f.gif", torch.zeros(3, 5), torch.zeros(3, 4), torch.zeros(3, 4), (2, 2)
        ),
    ],
)
def test_refused_animation_leaves_no_file(tmp_path, call):
    with pytest.raises(ValueError, match="must"):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fractional_counts_have_dots(ax):
    plotting.raster(torch.tensor([[0.2, 0.0], [1.5, 3.0]]), ax=ax)
    assert len(ax.collections[0].get_offsets()) == 3
    assert (ax.collections[0].get_sizes() > 0).all()
    render(ax)
