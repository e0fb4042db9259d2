"""Classes by name: how files and the command line say which estimator, model or target is meant."""

import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Names and the classes they stand for; an instance can be written as plain data and read back.

    What is written of an instance is its ``config()`` where it has one, else the fields of its
    dataclass. Reading makes an instance of a class that is registered already: no code comes out of
    a file.

    Args:
        kind: what the classes are, for messages.

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

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator: from now on ``name`` stands for this class.

        Raises:
            ValueError: the name stands for another class already.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            # A module that is run again, as notebooks do, defines its classes again.
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ValueError(
                    f"the {self.kind} {name!r} is {known.__name__}: choose another name"
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
        """The class of that name; ``ValueError`` that lists the names if there is none."""
        if not isinstance(name, str) or name not in self._classes:
            raise ValueError(
                f"unknown {self.kind} {name!r}: expected one of {', '.join(self._classes)}, or one "
                "of your own, whose module must be imported first"
            )
        return self._classes[name]

    def name_of(self, item: T) -> str | None:
        """The name of the class of ``item``, ``None`` if it has none."""
        return next((name for name, cls in self._classes.items() if cls is type(item)), None)

    def to_config(self, item: T) -> dict[str, Any]:
        """``item`` as plain data.

        Raises:
            TypeError: its class is not registered.
        """
        name = self.name_of(item)
        if name is None:
            raise TypeError(
                f"only {', '.join(self._classes)} can be written down as plain data, got {item!r}: "
                f"register the {self.kind} under a name first"
            )
        return {"name": name, **plain_options(item)}

    def from_config(self, config: Any) -> T:
        """What :meth:`to_config` wrote down.

        Raises:
            TypeError: ``config`` is no dictionary.
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


def plain_options(item: Any) -> dict[str, Any]:
    """The options that make ``item`` again: its ``config()``, or its dataclass fields."""
    if callable(getattr(item, "config", None)):
        return dict(item.config())
    if not is_dataclass(item):
        return {}
    kept = (f.name for f in fields(item) if f.init and f.metadata.get("saved", True))
    return {name: getattr(item, name) for name in kept}


class Recorded:
    """Remembers the arguments that an instance was made with: they are its ``config()``.

    For classes whose constructor takes plain data, and so can be made again from a file.

    >>> class Disc(Recorded):
    ...     def __init__(self, radius, *, filled=True): ...
    >>> Disc(2.0).config()
    {'radius': 2.0, 'filled': True}
    """

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" not in vars(cls):
            return
        make = cls.__init__
        signature = inspect.signature(make)

        @wraps(make)
        def init(self: Any, *values: Any, **named: Any) -> None:
            if "_arguments" not in self.__dict__:  # else a subclass is being made, and recorded
                bound = signature.bind(self, *values, **named)
                bound.apply_defaults()
                arguments = dict(list(bound.arguments.items())[1:])
                for name, parameter in signature.parameters.items():
                    if parameter.kind is parameter.VAR_KEYWORD:
                        arguments |= arguments.pop(name)
                self.__dict__["_arguments"] = arguments
            make(self, *values, **named)

        cls.__init__ = init  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """The arguments by name, defaults included; numbers of any type as Python's own."""
        return {name: _plain_number(value) for name, value in self._arguments.items()}


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)
