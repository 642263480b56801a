"""What every strategy keeps on every kind of space. A new strategy is covered by its line in STRATEGIES."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InfeasibleError, InputError
from hwnas.search import STRATEGIES, EvaluationStore, Problem, StoredAccuracy, search
from hwnas.supernet.additive import AdditiveCost
from hwnas.supernet.layer import Node
from hwnas.supernet.space import Arch, ChoiceSpace, SearchSpace


class Growing(SearchSpace):
    """Up to five operations out of three, 0 ends; their order makes no difference: 56 networks."""

    def choices(self, prefix: Arch = ()) -> int | None:
        return None if len(prefix) == 5 or 0 in prefix else 4

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise NotImplementedError(arch)

    def canonical(self, arch: Arch) -> Arch:
        operations = tuple(sorted(gene for gene in arch if gene))
        return operations if len(operations) == 5 else (*operations, 0)


class Cell(SearchSpace):
    """Three nodes, each an input among what comes before it, and one of four operations: 384 networks."""

    def choices(self, prefix: Arch = ()) -> int | None:
        node, operation = divmod(len(prefix), 2)
        return None if node == 3 else 4 if operation else node + 1

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise NotImplementedError(arch)


class OpenEnded(SearchSpace):
    """Layers until one says that it is the last, however many."""

    def choices(self, prefix: Arch = ()) -> int | None:
        return None if prefix and prefix[-1] == 0 else 6

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise NotImplementedError(arch)


SPACES = {"chain": ChoiceSpace([4] * 6), "cell": Cell(), "growing": Growing()}
WITHOUT_END = {**SPACES, "open-ended": OpenEnded()}
LIMIT = 8.5  # on the sum of genes


def score(arch: Arch) -> float:
    """A rugged landscape."""
    return math.sin(sum((i + 1.7) * gene**2 for i, gene in enumerate(arch)))


def size(batch: object) -> list[int]:
    return [sum(map(int, arch)) for arch in batch]


def problem(space: SearchSpace, limit: float = LIMIT) -> Problem:
    return Problem(space, lambda batch: [score(arch) for arch in batch], {"size": size}, {"size": limit})


def of(spaces: dict[str, SearchSpace]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("strategy", "space"),
        [pytest.param(name, space, id=f"{name}-{kind}") for name in STRATEGIES for kind, space in spaces.items()],
    )


finite, every = of(SPACES), of(WITHOUT_END)


@every
def test_budget_and_limits_are_kept(strategy: str, space: SearchSpace) -> None:
    result = search(problem(space), strategy, budget=25)
    assert len(result.history) == 25
    assert result.ended == "budget"
    assert all(e.costs["size"] == sum(e.arch) <= LIMIT for e in result.history)
    assert all(e.violation == 0 and e.accuracy == score(e.arch) for e in result.history)
    assert result.best.accuracy == max(score(e.arch) for e in result.history)


@every
def test_no_network_is_evaluated_twice(strategy: str, space: SearchSpace) -> None:
    evaluated: list[Arch] = []

    def accuracy(batch: object) -> Iterator[float]:
        for arch in batch:
            evaluated.append(tuple(map(int, arch)))
            yield score(arch)

    result = search(Problem(space, accuracy), strategy, budget=50)
    assert sorted(evaluated) == sorted(e.arch for e in result.history)
    assert len({space.canonical(arch) for arch in evaluated}) == 50
    assert all(space.check(space.canonical(arch)) == arch for arch in evaluated)


@every
def test_seed_repeats(strategy: str, space: SearchSpace) -> None:
    first, again, other = (search(problem(space), strategy, 20, seed).history for seed in (3, 3, 4))
    assert first == again
    assert first != other


@every
def test_killed_search_resumes_by_replay(strategy: str, space: SearchSpace, tmp_path: Path) -> None:
    def killed_after(n: float) -> StoredAccuracy:
        def evaluate(archs: list[Arch]) -> Iterator[float]:
            for arch in archs:
                if len(accuracy.new) == n:
                    raise KeyboardInterrupt
                yield score(arch)

        accuracy = StoredAccuracy(store, "key", evaluate)
        return accuracy

    whole = search(problem(space), strategy, budget=25)
    with EvaluationStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            search(Problem(space, killed_after(13), {"size": size}, {"size": LIMIT}), strategy, 25)
        resumed = killed_after(math.inf)
        result = search(Problem(space, resumed, {"size": size}, {"size": LIMIT}), strategy, 25)
    assert result.history == whole.history
    assert len(resumed.new) == 12


@every
def test_infeasible_limit_is_answered_with_the_range(strategy: str, space: SearchSpace) -> None:
    costly = Problem(space, fail, {"size": lambda batch: np.add(size(batch), 7)}, {"size": 6.0})
    said = r"no architecture of .* keeps size=6; .*size from 7 to (19|22|25);"
    if isinstance(space, OpenEnded):  # which can't be looked through to its end
        said = r"none of \d+ candidates from .* keeps size=6; known range: size from 7 to \d+; nearest: size=7;"
    with pytest.raises(InfeasibleError, match=said):
        search(costly, strategy, budget=10, patience=2000)


@finite
def test_small_space_is_searched_through(strategy: str, space: SearchSpace) -> None:
    result = search(problem(space, limit=2), strategy, budget=500)
    feasible = {a for a in map(space.canonical, all_archs(space)) if sum(a) <= 2}
    assert result.ended == "space"
    assert {e.arch for e in result.history} == feasible


def all_archs(space: SearchSpace, prefix: Arch = ()) -> Iterator[Arch]:
    options = space.choices(prefix)
    if options is None:
        yield prefix
    else:
        for gene in range(options):
            yield from all_archs(space, (*prefix, gene))


@every
def test_asks_for_no_more_than_n_valid_candidates(strategy: str, space: SearchSpace) -> None:
    running = STRATEGIES[strategy]()(problem(space), random.Random(0), 100)
    for n in (1, 7, 1000, 3, 40):
        candidates = running.ask(n)
        assert 1 <= len(candidates) <= n
        assert [space.check(arch) for arch in candidates] == candidates
        running.tell(problem(space).priced([space.canonical(arch) for arch in candidates]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_limits_hold_together(strategy: str) -> None:
    rng = np.random.default_rng(0)
    costs = {name: AdditiveCost(0.1, tuple(rng.random((6, 4)))) for name in ("phone", "gpu", "params")}
    population = rng.integers(4, size=(2000, 6))
    limits = {name: float(np.quantile(cost(population), 0.3)) for name, cost in costs.items()}
    result = search(Problem(SPACES["chain"], lambda batch: batch.sum(1), costs, limits), strategy, 30)
    archs = [e.arch for e in result.history]
    assert len(archs) == 30
    assert all((costs[name](archs) <= limits[name]).all() for name in costs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_additive_limit_out_of_reach_is_refused_before_any_candidate(strategy: str) -> None:
    local = AdditiveCost(0.1, tuple(np.linspace(0.0351, 0.433, 4) for _ in range(6)))
    unreached = Problem(SPACES["chain"], accuracy=fail, costs={"local": local}, limits={"local": 0.1})
    message = (
        r"limit local=0.1 is out of reach: architectures of ChoiceSpace.* cost 0.3106 to 2.698; "
        r"ask for at least 0.311$"
    )
    with pytest.raises(InfeasibleError, match=message):
        search(unreached, strategy)
    reached = Problem(SPACES["chain"], lambda batch: batch.sum(1), {"local": local}, {"local": 0.311})
    assert search(reached, strategy).best.arch == (0,) * 6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tight_limit_is_no_reason_to_give_up(strategy: str) -> None:
    """Two in ten million keep it: all strategies still spend their budget."""
    rng = np.random.default_rng(0)
    cost = AdditiveCost(0.0, tuple(rng.random(8) for _ in range(20)))
    limit = cost.bounds()[0] + 0.75
    tight = Problem(ChoiceSpace([8] * 20), lambda batch: batch.sum(1), {"ms": cost}, {"ms": limit})
    result = search(tight, strategy, budget=40, patience=5000)
    assert len(result.history) == 40
    assert all(evaluation.costs["ms"] <= limit for evaluation in result.history)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_device_cannot_run_costs_infinity(strategy: str) -> None:
    cost = AdditiveCost(0.0, tuple(np.array([1.0, 2.0, np.inf]) for _ in range(6)))
    problem = Problem(ChoiceSpace([3] * 6), lambda batch: batch.sum(1), {"ms": cost}, {"ms": 9.0})
    result = search(problem, strategy, budget=20)
    assert len(result.history) == 20
    assert all(max(evaluation.arch) < 2 for evaluation in result.history)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_space_may_be_without_end(strategy: str) -> None:
    problem = Problem(OpenEnded(), lambda batch: [score(arch) for arch in batch], {"size": size}, {"size": 30.0})
    result = search(problem, strategy, budget=30)
    assert len(result.history) == 30
    assert all(evaluation.arch[-1] == 0 and sum(evaluation.arch) <= 30 for evaluation in result.history)


def fail(batch: object) -> list[float]:
    raise AssertionError(batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rejection_is_bounded(strategy: str) -> None:
    """In a space too large to list, an unreachable limit on any function ends after `patience`."""
    large = Problem(ChoiceSpace([4] * 20), fail, {"size": lambda batch: batch.sum(1) + 30}, {"size": 29.5})
    message = r"none of \d+ candidates from ChoiceSpace.* keeps size=29.5; known range: size from \d+ to \d+;"
    with pytest.raises(InfeasibleError, match=message):
        search(large, strategy, budget=10, patience=2000)


class FiveMatter(ChoiceSpace):
    """Only the first five of many genes make a difference."""

    def canonical(self, arch: Arch) -> Arch:
        return (*arch[:5], *(0,) * (len(arch) - 5))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_search_ends_with_what_it_has_when_candidates_dry_up(strategy: str) -> None:
    """A large space with fewer distinct feasible networks than the budget asks for."""
    cost = AdditiveCost(1.0, (np.array([0.0, 1.0]),) * 3 + (np.zeros(2),) * 17)
    one_of_eight = Problem(FiveMatter([2] * 20), lambda batch: batch[:, 3:5].sum(1), {"c": cost}, {"c": 1.0})
    result = search(one_of_eight, strategy, budget=10, patience=2000)
    assert result.ended == "patience"
    assert len(result.history) == 4
    assert result.best.accuracy == 2


def test_progress_is_told_after_every_evaluation() -> None:
    told: list[tuple[int, int, float]] = []
    result = search(
        problem(SPACES["chain"]), budget=12, progress=lambda n, of, best: told.append((n, of, best.accuracy))
    )
    accuracies = [accuracy for _, _, accuracy in told]
    assert [(n, of) for n, of, _ in told] == [(i + 1, 12) for i in range(12)]
    assert accuracies == sorted(accuracies)
    assert set(accuracies) <= {e.accuracy for e in result.history}
    assert accuracies[-1] == result.best.accuracy


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown strategy 'evolutoin'; did you mean evolution\?"):
        search(problem(SPACES["chain"]), "evolutoin")


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"patience": 0}])
def test_budget_and_patience_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        search(problem(SPACES["chain"]), "random", **wrong)


def test_limits_that_can_be_kept_alone_and_not_together_are_refused() -> None:
    """What one cost likes the other hates: a weighted mean of both proves it, without a candidate."""
    up = AdditiveCost(0.0, tuple(np.arange(4.0) for _ in range(30)))
    down = AdditiveCost(0.0, tuple(3 - np.arange(4.0) for _ in range(30)))
    both = Problem(ChoiceSpace([4] * 30), fail, {"up": up, "down": down}, {"up": 40.0, "down": 40.0})
    with pytest.raises(InfeasibleError, match=r"keeps up=40 and down=40 together, .* raise one, or all by 12.5% at"):
        search(both)
    kept = Problem(both.space, lambda batch: batch.sum(1), both.costs, {"up": 46.0, "down": 46.0})
    assert search(kept, budget=10).best.costs["up"] == 46


def test_where_nothing_can_run_that_is_said() -> None:
    cost = AdditiveCost(0.0, (np.array([np.inf, np.inf]), np.ones(2)))
    nothing = Problem(ChoiceSpace([2, 2]), fail, {"ms": cost}, {"ms": 5.0})
    with pytest.raises(InfeasibleError, match=r"no architecture of .* has a finite ms"):
        search(nothing)
