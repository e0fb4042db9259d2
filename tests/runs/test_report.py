"""The HTML report of a run: its data equal the run of the model; it is self-contained."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE, metrics
from ipvae_snn.cli import main
from ipvae_snn.runs import read_config
from ipvae_snn.runs.report import write_report
from ipvae_snn.runs.report.trial import ROWS
from tests.cli.test_commands import QUICK, files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", "digits", "--out", str(out), "--eval-steps", "20", *QUICK]) == 0
    return out


@pytest.fixture(scope="module")
def page(run):
    model, x = IPVAE.load(run / "model.pt"), torch.rand(30, 64)
    path = write_report(run, model, x, read_config(run), num_steps=15, samples=2, seed=3)
    return model, x, path.read_text(encoding="utf-8")


def decoded_bytes(text, *shape):
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(shape)


def test_the_trials_of_the_page_equal_the_run_of_the_model(page):
    model, x, text = page
    trials = json.loads(re.search(r'<script id="trials"[^>]*>(.*?)</script>', text, re.S)[1])
    assert len(trials) == 2
    with torch.no_grad():
        out = model.run(x[:2], 15, seed=3)
    for index, trial in enumerate(trials):
        spk, mem = out.spk[:, index], out.mem[:, index]
        rows = trial["neurons"]
        assert len(rows) == min(ROWS, model.latents)
        counts = decoded_bytes(trial["counts"], 15, len(rows))
        assert np.array_equal(counts, spk[:, rows].numpy())
        assert trial["spikes"] == spk.sum(1).int().tolist()
        np.testing.assert_allclose(
            np.array(trial["mem"]), mem[:, trial["traces"]].T.numpy(), atol=0.006
        )
        peak = float(x[index].max())
        shown = decoded_bytes(trial["input"], 64) / 255 * peak
        np.testing.assert_allclose(shown, x[index].numpy(), atol=0.003)
        frames = decoded_bytes(trial["frames"], 15, 64) / 255 * peak
        x_hat = model.decode(spk).detach().clamp(0, peak)
        np.testing.assert_allclose(frames, x_hat.numpy(), atol=0.003)
        r2 = metrics.r2_per_sample(x[index].expand(15, 64), model.decode(spk)).tolist()
        np.testing.assert_allclose(trial["r2"], r2, atol=6e-4)


def test_the_page_is_complete_and_loads_nothing_from_the_network(page):
    _, _, text = page

    class Links(HTMLParser):
        links: list = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            assert tag not in ("link", "iframe", "object")
            self.links += [v for name, v in attributes if name in ("src", "href", "action")]

    parser = Links()
    parser.feed(text)
    assert parser.links
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert len(parser.links) == 6
    assert "://" not in re.sub(r"base64,[^']*", "", text)
    assert "default-src 'none'" in text
    assert "{{" not in text
    for label in ("lifetime sparsity", "step 20", "Problems: ", "oscillation", "parameters"):
        assert label in text


def test_text_from_the_config_is_escaped(run, tmp_path):
    config = {**read_config(run), "description": "</script><script>alert(1)</script> & so on"}
    model = IPVAE.load(run / "model.pt")
    text = write_report(run, model, torch.rand(5, 64), config, num_steps=3).read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text


NAMES = [
    "{{TRIALS}}", "{{DESCRIPTION}}{{TITLE}}", "{{NOTHING}} {TITLE} {0}",
    "$x ${TITLE} $1 \\1 \\g<0>", "%s %(name)s %", "</script><script>alert(1)</script>",
    "<!--<script>", "\"'>&amp;", "ångström τ→∞", "\u202egnp.exe", "lone \ud800 half",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_stand_in_the_page_as_they_are(name, run, tmp_path):
    # A name of the file system may be any bytes but / and NUL.
    again = tmp_path / name.replace("/", "∕").replace("\ud800", "\udc80")
    shutil.copytree(run, again)
    config = {**read_config(run), "description": name, "torch": name}
    model, x = IPVAE.load(run / "model.pt"), torch.rand(5, 64)
    path = write_report(again, model, x, config, num_steps=3, samples=1)
    text = path.read_text(encoding="utf-8")

    class Page(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.texts, self.open = [], {}, ""

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.open = dict(attributes).get("class", tag)

        def handle_data(self, data):
            self.texts.setdefault(self.open, data)

    page, plain = Page(), Page()
    page.feed(text)
    config = {**config, "description": "a", "torch": "a"}
    write_report(again, model, x, config, num_steps=3, samples=1)
    plain.feed(path.read_text(encoding="utf-8"))
    assert page.tags == plain.tags
    assert page.texts["soft"] == name.replace("\ud800", "?")
    assert page.texts["h1"] == again.name.replace("\udc80", "?")
    assert text.count('id="trials"') == 1
    trials = re.search(r'<script id="trials"[^>]*>(.*?)</script>', text, re.S)[1]
    assert len(json.loads(trials)) == 1


def test_the_command_replaces_an_old_page_and_nothing_else(run, capsys):
    before = {k: v for k, v in files(run).items() if "report" not in str(k)}
    assert main(["report", str(run), "--steps", "4", "--samples", "10", "--quiet"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert {k: v for k, v in files(run).items() if "report" not in str(k)} == before


@pytest.mark.parametrize(
    "damage",
    [
        "{", "[]", '{"steps": {"1": {"r2": "x"}}}', None, "[" * 100_000,
        '{"steps": {}, "mean": NaN}', '{"steps": {"1": {"r2": 1%s}}}' % ("0" * 400),
    ],
    ids=lambda damage: str(damage)[:30],
)  # fmt: skip
def test_damaged_metrics_are_refused(run, capsys, damage):
    path = run / "metrics.json"
    whole = path.read_text()
    page = (run / "report.html").read_bytes() if (run / "report.html").exists() else None
    try:
        path.unlink() if damage is None else path.write_text(damage)
        assert main(["report", str(run), "--steps", "4", "--samples", "10", "--quiet"]) == 1
    finally:
        path.write_text(whole)
    error = capsys.readouterr().err
    assert "metrics.json" in error
    assert len(error.splitlines()) == 1
    assert page is None or (run / "report.html").read_bytes() == page


def test_data_of_another_size_is_refused(run, capsys, tmp_path):
    np.save(tmp_path / "other.npy", np.random.rand(20, 6, 6).astype("float32"))
    command = ["report", str(run), "--data", str(tmp_path / "other.npy"), "--quiet"]
    assert main(command) == 1
    assert "same kind and size" in capsys.readouterr().err
