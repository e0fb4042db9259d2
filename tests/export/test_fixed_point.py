"""Fixed-point inference: against a loop over Python integers, against floats, and Poisson's law."""

import math

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE, functional, metrics, surrogate
from ipvae_snn.export.fixed_point import arithmetic as integers
from ipvae_snn.export.fixed_point.convert import FixedPoint, to_fixed_point


def make(in_features=9, latents=14, init_std=0.4, **options):
    torch.manual_seed(0)
    model = IPVAE(in_features, latents, init_std=init_std, **options).eval()
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-2, 0.5)
        model.neuron.lateral.log_scale.uniform_(-0.5, 0.5)
    return model


def inputs(samples=2, in_features=9, scale=1.0):
    return scale * torch.randn(samples, in_features, generator=torch.Generator().manual_seed(0))


# -- a reference in Python integers, written from the documentation of the file -------------------


def within(value, bits):
    assert -(1 << (bits - 1)) <= value < 1 << (bits - 1)
    return value


def shift(v, n):
    return within(v << n if n >= 0 else within(v + (1 << (-n - 1)), 32) >> -n, 32)


def read(table, v, f):
    low, high = table[v >> f], table[(v >> f) + 1]
    return low + (within((high - low) * (v % (1 << f)), 32) >> f)


def mix(w):
    w = (w ^ (w >> 16)) * 0x85EBCA6B % 2**32
    w = (w ^ (w >> 13)) * 0xC2B2AE35 % 2**32
    return w ^ (w >> 16)


def poisson(f, rate, seed, t, neuron):
    key, n = mix((mix((seed % 2**32 + 1) % 2**32) + seed // 2**32) % 2**32), 0
    while n < 2 ** f["spike_bits"] - 1:
        word = mix(mix(neuron) ^ mix(mix((key + t) % 2**32) ^ mix(n + 1))) | 1
        zeros = 32 - word.bit_length()
        m = (word << zeros) % 2**31
        rate -= zeros * f["log_table"][0] + read(f["log_table"], m >> 7, 16)
        if within(rate, 32) <= 0:
            break
        n += 1
    return n


def slow_reference(path, x, num_steps, seed):
    f = {name: array.tolist() for name, array in np.load(path).items()}
    A, F, s, K = f["acc_fraction"], f["mem_fraction"], f["state_bits"], len(f["bias"])
    most = 2 ** f["spike_bits"] - 1
    top, limit = 2 ** (f["input_bits"] - 1), (len(f["clamp_table"]) - 1) * 2 ** (A - 4)

    def clamp(v):
        p = min(max(within(v + 8 * 2**A, 32), 0), limit - 1)
        return p - 8 * 2**A - read(f["clamp_table"], p, A - 4)

    for row in (*f["input_weight"], *f["lateral"]):
        assert all(within(w, f["weight_bits"]) == w for w in row)
    out = []
    for b, sample in enumerate(x.tolist()):
        ints = [min(max(round(v * 2 ** f["input_fraction"]), -top), top - 1) for v in sample]
        mem, spk, trace = f["mem_init"], [0] * K, []
        for t in range(num_steps):
            new_mem, new_spk = [], []
            for k in range(K):
                drive = sum(i * row[k] for i, row in zip(ints, f["input_weight"], strict=True))
                acc = shift(within(drive, 32), f["input_shift"][k]) - f["bias"][k]
                lateral = sum(n * row[k] for n, row in zip(spk, f["lateral"], strict=True))
                acc -= shift(lateral, f["lateral_shift"]) + within(spk[k] * f["reset"][k], 32)
                acc -= shift(within(mem[k] * f["leak"], 32), f["leak_shift"])
                acc = clamp(within(shift(mem[k], A - F) + clamp(within(acc, 32)), 32))
                dither = (t * 0xC13FA9A9 + k * 0x91E10DA5) % 2**32 >> (32 - (A - F))
                u = min(max((acc + dither) >> (A - F), -(1 << (s - 1))), (1 << (s - 1)) - 1)
                rate = within(read(f["exp_table"], u + (1 << (s - 1)), max(F - 6, 0)), 32)
                if f["emission"] == "rounded":
                    n = min(shift(rate, -f["rate_fraction"]), most)
                else:
                    n = poisson(f, rate, seed, t, 1 + k + K * b)
                new_mem.append(within(u, s))
                new_spk.append(n)
            mem, spk = new_mem, new_spk
            trace.append((spk, mem))
        out.append(trace)
    return np.array(out).transpose(2, 1, 0, 3)


@pytest.mark.parametrize("emission", ["rounded", "poisson"])
@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, {}),
        ({"leak": 0.3, "lateral_scale": 0.5, "clamp": 2.0}, {"weight_bits": 4, "state_bits": 8}),
        ({"clamp": 10.0, "step": 0.1}, {"weight_bits": 16, "state_bits": 12, "input_bits": 16}),
        ({"clamp": -2.0, "leak": 1.0, "step": 1.5}, {"input_bits": 2, "input_range": 0.5}),
        ({"lateral_scale": 0.0}, {"weight_bits": 2, "state_bits": 12}),
    ],
)
def test_a_scalar_loop_over_the_file_gives_the_same_integers(tmp_path, options, bits, emission):
    fixed = to_fixed_point(make(**options), emission=emission, **bits)
    fixed.save(tmp_path / "fixed.npz")
    x = inputs(scale=5.0)
    x[0, 0], x[1, 1] = 1e9, -1e9  # saturate
    spk, mem = fixed.run(x, 12, seed=2**40 + 3)
    expected = slow_reference(tmp_path / "fixed.npz", x, 12, 2**40 + 3)
    assert np.array_equal(spk, expected[0])
    assert np.array_equal(mem, expected[1])
    if options.get("clamp", 5) > 0:
        assert spk.max() > 2


