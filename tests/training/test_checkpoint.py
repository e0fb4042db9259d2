"""Checkpoints: interrupted trainings resume exactly; damaged or unsuitable files are refused."""

import copy
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit, surrogate
from ipvae_snn._utils.files import exclusive_lock
from ipvae_snn.baselines import IGVAE
from ipvae_snn.data.sources import InMemory, Samples
from ipvae_snn.training import Stopped
from ipvae_snn.training.checkpoint import read_checkpoint

X = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
RECIPE = {"iterations": 9, "batch": 8, "steps": 4, "log_every": 2, "checkpoint_every": 3}


class SamplesThatSignal(Samples):
    """Samples that raise a signal at the n-th read."""

    def __init__(self, at, number=signal.SIGTERM):
        self.source, self.at, self.number, self.reads = InMemory(X), at, number, 0
        self.features = self.source.features

    def __len__(self):
        return len(self.source)

    def read(self, rows):
        self.reads += 1
        if self.reads == self.at:
            signal.raise_signal(self.number)
        return self.source.read(rows)

    def fingerprint(self):
        return self.source.fingerprint()


def recipe(**changes):
    return TrainConfig(**{**RECIPE, "progress": False, **changes})


def midpoint():
    return IPVAE(12, 10, init_std=0.3)


def own_generator():
    estimator = surrogate.midpoint(generator=torch.Generator())
    return IPVAE(12, 10, init_std=0.3, spike_grad=estimator)


def relaxed():
    return IPVAE(12, 10, init_std=0.3, spike_grad=surrogate.eat(1.0))


def in_float64():
    return IPVAE(12, 10, init_std=0.3, learn_scale=False).double()


def with_fixed_neuron_constants():
    fixed = {"learn_step": False, "learn_bias": False, "learn_mem_init": False}
    return IPVAE(12, 10, init_std=0.3, **fixed)


def baseline():
    return IGVAE(12, 10)


MODELS = [midpoint, own_generator, relaxed, in_float64, with_fixed_neuron_constants, baseline]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("at", [1, 4, 5, 9])
@pytest.mark.parametrize(
    ("make", "options"),
    [*((make, {}) for make in MODELS), (midpoint, {"rule": "local", "target_rate": 0.5})],
    ids=[*(make.__name__ for make in MODELS), "local"],
)
def test_a_resumed_training_equals_an_uninterrupted_one(make, options, at, tmp_path):
    torch.manual_seed(3)
    model, config = make(), recipe(**options)
    again, path = copy.deepcopy(model), tmp_path / "a.ckpt"
    history = fit(model, X, config)
    with pytest.raises(Stopped) as stopped:
        fit(again, SamplesThatSignal(at), config, checkpoint=path)
    assert (stopped.value.iteration, stopped.value.signum) == (at, signal.SIGTERM)
    assert read_checkpoint(path)["iteration"] == at
    torch.manual_seed(4)
    again = make()
    torch.rand(7)
    assert fit(again, X, config, checkpoint=path) == history
    assert equal(weights(again), weights(model))
    assert fit(make(), X, config, checkpoint=path) == history  # nothing is left to do
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_checkpointing_does_not_change_the_training(tmp_path):
    plain = midpoint()
    checkpointed = copy.deepcopy(plain)
    history = fit(checkpointed, X, recipe(), checkpoint=tmp_path / "a.ckpt")
    assert fit(plain, X, recipe()) == history
    assert equal(weights(plain), weights(checkpointed))


