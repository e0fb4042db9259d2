"""Command-line flags made from the signatures and docstrings of functions and classes."""

import argparse
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

PLAIN = (int, float, str, bool, Path)
"""Types that a flag can parse."""


class Option(NamedTuple):
    """A keyword argument of a function, or a field of a dataclass.

    Attributes:
        name: of the argument.
        kind: type that parses a value.
        default: value if the flag is not given; a tuple of them if several cases differ.
        help: first sentence of its documentation.
        choices: the accepted values of a ``Literal``.
    """

    name: str
    kind: Any
    default: Any
    help: str
    choices: tuple[Any, ...] | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def options_of(source: Any, *, skip: Iterable[str] = (), docs: Iterable[Any] = ()) -> list[Option]:
    """The arguments of a callable that have a default and a type that a flag can parse.

    Args:
        source: a function or class, whose docstring describes them under ``Args:`` or
            ``Attributes:``.
        skip: names to leave out.
        docs: objects whose docstrings describe arguments for which ``source`` refers to them, by
            a text that begins with "see" or "as in".

    >>> def paint(wall, *, colour: Literal["red", "blue"] = "red", coats: int = 2):
    ...     '''Paint.
    ...
    ...     Args:
    ...         colour: of the paint. It dries darker.
    ...         coats: how many.
    ...     '''
    >>> [(o.flag, o.default, o.help) for o in options_of(paint)]
    [('--colour', 'red', 'of the paint'), ('--coats', 2, 'how many')]
    """
    help_of: dict[str, str] = {}
    for documented in (*docs, source):
        sentences = first_sentences(inspect.getdoc(documented) or "")
        help_of |= {n: s for n, s in sentences.items() if not s.startswith(("see ", "as in "))}
    hints = get_type_hints(source.__init__ if inspect.isclass(source) else source)
    options = []
    for name, parameter in inspect.signature(source).parameters.items():
        if parameter.default in (parameter.empty, MISSING) or name in skip:
            continue
        kind, choices = _plain_type(hints.get(name))
        if kind is not None:
            options.append(Option(name, kind, parameter.default, help_of.get(name, ""), choices))
    return options


def first_sentences(docstring: str) -> dict[str, str]:
    """The first sentence on each argument or attribute in a docstring, without markup."""
    sentences: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", docstring + "\n", re.M)
    text = section.group(1) if section else ""
    for entry in re.split(r"^    (?=\w)", text, flags=re.M)[1:]:
        names, _, body = entry.partition(": ")
        body = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|``(.+?)``", r"\1\2", " ".join(body.split()))
        sentences |= dict.fromkeys(names.split(", "), re.split(r"(?<=[^.])\.(?:\s|$)", body)[0])
    return sentences


def _plain_type(hint: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """The type that parses a value, and its choices; (None, None) if no flag can give one."""
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0]), get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        members = [m for m in get_args(hint) if m is not type(None)]
        plain = [m for m in members if _plain_type(m)[0] is not None]
        return _plain_type(plain[0]) if len(plain) == 1 else (None, None)
    return (hint, None) if hint in PLAIN else (None, None)


def add_flags(group: Any, options: Iterable[Option]) -> None:
    """Add a flag for each option, whose value is ``None`` unless given.

    Args:
        group: an argparse parser or argument group.
        options: of :func:`options_of`.
    """
    for option in options:
        several = isinstance(option.default, tuple)
        defaults = dict.fromkeys(option.default if several else (option.default,))
        shown = " / ".join(f"{d:g}" if isinstance(d, float) else str(d) for d in defaults)
        text = option.help if shown == "None" else f"{option.help} (default: {shown})".strip()
        kind: dict[str, Any] = {"type": option.kind}
        if option.kind is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        if option.choices:
            kind["choices"] = option.choices
        group.add_argument(option.flag, default=None, help=text.replace("%", "%%"), **kind)


def given(arguments: argparse.Namespace, options: Iterable[Option]) -> dict[str, Any]:
    """The options that were given on the command line, with their values."""
    values = {option.name: getattr(arguments, option.name, None) for option in options}
    return {name: value for name, value in values.items() if value is not None}


class Family:
    """The options of all classes that a flag such as ``--to NAME`` chooses from.

    Args:
        flag: the flag that chooses.
        classes: by name.
        skip, docs: as in :func:`options_of`.
    """

    def __init__(
        self,
        flag: str,
        classes: Mapping[str, Any],
        *,
        skip: Iterable[str] = (),
        docs: Iterable[Any] = (),
    ) -> None:
        self.flag, self.classes = flag, classes
        self.options = {n: options_of(cls, skip=skip, docs=docs) for n, cls in classes.items()}

    def add_flags(self, command: argparse.ArgumentParser) -> None:
        """Add a flag for each option; classes with an option of the same name share its flag.

        Raises:
            ValueError: the command, or another class, has an option of that name and another type.
        """
        by_option: dict[str, dict[str, Option]] = {}
        for class_name, options in self.options.items():
            for option in options:
                by_option.setdefault(option.name, {})[class_name] = option
        reserved = {action.dest for action in command._actions} | {"command", "defaults"}
        groups: dict[str, list[Option]] = {}
        for name, by_class in by_option.items():
            *others, last = by_class
            if name in reserved or len({(o.kind, o.choices) for o in by_class.values()}) > 1:
                where = "for the command" if name in reserved else f"for {self.flag} {others[0]}"
                raise ValueError(
                    f"the option {name!r} of {self.flag} {last} ({self.classes[last].__name__}) "
                    f"already means something else {where}: rename it"
                )
            option = next(iter(by_class.values()))
            defaults = tuple(option.default for option in by_class.values())
            title = f"{self.flag} {' or '.join(by_class)}"
            groups.setdefault(title, []).append(option._replace(default=defaults))
        for title, members in groups.items():
            add_flags(command.add_argument_group(title), members)

    def given(self, arguments: argparse.Namespace, chosen: str) -> dict[str, Any]:
        """The given options of the chosen class; ``ValueError`` if it lacks one that was given."""
        own = given(arguments, self.options[chosen])
        for name, options in self.options.items():
            for option in options:
                if given(arguments, [option]).keys() - own.keys():
                    if option.name in inspect.signature(self.classes[chosen]).parameters:
                        raise ValueError(
                            f"{option.name} of {self.flag} {chosen} is no flag: annotate it with "
                            "int, float, str, bool, Path or Literal, and give it a default"
                        )
                    raise ValueError(
                        f"{option.flag} belongs to {self.flag} {name}, not to {self.flag} "
                        f"{chosen}: leave it out"
                    )
        return own
