"""Seeds: blocks with random numbers of their own, and seeds derived from several values."""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from typing import Any

import torch

from ipvae_snn._utils.checks import require_seed
from ipvae_snn._utils.recomputed import current, enclosing, is_backward

WORDS = slice(24, 24 + 624 * 8)
"""Where the state of torch's CPU generator holds the 624 words of its Mersenne twister."""
_TORCH = threading.RLock()
"""Held while torch's own generators are seeded for a block."""


def _free_in_child() -> None:
    """Another thread may hold the lock when workers are forked: none would release it there."""
    global _TORCH
    _TORCH = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_in_child)
RECOMPUTED = "this call, made again by activation checkpointing,"
_INSIDE = (
    "open the seeded block inside the checkpointed function, or pass seed= to the run in it: "
    "activation checkpointing repeats no draws of a block around it"
)


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that all 63 bits of a seed reach."""
    generator = torch.Generator(device)
    reseed(generator, require_seed(seed))
    return generator


def reseed(generator: torch.Generator, seed: int) -> None:
    """Seed a generator with all bits of ``seed``.

    Below 2³² this is ``manual_seed``. torch's CPU generator takes no more than 32 bits of it; of
    larger seeds a hash goes into the words of its state.
    """
    generator.manual_seed(seed)
    if seed < 2**32 or generator.device.type != "cpu":
        return
    state = generator.get_state()
    words = state[WORDS].view(torch.int64)
    if len(words) != 624 or int(words[0]) != seed % 2**32:
        raise RuntimeError(
            f"torch {torch.__version__} keeps the state of its generator in another form: take "
            "seeds below 2**32"
        )
    mask = hashlib.shake_256(seed.to_bytes(8, "little")).digest(4 * 624)
    words ^= torch.frombuffer(bytearray(mask), dtype=torch.int32).to(torch.int64) & 0xFFFFFFFF
    generator.set_state(state)


class Draws:
    """A block whose draws come from generators of its own, one for each device.

    They are found by :func:`source`. torch's generators are neither read nor written, so that
    threads do not disturb one another. Entered again, the block goes on with its draws.

    Args:
        seed: of all its generators.
        replaces: a generator, such as that of an estimator, that rests in the block.

    >>> with Draws(7):
    ...     a = torch.rand(3, generator=source(None, "cpu"))
    >>> bool((a == torch.rand(3, generator=make_generator(7))).all())
    True
    """

    def __init__(self, seed: int, replaces: torch.Generator | None = None) -> None:
        self.seed, self.replaces = require_seed(seed), replaces
        self.process = os.getpid()
        self.entered_in = 0
        """The checkpointed function that the block was entered in."""
        self._generators: dict[torch.device, torch.Generator] = {}
        self._tokens: list[Token[Draws | None]] = []

    def on(self, device: torch.device | str) -> torch.Generator:
        """The generator of a device."""
        device = torch.device(device)
        if device not in self._generators:
            # Threads may share a block: the first of them sets it.
            self._generators.setdefault(device, make_generator(self.seed, device))
        return self._generators[device]

    def __enter__(self) -> "Draws":
        self.entered_in = enclosing()
        self._tokens.append(_block.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        _block.reset(self._tokens.pop())


_block: ContextVar[Draws | None] = ContextVar("ipvae_snn_draws", default=None)


def source(generator: torch.Generator | None, device: torch.device | str) -> torch.Generator | None:
    """The generator to draw from on a device: that of the present block, else ``generator``.

    ``None`` stands for torch's global one. A generator that the block does not replace stays.
    Processes that were forked in a block, such as workers of a ``DataLoader``, are outside it:
    they would all draw the same. So is code that ``torch.compile`` traces.
    """
    if torch.compiler.is_compiling():
        return generator
    if is_backward() and (reason := other_draws(generator)):
        raise RuntimeError(f"{RECOMPUTED} {reason}")
    block = _block_of(generator)
    return generator if block is None else block.on(device)


def _block_of(generator: torch.Generator | None) -> Draws | None:
    """The present block, if it replaces ``generator``."""
    block = _block.get()
    if block is None or block.process != os.getpid():
        return None
    return block if generator is None or generator is block.replaces else None


def other_draws(generator: torch.Generator | None) -> str:
    """Why a call that a backward pass makes again would draw other numbers; empty if it does not.

    Args:
        generator: as in :func:`source`.
    """
    block, recomputed = _block_of(generator), current()
    if block is not None:
        cure = "" if block.entered_in == enclosing() else _INSIDE
    elif generator is not None and recomputed.frame is not None:
        cure = "leave spike_grad.generator at None, or seed the run inside the function"
    else:
        cure = "" if recomputed.repeats_draws else "pass preserve_rng_state=True"
    return cure and f"would draw other spikes than the first call: {cure}"


def require_same_draws() -> None:
    """Raise if a call is to be made again after the seeded block that it draws in is left."""
    if torch.compiler.is_compiling():
        return
    block = _block_of(None)
    if block is not None and torch.is_grad_enabled() and block.entered_in != enclosing():
        raise RuntimeError(f"gradients would be those of other spikes: {_INSIDE}")


def is_ours(item: Any) -> bool:
    """Whether a class of this package made ``item``: it then draws by :func:`source` only."""
    return type(item).__module__.partition(".")[0] == __name__.partition(".")[0]


def seeded_draws(
    seed: int | None,
    *,
    parts: Iterable[Any],
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> AbstractContextManager[Any]:
    """A block in which the draws of ``parts`` depend on ``seed`` alone; None changes nothing.

    :class:`Draws` where this package made all parts, else :func:`seeded`: code of others may draw
    from torch's generators.

    Args:
        seed, device, generator: as in :func:`seeded`.
        parts: whatever may draw.
    """
    if seed is None:
        return nullcontext()
    if all(map(is_ours, parts)):
        return Draws(seed, generator)
    return seeded(seed, device=device, generator=generator)


@contextmanager
def seeded(
    seed: int | None,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Iterator[None]:
    """Seed torch's generators for a block, and restore their states after it.

    Covers the global generators of the CPU and of ``device``, and ``generator``, such as that of an
    estimator. Threads take turns: other threads that draw from torch's generators without such a
    block disturb it. ``seed=None`` changes nothing.

    >>> with seeded(7):
    ...     a = torch.rand(3)
    >>> _ = torch.rand(5)
    >>> with seeded(7):
    ...     b = torch.rand(3)
    >>> bool((a == b).all())
    True
    """
    if seed is None:
        yield
        return
    seed = require_seed(seed)
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    own_state = None if generator is None else generator.get_state()
    outside = _block.set(None)
    try:
        with (
            _TORCH,
            torch.random.fork_rng(devices=[device] if on_cuda else []),
            torch.cuda.device(device) if on_cuda else nullcontext(),
        ):
            reseed(torch.default_generator, seed)
            if on_cuda:
                torch.cuda.manual_seed(seed)
            if generator is not None:
                reseed(generator, seed)
            yield
    finally:
        _block.reset(outside)
        if generator is not None and own_state is not None:
            generator.set_state(own_state)


def combine(*parts: int | str) -> int:
    """Hash several numbers or strings to one seed.

    >>> combine(7, "spikes", 0) == combine(7, "spikes", 0) != combine(7, "spikes", 1)
    True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