def test_large_counts_are_exact_too():
    counts = np.random.default_rng(0).integers(0, 2**15, (7, 60))
    for bits in (3, 12, 15):  # sums within float32, and beyond
        matrix = np.random.default_rng(bits).integers(-(2**bits) // 60, 2**bits // 60 + 1, (60, 9))
        product = integers.ExactProduct(matrix)(counts)
        assert product.tolist() == (counts.astype(object) @ matrix.astype(object)).tolist()


# -- against floats ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"leak": 0.3, "lateral_scale": 0.5}, {"clamp": 2.0}, {"clamp": 8.0}, {"clamp": -1.0}],
)
def test_membranes_follow_those_of_the_model(options):
    model = make(spike_grad=surrogate.rounded(), **options)
    fixed = to_fixed_point(model, weight_bits=16, input_bits=16)
    x = inputs(20)
    out = model.run(x, 6)
    spk, mem = fixed.run(x, 6)
    mem = torch.from_numpy(mem) * 2.0**-fixed.mem_fraction
    same = torch.from_numpy(spk).eq(out.spk).all(0).all(-1)  # one other spike, another path
    assert same.float().mean() > 0.5
    torch.testing.assert_close(mem[:, same], out.mem.detach()[:, same], rtol=0, atol=4e-3)


@pytest.mark.parametrize(
    ("weight_bits", "state_bits", "lost"), [(8, 16, 0.01), (8, 8, 0.01), (6, 12, 0.03)]
)
@pytest.mark.parametrize("emission", ["rounded", "poisson"])
def test_r2_and_sparsity_equal_those_of_floats(weight_bits, state_bits, emission, lost):
    estimator = {"rounded": surrogate.rounded(), "poisson": surrogate.midpoint()}[emission]
    model = make(32, 48, init_std=0.1, spike_grad=estimator).requires_grad_(False)
    x = model.decode(torch.poisson(torch.full((150, 48), 3.0)))
    spk = model.run(x, 60, record=("spk",), seed=0).spk[40:]
    fixed = to_fixed_point(model, weight_bits, state_bits, emission=emission)
    own = torch.stack(list(fixed.unroll(x, 60, seed=0)))[40:]
    expected, got = (metrics.r2(x.expand(20, *x.shape), model.decode(z)) for z in (spk, own))
    assert expected > 0.7
    assert abs(got - expected) < lost
    assert abs(metrics.zeros(own) - metrics.zeros(spk)) < lost


