"""Racing: who is given up is hardly ever the best, and what a search is told depends on nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import comb
from pathlib import Path

import numpy as np
import pytest

from hwnas.search import STRATEGIES, EvaluationStore, Problem, RacedAccuracy, SearchResult, search
from hwnas.search import Evaluation as Evaluation_
from hwnas.search.problem import Estimate
from hwnas.search.racing import GROUP, LEVEL, Racer, Right, given_up, outcome, raced
from hwnas.supernet import ChoiceSpace
from hwnas.supernet.evaluation import BATCH
from hwnas.supernet.space import Arch

IMAGES = 1200
SPACE = ChoiceSpace([3] * 5)
BUDGET = 60


@lru_cache(maxsize=1000)
def answers(arch: Arch) -> Right:
    """Of every image whether a network is right: with larger genes more often, and each has errors of its own."""
    shared, own = np.random.default_rng(0), np.random.default_rng([7, *arch])
    difficulty = shared.random(IMAGES) + own.normal(0, 0.02, IMAGES)
    right: Right = difficulty < 0.3 + 0.06 * sum(arch)
    return right


def batches(right: Right) -> Callable[[int], Iterator[Right]]:
    return lambda first: (right[start : start + BATCH] for start in range(first * BATCH, len(right), BATCH))


class Evaluation:
    """Evaluates candidates, and remembers how many images of each are known, and from which batch on it looked."""

    def __init__(self) -> None:
        self.seen: list[tuple[Arch, int]] = []
        self.first: dict[Arch, int] = {}

    def __call__(self, racers: list[Racer]) -> Iterable[Right]:
        for arch, known, rival in racers:
            self.first[arch] = len(known) // BATCH
            right = raced(self._look(arch), rival, known)
            self.seen.append((arch, len(right)))
            yield right

    def _look(self, arch: Arch) -> Callable[[int], Iterator[Right]]:
        def look(first: int) -> Iterator[Right]:
            assert first == self.first[arch]  # nothing is looked at twice
            return batches(answers(arch))(first)

        return look


def run(
    path: Path,
    strategy: str = "evolution",
    seed: int = 0,
    budget: int = BUDGET,
    place: int | None = 1,
    together: int = 1,
) -> tuple[SearchResult, Evaluation, RacedAccuracy]:
    evaluate = Evaluation()
    with EvaluationStore(path) as store:
        accuracy = RacedAccuracy(store, "key", IMAGES, evaluate, together, place)
        return search(Problem(SPACE, accuracy), strategy, budget, seed), evaluate, accuracy


@pytest.mark.parametrize(("wins", "level"), [(6, 0.05), (40, 0.05), (40, 0.2), (200, 0.05)])
def test_of_networks_as_good_as_their_rival_at_most_the_level_is_given_up(wins: int, level: float) -> None:
    """In random orders of the images; 0.015 is three deviations of what 2,000 orders tell of 0.05."""
    rng, rounds = np.random.default_rng(wins), 2000
    right, rival = np.zeros(1000, dtype=bool), np.zeros(1000, dtype=bool)
    right[:wins], rival[wins : 2 * wins] = True, True
    lost = 0
    for _ in range(rounds):
        order = rng.permutation(1000)
        lost += given_up(right[order], rival[order], level) is not None
    assert lost / rounds <= level + 0.015
    assert wins < 40 or lost / rounds > level / 20  # it does give up


def test_the_bound_of_a_race_is_above_the_reflection_principle() -> None:
    for half in (1, 5, 30, 200):
        for behind in range(1, half + 1):
            exact = comb(2 * half, half + behind) / comb(2 * half, half)
            assert exact <= np.exp(-2 * behind**2 / (2 * half + 1))


def test_the_better_is_never_given_up_and_the_worse_soon() -> None:
    good, bad = answers((2,) * 5), answers((0,) * 5)
    assert given_up(good, bad) is None
    assert given_up(good, good) is None
    seen = given_up(bad, good)
    assert seen is not None
    assert seen == BATCH == len(raced(batches(bad), good))


def test_who_falls_behind_in_the_last_batch_is_seen_to_the_end() -> None:
    good = np.ones(IMAGES, dtype=bool)
    bad = good.copy()
    bad[-20:] = False
    assert given_up(bad, good) is None
    assert outcome(bad, good, IMAGES) == bad.mean()


def test_an_estimate_is_below_its_rival_and_asks_for_no_more_images() -> None:
    good, bad = answers((2,) * 5), answers((1, 0, 0, 0, 0))
    value = outcome(raced(batches(bad), good), good, IMAGES)
    assert value is not None
    assert value < good.mean()
    assert outcome(bad, good, IMAGES) == value  # knowing more changes nothing
    assert outcome(bad, None, IMAGES) == bad.mean()
    assert outcome(bad[:BATCH], None, IMAGES) is None


def test_an_estimate_is_below_its_rival_wherever_the_race_ended() -> None:
    """Once, a race could end within a batch by whose end the candidate had caught up: estimated above its rival."""
    rng, told = np.random.default_rng(0), 0
    for _ in range(3000):
        right, rival = rng.random(256) < 0.5, rng.random(256) < 0.5
        value = outcome(right, rival, 256)
        if isinstance(value, Estimate):
            told += 1
            assert value < rival.mean()
    assert told > 100
    caught_up = np.repeat([False, True], [64, 192])
    assert given_up(caught_up, ~caught_up) is None


def test_answers_of_another_machine_stay_and_are_added_to(tmp_path: Path) -> None:
    """Once, a candidate whose stored answers differed a little was left out, and the next got its accuracy."""
    best, worse, other = (2,) * 5, (0, 0, 0, 0, 1), (1,) * 5
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        accuracy = RacedAccuracy(store, "key", IMAGES, Evaluation())
        list(accuracy([best]))
        rounded = answers(best)[:BATCH].copy()
        rounded[:3] = ~rounded[:3]
        store.add_answers("key", worse, rounded, IMAGES, 1.0)
        first, second = accuracy([worse, other])
        seen = store.answers("key", worse)
    assert np.array_equal(seen[:BATCH], rounded)
    assert np.array_equal(seen[BATCH:], answers(worse)[BATCH : len(seen)])
    assert first == outcome(seen, answers(best), IMAGES)
    assert second == outcome(answers(other), answers(best), IMAGES)


def test_answers_that_change_under_a_race_leave_every_value_where_it_belongs(tmp_path: Path) -> None:
    """Another search on another machine may store its answers while this one evaluates."""
    best, worse, other = (2,) * 5, (0, 0, 0, 0, 1), (1,) * 5
    with EvaluationStore(tmp_path / "a.sqlite") as store:

        def evaluate(racers: list[Racer]) -> Iterator[Right]:
            for arch, known, rival in racers:
                if arch == worse:
                    store.add_answers("key", worse, answers(best)[: 4 * BATCH], IMAGES, 1.0)
                yield raced(batches(answers(arch)), rival, known)

        accuracy = RacedAccuracy(store, "key", IMAGES, evaluate)
        list(accuracy([best]))
        first, second = accuracy([worse, other])
    assert first == outcome(answers(worse), answers(best), IMAGES)
    assert second == outcome(answers(other), answers(best), IMAGES)


def test_accuracies_without_answers_will_do_where_none_is_given_up(tmp_path: Path) -> None:
    """Stores of before answers were kept, and a front that answers a limit."""
    evaluate, archs = Evaluation(), [(0,) * 5, (1,) * 5]
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        store.add("key", archs[0], 0.5, 1.0)
        accuracy = RacedAccuracy(store, "key", IMAGES, evaluate, place=None)
        assert list(accuracy(archs)) == [0.5, answers(archs[1]).mean()]
    assert evaluate.seen == [(archs[1], IMAGES)]
    assert accuracy.new == {archs[1]}


def test_only_what_was_seen_to_the_end_is_an_improvement() -> None:
    history = [
        Evaluation_((number,), accuracy, {}, estimated=estimated)
        for number, (accuracy, estimated) in enumerate([(0.5, False), (0.9, True), (0.6, False)])
    ]
    result = SearchResult(tuple(history), 3, 0.0, "budget")
    assert [number for number, _ in result.improvements()] == [1, 3]
    assert result.best.accuracy == 0.6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_what_was_seen_to_the_end(tmp_path: Path, strategy: str) -> None:
    result, evaluate, _ = run(tmp_path / "a.sqlite", strategy)
    assert len(result.history) == BUDGET
    assert not result.best.estimated
    assert result.best.accuracy == max(e.accuracy for e in result.history) == answers(result.best.arch).mean()
    full = {arch for arch, images in evaluate.seen if images == IMAGES}
    assert {e.arch for e in result.history if not e.estimated} <= full
    assert all(e.accuracy == answers(e.arch).mean() for e in result.history if not e.estimated)
    assert sum(e.estimated for e in result.history) > 5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("together", [3, 8, 11])
def test_any_number_of_processes_finds_the_same(tmp_path: Path, strategy: str, together: int) -> None:
    one, many = run(tmp_path / "1.sqlite", strategy), run(tmp_path / "n.sqlite", strategy, together=together)
    assert one[0].history == many[0].history
    assert sorted(one[1].seen) == sorted(many[1].seen)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_is_replayed_the_same_with_no_evaluation(tmp_path: Path, strategy: str) -> None:
    whole, _, _ = run(tmp_path / "a.sqlite", strategy)
    again, evaluate, accuracy = run(tmp_path / "a.sqlite", strategy)
    assert again.history == whole.history
    assert evaluate.seen == []
    assert accuracy.new == set()


def test_a_search_that_was_stopped_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    whole, evaluate, _ = run(tmp_path / "whole.sqlite")
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        for arch, images in evaluate.seen[:23]:
            store.add_answers("key", arch, answers(arch)[:images], IMAGES, 1.0)
    again, rest, _ = run(tmp_path / "a.sqlite")
    assert again.history == whole.history
    assert rest.seen == evaluate.seen[23:]


@pytest.mark.parametrize("others", [("random", None), ("aging", 1), ("evolution", 5)])
def test_what_other_searches_know_changes_no_history(tmp_path: Path, others: tuple[str, int | None]) -> None:
    """Neither full values where this search gives up, nor estimates where it has a weaker rival."""
    strategy, place = others
    alone, before, _ = run(tmp_path / "alone.sqlite", seed=1)
    run(tmp_path / "a.sqlite", strategy, seed=2, place=place, budget=150)
    shared, after, _ = run(tmp_path / "a.sqlite", seed=1)
    assert shared.history == alone.history
    assert len(after.seen) < len(before.seen)


def test_what_was_given_up_is_evaluated_in_full_where_the_rival_is_weaker(tmp_path: Path) -> None:
    evaluate = Evaluation()
    best, middle, weak = (2,) * 5, (1,) * 5, (0,) * 5
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        strong = RacedAccuracy(store, "key", IMAGES, evaluate)
        assert list(strong([best] * 1)) == [answers(best).mean()]
        (estimate,) = strong([middle])
        assert estimate != answers(middle).mean()
        assert store.get("key", middle) is None
        assert 0 < (before := len(store.answers("key", middle))) < IMAGES
        weaker = RacedAccuracy(store, "key", IMAGES, evaluate)
        list(weaker([weak]))
        assert list(weaker([middle])) == [answers(middle).mean()] == [store.get("key", middle)]
        assert list(strong([middle])) == [estimate]  # as before
        assert evaluate.first[middle] == before // BATCH
    assert [arch for arch, _ in evaluate.seen] == [best, middle, weak, middle]


@pytest.mark.parametrize("place", [3, 7])
def test_as_many_of_the_best_as_asked_for_are_seen_to_the_end(tmp_path: Path, place: int) -> None:
    result, _, _ = run(tmp_path / "a.sqlite", place=place)
    ranked = sorted(result.history, key=lambda e: -e.accuracy)
    assert not any(e.estimated for e in ranked[:place])
    assert any(e.estimated for e in ranked)


def test_without_a_place_none_is_given_up(tmp_path: Path) -> None:
    result, evaluate, _ = run(tmp_path / "a.sqlite", place=None)
    assert not any(e.estimated for e in result.history)
    assert {images for _, images in evaluate.seen} == {IMAGES}


def test_a_front_has_no_estimates(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        accuracy = RacedAccuracy(store, "key", IMAGES, Evaluation())
        problem = Problem(SPACE, accuracy, costs={"size": lambda archs: archs.sum(axis=1)})
        result = search(problem, "random", BUDGET)
    assert any(e.estimated for e in result.history)
    assert not any(e.estimated for e in result.pareto("size"))


def test_racing_hardly_changes_the_winner(tmp_path: Path) -> None:
    """Of 20 searches; and it looks at far fewer images."""
    regrets, images = [], 0
    for seed in range(20):
        whole, _, _ = run(tmp_path / "whole.sqlite", "random", seed, place=None)
        result, evaluate, _ = run(tmp_path / f"{seed}.sqlite", "random", seed)
        regrets.append(whole.best.accuracy - result.best.accuracy)
        images += sum(seen for _, seen in evaluate.seen)
    assert sum(regret > 0 for regret in regrets) <= 2 + 20 * LEVEL
    assert images < 0.6 * 20 * BUDGET * IMAGES


def test_candidates_of_a_group_have_the_same_rival(tmp_path: Path) -> None:
    rivals: list[Right | None] = []

    def evaluate(racers: list[Racer]) -> list[Right]:
        rivals.extend(rival for _, _, rival in racers)
        return [answers(arch) for arch, _, _ in racers]

    rng = random.Random(0)
    archs = list({SPACE.sample(rng) for _ in range(40)})[: 2 * GROUP]
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        list(RacedAccuracy(store, "key", IMAGES, evaluate)(archs))
    best = max(map(answers, archs[:GROUP]), key=np.sum)
    assert rivals[:GROUP] == [None] * GROUP
    assert all(np.array_equal(rival, best) for rival in rivals[GROUP:])
