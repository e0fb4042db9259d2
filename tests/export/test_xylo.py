"""Xylo: arithmetic against plain integers and xylosim, networks against convex optimisation."""

import numpy as np
import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, fit, metrics
from ipvae_snn.export.xylo.chip import HIGH, LOW, XyloChip, XyloState
from ipvae_snn.export.xylo.convert import to_xylo
from ipvae_snn.export.xylo.network import XyloNetwork
from ipvae_snn.export.xylo.simulator import simulate

PIXELS, LATENTS = 16, 24
MODES = ("spikes", "bias")


# -- the arithmetic of the chip -------------------------------------------------------------------


def decay(v, dash):
    return v >> dash if v < 0 else max(v >> dash, int(v > 0))


def saturated(v):
    return min(max(v, LOW), HIGH)


def slowly(chip, counts):
    """One sample through the chip, spike by spike, in plain integers: the fields of a state."""

    def deliver(spikes, weights, shift, most, isyn):
        for row, count in zip(weights.tolist(), spikes, strict=True):
            for target, weight in enumerate(row):
                for _ in range(min(count, most)):
                    isyn[target] = saturated(isyn[target] + weight * 2**shift)

    def evolve(isyn, vmem, spk, threshold, bias, dash_mem, dash_syn, most):
        for k in range(len(spk)):
            isyn[k] -= decay(isyn[k], int(dash_syn[k]))
            change = saturated(isyn[k] - decay(vmem[k], int(dash_mem[k])))
            vmem[k] = saturated(vmem[k] + saturated(change + int(bias[k])))
            spk[k] = 0
            while vmem[k] >= threshold[k] and spk[k] < most:
                vmem[k] -= int(threshold[k])
                spk[k] += 1

    isyn, vmem, spk = ([0] * len(chip.threshold) for _ in range(3))
    isyn_out, vmem_out, spk_out = ([0] * len(chip.threshold_out) for _ in range(3))
    for arriving in counts.tolist():
        deliver(arriving, chip.weights_in, chip.weight_shift_in, 15, isyn)
        before = list(spk)
        deliver(before, chip.weights_rec, chip.weight_shift_rec, 31, isyn)
        deliver(before, chip.weights_out, chip.weight_shift_out, 31, isyn_out)
        evolve(isyn, vmem, spk, chip.threshold, chip.bias, chip.dash_mem, chip.dash_syn, 31)
        evolve(
            isyn_out,
            vmem_out,
            spk_out,
            chip.threshold_out,
            chip.bias_out,
            chip.dash_mem_out,
            chip.dash_syn_out,
            1,
        )
        yield [list(part) for part in (isyn, vmem, spk, isyn_out, vmem_out, spk_out)]


def random_chip(seed):
    """A random configuration, from silent to saturated, and input for three samples."""
    draw = np.random.default_rng(seed)
    channels, hidden, outputs = (int(draw.integers(*b)) for b in ((1, 12), (1, 16), (0, 9)))
    density = draw.choice([0.2, 1.0])
    highest = int(draw.choice([50, 500, 5000, HIGH]))
    strongest = int(draw.choice([1, 100, HIGH]))

    def weights(*shape):
        return draw.integers(-128, 128, shape) * (draw.random(shape) < density)

    chip = XyloChip(
        weights(channels, hidden),
        weights(hidden, hidden),
        weights(hidden, outputs),
        *(int(shift) for shift in draw.integers(0, 9, 3)),
        *(draw.integers(1, highest + 1, n) for n in (hidden, outputs)),
        *(draw.integers(-strongest, strongest + 1, n) for n in (hidden, outputs)),
        *(draw.integers(1, 16, n) for n in (hidden, outputs, hidden, outputs)),
    )
    return chip, draw.integers(0, draw.choice([2, 16, 40]), (20, 3, channels))


def assert_same(state, other):
    for name, ours, theirs in zip(XyloState._fields, state, other, strict=True):
        assert np.array_equal(ours, theirs), name


