"""Spikes as clicks: a file for valid counts, else a refusal and no file."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from ipvae_snn import sound
from tests.properties.common import (
    FLOATS,
    REFUSED,
    anything,
    attempt,
    awkward,
    mostly,
    ordinary,
    tensors,
)


@given(
    spk=mostly(ordinary((5,), least=0), awkward | tensors((5,), dtypes=FLOATS)),
    timestep=mostly(st.floats(1e-3, 0.05)),
    rate=mostly(st.just(8000), anything.filter(lambda n: not isinstance(n, int) or n < 10**5)),
)
def test_clicks(spk, timestep, rate):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spikes.wav"
        made = attempt(
            lambda: sound.save_clicks(path, spk, timestep=timestep, rate=rate),
            lambda: tuple(path.parent.iterdir()),
        )
        assert path.exists() == (made is not REFUSED)


def test_counts_too_large_for_a_file_are_refused(assert_refused):
    assert_refused(lambda: sound.save_clicks("x.wav", torch.full((2,), 1e38)))
