"""Direction and contrast of stimuli; times of the clicks that spikes are saved as."""

import math
import wave

import numpy as np
import pytest
import torch

from ipvae_snn import metrics
from ipvae_snn.data.stimuli import events, grating, moving_bar
from ipvae_snn.plotting.sound import save_clicks


def centre(frame, size):
    """Centre of mass of the squared positive pixels, (right, up) from the middle."""
    bright = frame.clamp(min=0).reshape(size, size).square()
    side = torch.arange(size) - (size - 1) / 2
    return (
        float((bright.sum(0) * side).sum() / bright.sum()),
        float(-(bright.sum(1) * side).sum() / bright.sum()),
    )


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 45])
def test_bar_moves_in_its_direction(angle):
    frames = moving_bar(angle, steps=97, length=4.0)
    (x0, y0), (x1, y1) = centre(frames[32], 16), centre(frames[64], 16)
    moved = math.degrees(math.atan2(y1 - y0, x1 - x0)) % 360
    assert abs((moved - angle + 180) % 360 - 180) < 5
    assert math.hypot(x1 - x0, y1 - y0) > 4
    torch.testing.assert_close(moving_bar(angle, steps=97, length=4.0, dark=True), -frames)


def test_bar_has_unit_variance_in_the_middle_and_is_outside_at_the_ends():
    frames = moving_bar(30, steps=97, f0=None)
    assert float(frames[48].var(unbiased=False)) == pytest.approx(1, rel=1e-3)
    assert float(frames[0].abs().max()) < 0.2
    torch.testing.assert_close(moving_bar(30, steps=97, f0=None, contrast=0.5), 0.5 * frames)


def test_orientation_of_bars_and_frequency_of_gratings_as_feature_tuning_measures_them():
    for angle in (0, 90):
        middle = moving_bar(angle, steps=3)[1]
        orientation, _, index = metrics.feature_tuning(middle[:, None], (16, 16))
        assert abs((float(orientation) - angle + 90) % 180 - 90) < 1
        assert float(index) > 0.9
    stripes = grating(0, frequency=0.25)
    assert float(metrics.feature_tuning(stripes[:, None], (16, 16))[1]) == pytest.approx(0.25)


def test_clicks_are_at_the_times_of_the_spikes(tmp_path):
    spk = torch.tensor([0.0, 1.0, 0.0, 3.0, 2.0, 0.0])
    path = save_clicks(tmp_path / "spikes.wav", spk, timestep=0.05)
    with wave.open(str(path)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(float)
    loud = np.flatnonzero(np.abs(samples) > 0.7 * np.abs(samples).max())
    onsets = loud[np.diff(loud, prepend=-rate) > 0.002 * rate] / rate
    expected = [(t + i / n) * 0.05 for t, n in enumerate(spk.int().tolist()) for i in range(n)]
    np.testing.assert_allclose(onsets, expected, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


def test_no_spikes_give_no_clicks(tmp_path):
    with wave.open(str(save_clicks(tmp_path / "s.wav", torch.zeros(4)))) as sound:
        assert not any(sound.readframes(sound.getnframes()))


@pytest.mark.parametrize(
    "call",
    [
        lambda p: save_clicks(p, torch.zeros(3, 2)),
        lambda p: save_clicks(p, -torch.ones(3)),
        lambda p: save_clicks(p, torch.zeros(3), timestep=0),
        lambda p: moving_bar(0, size=2),
        lambda p: moving_bar(0, width=0),
        lambda p: moving_bar(float("nan")),
        lambda p: grating(0, frequency=0.6),
        lambda p: grating(0, contrast=-1),
    ],
)
def test_invalid_arguments_raise(tmp_path, call):
    with pytest.raises(ValueError, match="must"):
        call(tmp_path / "s.wav")
    assert list(tmp_path.iterdir()) == []


def test_events_follow_the_frames_to_within_a_threshold():
    frames = moving_bar(30, size=8, steps=40, f0=None)
    counted = events(frames, threshold=0.3)
    on, off = counted.tensor_split(2, -1)
    assert counted.min() == 0
    assert bool(((on == 0) | (off == 0)).all())
    assert torch.equal(counted, counted.round())
    followed = frames[0] + 0.3 * (on - off).cumsum(0)
    assert (followed - frames).abs().max() < 0.3 + 1e-5
    assert on.sum() > 50
    assert off.sum() > 50


def test_events_of_a_ramp_come_at_equal_times():
    ramp = torch.arange(9.0)[:, None, None] * 0.125
    assert torch.equal(events(ramp, 0.25)[..., 0, 0], torch.tensor([0.0, 0, 1, 0, 1, 0, 1, 0, 1]))
    assert torch.equal(events(-ramp, 0.25)[..., 0, 1], events(ramp, 0.25)[..., 0, 0])


@pytest.mark.parametrize(
    ("frames", "threshold", "says"),
    [
        (torch.zeros(5), 0.2, "frames must be"),
        (torch.zeros(5, 4).int(), 0.2, "frames must be"),
        (torch.full((5, 4), torch.nan), 0.2, "frames"),
        (torch.zeros(5, 4), 0.0, "threshold"),
    ],
)
def test_events_of_bad_frames_are_refused(frames, threshold, says):
    with pytest.raises((TypeError, ValueError), match=says):
        events(frames, threshold)
