"""Seeds: all their bits count, and seeded calls leave torch's generators and threads alone."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ipvae_snn import IPVAE, Stream, TrainConfig, evaluate, fit, surrogate
from ipvae_snn._utils.seeding import Draws, combine, make_generator, seeded, source
from ipvae_snn.baselines import (
    IGVAE,
    GaussianVAE,
    IterativeAmortisedVAE,
    PoissonVAE,
    SemiAmortisedVAE,
)
from ipvae_snn.surrogate import Exact

FAR = [(0, 2**32), (5, 5 + 2**62), (7, 7 + 2**40), (2**33, 2**34), (1, 2**63 - 1)]


@dataclass
class Foreign(Exact):
    """An estimator of one's own, which draws from torch's global generator."""

    def draw(self, mem):
        with torch.no_grad():
            return torch.poisson(mem.exp())

    def slope(self, spk, rate):
        return rate


def spiking(**options):
    torch.manual_seed(0)
    return IPVAE(12, 16, init_std=0.3, **options)


def pool(workers):
    """Threads that do not split matrix products, as rounding depends on the number of threads."""
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))


MODELS = {
    "kernels": spiking,
    "float64": lambda: spiking().double(),
    "bernoulli": lambda: spiking(spike_grad=surrogate.bernoulli()),
    "eat": lambda: spiking(spike_grad=surrogate.eat()),
    "gumbel": lambda: spiking(spike_grad=surrogate.gumbel()),
    "own generator": lambda: spiking(spike_grad=surrogate.rate(generator=torch.Generator())),
    "estimator of one's own": lambda: spiking(spike_grad=Foreign()),
    "decoder of one's own": lambda: spiking(
        decoder=nn.Sequential(nn.Linear(16, 12), nn.Dropout(0.5))
    ),
    "iG-VAE": lambda: IGVAE(12, 16),
    "Gaussian VAE": lambda: GaussianVAE(12, 16),
    "Poisson VAE": lambda: PoissonVAE(12, 16),
    "Poisson VAE, own generator": lambda: PoissonVAE(
        12, 16, spike_grad=surrogate.midpoint(generator=torch.Generator())
    ),
    "iterative hybrid": lambda: IterativeAmortisedVAE(12, 16),
    "semi-amortised hybrid": lambda: SemiAmortisedVAE(12, 16),
}


def inputs(model):
    return torch.randn(6, 12, generator=make_generator(3)).to(model.like.dtype)


@pytest.mark.parametrize("name", MODELS)
def test_all_bits_of_a_seed_count(name):
    model = MODELS[name]()
    x = inputs(model)
    for near, far in FAR:
        first, again, other = (model.run(x, 5, seed=s) for s in (near, near, far))
        assert torch.equal(first.spk, again.spk)
        assert not torch.equal(first.spk, other.spk), (near, far)


def test_all_bits_of_a_seed_count_in_streams_and_evaluations():
    model = spiking()
    for near, far in FAR:
        a, b = (Stream(model, seed=s).push(inputs(model)[0], 40).mem for s in (near, far))
        assert not torch.equal(a, b)
        a, b = (evaluate(model, inputs(model), 30, seed=s).curves["mse"] for s in (near, far))
        assert a != b


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_seeds_of_32_bits_are_those_of_torch(seed):
    expected = torch.rand(700, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(700, generator=make_generator(seed)), expected)
    with Draws(seed):
        assert torch.equal(torch.rand(700, generator=source(None, "cpu")), expected)
    with seeded(seed):
        assert torch.equal(torch.rand(700), expected)


def test_a_hundred_thousand_sample_seeds_give_as_many_streams():
    key = 2**61 + 17
    numbers = [*range(50_000), *(2**32 * i for i in range(1, 25_001)), *range(-25_000, 0)]
    seeds = {combine(key, number) for number in numbers}
    assert len(seeds) == len(numbers) == 100_000
    assert max(seeds) >= 2**62  # 63 bits
    # A seed has a stream of its own: by the first draws of those that agree in their low 32 bits,
    # which is all that manual_seed takes, and of others.
    crowd = sorted(seeds)[:500] + [s + (k << 32) for k in range(500) for s in (5,)]
    draws = {tuple(torch.rand(4, generator=make_generator(s)).tolist()) for s in crowd}
    assert len(draws) == len(crowd)


def test_draws_of_a_large_seed_are_uniform():
    for seed in (2**32, 2**62 + 5, 2**63 - 1):
        draws = torch.rand(200_000, generator=make_generator(seed), dtype=torch.float64)
        counts = torch.histc(draws, 100, 0, 1)
        chi_square = ((counts - 2000) ** 2 / 2000).sum()
        assert 45 < chi_square < 180  # 99 degrees of freedom


@pytest.mark.parametrize("name", MODELS)
def test_seeded_runs_in_threads_equal_sequential_ones(name):
    model = MODELS[name]()
    x = inputs(model)
    seeds = [17 * i + (i % 3) * 2**40 for i in range(40)]

    def run(seed):
        with torch.no_grad():
            return model.run(x, 4, seed=seed)

    expected = [run(seed) for seed in seeds]
    with pool(8) as threads:
        found = list(threads.map(run, seeds * 2))
    for out, same in zip(found, expected * 2, strict=True):
        assert torch.equal(out.spk, same.spk)
        assert torch.equal(out.mem, same.mem)


@pytest.mark.parametrize("name", ["kernels", "float64", "own generator", "iG-VAE", "Poisson VAE"])
def test_seeded_runs_in_threads_leave_the_global_generator_alone(name):
    model = MODELS[name]()
    x = inputs(model)
    torch.manual_seed(9)
    expected = torch.rand(100)
    torch.manual_seed(9)
    own = None if model.generator is None else model.generator.get_state()
    with pool(8) as threads, torch.no_grad():
        runs = [threads.submit(model.run, x, 4, seed=seed) for seed in range(150)]
        drawn = torch.cat([torch.rand(1) for _ in range(100)])  # while the others run
        for run in runs:
            run.result()
    assert torch.equal(drawn, expected)
    assert own is None or torch.equal(own, model.generator.get_state())


def test_trainings_in_threads_equal_sequential_ones():
    x = torch.randn(64, 12)

    def train(name):
        model = trained[name]
        config = TrainConfig(iterations=12, batch=16, steps=4, seed=3, progress=False)
        fit(model, x, config)
        return [p.detach().clone() for p in model.parameters()]

    names = ["kernels", "float64", "eat", "own generator", "iG-VAE", "estimator of one's own"]
    results = []
    for workers in (1, 6):
        torch.manual_seed(4)
        trained = {name: MODELS[name]() for name in names}
        trained["float64"].double()
        before = torch.get_rng_state()
        with pool(workers) as threads:
            results.append(list(threads.map(train, names)))
        assert torch.equal(before, torch.get_rng_state())
    for name, sequential, threaded in zip(names, *results, strict=True):
        for a, b in zip(sequential, threaded, strict=True):
            assert torch.equal(a, b), name


def test_evaluations_of_one_model_in_threads_equal_sequential_ones():
    model = MODELS["eat"]()  # whose counts are soft in train() mode

    def curve(_=None):
        return evaluate(model, inputs(model), 12, chunk=1, seed=1).curves["mse"]

    expected = curve()
    with pool(4) as threads:
        assert all(found == expected for found in threads.map(curve, range(8)))
    assert model.training


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_waits_for_no_thread_that_seeds():
    entered, done = threading.Event(), threading.Event()

    def hold():
        with seeded(1):
            entered.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    worker = multiprocessing.get_context("fork").Process(target=draw_seeded)
    worker.start()
    worker.join(20)
    worker.kill()
    done.set()
    holder.join()
    assert worker.exitcode == 0


def draw_seeded():
    with seeded(2):
        torch.rand(1)


class Runs(Dataset):
    """Runs of a model, made in workers; seeded by their index, or not at all."""

    def __init__(self, model, seeded):
        self.model, self.x, self.seeded = model, inputs(model)[:1], seeded

    def __len__(self):
        return 8

    def __getitem__(self, index):
        with torch.no_grad():
            return self.model.run(self.x, 60, seed=index if self.seeded else None).mem[-1, 0]


@pytest.mark.parametrize("name", ["kernels", "float64", "iG-VAE"])
def test_workers_of_a_data_loader_draw_their_own(name):
    model = MODELS[name]()
    dataset = Runs(model, seeded=True)
    alone = torch.stack([dataset[i] for i in range(8)])
    loaded = next(iter(DataLoader(dataset, 8, num_workers=1)))
    assert torch.equal(loaded, alone)
    with model.seeded(0):  # forked processes are outside the block, or all would draw the same
        rows = list(DataLoader(Runs(model, seeded=False), 1, num_workers=2))
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 8


def test_a_suspended_unroll_leaves_draws_and_gradients_of_the_caller_alone():
    pytest.importorskip("nir")
    from ipvae_snn import export

    runs = []
    for interrupted in (False, True):
        torch.manual_seed(2)
        spikes = []
        network = export.GraphNetwork(export.to_nir(spiking(), form="exact"))
        for spk, _ in network.unroll(torch.ones(2, 12), 4, seed=1):
            spikes.append(spk)
            if interrupted:
                assert torch.is_grad_enabled()
                assert source(None, "cpu") is None
                torch.rand(3)
        runs.append(torch.stack(spikes))
    assert torch.equal(*runs)


def test_blocks_nest_and_go_on():
    with Draws(1):
        a = torch.rand(2, generator=source(None, "cpu"))
        with Draws(2):
            torch.rand(5, generator=source(None, "cpu"))
        with seeded(3):
            assert source(None, "cpu") is None
        b = torch.rand(2, generator=source(None, "cpu"))
    assert torch.equal(torch.cat([a, b]), torch.rand(4, generator=make_generator(1)))
    own = torch.Generator()
    draws = Draws(1, replaces=own)
    with draws:
        assert source(own, "cpu") is not own
        assert source(other := torch.Generator(), "cpu") is other
        first = torch.rand(2, generator=source(own, "cpu"))
    with draws:
        assert not torch.equal(first, torch.rand(2, generator=source(None, "cpu")))
    assert source(own, "cpu") is own


def test_an_error_in_a_block_restores_what_was_before():
    own = torch.Generator()
    before, own_before = torch.get_rng_state(), own.get_state()
    for block in (Draws(1, own), seeded(1, generator=own)):
        with pytest.raises(KeyError), block:
            {}[torch.rand(1, generator=source(own, "cpu"))]
        assert source(None, "cpu") is None
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(own_before, own.get_state())
