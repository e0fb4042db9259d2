"""Options of functions and dataclasses, told once: signature and docstring become command flags."""

import argparse
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

PLAIN = (int, float, str, bool, Path)
"""Types whose values a command line can give."""


class Option(NamedTuple):
    """One option: a keyword of a function, or a field of a dataclass."""

    name: str
    kind: Any
    default: Any
    help: str
    choices: tuple[Any, ...] | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def options_of(source: Any, *, skip: Iterable[str] = (), docs: Iterable[Any] = ()) -> list[Option]:
    """The options with defaults of a callable that a command line can give.

    Args:
        source: a function or class, whose docstring tells of them under ``Args:`` or
            ``Attributes:``.
        skip: names to leave out.
        docs: where else they are told of, if there it says no more than "see" or "as in".

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
    told: dict[str, str] = {}
    for documented in (*docs, source):
        own = described(inspect.getdoc(documented) or "")
        told |= {n: text for n, text in own.items() if not text.startswith(("see ", "as in "))}
    made = source.__init__ if inspect.isclass(source) else source
    hints = get_type_hints(made)
    found = []
    for name, parameter in inspect.signature(source).parameters.items():
        if parameter.default in (parameter.empty, MISSING) or name in skip:
            continue
        kind, choices = _plain_type(hints.get(name))
        if kind is not None:
            found.append(Option(name, kind, parameter.default, told.get(name, ""), choices))
    return found


def described(docstring: str) -> dict[str, str]:
    """The first sentence that a docstring tells of each argument or attribute, without markup."""
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", docstring + "\n", re.M)
    text = section.group(1) if section else ""
    for entry in re.split(r"^    (?=\w)", text, flags=re.M)[1:]:
        names, _, told = entry.partition(": ")
        told = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|``(.+?)``", r"\1\2", " ".join(told.split()))
        sentence = re.split(r"(?<=[^.])\.(?:\s|$)", told)[0]
        found |= dict.fromkeys(names.split(", "), sentence)
    return found


def _plain_type(hint: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """The type that reads a value, and its choices; None where a command line cannot give one."""
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0]), get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        members = [m for m in get_args(hint) if m is not type(None)]
        plain = [m for m in members if _plain_type(m)[0] is not None]
        return _plain_type(plain[0]) if len(plain) == 1 else (None, None)
    return (hint, None) if hint in PLAIN else (None, None)


def add_flags(group: Any, options: Iterable[Option], shown: str = "default: {}") -> None:
    """A flag for each option; what is not given on the command line is ``None``.

    Args:
        group: an argparse parser or group of one.
        options: of :func:`options_of`.
        shown: how the help tells the default.
    """
    for option in options:
        default = "" if option.default is None else f" ({shown.format(option.default)})"
        told = f"{option.help}{default}".strip()
        kind: dict[str, Any] = {"type": option.kind}
        if option.kind is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        if option.choices:
            kind["choices"] = option.choices
        group.add_argument(option.flag, default=None, help=told.replace("%", "%%"), **kind)


def given(arguments: argparse.Namespace, options: Iterable[Option]) -> dict[str, Any]:
    """The values of the options that were given on the command line."""
    values = {option.name: getattr(arguments, option.name, None) for option in options}
    return {name: value for name, value in values.items() if value is not None}


class Family:
    """Classes that a flag such as ``--to NAME`` chooses from, each with options of its own.

    Args:
        flag: what chooses.
        options: of each class, by its name.
    """

    def __init__(self, flag: str, options: Mapping[str, list[Option]]) -> None:
        self.flag, self.options = flag, options

    def add_flags(self, command: argparse.ArgumentParser) -> None:
        """A flag for each option of the classes; options of the same name share one.

        Raises:
            ValueError: the command itself or another class uses the name for something else.
        """
        of_name: dict[str, dict[str, Option]] = {}
        for name, options in self.options.items():
            for option in options:
                of_name.setdefault(option.name, {})[name] = option
        reserved = {action.dest for action in command._actions} | {"command"}
        groups: dict[str, list[Option]] = {}
        for name, alike in of_name.items():
            if name in reserved or len({(o.kind, o.choices) for o in alike.values()}) > 1:
                raise ValueError(
                    f"the option {name!r} of {self.flag} {list(alike)[-1]} already means "
                    "something else: rename it"
                )
            first = next(iter(alike.values()))
            defaults = dict.fromkeys(o.default for o in alike.values())
            if len(defaults) > 1:
                first = first._replace(default=" / ".join(map(str, defaults)))
            groups.setdefault(f"{self.flag} {' or '.join(alike)}", []).append(first)
        for title, members in groups.items():
            add_flags(command.add_argument_group(title), members)

    def given(self, arguments: argparse.Namespace, chosen: str) -> dict[str, Any]:
        """The options of the chosen class that were given; ``ValueError`` if one of another was."""
        own = given(arguments, self.options[chosen])
        for name, options in self.options.items():
            for option in options:
                if given(arguments, [option]).keys() - own.keys():
                    raise ValueError(
                        f"{option.flag} belongs to {self.flag} {name}, not to {self.flag} "
                        f"{chosen}: leave it out"
                    )
        return own
