"""Additive costs against enumeration of every architecture."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.supernet.additive import AdditiveCost, additive
from hwnas.supernet.layer import Node
from hwnas.supernet.space import Arch, ChoiceSpace, SearchSpace

CASES = [(4,), (1, 1), (3, 2, 4), (2, 1, 3, 2), (3, 3, 3, 3, 3), (1, 4, 1, 4)]


def random_cost(options: tuple[int, ...], pairs: str, seed: int) -> AdditiveCost:
    """`pairs`: none of the pairwise tables, every second one, or all."""
    rng = np.random.default_rng(seed)
    unary = tuple(rng.normal(size=n) for n in options)
    tables = [rng.normal(size=shape) for shape in pairwise(options)]
    some = tuple(table if i % 2 else None for i, table in enumerate(tables))
    kept = {"none": (), "some": some, "all": tuple(tables)}
    return AdditiveCost(float(rng.normal()), unary, kept[pairs])


def by_definition(cost: AdditiveCost, arch: Arch) -> float:
    total = cost.offset + sum(float(table[gene]) for table, gene in zip(cost.unary, arch, strict=True))
    for i, pair in enumerate(cost.pairwise):
        total += 0.0 if pair is None else float(pair[arch[i], arch[i + 1]])
    return total


every = pytest.mark.parametrize(
    ("options", "pairs", "seed"),
    [(options, pairs, seed) for options in CASES for pairs in ("none", "some", "all") for seed in range(3)],
)


@every
def test_prices_bounds_and_argmin_by_enumeration(options: tuple[int, ...], pairs: str, seed: int) -> None:
    cost = random_cost(options, pairs, seed)
    archs = list(product(*map(range, options)))
    truth = np.array([by_definition(cost, arch) for arch in archs])
    np.testing.assert_allclose(cost(archs), truth, rtol=1e-12, atol=1e-12)
    assert cost.argmin() == archs[int(truth.argmin())]
    assert cost.bounds() == (cost(archs).min(), cost(archs).max())  # to the last bit: limits compare with it


@every
def test_affine_scales_every_cost_and_swaps_the_ends(options: tuple[int, ...], pairs: str, seed: int) -> None:
    cost = random_cost(options, pairs, seed)
    archs = list(product(*map(range, options)))
    turned = cost.affine(-2.5, 4.0)
    np.testing.assert_allclose(turned(archs), -2.5 * cost(archs) + 4, rtol=1e-12, atol=1e-12)
    low, high = cost.bounds()
    np.testing.assert_allclose(turned.bounds(), (-2.5 * high + 4, -2.5 * low + 4), rtol=1e-12, atol=1e-12)


@every
def test_tables_are_recovered_from_prices(options: tuple[int, ...], pairs: str, seed: int) -> None:
    cost = random_cost(options, pairs, seed)
    found = additive(ChoiceSpace(options), lambda arch: by_definition(cost, arch))
    assert found is not None
    archs = list(product(*map(range, options)))
    np.testing.assert_allclose(found(archs), cost(archs), rtol=1e-9, atol=1e-9)
    if pairs == "none":
        assert not found.pairwise


def test_other_functions_are_not_taken_for_additive() -> None:
    space = ChoiceSpace([3] * 4)
    assert additive(space, lambda arch: float(arch[0] * arch[2])) is None
    assert additive(space, lambda arch: float(max(arch))) is None
    assert additive(space, lambda arch: float(arch[0] * arch[1])) is not None


class Varying(SearchSpace):
    def choices(self, prefix: Arch = ()) -> int | None:
        return None if prefix and len(prefix) > prefix[0] else 3

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise NotImplementedError(arch)


def test_varying_lengths_have_no_tables() -> None:
    assert additive(Varying(), lambda arch: float(len(arch))) is None


@pytest.mark.parametrize("archs", [[], [(0, 1)], [(0, 1, 5)], [(0, -1, 0)], np.zeros((0, 2), dtype=int)], ids=str)
def test_what_are_no_architectures_is_said(archs: object) -> None:
    cost = random_cost((3, 2, 4), "all", 0)
    with pytest.raises(InputError, match=r"must be \(n, 3\) numbers of options, below \[3, 2, 4\]; these are"):
        cost(archs)
    assert cost(np.zeros((0, 3), dtype=int)).shape == (0,)
