"""Samples that an evaluation picks from a data set."""

import matplotlib
import torch

from ipvae_snn.runs import figures, pick


def test_pick_draws_distinct_samples_from_the_whole_set():
    values = torch.arange(1000.0)
    chosen = pick(values, 100, seed=0)
    assert len(chosen.unique()) == 100
    assert chosen.max() > 900
    assert torch.equal(chosen, pick(values, 100, seed=0))


def test_figures_need_no_latex(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setenv("PATH", "")
    with figures._png(tmp_path / "a.png", (2, 2)) as ax:
        ax.set_title("R²")
    assert (tmp_path / "a.png").is_file()
    assert matplotlib.rcParams["text.usetex"] is True