def test_the_chip_computes_what_plain_integers_do():
    seen = []
    for seed in range(30):
        chip, counts = random_chip(seed)
        recorded = chip.run(counts)
        for sample in range(counts.shape[1]):
            fields = zip(*slowly(chip, counts[:, sample]), strict=True)
            assert_same(XyloState(*(part[:, sample] for part in recorded)), fields)
        seen.append(recorded)
    # The random cases reach all limits.
    assert min(state.vmem.min() for state in seen) == LOW
    assert max(state.spk.max() for state in seen) == 31
    assert {1} == {int(s.spk_out.max()) for s in seen if s.spk_out.any()}
    assert sum(int((abs(s.isyn) >= 2**14).sum()) for s in seen) > 1000


def test_the_chip_computes_what_xylosim_does():
    pytest.importorskip("xylosim.v2", reason="xylosim is not installed")
    for seed in range(100, 160):
        chip, counts = random_chip(seed)
        assert_same(chip.run(counts), simulate(chip, counts))


def one_neuron(**changes):
    one, none = np.ones(1, int), np.zeros(0, int)
    values = {
        "weights_in": np.array([[100]]),
        "weights_rec": np.array([[0]]),
        "weights_out": np.zeros((1, 0), int),
        "weight_shift_in": 0,
        "weight_shift_rec": 0,
        "weight_shift_out": 0,
        "threshold": HIGH * one,
        "threshold_out": none,
        "bias": 0 * one,
        "bias_out": none,
        "dash_mem": 15 * one,
        "dash_mem_out": none,
        "dash_syn": one,
        "dash_syn_out": none,
    }
    return XyloChip(**{**values, **changes})


def traced(chip, counts, field):
    return getattr(chip.run(np.array(counts)[:, None, :]), field)[:, 0, 0].tolist()


def test_a_channel_delivers_15_spikes_at_most():
    assert traced(one_neuron(), [[15], [0]], "isyn") == traced(one_neuron(), [[99], [0]], "isyn")


