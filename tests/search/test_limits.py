"""Limits as people write them."""

from __future__ import annotations

import pytest

from hwnas.errors import InputError
from hwnas.search.limits import BYTES, COUNTS, KINDS, TIMES, UNITS, parse_limit, parse_limits


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("flops=300M", "flops", 300e6),
        ("flops=300000000", "flops", 300e6),
        ("flops=3e8", "flops", 300e6),
        ("flops=0.3G", "flops", 300e6),
        ("params=5M", "params", 5e6),
        ("params=500k", "params", 500e3),
        ("memory=2MB", "memory", 2e6),
        ("memory=2mb", "memory", 2e6),
        ("memory=2048", "memory", 2048),
        ("memory=512B", "memory", 512),
        ("pixel8=20ms", "pixel8", 20),
        ("pixel8=20", "pixel8", 20),
        ("pixel8=0.02s", "pixel8", 20),
        ("pixel8=20000us", "pixel8", 20),
        ("jetson-orin.b=1.5 ms", "jetson-orin.b", 1.5),
        (" local=20ms ", "local", 20),
        ("local=.5ms", "local", 0.5),
    ],
)
def test_what_people_write(text: str, name: str, value: float) -> None:
    assert parse_limit(text) == (name, pytest.approx(value, rel=1e-12))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flops",
        "flops=",
        "=3M",
        "flops=M",
        "flops=few",
        "flops=-3",
        "flops=0",
        "flops=0.0M",
        "flops=nan",
        "flops=inf",
        "flops=1e999",
        "flops=1.2.3",
        "flops=3MB",
        "flops=3ms",
        "params=3s",
        "memory=2ms",
        "memory=2M",
        "local=5MB",
        "local=5M",
        "flops=3M,params=2M",
        "flops<=3M",
        "flops 3M",
        "two words=3ms",
    ],
)
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(InputError, match="write NAME=VALUE such as") as error:
        parse_limit(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("kind", [*KINDS, "pixel8"])
@pytest.mark.parametrize("number", [1, 2.5, 0.125, 700])
def test_units_scale(kind: str, number: float) -> None:
    """The same number in two units differs by the ratio of the units; upper and lower case are the same."""
    units = KINDS.get(kind, TIMES)
    for unit in units:
        expected = number * UNITS[unit]
        assert parse_limit(f"{kind}={number}{unit}") == (kind, pytest.approx(expected, rel=1e-12))
        assert parse_limit(f"{kind}={number}{unit.lower()}") == parse_limit(f"{kind}={number}{unit}")


def test_every_unit_belongs_to_a_kind() -> None:
    assert {*COUNTS, *BYTES, *TIMES} == set(UNITS)


def test_several_limits() -> None:
    assert parse_limits(["flops=1M", "local=2ms"]) == {"flops": 1e6, "local": 2.0}
    assert parse_limits([]) == {}


def test_a_second_limit_on_a_cost_is_not_dropped_silently() -> None:
    with pytest.raises(InputError, match=r"'flops=2M' is a second limit on flops"):
        parse_limits(["flops=1M", "flops=2M"])
