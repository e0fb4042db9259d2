"""Samples in memory and streamed, with and without worker processes."""

import itertools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ipvae_snn import IPVAE, evaluate, plotting
from ipvae_snn.data.sources import InMemory, Part, Samples, as_samples, stream

EXAMPLE = Path(__file__).parents[2] / "examples" / "trust" / "flat_memory.py"
BATCHES = [torch.tensor(rows) for rows in ([3, 1], [0], [5, 5, 2], [4], [1, 0])]
INVALID, DEADLY, UNICODE = 17, 18, 19


class Numbered(Samples):
    """Sample n has the value n; records the batch sizes it reads, and fails at some rows."""

    features = 3

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def __len__(self) -> int:
        return 20

    def read(self, rows):
        self.batch_sizes.append(len(rows))
        if INVALID in rows:
            raise ValueError("file.npy, image 17, holds NaN or infinite values: remove them first")
        if DEADLY in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        if UNICODE in rows:
            raise UnicodeDecodeError("utf8", b"\xff", 0, 1, "a mistake of many arguments")
        return rows[:, None].float().expand(-1, 3).clone()

    def fingerprint(self) -> str:
        return "20 numbers"


def no_workers() -> bool:
    return not multiprocessing.active_children()


def test_public_names_are_the_same_class():
    import ipvae_snn.samples

    assert ipvae_snn.samples.Samples is ipvae_snn.data.Samples is Samples


def test_as_samples_of_a_tensor_reads_its_rows():
    data = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    samples = as_samples(data)
    assert (len(samples), samples.features) == (6, 3)
    read = samples.read(torch.tensor([5, 0]))
    assert read.dtype == torch.float64
    assert not read.requires_grad
    assert torch.equal(read, data[[5, 0]])
    assert as_samples(samples) is samples


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([[1.0]], TypeError, "torch.Tensor"),
        (np.ones((2, 2), np.float32), TypeError, "torch.Tensor"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "floating"),
        (torch.ones(4), ValueError, r"\(N, M\)"),
        (torch.ones(0, 3), ValueError, "empty"),
        (torch.ones(3, 0), ValueError, "empty"),
        (torch.tensor([[1.0, torch.nan]]), ValueError, "NaN"),
        (torch.tensor([[1.0, torch.inf]]), ValueError, "infinite"),
    ],
)
def test_as_samples_rejects_other_data(data, error, message):
    with pytest.raises(error, match=message):
        as_samples(data)


def test_part_chooses_rows():
    data = torch.randn(10, 4)
    part = Part(Part(InMemory(data), torch.tensor([9, 3, 3, 0])), torch.tensor([0, 2]))
    assert (len(part), part.features) == (2, 4)
    assert torch.equal(part.read(torch.tensor([1, 0])), data[[3, 9]])


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([], dtype=torch.int64),
        torch.tensor([0.0]),
        torch.tensor([[0]]),
        torch.tensor([-1]),
        torch.tensor([10]),
        torch.tensor([True]),
    ],
    ids=str,
)
def test_part_rejects_invalid_rows(rows):
    with pytest.raises(ValueError, match="rows must be"):
        Part(InMemory(torch.ones(10, 4)), rows)


