"""The number of generated cases per property.

By default a few, the same ones each time. ``IPVAE_SNN_CASES=300 python -m pytest
tests/properties`` tries 300 random ones per property and prints a count of all.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from tests.properties.common import REFUSED, attempt, little_memory

CASES = os.environ.get("IPVAE_SNN_CASES")
tried: Counter[str] = Counter()

hypothesis.settings.register_profile(
    "few",
    max_examples=int(CASES or 8),
    derandomize=CASES is None,
    database=None,
    deadline=timedelta(seconds=10),
    print_blob=CASES is not None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("few")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [i for i in items if "tests/properties/" in i.nodeid]
    tests = {i.obj: i for i in ours if hasattr(getattr(i, "obj", None), "hypothesis")}
    for test, item in tests.items():  # items of a parametrised test share its function
        name = item.nodeid.split("[")[0].removeprefix("tests/properties/")
        test.hypothesis.inner_test = _counted(test.hypothesis.inner_test, name)


def _counted(inner: Any, name: str) -> Any:
    @functools.wraps(inner)
    def test(*arguments: Any, **options: Any) -> None:
        torch.manual_seed(0)
        with little_memory():
            inner(*arguments, **options)
        tried[name] += 1

    return test


@pytest.fixture
def assert_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Check that a call is refused, writes no file and leaves the global generator untouched.

    The generator is not watched where the call itself draws: random tensors, initial weights.
    """
    monkeypatch.chdir(tmp_path)

    def check(call: Callable[[], Any]) -> None:
        names = call.__code__.co_names
        draws = any(name in names for name in ("Linear", "IPVAE", "rand"))
        uses_new_neuron = "IPVAENeuron" in names and len(names) > 1
        assert attempt(call, random_state=not (draws or uses_new_neuron)) is REFUSED
        assert not list(tmp_path.iterdir())

    return check


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if CASES is not None and tried:
        terminalreporter.section("generated cases")
        for name, count in tried.most_common():
            terminalreporter.write_line(f"{count:7,}  {name}")
        terminalreporter.write_line(f"{tried.total():7,}  in total")
