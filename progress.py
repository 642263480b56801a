"""How long work says how far it is: one function type, and what to pass when nobody listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, float, str], None]
"""Called with (done, total, a few words); `done` and `total` are in the unit of the work."""


def unheard(text: str) -> None:
    """Nobody listens to notes."""


def silent(done: float, total: float, text: str) -> None:
    """Report to nobody."""
