"""Limits as people write them: `flops=300M`, `memory=2MB`, `pixel8=20ms`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..errors import InputError

UNITS = {
    "": 1.0,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "B": 1.0,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "US": 1e-3,
    "MS": 1.0,
    "S": 1e3,
}
COUNTS = ("", "K", "M", "G")
BYTES = ("", "B", "KB", "MB", "GB")
TIMES = ("", "US", "MS", "S")
KINDS = {"flops": COUNTS, "params": COUNTS, "memory": BYTES}  # everything else is a device: a time


def parse_limit(text: str) -> tuple[str, float]:
    """`NAME=VALUE` as the name and the value in the unit of its cost: a count, bytes, or milliseconds."""
    match = re.fullmatch(r"([^=\s]+)=([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zA-Z]*)", text.strip())
    units = KINDS.get(match[1], TIMES) if match else ()
    try:
        if match is None or match[3].upper() not in units:
            raise ValueError
        value = float(match[2]) * UNITS[match[3].upper()]
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
    except ValueError:
        raise InputError(
            f"{text!r} is not a limit: write NAME=VALUE such as flops=300M, params=5M, memory=2MB or local=20ms"
        ) from None
    return match[1], value


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """Several limits by name; InputError where a name comes twice."""
    limits: dict[str, float] = {}
    for text in texts:
        name, value = parse_limit(text)
        if name in limits:
            raise InputError(f"{text!r} is a second limit on {name}: give one limit per cost")
        limits[name] = value
    return limits