def test_a_signal_stops_training_and_handlers_are_restored(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(signal, "SIG_IGN", None)  # SIGHUP may be ignored where the tests run
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        source = SamplesThatSignal(2, getattr(signal, name))
        with pytest.raises(Stopped, match=f"{name} after iteration 2"):
            fit(midpoint(), source, recipe(), checkpoint=tmp_path / f"{name}.ckpt")
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as plain:  # without a checkpoint: Python's default
        fit(midpoint(), SamplesThatSignal(2, signal.SIGINT), recipe())
    assert not isinstance(plain.value, Stopped)


def test_an_ignored_signal_stays_ignored(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fit(midpoint(), SamplesThatSignal(2, signal.SIGINT), recipe(), checkpoint=tmp_path / "a.ckpt")
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_checkpoints_are_written_at_start_at_intervals_and_at_end(tmp_path, monkeypatch):
    from ipvae_snn.training import checkpointer

    written, write = [], checkpointer.write_checkpoint

    def recording(path, content):
        written.append(content["iteration"])
        write(path, content)

    monkeypatch.setattr(checkpointer, "write_checkpoint", recording)
    fit(midpoint(), X, recipe(iterations=8), checkpoint=tmp_path / "a.ckpt")
    assert written == [0, 3, 6, 8]


def stopped_at_4(path):
    torch.manual_seed(3)
    model = midpoint()
    with pytest.raises(Stopped):
        fit(model, SamplesThatSignal(4), recipe(), checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("make", "data", "changes", "says"),
    [
        (midpoint, X, {"beta": 3.0}, "beta = 24.0"),
        (midpoint, X, {"iterations": 10}, "iterations = 9"),
        (midpoint, X, {"seed": 1}, "seed = 0"),
        (midpoint, X + 1, {}, "other data"),
        (midpoint, X[:40], {}, "other data"),
        (lambda: IPVAE(12, 11), X, {}, "latents = 10"),
        (lambda: IPVAE(12, 10, leak=0.1), X, {}, "leak = 0.0"),
        (relaxed, X, {}, "spike_grad"),
        (baseline, X, {}, "class = IPVAE"),
        (lambda: midpoint().double(), X, {}, "dtype = float32"),
    ],
    ids=range(10),
)
def test_a_checkpoint_of_another_training_is_refused(make, data, changes, says, tmp_path):
    path = stopped_at_4(tmp_path / "a.ckpt")
    before, model = path.read_bytes(), make()
    old_weights = weights(model)
    with pytest.raises(ValueError, match=says):
        fit(model, data, recipe(**changes), checkpoint=path)
    assert path.read_bytes() == before
    assert equal(weights(model), old_weights)
    assert os.listdir(tmp_path) == ["a.ckpt"]


class Scaled(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.layer, self.scale = torch.nn.Linear(10, 12), scale

    def forward(self, spk):
        return self.scale[0] * self.layer(spk)


def scaled(*scale):
    return IPVAE(12, 10, decoder=torch.nn.Sequential(Scaled(scale)))


def test_a_frozen_part_stays_frozen_on_resume(tmp_path):
    for make in (midpoint, lambda: scaled(1.0)):
        path, model = tmp_path / f"{make.__name__}.ckpt", make()
        model.neuron.mem_init.requires_grad_(False)
        config = recipe(iterations=2)
        history = fit(model, X, config, checkpoint=path)
        assert fit(model, X, config, checkpoint=path) == history
        with pytest.raises(ValueError, match="frozen"):
            fit(make(), X, config, checkpoint=path)


def test_options_deep_inside_a_part_are_compared(tmp_path):
    path, config = tmp_path / "a.ckpt", recipe(iterations=1)
    fit(scaled(1.0), X, config, checkpoint=path)
    with pytest.raises(ValueError, match="decoder"):
        fit(scaled(2.0), X, config, checkpoint=path)
    fit(scaled(1.0), X, config, checkpoint=path)


def test_learning_rate_and_intervals_may_change_on_resume(tmp_path):
    path = stopped_at_4(tmp_path / "a.ckpt")
    history = fit(
        midpoint(), X, recipe(lr=1e-3, log_every=1, checkpoint_every=100), checkpoint=path
    )
    assert [row["iteration"] for row in history] == [2, 4, 5, 6, 7, 8, 9]
    assert history[-1]["lr"] < 1e-3


class MakesFolderWhenUnpickled:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def rewrite(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)


def compress(path):
    with zipfile.ZipFile(path) as archive:
        parts = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts:
            archive.writestr(name, part)


def claim_huge_tensor(path):
    rewrite(path, weights={"a": torch.zeros(1).expand(10**9, 10**6)})


def unfold(path):
    """A list that two hundred bytes hold, and that prints as a gigabyte."""
    bomb = ["a"]
    for _ in range(28):
        bomb = [bomb, bomb]
    rewrite(path, model={"class": bomb})


class MadeWithoutBytes:
    def __init__(self, make, size):
        self.made = make, (size,)

    def __reduce__(self):
        return self.made


def prefix(path):
    content = torch.load(path, weights_only=True)
    archive = path.read_bytes()
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + archive)


DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
    "half": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "cannot be read"),
    "junk": (lambda p: p.write_bytes(b"junk" * 1000), "cannot be read"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(MakesFolderWhenUnpickled())), "cannot be read"),
    "code": (lambda p: torch.save({"format": MakesFolderWhenUnpickled()}, p), "could run code"),
    "code in weights": (
        lambda p: rewrite(p, weights={"a": MakesFolderWhenUnpickled()}),
        "could run code",
    ),
    "model file": (lambda p: IPVAE(3, 2).save(p), "was not written by"),
    "list": (lambda p: torch.save([1], p), "was not written by"),
    "newer": (lambda p: rewrite(p, version=3), "version 3.*update"),
    "no version": (lambda p: rewrite(p, version=None), "version None"),
    "compressed": (compress, "compressed"),
    "claiming": (claim_huge_tensor, "claims more"),
    "without values": (lambda p: rewrite(p, a=torch.empty(10**12, device="meta")), "claims more"),
    "without bytes": (lambda p: rewrite(p, a=MadeWithoutBytes(torch.Tensor, 10**7)), "claim 40"),
    "a bytearray": (lambda p: rewrite(p, a=MadeWithoutBytes(bytearray, 10**7)), "something else"),
    "older format in front": (prefix, "something else"),
    "unfolding": (unfold, "unfolds to more"),
    "no weights": (lambda p: rewrite(p, weights=None), "weights is missing"),
    "late": (lambda p: rewrite(p, iteration=99), "iteration is 99 of 9"),
    "other weights": (lambda p: rewrite(p, weights={"a": torch.zeros(2)}), "does not fit"),
    "nan": (
        lambda p: rewrite(p, weights={k: v * math.nan for k, v in midpoint().state_dict().items()}),
        "NaN",
    ),
    "other optimizer": (lambda p: rewrite(p, optimizer={}), "does not fit"),
    "no random state": (lambda p: rewrite(p, random=[{}]), "random state"),
    "short random state": (
        lambda p: rewrite(p, random=[{"cpu": torch.zeros(5, dtype=torch.uint8)}]),
        "random state",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_nothing_in_it_runs(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, (damage, says) = stopped_at_4(tmp_path / "a.ckpt"), DAMAGE[kind]
    damage(path)
    before, model = path.read_bytes(), midpoint()
    old_weights, random = weights(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=says) as error:
        fit(model, X, recipe(), checkpoint=path)
    assert "\n" not in str(error.value)
    assert equal(weights(model), old_weights)
    assert torch.equal(torch.get_rng_state(), random)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    path = stopped_at_4(tmp_path / "a.ckpt")
    before, usual = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        with pytest.raises(OSError, match=r"iteration 6.*iteration 4 is kept"):
            fit(midpoint(), X, recipe(), checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_training_does_not_start_without_a_writable_folder():
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a folder where nobody may write, such as /proc")
    with pytest.raises(OSError, match="/proc/self"):
        fit(midpoint(), X, recipe(), checkpoint="/proc/self/a.ckpt")
    with pytest.raises(ValueError, match="does not exist"):
        fit(midpoint(), X, recipe(), checkpoint="/nowhere/a.ckpt")


def test_a_locked_checkpoint_is_refused(tmp_path):
    path = stopped_at_4(tmp_path / "a.ckpt")
    before = path.read_bytes()
    with exclusive_lock(path), pytest.raises(OSError, match="another process is working on"):
        fit(midpoint(), X, recipe(), checkpoint=path)
    assert path.read_bytes() == before
    fit(midpoint(), X, recipe(), checkpoint=path)


PROGRAM = """
import sys, torch
from ipvae_snn import IPVAE, TrainConfig, fit
torch.set_num_threads(1)
torch.manual_seed(0)
x, model = torch.randn(100, 30), IPVAE(30, 20, init_std=0.3)
config = TrainConfig(iterations=2000, batch=10, steps=4, checkpoint_every=1, progress=False)
fit(model, x, config, checkpoint=sys.argv[1])
"""


def test_a_training_killed_while_writing_resumes(tmp_path):
    """SIGKILL at moments that often fall into a write."""
    path = tmp_path / "a.ckpt"
    iterations = []
    for wait in (0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)])
        start = read_checkpoint(path)["iteration"] if iterations else 0
        while not path.exists() or read_checkpoint(path)["iteration"] <= start:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
        iterations.append(read_checkpoint(path)["iteration"])
    assert 0 < iterations[0] < iterations[1] < 2000
    content = read_checkpoint(path)
    torch.manual_seed(0)
    x, model = torch.randn(100, 30), IPVAE(30, 20, init_std=0.3)
    again = copy.deepcopy(model)
    for name, value in content["weights"].items():
        assert torch.isfinite(value).all(), name
    done = content["iteration"] + 5
    config = TrainConfig(**{**content["config"], "iterations": 2000})
    with pytest.raises(Stopped):
        fit(model, SignalAfterReads(x, 5), config, checkpoint=path)
    with pytest.raises(Stopped):
        fit(again, SignalAfterReads(x, done), config, checkpoint=tmp_path / "b.ckpt")
    assert equal(weights(model), weights(again))
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt"]


class SignalAfterReads(SamplesThatSignal):
    def __init__(self, x, at):
        super().__init__(at)
        self.source = InMemory(x)
        self.features = self.source.features
