"""The picture of a training while it runs."""

import pytest
from matplotlib.image import imread

from ipvae_snn.runs import LivePicture, figures

ROW = {"loss": 9.0, "nll": 8.0, "kl": 1.0, "r2": 0.3, "zeros": 0.8, "beta": 1.0, "lr": 0.1}
HISTORY = [{"iteration": 10 * n, **ROW, "r2_val": 0.2} for n in (1, 2)]


def test_the_picture_is_drawn_whole_into_a_folder_that_it_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "LIVE_INTERVAL", 0)
    path = tmp_path / "figures" / "training.png"
    LivePicture(path, iterations=100)(HISTORY)
    assert imread(path).shape[2] == 4
    assert [file.name for file in path.parent.iterdir()] == ["training.png"]


@pytest.mark.parametrize("problem", ["folder", "rows", "drawing"])
def test_what_cannot_be_drawn_ends_no_training_and_leaves_the_last_picture(
    problem, tmp_path, monkeypatch
):
    def half(path, *arguments):
        path.write_bytes(b"half")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(figures, "LIVE_INTERVAL", 0)
    path = tmp_path / "training.png"
    path.write_bytes(b"last")
    if problem == "drawing":
        monkeypatch.setattr(figures, "save_training", half)
    if problem == "folder":
        path = path / "training.png"
    LivePicture(path)([{"iteration": 1}] if problem == "rows" else HISTORY)
    assert (tmp_path / "training.png").read_bytes() == b"last"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("cost", "share"), [(0.01, 0.0034), (0.5, 0.0201)])
def test_drawing_takes_at_most_a_fiftieth_of_the_time(cost, share, tmp_path, monkeypatch):
    now, drawn = [0.0], []

    def draw(path, history, iterations):
        now[0] += cost
        drawn.append(now[0])

    monkeypatch.setattr(figures.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(figures, "save_training", draw)
    picture = LivePicture(tmp_path / "training.png")
    while now[0] < 200:
        picture(HISTORY)
        now[0] += 0.1
    assert drawn[0] == pytest.approx(3.0 + cost, abs=0.11)
    assert 0.8 * share < len(drawn) * cost / 200 <= share