def test_saturation_depends_on_the_order_of_the_channels():
    up, down = [127, -128]
    chip = one_neuron(weights_in=np.array([[up], [down]]), weight_shift_in=8)
    # 2 · 32,512 stops at 32,767 before 32,768 are taken off; half of the rest, −1, decays.
    assert traced(chip, [[2, 1]], "isyn") == [0]
    chip = one_neuron(weights_in=np.array([[down], [up]]), weight_shift_in=8)
    assert traced(chip, [[1, 2]], "isyn") == [(2 * 32512 - 32768) // 2]


@pytest.mark.parametrize("channels", [5_000, 10_000])  # products in single, in double precision
def test_any_number_of_channels_saturates_a_state(channels):
    weights = np.full((channels, 1), 127)
    weights[-1] = -1
    chip = one_neuron(weights_in=weights, weight_shift_in=8)
    assert traced(chip, [[15] * channels], "isyn") == [-(-(HIGH - 15 * 256) // 2)]


def test_a_membrane_loses_one_in_every_timestep():
    chip = one_neuron(bias=np.array([3]))
    assert traced(chip, [[0]] * 4, "vmem") == [3, 5, 7, 9]
    chip = one_neuron(bias=np.array([-3]))
    assert traced(chip, [[0]] * 4, "vmem") == [-3, -5, -7, -9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_in": np.array([[128]])}, "weights_in must be integers in"),
        ({"weights_in": np.array([[1.5]])}, "weights_in must be integers in"),
        ({"weights_rec": np.zeros((1, 2), int)}, "weights_rec must have shape"),
        ({"threshold": np.array([0])}, "threshold must be integers in"),
        ({"dash_syn": np.array([0])}, "dash_syn must be integers in"),
        ({"weight_shift_in": 9}, "weight_shift_in must be integers in"),
        ({"threshold": np.ones(1001, int)}, "at most 1000 hidden neurons, got 1001"),
        ({"threshold_out": np.ones(9, int)}, "at most 8 output neurons, got 9"),
    ],
)
def test_configurations_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        one_neuron(**changes)


# -- the network ----------------------------------------------------------------------------------


def made_model(lateral_scale=1.0, signed=True, samples=60):
    """A model with a random dictionary, and inputs that it can reconstruct."""
    model = IPVAE(PIXELS, LATENTS, lateral_scale=lateral_scale)
    features = torch.randn(PIXELS, LATENTS)
    features = features if signed else features.abs()
    with torch.no_grad():
        model.decoder.weight.copy_(0.5 * features / features.norm(dim=0))
        model.neuron.lateral.log_scale.normal_(std=0.1)
    codes = 4 * torch.poisson(torch.full((samples, LATENTS), 0.4)) * torch.rand(samples, LATENTS)
    return model, model.decode(codes).detach() + 0.02 * torch.rand(samples, PIXELS)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    _, x = made_model(samples=1000)
    model = IPVAE(PIXELS, LATENTS)
    fit(model, x, TrainConfig(iterations=300, beta=4.0, progress=False))
    return model, x[:40]


def best_code(model, x):
    """argmin ½ (x − Φz)ᵀ Λ (x − Φz) + bᵀz over z ≥ 0, by projected gradient descent."""
    gram = model.neuron.gram().detach()
    current = (model.neuron.drive(x) - model.neuron.tonic(gram)).detach().double()
    gram = model.neuron.lateral_scale * gram.double()
    code, step = torch.zeros_like(current), 1 / torch.linalg.eigvalsh(gram)[-1]
    for _ in range(3000):
        code = (code + step * (current - code @ gram)).clamp(min=0)
    return code.float()


def mean_code(net, x, steps=400):
    return torch.from_numpy(net.run(x, steps).spk[steps // 2 :].mean(0)).float()


@pytest.mark.parametrize("input_as", MODES)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("gain", "lateral_scale"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5)])
def test_mean_spikes_minimise_the_error_and_the_cost_of_spikes(
    input_as, signed, gain, lateral_scale
):
    model, x = made_model(lateral_scale, signed)
    net = to_xylo(model, x, input_as=input_as, gain=gain)
    expected = model.decode(best_code(model, x)).detach()
    assert metrics.r2(expected, net.decode(mean_code(net, x))) > (0.998 if signed else 0.99)


@pytest.mark.parametrize("input_as", MODES)
def test_single_timesteps_reconstruct_better_than_the_poisson_draws_of_the_model(trained, input_as):
    model, x = trained
    *_, spk = to_xylo(model, x, input_as=input_as).unroll(x, 200)
    drawn = model.run(x, 200, record=(), seed=0).state.spk
    theirs = metrics.r2(x, model.decode(drawn).detach())
    assert theirs > 0.5
    assert metrics.r2(x, to_xylo(model, x).decode(spk)) > theirs


@pytest.mark.parametrize("input_as", MODES)
def test_a_trained_model_gives_the_same_integers_in_xylosim(trained, input_as):
    pytest.importorskip("xylosim.v2", reason="xylosim is not installed")
    model, x = trained
    net = to_xylo(model, x, input_as=input_as, readout=nn.Linear(LATENTS, 8))
    ours = net.run(x[:5], 100)
    assert ours.spk.any()
    assert ours.spk_out.any()
    assert_same(ours, net.simulate(x[:5], 100))


def test_unroll_yields_the_spikes_of_run_whatever_the_seed(trained):
    net, x = to_xylo(*trained), trained[1]
    recorded = torch.from_numpy(net.run(x, 12).spk).float()
    for seed in (0, 1):
        steps = list(net.unroll(x, 12, seed=seed))
        assert steps[0].dtype == torch.float32
        assert torch.equal(torch.stack(steps), recorded)


def test_input_spikes_add_up_to_the_input_at_every_timestep():
    model, x = made_model()
    net = to_xylo(model, x)
    counts = net.encode(x, 50).astype(int)
    assert counts.shape == (50, 60, 2 * PIXELS)
    assert counts.min() == 0
    assert counts.max() <= 15
    shown = (counts[:, :, 0::2] - counts[:, :, 1::2]).cumsum(0) / net.spikes_per_unit
    wanted = x.numpy() * np.arange(1, 51)[:, None, None]
    assert abs(shown - wanted).max() <= 0.501 / net.spikes_per_unit


def test_input_beyond_the_range_is_15_spikes_in_every_timestep():
    model, x = made_model(signed=False)
    assert (to_xylo(model, x).encode(torch.full((2, PIXELS), 1e6), 5) == 15).all()


def test_channels_are_one_or_two_per_pixel_or_none():
    for signed, input_as, channels in (
        (True, "spikes", 32),
        (False, "spikes", 16),
        (True, "bias", 0),
    ):
        model, x = made_model(signed=signed)
        net = to_xylo(model, x, input_as=input_as)
        assert len(net.chip.weights_in) == channels
        assert any("simulated only" in note for note in net.notes) == (channels > 16)


def test_more_targets_than_the_chip_has_are_noted():
    torch.manual_seed(1)
    notes = to_xylo(IPVAE(8, 70, init_std=1.0), torch.rand(5, 8)).notes
    assert any("Xylo Audio has 64: simulated only" in note for note in notes)


def test_weights_use_the_range_of_8_bits():
    model, x = made_model()
    with torch.no_grad():
        model.decoder.weight *= torch.logspace(0, -0.8, LATENTS)
    chip = to_xylo(model, x).chip
    assert (abs(chip.weights_rec.astype(int)).max(axis=0) >= 126).all()
    assert abs(chip.weights_in.astype(int)).max() == 127


def test_a_neuron_without_a_feature_is_silent():
    model, x = made_model()
    with torch.no_grad():
        model.decoder.weight[:, 3] = 0
    spk = to_xylo(model, x).run(x, 100).spk
    assert not spk[:, :, 3].any()
    assert spk.any()


def test_output_neurons_spike_at_the_rate_of_the_readout():
    model, x = made_model()
    readout = nn.Linear(LATENTS, 8)
    with torch.no_grad():
        readout.bias.copy_(torch.linspace(-0.5, 0.5, 8))
    net = to_xylo(model, x, gain=0.5, readout=readout)
    state = net.run(x, 600)
    outputs = readout(torch.from_numpy(state.spk[100:].mean(0)).float() / 0.5).detach()
    top = float(net.notes[-1].split("stands for ")[1].split(",")[0])
    rates = torch.from_numpy(state.spk_out[100:].mean(0))
    assert (rates > 0.1).any()
    assert (rates - (outputs / top).clamp(0, 1)).abs().max() < 0.03


def test_a_saved_network_loads_unchanged(tmp_path, trained):
    net = to_xylo(*trained, readout=nn.Linear(LATENTS, 3))
    net.save(tmp_path / "net.npz")
    back, x = XyloNetwork.load(tmp_path / "net.npz"), trained[1]
    assert (back.notes, back.label) == (net.notes, net.label)
    assert_same(net.run(x, 20), back.run(x, 20))
    assert torch.equal(net.decode(torch.ones(LATENTS)), back.decode(torch.ones(LATENTS)))


def test_files_without_a_valid_network_are_refused(tmp_path, trained):
    path = tmp_path / "net.npz"
    with pytest.raises(FileNotFoundError, match="is no file"):
        XyloNetwork.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        XyloNetwork.load(path)
    np.savez(path, a=1)
    with pytest.raises(ValueError, match="was not written by"):
        XyloNetwork.load(path)
    to_xylo(*trained).save(path)
    content = dict(np.load(path))
    for change, message in (
        ({"version": 2}, "format version 2"),
        ({"threshold": [0]}, "does not hold a valid network"),
        ({"drive": np.ones((2, 2))}, "weight and drive must have shape"),
        ({"spikes_per_unit": 0.0}, "need 0 input channels"),
    ):
        np.savez(path, **{**content, **change})
        with pytest.raises(ValueError, match=message):
            XyloNetwork.load(path)
    content.pop("weights_rec")
    np.savez(path, **content)
    with pytest.raises(ValueError, match="does not hold a valid network"):
        XyloNetwork.load(path)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (nn.Linear(3, 3), {}, TypeError, "must be an IPVAE .* got Linear"),
        (IPVAE(PIXELS, 1001), {}, ValueError, "at most 1000 hidden neurons, got 1001"),
        (IPVAE(PIXELS, 8, leak=0.1), {}, ValueError, "train a model without leak"),
        (IPVAE(PIXELS, 8, lateral_scale=0.0), {}, ValueError, "which is 0 here"),
        (IPVAE(PIXELS, 8, init_std=0.0), {}, ValueError, "which is 0 here"),
        (IPVAE(PIXELS, 8), {"data": torch.zeros(3, PIXELS)}, ValueError, "not be all zeros"),
        (IPVAE(PIXELS, 8), {"data": torch.rand(3, 5)}, ValueError, "data must have shape"),
        (IPVAE(PIXELS, 8), {"input_as": "events"}, ValueError, "must be 'spikes' or 'bias'"),
        (IPVAE(PIXELS, 8), {"gain": 0.0}, ValueError, "gain must be a finite number"),
        (IPVAE(PIXELS, 8), {"threshold": 1.0}, ValueError, "threshold must be a finite number"),
        (IPVAE(PIXELS, 8), {"readout": nn.Linear(8, 9)}, ValueError, "at most 8 output neurons"),
        (IPVAE(PIXELS, 8), {"readout": nn.Linear(7, 2)}, ValueError, "must take 8 counts, got 7"),
        (IPVAE(PIXELS, 8), {"readout": nn.ReLU()}, TypeError, "must be an nn.Linear, got ReLU"),
    ],
)
def test_what_cannot_be_converted_is_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        to_xylo(model, **{"data": torch.rand(3, PIXELS), **options})


