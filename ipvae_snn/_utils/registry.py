"""Registries of classes by name: files and the command line refer to classes by these names."""

import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")
C = TypeVar("C", bound="Complete")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Mapping from names to classes, whose instances it converts to plain data and back.

    The plain data of an instance are its dataclass fields, else its ``config()``.
    Only classes that are registered are instantiated, so that a file cannot run code.

    Args:
        kind: what the classes are, for messages.
        base: what they extend.

    >>> from dataclasses import dataclass
    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... @dataclass
    ... class Square:
    ...     side: float
    >>> shapes.to_config(Square(2.0))
    {'name': 'square', 'side': 2.0}
    >>> shapes.from_config({"name": "square", "side": 3.0})
    Square(side=3.0)
    """

    def __init__(self, kind: str, base: type = object) -> None:
        self.kind, self.base = kind, base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers a class as ``name``.

        Raises:
            TypeError: no name; the class does not extend :attr:`base`, or lacks a method of it.
            ValueError: the name is taken by another class.
        """
        if not isinstance(name, str):
            raise TypeError(f'register needs a name, as in @register("name"), got {name!r}')

        def add(cls: type[T]) -> type[T]:
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise TypeError(
                    f"{cls!r} cannot be registered as {self.kind} {name!r}: it must extend "
                    f"{self.base.__name__}"
                )
            _require_complete(cls)
            known = self._classes.get(name)
            # A notebook cell that runs again defines the same class again.
            if known is not None and _path(known) != _path(cls):
                raise ValueError(
                    f"the {self.kind} name {name!r} is taken by {known.__name__}: choose another "
                    "name"
                )
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def find(self, name: Any) -> type[T]:
        """The class registered as ``name``; else ``ValueError`` that lists all names."""
        if not isinstance(name, str) or name not in self._classes:
            raise ValueError(
                f"unknown {self.kind} {name!r}: expected one of {', '.join(self._classes)}; import "
                "the module that registers it if it is your own"
            )
        return self._classes[name]

    def name_of(self, item: T) -> str | None:
        """The name that the class of ``item`` is registered as, else ``None``."""
        return next((name for name, cls in self._classes.items() if cls is type(item)), None)

    def to_config(self, item: T) -> dict[str, Any]:
        """``item`` as plain data.

        Raises:
            TypeError: its class is not registered, or an option is no plain data.
        """
        name = self.name_of(item)
        if name is None:
            raise TypeError(
                f"only {', '.join(self._classes)} can be written as plain data, got {item!r}: "
                f"register the {self.kind} under a name first"
            )
        return {"name": name, **plain(_options(item), item)}

    def from_config(self, config: Any) -> T:
        """Make an instance from the plain data of :meth:`to_config`.

        Raises:
            TypeError: ``config`` is not a dictionary.
            ValueError: an unknown name, or options that the class does not take.
        """
        if not isinstance(config, dict):
            raise TypeError(f"config must be a dictionary, as to_config gives, got {config!r}")
        options = dict(config)
        cls = self.find(options.pop("name", None))
        try:
            return cls(**options)
        except TypeError as error:
            raise ValueError(
                f"{self.kind} {config['name']!r} cannot be made from {options}: {error}"
            ) from None


def _path(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _options(item: Any) -> dict[str, Any]:
    """The constructor arguments of ``item``: its dataclass fields, or its ``config()``."""
    if not is_dataclass(item):
        return item.config() if callable(getattr(item, "config", None)) else {}
    known = [f for f in fields(item) if f.init]
    if inspect.signature(type(item)).parameters.keys() != {f.name for f in known}:
        raise TypeError(
            f"{type(item).__name__} takes options that are no fields: decorate it with @dataclass, "
            "in place of an __init__ of its own"
        )
    return {f.name: getattr(item, f.name) for f in known if f.metadata.get("saved", True)}


class Complete:
    """Base class of classes that cannot be made before all their abstract methods are defined.

    As ``abc.ABC``, without a metaclass, and with a message that tells the arguments.
    """

    def __new__(cls: type[C], *values: Any, **named: Any) -> C:
        _require_complete(cls)
        return super().__new__(cls)


def _require_complete(cls: type) -> None:
    for name, method in ((n, m) for base in cls.__mro__ for n, m in vars(base).items()):
        abstract = getattr(method, "__isabstractmethod__", False) is True
        if abstract and inspect.getattr_static(cls, name) is method:
            arguments = ", ".join(list(inspect.signature(method).parameters)[1:])
            raise TypeError(f"{cls.__name__} must define {name}({arguments})")


class Recorded(Complete):
    """Base class that records constructor arguments, and returns them from ``config()``.

    For classes whose constructor takes plain data, so that a file can hold their instances. An
    attribute of the name of an argument that was set since replaces it.

    >>> class Disc(Recorded):
    ...     def __init__(self, radius, *, filled=True):
    ...         self.radius = radius
    >>> disc = Disc(2.0)
    >>> disc.radius = 3.0
    >>> disc.config()
    {'radius': 3.0, 'filled': True}
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" not in vars(cls):
            return
        construct = cls.__init__
        signature = inspect.signature(construct)

        @wraps(construct)
        def init(self: Any, *values: Any, **named: Any) -> None:
            if "_arguments" in self.__dict__:  # a subclass has recorded its own
                construct(self, *values, **named)
                return
            bound = signature.bind(self, *values, **named)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            for name, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    arguments |= arguments.pop(name)
            self.__dict__["_arguments"] = arguments
            construct(self, *values, **named)
            attributes = {name: getattr(self, name) for name in arguments if hasattr(self, name)}
            self.__dict__["_made"] = {n: _plain(v) for n, v in attributes.items() if _is_plain(v)}

        cls.__init__ = init  # type: ignore[method-assign]

    def _options(self) -> dict[str, Any]:
        """The arguments by name, defaults included, as they would be now."""
        made = self.__dict__.get("_made", {})
        now = {name: getattr(self, name, None) for name in made}
        changed = {n: v for n, v in now.items() if not _is_plain(v) or _plain(v) != made[n]}
        return {**self.__dict__.get("_arguments", {}), **changed}

    def config(self) -> dict[str, Any]:
        """The arguments by name, defaults included, as plain data."""
        return plain(self._options(), self)


def plain(options: Mapping[str, Any], item: Any) -> dict[str, Any]:
    """The options of ``item`` as files hold them: numbers of any type as Python's own.

    Raises:
        TypeError: an option is no plain data.
    """
    content = {}
    for name, value in options.items():
        try:
            content[name] = _plain(value)
        except TypeError as error:
            raise TypeError(
                f"{name} of {type(item).__name__} cannot be written to files, it holds a {error}: "
                "take numbers, text, and lists or dictionaries of them"
            ) from None
    return content


def _plain(value: Any) -> Any:
    """``value`` as plain data; a ``TypeError`` says what it is if it is none."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | torch.dtype):
        return value
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, str):
        return "".join(value)  # of a subclass too
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, dict):
        return {_plain(name): _plain(part) for name, part in value.items()}
    raise TypeError(getattr(value, "__name__", "") or type(value).__name__)


def _is_plain(value: Any) -> bool:
    try:
        _plain(value)
    except TypeError:
        return False
    return True
