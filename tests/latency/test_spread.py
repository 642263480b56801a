"""Architectures from the cheapest to the dearest, in equal steps."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.latency import spread
from hwnas.supernet import AdditiveCost, Arch, ChoiceSpace

SPACE = ChoiceSpace([4] * 10)
COST = AdditiveCost(1.0, tuple(np.random.default_rng(i).random(4) * i for i in range(10)))


def test_steps_are_equal_from_end_to_end() -> None:
    costs = COST(spread(SPACE, COST, 15, seed=0))
    low, high = COST.bounds()
    assert (costs[0], costs[-1]) == (low, high)
    np.testing.assert_allclose(np.diff(costs), (high - low) / 14, rtol=0.25)


def test_it_is_a_function_of_the_seed() -> None:
    assert spread(SPACE, COST, 10, seed=3) == spread(SPACE, COST, 10, seed=3)
    assert spread(SPACE, COST, 10, seed=3) != spread(SPACE, COST, 10, seed=4)


def test_excluded_ones_are_left_out_and_none_comes_twice() -> None:
    first = spread(SPACE, COST, 20, seed=0)
    second = spread(SPACE, COST, 20, seed=0, exclude=first)
    assert len({*first, *second}) == 40


def test_a_small_space_gives_what_it_has() -> None:
    space, cost = ChoiceSpace([2, 3]), AdditiveCost(0.0, (np.arange(2.0), np.arange(3.0)))
    assert len(set(spread(space, cost, 50, seed=0))) == 6
    assert len(spread(space, cost, 50, seed=0, exclude=[(0, 0), (1, 2)])) == 4


def test_a_cost_that_is_no_sum_is_spread_as_well() -> None:
    def peak(archs: Sequence[Arch]) -> np.ndarray:
        return np.array([float(max(arch)) for arch in archs])

    found = spread(SPACE, peak, 4, seed=0, exclude=[(0,) * 10])
    assert sorted(max(arch) for arch in found) == pytest.approx([1, 1, 2, 3], abs=1)
    assert max(map(max, found)) == 3


def test_networks_that_are_the_same_count_once() -> None:
    class Unordered(ChoiceSpace):
        def canonical(self, arch: Arch) -> Arch:
            return tuple(sorted(arch))

    found = spread(Unordered([3] * 3), AdditiveCost(0.0, (np.arange(3.0),) * 3), 100, seed=0)
    assert len(found) == 10
    assert all(list(arch) == sorted(arch) for arch in found)


def test_a_space_that_is_used_up_says_so() -> None:
    space, cost = ChoiceSpace([2]), AdditiveCost(0.0, (np.arange(2.0),))
    with pytest.raises(InputError, match=r"every architecture of ChoiceSpace\(1 choices, 2 architectures\) is taken"):
        spread(space, cost, 5, seed=0, exclude=[(0,), (1,)])


def test_it_draws_from_no_global_generator() -> None:
    random.seed(0)
    state = random.getstate()
    spread(SPACE, COST, 5, seed=0)
    assert random.getstate() == state