def test_a_readout_that_is_never_positive_is_refused():
    readout = nn.Linear(8, 2)
    nn.init.zeros_(readout.weight)
    nn.init.constant_(readout.bias, -1.0)
    with pytest.raises(ValueError, match="raise its bias"):
        to_xylo(IPVAE(PIXELS, 8), torch.rand(3, PIXELS), readout=readout)


def test_bad_inputs_and_spikes_are_refused():
    model, x = made_model(signed=False)
    net = to_xylo(model, x)
    for bad, error, message in (
        (-x, ValueError, "made from data without negative values"),
        (x[:, :3], ValueError, "x must have shape"),
        (x.long(), TypeError, "floating point"),
        (x / 0, ValueError, "NaN or infinite"),
    ):
        with pytest.raises(error, match=message):
            list(net.unroll(bad, 2))
    with pytest.raises(ValueError, match="spk must have shape"):
        net.decode(torch.ones(3))
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        net.run(x, 0)


def test_inputs_beyond_the_range_of_the_chip_say_how_to_scale_them():
    with pytest.raises(ValueError, match="scale data"):
        to_xylo(IPVAE(16, 24, init_std=0.3), 1e6 * torch.rand(20, 16))


def test_nan_in_a_model_is_named():
    model = IPVAE(16, 24)
    with torch.no_grad():
        model.neuron.log_bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"log_bias holds 1 NaN"):
        to_xylo(model, torch.rand(20, 16))


def test_features_too_weak_to_fire_say_to_train_first():
    with pytest.raises(ValueError, match="train the model first"):
        to_xylo(IPVAE(16, 8, init_std=1e-4), torch.rand(20, 16))
