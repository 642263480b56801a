"""How a text names a thing: settings behind a name, and attributes of Python modules."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from .errors import InputError, unknown_name


def is_attribute(text: str) -> bool:
    """Whether a text has the form `module:attribute`."""
    module, _, attribute = text.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), attribute])


def import_attribute(text: str, kind: type) -> Any:
    """What `module:attribute` names, an instance of `kind` or a function that returns one; else an InputError."""
    module, _, attribute = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found() if callable(found) and not isinstance(found, kind) else found
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"cannot load {text} as a {kind.__name__}: {reason}") from error
    if not isinstance(found, kind):
        raise InputError(f"{text} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def parse_settings(text: str, defaults: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """`size=32,widths=16-24` as typed values; the types of the defaults decide.

    A tuple is written with -, a tuple within a tuple with +: 16+24-32.
    """
    settings: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in defaults:
            raise unknown_name(f"setting of {owner}", key, defaults)
        if key in settings:
            raise InputError(f"{owner}: {key} is given twice: give it once")
        try:
            if not equals:
                raise ValueError
            settings[key] = _parse(value, defaults[key], "-+")
        except ValueError:
            raise InputError(f"{owner}: {item!r} is not a setting; {key} takes {_example(defaults[key])}") from None
    return settings


def written(value: Any, separators: str = "-+") -> str:
    """A value as settings write it: 24-40, or 16+24-40 for a tuple of tuples."""
    if isinstance(value, tuple):
        return separators[0].join(written(part, separators[1:]) for part in value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(text: str, like: Any, separators: str) -> Any:
    if isinstance(like, tuple):
        return tuple(_parse(part, like[0], separators[1:]) for part in text.split(separators[0]))
    if isinstance(like, bool):
        return bool(("0", "1", "false", "true").index(text) % 2)
    return type(like)(text)


def _example(default: Any) -> str:
    if isinstance(default, tuple):
        nested = isinstance(default[0], tuple)
        return f"a list such as {written(default)}" + (" (or 16+24 for a choice)" if nested else "")
    return {bool: "0 or 1", int: "a whole number", float: "a number"}.get(type(default), "a word")
