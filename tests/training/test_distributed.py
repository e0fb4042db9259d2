"""Training with several processes equals training with one; all ranks stop together."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ipvae_snn.cli import main
from ipvae_snn.kernels import native
from ipvae_snn.training import loop
from ipvae_snn.training.checkpoint import read_checkpoint
from ipvae_snn.training.distributed import ProcessGroup, is_silent_rank, join_process_group
from tests.training.distributed_main import DECODERS, WRAPPERS, batch_results, trained

MAIN = Path(__file__).with_name("distributed_main.py")
pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo"
)


def torchrun(*command, size=2):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    path = os.pathsep.join([str(MAIN.parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*start, "--standalone", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip


def output_of(process, seconds=120):
    output, _ = process.communicate(timeout=seconds)
    return output


@pytest.fixture(scope="module")
def two_process_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    process = torchrun(str(MAIN), str(folder))
    output = output_of(process)
    assert process.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def nearly_equal(a, b, rtol=1e-6):
    largest = max(float(value.abs().max()) for value in b.values() if value.is_floating_point())
    for name, value in b.items():
        assert torch.allclose(a[name], value, rtol=0, atol=rtol * largest), name


@pytest.mark.parametrize("estimator", ["midpoint", "rounded", "local"])
@pytest.mark.parametrize("iterations", [1, 30])
def test_two_processes_train_like_one(two_process_results, estimator, iterations):
    if not native.available():
        pytest.skip("without compiled kernels processes draw other spikes than one alone")
    alone = trained(estimator, iterations)
    for rank in range(2):
        result = two_process_results[rank][f"{estimator} {iterations}"]
        nearly_equal(result["grads"], alone["grads"])
        nearly_equal(result["weights"], alone["weights"])
        for row, expected in zip(result["history"], alone["history"], strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("estimator", ["bernoulli", "baseline"])
def test_with_draws_per_rank_both_ranks_end_with_the_same_weights(two_process_results, estimator):
    first, second = (results[f"{estimator} 30"] for results in two_process_results)
    assert all(torch.equal(first["weights"][n], v) for n, v in second["weights"].items())
    alone = trained(estimator, 30)
    losses = [sum(row["loss"] for row in run["history"]) / 30 for run in (first, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert first["history"] != alone["history"]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_networks_that_keep_states_learn_from_uneven_batches_like_one(
    two_process_results, wrapper, decoder
):
    if WRAPPERS[wrapper] is None:
        pytest.skip("this PyTorch has no fully_shard")
    alone = batch_results(decoder)
    for results in two_process_results:
        for batch, expected in zip(results[f"{wrapper} {decoder}"], alone, strict=True):
            nearly_equal(batch["grads"], expected["grads"])
            assert any(grad.any() for grad in batch["grads"].values())
            own = {n: state[slice(*batch["rows"])] for n, state in expected["states"].items()}
            assert own["1.spk"].any()
            nearly_equal(batch["states"], own)


def start_training(folder, iterations):
    """A training of two processes that writes a checkpoint at every iteration, after its first."""
    options = (
        "--data", "digits", "--quiet", "--latents", "16", "--steps", "4", "--batch", "10",
        "--eval-steps", "5", "--samples", "9", "--checkpoint-every", "1",
    )  # fmt: skip
    command = ("-m", "ipvae_snn.cli", "train", *options, "--iterations", str(iterations))
    process = torchrun(*command, "--out", str(folder))
    before = time.monotonic()
    while not checkpoint_iteration(folder):
        assert process.poll() is None, output_of(process)
        assert time.monotonic() < before + 120
        time.sleep(0.05)
    return process


def checkpoint_iteration(run):
    path = run / "checkpoint.pt"
    return read_checkpoint(path)["iteration"] if path.is_file() else 0


def child_pids(process):
    """PIDs of the child processes, from /proc/PID/stat: PID (name) state parent ..."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended meanwhile
            _, parent, *_ = path.read_text().rpartition(")")[2].split()
            if int(parent) == process.pid:
                pids.append(int(path.parent.name))
    return sorted(pids)


@pytest.mark.slow
def test_after_a_rank_is_killed_the_other_stops_and_one_process_can_resume(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="digits need the extra data")
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find a process of the training")
    run = tmp_path / "run"
    process = start_training(run, iterations=100_000)
    os.kill(child_pids(process)[1], signal.SIGKILL)
    killed = time.monotonic()
    output = output_of(process, seconds=30)
    assert time.monotonic() < killed + 30
    assert process.returncode != 0
    assert "another of the 2 processes of this training has ended" in output
    assert {"checkpoint.pt", "config.json"} <= {path.name for path in run.iterdir()}
    before, step = checkpoint_iteration(run), loop.train_step

    def stopping(*arguments, **options):
        if options["iteration"] == before + 5:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", stopping)
    assert main(["train", "--resume", str(run), "--quiet"]) == 128 + signal.SIGTERM
    assert checkpoint_iteration(run) == before + 5
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "config.json"]


@pytest.mark.slow
def test_a_signal_stops_all_ranks_after_one_checkpoint(tmp_path):
    pytest.importorskip("sklearn", reason="digits need the extra data")
    run = tmp_path / "run"
    process = start_training(run, iterations=100_000)
    process.send_signal(signal.SIGTERM)
    output = output_of(process, seconds=60)
    assert output.count("stopped by SIGTERM after iteration") == 1
    assert f"ipvae-snn train --resume {run}" in output
    assert f"after iteration {checkpoint_iteration(run)};" in output


@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda:1", "must be cpu or cuda, got 'cuda:1'"), ("cuda", "finds 0 GPU")],
)
def test_unavailable_devices_are_refused(device, says, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert is_silent_rank()
    with pytest.raises(ValueError, match=says), join_process_group(device):
        raise AssertionError("it went on")
    assert not dist.is_initialized()


def test_a_process_group_of_one():
    group = ProcessGroup()
    assert (group.rank, group.size, group.is_main) == (0, 1, True)
    assert group.gather("a") == ["a"]
    assert group.max(3) == 3
    assert group.broadcast(lambda: 5) == 5
    module = torch.nn.Linear(2, 2)
    assert group.data_parallel(module) is module
    assert torch.equal(group.sum(torch.ones(2)), torch.ones(2))
    with join_process_group("cpu") as device:
        assert device == "cpu"
    with pytest.raises(RuntimeError, match="gloo"), group.detecting_lost_ranks():
        raise RuntimeError("gloo: passed on, as there is only one process")


def test_a_lost_connection_is_explained_and_other_errors_pass():
    group = ProcessGroup()
    group.initialized, group.size = True, 2
    lost = pytest.raises(ConnectionError, match="another of the 2 processes")
    with lost, group.detecting_lost_ranks():
        raise RuntimeError("[pair.cc:1] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shape"), group.detecting_lost_ranks():
        raise RuntimeError("shape")
