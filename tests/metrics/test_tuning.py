"""Tuning, spectra and spike-triggered averages against gratings, white noise and plain loops."""

import math

import pytest
import torch

from ipvae_snn import metrics


def grating(angle, frequency, side=16, phase=0.3):
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    radians = math.radians(angle)
    distance = across * math.cos(radians) + down * math.sin(radians)
    return torch.cos(2 * math.pi * frequency * distance + phase).reshape(-1)


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_feature_tuning_of_a_grating(angle):
    frequency = 0.25 if angle % 90 == 0 else 0.25 * math.sqrt(2)
    feature = grating(angle, frequency)[:, None]
    preferred, mean_frequency, index = metrics.feature_tuning(feature, (16, 16))
    assert abs((float(preferred) - angle + 90) % 180 - 90) < 1e-3
    assert float(mean_frequency) == pytest.approx(frequency, rel=1e-4)
    assert float(index) > 0.999


def test_a_blob_has_no_orientation():
    down, across = torch.meshgrid(torch.arange(15) - 7, torch.arange(15) - 7, indexing="ij")
    blob = torch.exp(-(down**2 + across**2) / 8.0).reshape(-1, 1)
    assert float(metrics.feature_tuning(blob, (15, 15))[2]) < 1e-3


def test_orders_by_tuning_and_selectivity():
    weight = torch.stack([grating(a, 0.25) for a in (90, 10, 45)], 1)
    assert metrics.by_tuning(weight, (16, 16)).tolist() == [1, 2, 0]
    responses = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 3.0]])
    assert metrics.by_selectivity(responses).tolist() == [0, 2, 1]
    silent = torch.zeros(3, 2)
    assert metrics.selectivity(silent).tolist() == [0.0, 0.0]


def test_orientation_tuning_equals_the_plain_sum():
    responses, angles = torch.rand(12, 5), torch.arange(12) * 30.0
    preferred, index = metrics.orientation_tuning(responses, angles)
    for k in range(5):
        vector = sum(
            r * complex(math.cos(2 * math.radians(a)), math.sin(2 * math.radians(a)))
            for r, a in zip(responses[:, k].tolist(), angles.tolist(), strict=True)
        )
        assert float(index[k]) == pytest.approx(
            abs(vector) / float(responses[:, k].sum()), abs=1e-5
        )
        expected = math.degrees(math.atan2(vector.imag, vector.real)) / 2 % 180
        assert float(preferred[k]) == pytest.approx(expected, abs=1e-2)
    assert metrics.orientation_tuning(torch.zeros(12, 1), angles)[1].item() == 0


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    noise = 3 * torch.randn(4000, 144, generator=torch.Generator().manual_seed(0))
    spectrum = metrics.radial_spectrum(noise, (12, 12))
    assert spectrum[:, 0].tolist() == pytest.approx([n / 12 for n in range(1, 7)])
    assert torch.allclose(spectrum[1:, 1], torch.tensor(9.0, dtype=torch.float64), rtol=0.05)


def test_spike_triggered_average_equals_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    spk = torch.poisson(torch.full((20, 3), 0.5), generator=generator)
    signal = torch.rand(20, 3, 4, generator=generator)
    average = metrics.spike_triggered(spk, signal, before=2, after=3)
    for lag in range(-2, 4):
        total, count = torch.zeros(4), 0.0
        for t in range(2, 17):
            for b in range(3):
                total += spk[t, b] * signal[t + lag, b]
                count += float(spk[t, b])
        torch.testing.assert_close(average[lag + 2], total / count)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.selectivity(torch.rand(4)),
        lambda: metrics.orientation_tuning(torch.rand(4, 2), torch.rand(3)),
        lambda: metrics.orientation_tuning(-torch.rand(4, 2), torch.rand(4)),
        lambda: metrics.feature_tuning(torch.rand(12, 2), (3, 3)),
        lambda: metrics.radial_spectrum(torch.rand(5, 12), (4, 4)),
        lambda: metrics.radial_spectrum(torch.rand(5, 4), (2, 2)),
        lambda: metrics.spike_triggered(torch.zeros(9), torch.rand(9)),
        lambda: metrics.spike_triggered(torch.ones(3), torch.rand(3), before=2, after=2),
        lambda: metrics.spike_triggered(torch.ones(3), torch.rand(4)),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()


@pytest.mark.parametrize("phase", [0.0, 45.0, 90.0, 180.0, 300.0])
@pytest.mark.parametrize("direction", [(0.0, 1.0), (1.0, 0.0), (0.6, 0.8), (-0.6, 0.8)])
def test_phase_of_a_gabor_patch_wherever_it_lies(phase, direction):
    rows, columns = torch.meshgrid(*[torch.arange(24.0, dtype=torch.float64)] * 2, indexing="ij")
    for row, column in ((11.5, 11.5), (10.0, 13.0)):
        down, across = rows - row, columns - column
        wave = 2 * math.pi * 0.15 * (direction[0] * down + direction[1] * across)
        envelope = torch.exp(-(down.square() + across.square()) / (2 * 3.5**2))
        gabor = envelope * torch.cos(wave + math.radians(phase))
        found = float(metrics.feature_phase(gabor.reshape(-1, 1), (24, 24)))
        assert abs((found - phase + 180) % 360 - 180) < 12


def test_phase_of_nothing_is_a_number():
    assert torch.isfinite(metrics.feature_phase(torch.zeros(16, 2), (4, 4))).all()
    with pytest.raises(ValueError, match="weight must have shape"):
        metrics.feature_phase(torch.zeros(15, 2), (4, 4))