def test_fingerprint_changes_with_the_data():
    data = torch.randn(5, 4)
    changed = data.clone()
    changed[4, 3] += 1
    rows = torch.arange(3)
    fingerprints = [
        InMemory(data).fingerprint(),
        InMemory(changed).fingerprint(),
        InMemory(data.reshape(4, 5)).fingerprint(),
        InMemory(data.bfloat16()).fingerprint(),
        Part(InMemory(data), rows).fingerprint(),
        Part(InMemory(data), rows.flip(0)).fingerprint(),
        Part(InMemory(changed), rows).fingerprint(),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert InMemory(data.T.contiguous().T).fingerprint() == fingerprints[0]


def test_fingerprints_stay_the_same_in_later_releases():
    """A run resumes only if the fingerprint in its checkpoint is that of its data."""
    data = InMemory(torch.arange(12.0).reshape(4, 3))
    assert data.fingerprint() == "4×3 torch.float32 3e667d78"
    part = Part(data, torch.tensor([2, 0]))
    assert part.fingerprint() == "2 (6b1b6e36) of 4×3 torch.float32 3e667d78"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_stream_keeps_the_order_and_draws_no_random_number(workers):
    state = torch.get_rng_state()
    batches = list(stream(Numbered(), BATCHES, workers))
    assert [batch[:, 0].tolist() for batch in batches] == [rows.tolist() for rows in BATCHES]
    assert torch.equal(torch.get_rng_state(), state)
    assert no_workers()


def test_infinite_batches_with_threads_in_use_until_closed():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(300, 300) @ torch.randn(300, 300)
        batches = stream(Numbered(), itertools.cycle(BATCHES), workers=2)
        values = [next(batches)[0, 0].item() for _ in range(12)]
        assert values == [3, 0, 5, 4, 1, 3, 0, 5, 4, 1, 3, 0]
        assert len(multiprocessing.active_children()) == 2
        batches.close()
        assert no_workers()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_is_the_same_with_and_without_workers(workers):
    batches = stream(Numbered(), [torch.tensor([1]), torch.tensor([2, INVALID])], workers)
    assert next(batches).tolist() == [[1, 1, 1]]
    with pytest.raises(ValueError, match="image 17") as raised:
        next(batches)
    message = "file.npy, image 17, holds NaN or infinite values: remove them first"
    assert type(raised.value) is ValueError
    assert str(raised.value) == message
    assert raised.value.__context__ is None
    assert no_workers()


def test_error_whose_constructor_takes_several_arguments():
    with pytest.raises(ValueError, match="a mistake of many arguments"):
        list(stream(Numbered(), [torch.tensor([UNICODE])], workers=1))


def test_killed_worker_raises(monkeypatch):
    # A loader checks its workers every five seconds: let it do so sooner.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    with pytest.raises(ChildProcessError, match="worker process that reads samples died") as raised:
        list(stream(Numbered(), [torch.tensor([DEADLY])] * 3, workers=2))
    assert "\n" not in str(raised.value)
    assert no_workers()


def test_samples_in_memory_are_read_without_workers():
    part = Part(InMemory(torch.eye(6)), torch.arange(6))
    batches = stream(part, BATCHES, workers=2)
    next(batches)
    assert no_workers()


@pytest.mark.parametrize(("workers", "error"), [(-1, ValueError), (1.0, TypeError)])
def test_invalid_workers(workers, error):
    with pytest.raises(error, match="workers"):
        stream(Numbered(), BATCHES, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluate_reads_batch_by_batch(workers):
    samples = Part(Numbered(), torch.arange(12))
    x = samples.read(torch.arange(12))
    model = IPVAE(3, 5)
    expected = evaluate(model, x, 4, batch=5, seed=2)
    samples.samples.batch_sizes.clear()
    assert evaluate(model, samples, 4, batch=5, seed=2, workers=workers) == expected
    assert samples.samples.batch_sizes == ([5, 5, 2] if workers == 0 else [])


def test_evaluate_converts_samples_to_the_dtype_of_the_weights():
    model, x = IPVAE(3, 5), torch.rand(4, 3, dtype=torch.float64)
    assert evaluate(model, InMemory(x), 2) == evaluate(model, x.float(), 2)
    with pytest.raises(TypeError, match="float64"):
        evaluate(model, x, 2)


def test_evaluate_ends_its_workers_when_reading_fails():
    model = IPVAE(3, 5)
    with pytest.raises(ValueError, match="image 17"):
        evaluate(model, Numbered(), 2, batch=4, workers=2)
    assert model.training
    assert no_workers()
    with pytest.raises(ValueError, match="N ≥ 2"):
        evaluate(model, Part(Numbered(), torch.tensor([0])), 2)


def test_example_of_flat_memory(tmp_path):
    example = runpy.run_path(str(EXAMPLE))
    example["write_images"](tmp_path / "images.npy", 10_000)
    results = [
        example["evaluating"]("a", tmp_path / "images.npy", True),
        example["evaluating"]("b", tmp_path / "images.npy", False),
        example["streaming"]("c", 2_000),
    ]
    assert [len(result.readings) for result in results] == [21, 21, 21]
    assert [result.readings[-1].done for result in results] == [10_000, 10_000, 2_000]
    assert "growth" in example["table"](results)
    example["draw"](plotting.canvas(), results)


PROGRAM = """
import sys
import torch
from ipvae_snn.data.sources import InMemory, Samples, stream


class Zeros(Samples):
    features = 3

    def __len__(self):
        return 10

    def read(self, rows):
        return torch.zeros(len(rows), 3)

    def fingerprint(self):
        return ""


if __name__ == "__main__":
    batches = stream(Zeros(), iter(lambda: torch.tensor([1]), None), workers=1)
    next(batches)
    print("reading", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_end_after_their_program_was_killed(tmp_path):
    (tmp_path / "reading.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "reading.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == "reading\n"
        group = process.pid
        process.kill()
        process.wait()
        before = time.monotonic()
        while True:  # until the process group is empty
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                break
            assert time.monotonic() < before + 30
            time.sleep(0.1)
