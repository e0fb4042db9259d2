"""Attributes that are checked whenever they are set: in the constructor, and later."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from ipvae_snn._utils.checks import require_choice, require_flag, require_number


class Setting:
    """An attribute whose values go through a check, which returns what is kept, or raises.

    Args:
        check: called with the value and the name of the attribute.

    >>> class Disc:
    ...     radius = number(0.0)
    >>> disc = Disc()
    >>> disc.radius = 2
    >>> disc.radius = -1
    Traceback (most recent call last):
    ...
    ValueError: radius must be a finite number in [0, inf], got -1
    >>> disc.radius
    2.0
    """

    def __init__(self, check: Callable[[Any, str], Any]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = self.check(value, self.name)


class Checked:
    """Base class before ``nn.Module``, which else puts parameters and modules past a setting."""

    def __setattr__(self, name: str, value: Any) -> None:
        setting = getattr(type(self), name, None)
        if isinstance(setting, Setting):
            setting.__set__(self, value)
        else:
            super().__setattr__(name, value)


def number(least: float = -math.inf, most: float = math.inf) -> Any:
    """A setting that is a number in [least, most]."""
    return Setting(partial(require_number, least=least, most=most))


def choice(*allowed: str) -> Any:
    """A setting that is one of the words ``allowed``."""
    return Setting(partial(require_choice, allowed=allowed))


def flag() -> Any:
    """A setting that is True or False."""
    return Setting(require_flag)