def test_tables_approximate_their_functions():
    nats = torch.linspace(-12, 30, 4001).double()
    for clamp in (-3.0, 1.3, 5.0, 10.0):
        table = integers.clamp_table(clamp, 16)
        own = integers.soft_clamp(integers.fixed(nats.numpy(), 16), table, 16) / 2**16
        exact = functional.soft_clamp(nats, clamp).numpy()
        assert np.abs(own - exact).max() < 5e-4
    mem = np.arange(-(2**15), 2**15)
    rates = integers.interpolate(integers.exp_table(12, 16, 5.0, 20), mem + 2**15, 6)
    exact = np.exp(np.minimum(mem / 2**12, 5.0)) * 2**20
    assert (np.abs(rates - exact) <= 2 + exact * 1e-3).all()


def test_dither_loses_no_increment():
    timesteps = 2000
    carry = np.stack([integers.dither(t, 50, bits=8) for t in range(timesteps)])
    for increment in (1, 77, 128, 255, -1, -100):
        kept = ((increment + carry) >> 8).cumsum(0)
        right = increment / 256 * np.arange(1, timesteps + 1)[:, None]
        assert np.abs(kept - right).max() < 6
    together = ((128 + carry) >> 8).mean(1)  # neurons do not round up all at once
    assert np.abs(together - 0.5).max() < 0.1


# -- Poisson's law -----------------------------------------------------------------------------

FRACTION = 20
TABLE = integers.log_table(FRACTION)


def draw(rate, timesteps, neurons, seed=0):
    words = integers.Words(seed, neurons)
    rates = np.full(neurons, round(rate * 2**FRACTION), dtype=np.int32)
    return np.stack([integers.poisson(rates, t, words, TABLE, 400) for t in range(timesteps)])


@pytest.mark.parametrize("log_rate", [-8, -6, -3, -1, 0, 1, 2, 3.5, 4.9])
def test_counts_obey_poissons_law(log_rate):
    rate = math.exp(log_rate)
    samples = 2_000_000 if log_rate < -2 else 200_000
    counts = draw(rate, 10, samples // 10).ravel()
    n, observed = len(counts), np.bincount(counts.ravel())
    law = [math.exp(k * log_rate - rate - math.lgamma(k + 1)) for k in range(400)]
    expected = np.array(law) * n
    observed = np.pad(observed, (0, 400 - len(observed)))
    many = np.flatnonzero(expected >= 20)  # the rest in two bins
    parts = [slice(0, many[0]), *(slice(k, k + 1) for k in many), slice(many[-1] + 1, None)]
    pairs = [(observed[p].sum(), expected[p].sum()) for p in parts]
    chi2 = sum((o - e) ** 2 / e for o, e in pairs if e > 1)
    freedom = sum(e > 1 for _, e in pairs) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom) + 4
    assert abs(counts.mean() - rate) < 4 * math.sqrt(rate / n)
    spread = math.sqrt((rate + 2 * rate**2) / n)  # standard deviation of the sample variance
    assert abs(counts.var() - rate) < 4 * spread


def test_counts_are_independent_across_neurons_and_time():
    counts = draw(1.0, timesteps=3000, neurons=300).astype(float)
    scaled = (counts - counts.mean(0)) / counts.std(0)
    between = scaled.T @ scaled / len(scaled)
    off = between[~np.eye(300, dtype=bool)] * math.sqrt(len(scaled))
    assert np.abs(off).max() < 5.5
    assert abs(off.std() - 1) < 0.02
    for lag in range(1, 20):
        n = scaled[lag:].size
        assert abs((scaled[lag:] * scaled[:-lag]).sum() / math.sqrt(n)) < 4
        assert abs((scaled[:, lag:] * scaled[:, :-lag]).sum()) < 4 * math.sqrt(scaled[:, lag:].size)
        crossed = scaled[lag:, lag:] * scaled[:-lag, :-lag]
        assert abs(crossed.sum()) < 4 * math.sqrt(crossed.size)


