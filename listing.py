"""What is built in: the names that commands know, their settings, and spaces as TOML."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .devices import DEVICES, LOCAL_SETTINGS
from .errors import InputError, unknown_name
from .export.targets import TARGETS, Target
from .names import written
from .search import STRATEGIES
from .supernet import SPACES, load_space
from .supernet.chain import ChainSpace
from .supernet.recipe import to_toml
from .supernet.sources import DATA

KINDS: dict[str, Mapping[str, Any]] = {
    "spaces": SPACES,
    "data": DATA,
    "devices": DEVICES,
    "strategies": STRATEGIES,
    "targets": TARGETS,
}


def names(kind: str) -> list[tuple[str, str, str]]:
    """The built-in spaces, data, devices, strategies or targets: name, first line of documentation, settings."""
    if kind not in KINDS:
        raise unknown_name("thing to list", kind, KINDS)
    return [(name, _words(thing), _settings(kind, name, thing)) for name, thing in KINDS[kind].items()]


def _words(thing: Any) -> str:
    """What a thing is, in a line; of a target also how it is installed."""
    if isinstance(thing, Target):
        return f"{thing.words}: {thing.install}"
    return str(thing.__doc__ or "").strip().splitlines()[0]


def _settings(kind: str, name: str, thing: Any) -> str:
    """The settings of a space or device with their defaults, as they are written behind its name."""
    defaults: dict[str, Any] = {}
    if kind == "spaces":
        defaults = {key: parameter.default for key, parameter in inspect.signature(thing).parameters.items()}
    elif (kind, name) == ("devices", "local"):
        defaults = LOCAL_SETTINGS
    return ",".join(f"{name}={written(value)}" for name, value in defaults.items())


def space_toml(text: str) -> str:
    """A space made of stages as the TOML file that would define it."""
    space = load_space(text)
    if type(space) is not ChainSpace:
        raise InputError(f"{space} is written in Python: it has no TOML form")
    return to_toml(space.recipe)
