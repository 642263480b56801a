"""What searches for a front leave in a run: later limits are answered from it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import digest, read_json, write_json
from ..search import EvaluationStore, Problem, SearchResult
from ..search.budget import Budget
from ..search.found import FRONTS, FRONTS_VERSION

PROBES = 64  # architectures whose costs tell one cost from another


@dataclass(frozen=True)
class Front:
    """A front of accuracy against the cost `name` that a run knows: how it was evaluated, within which limits."""

    key: str
    name: str
    costs: Mapping[str, str]  # by name, what tells whether a cost is the same
    limits: Mapping[str, float]
    evaluations: int


def front_of(problem: Problem, name: str, key: str, evaluations: int) -> Front:
    """What to remember of a search for the front of accuracy against `name`."""
    rng = random.Random(0)
    archs = [problem.space.sample(rng) for _ in range(PROBES)]
    prices = problem.price(archs)
    costs = {cost: digest([f"{value:.6g}" for value in prices[cost].tolist()]) for cost in {name, *problem.limits}}
    return Front(key, name, costs, dict(problem.limits), evaluations)


def remember(run: Path, front: Front, store: EvaluationStore) -> None:
    """Add a front to those of the run; of two searches at once, one waits for the other."""
    with store.alone():
        fronts = [vars(front), *(vars(known) for known in known_fronts(run) if known != front)]
        write_json(run / FRONTS, "fronts", FRONTS_VERSION, {"fronts": fronts})


def known_fronts(run: Path) -> list[Front]:
    """The fronts of a run, the latest first."""
    if not (run / FRONTS).is_file():
        return []
    try:
        return [Front(**fields) for fields in read_json(run / FRONTS, "fronts", FRONTS_VERSION)["fronts"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{run / FRONTS} is damaged ({error}): remove it, searches do without") from error


def answered(run: Path, problem: Problem, key: str, store: EvaluationStore, budget: Budget) -> SearchResult | None:
    """What the run's evaluations answer to `problem` where one of its fronts covers it; None where none does.

    A front covers a limit on its cost, beside the limits that it was searched within, if no more evaluations are asked
    for than it took. The answer is the best of everything that was evaluated within the limits.
    """
    start = time.perf_counter()
    if budget.evaluations is None or not any(_covers(front, problem, key, budget) for front in known_fronts(run)):
        return None
    known = store.all(key)
    priced = [evaluation for evaluation in problem.priced(list(known)) if evaluation.feasible]
    history = [e for e in problem.evaluated(priced) if not math.isnan(e.accuracy)]
    if not history:
        return None
    return SearchResult(tuple(history), len(known), time.perf_counter() - start, "front")


def _covers(front: Front, problem: Problem, key: str, budget: Budget) -> bool:
    asked: dict[str, Any] = dict(problem.limits)
    asked.pop(front.name, None)
    within = {name: limit for name, limit in front.limits.items() if name != front.name}
    if front.key != key or front.name not in problem.limits or asked != within:
        return False
    if budget.evaluations is None or budget.evaluations > front.evaluations:
        return False
    limited = front.limits.get(front.name, math.inf) >= problem.limits[front.name]
    return limited and front.costs == front_of(problem, front.name, key, 0).costs
