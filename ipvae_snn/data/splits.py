"""Which images are for training and which are held out, by the names that people give them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from ipvae_snn._utils.text import printable

Part = Literal["train", "test"]

NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "learn", "learning", "trn", "tr"),
    "test": (
        "test", "tests", "testing", "tst", "te", "val", "valid", "validate", "validation", "eval",
        "evaluate", "evaluation", "dev", "holdout", "heldout",
    ),
}  # fmt: skip
"""Whole words, in any case, that say what images are for: for training, or held out."""
MNIST_TEST = "t10k"
_BESIDE = "(?:x|y|imgs?|images?|data|dataset|labels?|targets?|sets?|samples?|split)"
"""What is written together with such a word: ``Xtrain``, ``testimages``, ``valset``."""
_JOINED = {
    part: re.compile(f"{_BESIDE}*(?:{'|'.join(names)}){_BESIDE}*") for part, names in NAMES.items()
}
_TRAIN_VAL = re.compile(r"train[-_ ]?val(?![a-z])", re.IGNORECASE)
"""All but the test images, in one."""
MAX_LISTED = 4


_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(name: str) -> list[str]:
    """The words of a name, in lower case: at spaces, signs, digits and capitals.

    >>> words("X_trainImages2017.v2")
    ['x', 'train', 'images', '2017', 'v', '2']
    """
    return re.findall(r"[^\W\d_]+|\d+", _CAPITAL.sub(" ", name).lower())


@lru_cache(maxsize=2**12)  # the files of a folder share its name
def part_of(name: str) -> Part | None:
    """What a name says about images: for training, held out, or nothing.

    Raises:
        ValueError: it says both.

    >>> [part_of(n) for n in ("Train", "x_test", "val2017", "Held-Out", "t10k-images", "contest")]
    ['train', 'test', 'test', 'test', 'test', None]
    """
    found = words(_TRAIN_VAL.sub("trainval", name))
    found += ["".join(pair) for pair in pairwise(found)]  # held_out, hold-out
    parts: set[Part] = {p for p, joined in _JOINED.items() if any(map(joined.fullmatch, found))}
    if MNIST_TEST in name.lower():
        parts.add("test")
    if len(parts) > 1:
        raise ValueError(f"{name!r} names images to train on and held-out ones: rename it")
    return parts.pop() if parts else None


def divide(names: Iterable[str], where: str) -> tuple[list[str], list[str], list[str]]:
    """Names of what to train on, of what is held out, and of what is neither, beside both.

    Without any word for a split, all are to train on, and to be split by number.

    Raises:
        ValueError: only some say what they are for: what is held out must not be learned from.

    >>> divide(["x_train", "x_val", "extra"], "a.npz")
    (['x_train'], ['x_val'], ['extra'])
    >>> divide(["train", "query"], "photos")
    Traceback (most recent call last):
    ValueError: photos is split by half: 'train' is to train on, but nothing says what 'query' ...
    """
    parts: dict[Part | None, list[str]] = {"train": [], "test": [], None: []}
    for name in names:
        parts[part_of(name)].append(name)
    train, test, others = parts["train"], parts["test"], parts[None]
    if train and test:
        return train, test, others
    if others and (train or test):
        known = f"{listed(train)} is to train on" if train else f"{listed(test)} is held out"
        raise ValueError(
            f"{where} is split by half: {known}, but nothing says what {listed(others)} is for: "
            "name it train or test, too, or load one of them alone"
        )
    return train or others, test, []


def counts_of(train: Mapping[str, int], test: Mapping[str, int]) -> list[str]:
    """What a description says of the names that images were read from, and how many.

    >>> counts_of({"train": 5000}, {"test": 1000})
    ['to train on: train (5,000)', 'held out: test (1,000)']
    """
    parts = {"to train on" if test else "read": train, "held out": test}
    return [
        f"{part}: {_up_to_four([f'{printable(n)} ({count:,})' for n, count in counts.items()])}"
        for part, counts in parts.items()
        if counts
    ]


def listed(names: Iterable[str]) -> str:
    """Up to four names in quotes, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e", "f"])
    "'a', 'b', 'c', 'd' and 2 more"
    """
    return _up_to_four([repr(name) for name in names])


def _up_to_four(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