def test_seeds_give_other_counts_and_samples_too():
    fixed = to_fixed_point(make(), emission="poisson")
    x = inputs(1).expand(400, 9)
    a, b = (fixed.run(x, 5, seed=seed)[0][0].astype(float) for seed in (0, 2**32))
    assert np.array_equal(a, fixed.run(x, 1, seed=0)[0][0])
    for first, second in ((a, b), (a[1:], a[:-1])):
        products = (first - a.mean(0)) * (second - a.mean(0)) / a.std(0) ** 2
        assert abs(products.mean()) < 4 / math.sqrt(products.size)


def test_arrival_times_are_logarithms_of_words():
    words = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    words[:4] = 0, 1, 2**31, 2**32 - 1
    exact = -np.log((words | 1) / 2.0**32)
    own = integers.exponential(words, TABLE) / 2**FRACTION
    assert np.abs(own - exact).max() < 2e-5
    assert own.min() >= 0


def test_rounded_spikes_need_no_seed():
    fixed = to_fixed_point(make())
    assert np.array_equal(fixed.run(inputs(), 9, seed=0)[0], fixed.run(inputs(), 9, seed=1)[0])


# -- protocol, files, errors -------------------------------------------------------------------


def test_unroll_and_decode_are_those_of_run():
    model = make()
    fixed = to_fixed_point(model, emission="poisson")
    spk, mem = fixed.run(inputs(), 7, seed=5)
    assert spk.dtype == mem.dtype == np.int32
    unrolled = torch.stack(list(fixed.unroll(inputs(), 7, seed=5)))
    assert unrolled.dtype == torch.float32
    assert np.array_equal(unrolled.numpy(), spk)
    torch.testing.assert_close(
        fixed.decode(unrolled), model.decode(unrolled).detach(), rtol=1e-3, atol=1e-3
    )
    assert fixed.label == "fixed point, 8-bit weights, poisson"
    assert len(fixed.notes) == 6
    assert all(isinstance(note, str) for note in fixed.notes)


def test_notes_report_a_larger_error_for_fewer_bits():
    def error(bits):
        return float(to_fixed_point(make(), bits).notes[0].split("off by ")[2].split()[0])

    assert error(4) > 5 * error(8) > 25 * error(12)


def test_a_file_keeps_everything(tmp_path):
    fixed = to_fixed_point(make(leak=0.1), 6, 12, emission="poisson")
    fixed.save(tmp_path / "a.b")
    assert [path.name for path in tmp_path.iterdir()] == ["a.b"]
    again = FixedPoint.load(tmp_path / "a.b")
    assert again.notes == fixed.notes
    assert again.label == fixed.label
    for own, other in zip(fixed.run(inputs(), 9), again.run(inputs(), 9), strict=True):
        assert np.array_equal(own, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "not written by"),
        ({"emission": "binary"}, "emission"),
        ({"lateral": None}, "lateral"),
        ({"notes": None}, "notes"),
        ({"extra": 1}, "extra"),
        ({"bias": np.zeros(3, dtype=np.int32)}, "bias"),
        ({"bias": np.zeros(14)}, "bias"),
        ({"bias": np.array(1)}, "valid"),
        ({"reset": np.full(14, 2**30, dtype=np.int32)}, "sums"),
        ({"lateral": np.full((14, 14), 128, dtype=np.int16)}, "weights"),
        ({"mem_init": np.full(14, 2**15, dtype=np.int32)}, "membranes"),
        ({"mem_fraction": 40}, "mem_fraction"),
        ({"state_bits": 12.0}, "state_bits"),
        ({"exp_table": np.zeros(10, dtype=np.int32)}, "exp_table"),
        ({"clamp_table": np.zeros(20, dtype=np.int32)}, "clamp_table"),
        ({"bias": np.array([{}] * 14)}, "cannot be read"),  # a pickle
    ],
)
def test_inconsistent_files_are_refused(tmp_path, change, says):
    to_fixed_point(make()).save(tmp_path / "good.npz")
    content = {**np.load(tmp_path / "good.npz"), **change}
    np.savez(tmp_path / "bad.npz", **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(ValueError, match=says):
        FixedPoint.load(tmp_path / "bad.npz")


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "fixed.npz"
    with pytest.raises(FileNotFoundError, match=r"FixedPoint\.save"):
        FixedPoint.load(path)
    to_fixed_point(make()).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:200] + b"x" * 40 + whole[240:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"fixed\.npz"):
            FixedPoint.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read"):
        FixedPoint.load(tmp_path / "array.npy")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"weight_bits": 1}, ValueError, "weight_bits"),
        ({"weight_bits": 17}, ValueError, "between 2 and 16"),
        ({"weight_bits": 8.0}, TypeError, "weight_bits"),
        ({"state_bits": 7}, ValueError, "state_bits"),
        ({"state_bits": 17}, ValueError, "between 8 and 16"),
        ({"input_bits": 32}, ValueError, "input_bits"),
        ({"input_range": 3.0}, ValueError, "power of two"),
        ({"input_range": -1.0}, ValueError, "input_range"),
        ({"input_range": float("nan")}, ValueError, "input_range"),
        ({"emission": "binary"}, ValueError, "rounded"),
    ],
)
def test_bad_options_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        to_fixed_point(make(), **options)


