"""Rank correlations and regret against loops over pairs and bands, and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hwnas.supernet.ranking import BAND, difference, ranking


def networks(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs, true accuracies that grow with them, and what is said: the truth and noise."""
    rng = np.random.default_rng(seed)
    costs = rng.uniform(1, 4, n)
    truth = 0.8 + 0.05 * np.log(costs) + rng.normal(0, 0.01, n)
    return costs, truth, truth + rng.normal(0, noise, n)


def test_over_all_networks_it_is_scipys() -> None:
    costs, truth, said = networks(40, 0.02)
    said[3] = said[7]  # a tie
    found = ranking(said, truth, costs)
    assert found.tau.value == pytest.approx(stats.kendalltau(said, truth).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(said, truth).statistic)
    assert found.nets == 40


def test_in_bands_it_is_that_of_the_pairs_of_equal_cost() -> None:
    costs, truth, said = networks(40, 0.02)
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(40), 2)
        if max(costs[i] / costs[j], costs[j] / costs[i]) <= (1 + BAND) / (1 - BAND)
    ]
    alike = sum(1 if (said[i] - said[j]) * (truth[i] - truth[j]) > 0 else -1 for i, j in pairs)
    found = ranking(said, truth, costs)
    assert found.pairs_in_bands == len(pairs)
    assert found.tau_in_bands is not None
    assert found.tau_in_bands.value == pytest.approx(alike / len(pairs))


def test_regret_is_what_the_choice_in_each_band_loses() -> None:
    costs, truth, said = networks(40, 0.02)
    lost = []
    for centre in costs:
        band = [i for i in range(40) if abs(costs[i] / centre - 1) <= BAND]
        if len(band) > 1:
            chosen = max(band, key=lambda i: said[i])
            lost.append(max(truth[i] for i in band) - truth[chosen])
    found = ranking(said, truth, costs)
    assert found.regret is not None
    assert found.regret.value == pytest.approx(np.mean(lost))
    assert found.regret.value > 0


def test_who_only_knows_the_size_ranks_well_over_all_and_not_in_bands() -> None:
    costs, truth, _ = networks(300, 0)
    found = ranking(costs, truth, costs)
    assert found.tau_in_bands is not None
    assert found.tau.value > 0.5
    assert found.tau_in_bands.value < 0.2


def test_the_truth_itself_is_right_everywhere() -> None:
    costs, truth, _ = networks(30, 0)
    found = ranking(truth, truth, costs)
    assert found.tau_in_bands is not None
    assert found.regret is not None
    assert (found.tau.value, found.tau.low, found.spearman.value) == pytest.approx((1, 1, 1))
    assert (found.tau_in_bands.value, found.regret.value, found.regret.high) == pytest.approx((1, 0, 0))


def test_the_intervals_hold_the_figures_of_all_networks() -> None:
    """What 50 networks tell of a thousand others like them."""
    costs, truth, said = networks(1000, 0.02, seed=5)
    whole, rng, held = ranking(said, truth, costs), np.random.default_rng(1), []
    assert whole.tau_in_bands is not None
    for _ in range(60):
        rows = rng.choice(1000, 50, replace=False)
        found = ranking(said[rows], truth[rows], costs[rows])
        assert found.tau_in_bands is not None
        held.append(
            [
                found.tau.low <= whole.tau.value <= found.tau.high,
                found.tau_in_bands.low <= whole.tau_in_bands.value <= found.tau_in_bands.high,
            ]
        )
    assert (np.mean(held, axis=0) >= 0.85).all()


def test_networks_that_all_cost_differently_have_no_bands() -> None:
    found = ranking([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [1.0, 2.0, 4.0])
    assert (found.tau_in_bands, found.regret, found.pairs_in_bands) == (None, None, 0)
    assert found.tau.value == pytest.approx(1 / 3)


def test_intervals_are_numbers_where_draws_leave_bands_empty() -> None:
    """Networks far apart, some of them in pairs: a draw may miss both of a pair."""
    rng = np.random.default_rng(0)
    costs = np.repeat(1.5 ** np.arange(10), 2) * np.tile([1.0, 1.02], 10)
    found = ranking(rng.normal(size=20), rng.normal(size=20), costs)
    assert found.regret is not None
    assert 0 <= found.regret.low <= found.regret.value <= found.regret.high


def test_a_difference_is_that_of_two_rankings() -> None:
    costs, truth, said = networks(60, 0.01)
    other = said + np.random.default_rng(9).normal(0, 0.005, 60)
    one, two = ranking(said, truth, costs), ranking(other, truth, costs)
    found = difference(said, other, truth, costs)
    assert found.tau.value == pytest.approx(one.tau.value - two.tau.value)
    assert found.tau_in_bands is not None
    assert one.tau_in_bands is not None
    assert two.tau_in_bands is not None
    assert found.tau_in_bands.value == pytest.approx(one.tau_in_bands.value - two.tau_in_bands.value)
    assert found.tau.low <= found.tau.value <= found.tau.high
    assert found.tau.high - found.tau.low < one.tau.high - one.tau.low  # both err on the same networks


def test_between_what_says_the_same_there_is_no_difference() -> None:
    costs, truth, said = networks(30, 0.01)
    found = difference(said, 2 * said, truth, costs)
    assert (found.tau.value, found.tau.low, found.tau.high) == (0, 0, 0)
    assert difference([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]).tau_in_bands is None
