"""The spaces of tables: known by their text, each once, and not run where they are code of someone's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..latency import LatencyTable
from ..supernet.layer import Node
from ..supernet.space import Arch, SearchSpace


class UnreadSpace(SearchSpace):
    """A space written in Python, of which a file tells the name alone."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def choices(self, prefix: Arch = ()) -> int | None:
        """Unknown."""
        raise InputError(f"the code of the space {self.spec} was not read: it has no choices, {prefix} is none")

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        """Unknown."""
        raise InputError(f"the code of the space {self.spec} was not read: it has no graph of {arch}")


def predicts(table: LatencyTable) -> bool:
    """Whether a table tells the latency of networks here."""
    return table.timed and not isinstance(table.space, UnreadSpace)


def of_space(table: LatencyTable, spec: str, arch: Arch) -> bool:
    """Whether a table is of the space that `spec` names, and as it was when `arch` was found there.

    A TOML file may have been changed since.
    """
    if table.space.spec != spec or isinstance(table.space, UnreadSpace):
        return table.space.spec == spec
    try:
        return bool(table.space.check(arch))
    except InputError:
        return False


def shared(tables: Mapping[Path, LatencyTable]) -> dict[Path, LatencyTable]:
    """Tables of which those of one space have it in common: what its layers cost is counted once, not for each."""
    known: dict[tuple[str, str], SearchSpace] = {}
    found = {}
    for path, table in tables.items():
        space = table.space
        if not isinstance(space, UnreadSpace):
            space = known.setdefault((space.spec, space.fingerprint()), space)
        found[path] = replace(table, space=space)
    return found