def test_models_that_cannot_be_converted_are_refused():
    with pytest.raises(TypeError, match=r"must be an IPVAE .* got Linear"):
        to_fixed_point(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="at most 10"):
        to_fixed_point(make(clamp=11.0))
    model = make()
    model.neuron.state_quant = torch.round
    with pytest.raises(ValueError, match="state_quant"):
        to_fixed_point(model)
    for name in ("decoder.weight", "neuron.log_bias", "neuron.mem_init", "neuron.log_step"):
        model = make()
        with torch.no_grad():
            model.get_parameter(name).view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match="NaN"):
            to_fixed_point(model)
    model = make()
    with torch.no_grad():
        model.decoder.weight.mul_(1e4)
    with pytest.raises(ValueError, match="do not fit 32 bits"):
        to_fixed_point(model)


@pytest.mark.parametrize("factor", [0.0, 1e-3, 5.0])
def test_weights_of_any_size_are_scaled(factor):
    model = make(spike_grad=surrogate.rounded())
    with torch.no_grad():
        model.decoder.weight.mul_(factor)
    fixed = to_fixed_point(model)
    assert float(fixed.notes[0].split("off by ")[1].split()[0]) < 0.02
    _, mem = fixed.run(inputs(), 1)
    expected = model.run(inputs(), 1).mem.detach()
    own = torch.from_numpy(mem) * 2.0**-fixed.mem_fraction
    torch.testing.assert_close(own, expected, rtol=0.01, atol=0.05)


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.zeros(2, 8), ValueError, r"\(B, 9\)"),
        (torch.zeros(5, 2, 9), ValueError, r"\(B, 9\)"),
        (torch.zeros(0, 9), ValueError, "empty"),
        (torch.full((1, 9), float("nan")), ValueError, "NaN"),
        (torch.full((1, 9), float("inf")), ValueError, "infinite"),
        (torch.zeros(2, 9, dtype=torch.long), TypeError, "floating"),
        (np.zeros((2, 9)), TypeError, "torch.Tensor"),
    ],
)
def test_bad_inputs_are_refused_at_once(x, error, says):
    fixed = to_fixed_point(make())
    for call in (fixed.run, fixed.unroll):
        with pytest.raises(error, match=says):
            call(x, 3)
    with pytest.raises(ValueError, match="num_steps"):
        fixed.unroll(inputs(), 0)
    with pytest.raises(ValueError, match="seed"):
        fixed.unroll(inputs(), 1, seed=-1)
    with pytest.raises(ValueError, match="14"):
        fixed.decode(torch.zeros(2, 13))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_and_inputs_of_other_precision(dtype):
    fixed = to_fixed_point(make().to(dtype))
    assert fixed.run(inputs().to(dtype), 3)[0].shape == (3, 2, 14)


@pytest.mark.parametrize(
    "change", [lambda table: table * np.int32(-1000), lambda table: table[::-1]]
)
@pytest.mark.parametrize("name", ["clamp_table", "exp_table", "log_table"])
def test_tables_of_other_functions_are_refused(tmp_path, name, change):
    path = tmp_path / "fixed.npz"
    to_fixed_point(IPVAE(16, 8)).save(path)
    content = dict(np.load(path))
    np.savez(path, **{**content, name: change(content[name])})
    with pytest.raises(ValueError, match="tables do not fit"):
        FixedPoint.load(path)
