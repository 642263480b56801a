"""Search in a trained supernet under limits, priced by tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..devices import load_device
from ..errors import InputError, unknown_name
from ..files import check_target
from ..latency import LatencyTable
from ..latency.anchors import FEW, anchors_of
from ..progress import Progress, silent, unheard
from ..search import STRATEGIES, Evaluation, EvaluationStore, Problem, RacedAccuracy, SearchResult, StoredAccuracy
from ..search import search as run_search
from ..search.budget import parse_budget
from ..search.found import Found
from ..search.limits import parse_limits
from ..search.store import STORE
from ..search.surrogate import held_out_tau
from ..supernet import SearchSpace, load_run, load_supernet
from ..supernet.checkpoint import weights_fingerprint
from ..supernet.cost import COSTS
from ..supernet.metrics import METRICS, check_metric
from ..supernet.ranks import ALONE, Ranks
from ..supernet.space import Arch
from .evaluating import Evaluator, trained_settings
from .fronts import answered, front_of, remember
from .pricing import check_sums, load_tables, priced_by, warn_of
from .runs import run_data
from .verifying import ROUNDS, Verification, limits_there


def usual_strategy(pareto: str | None, note: Callable[[str], None]) -> str:
    """What searches where nothing else was said: for a front `nsga2`, if what it needs is installed."""
    if pareto and find_spec("pymoo"):
        return "nsga2"
    if pareto:
        note("the front is searched by evolution, for accuracy: nsga2 spreads over it, pip install 'hwnas[search]'")
    return "evolution"


@dataclass(frozen=True)
class Searched:
    """What a search gave: the network found, and every evaluation behind it (errors as negatives)."""

    found: Found
    result: SearchResult


def search(
    run: Path,
    out: Path,
    tables: Sequence[Path] = (),
    limits: Sequence[str] = (),
    strategy: str | None = None,
    budget: int | str = 200,
    seed: int = 0,
    pareto: str | None = None,
    metric: str | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = unheard,
    ranks: Ranks = ALONE,
    evaluate: str = "supernet",
    device: str | None = None,
    verify: int | None = None,
) -> Searched:
    """Find the architecture of a run's supernet that is best within the limits; write it to `out`.

    Best by `metric`, without one by that of the data, with inherited weights (`evaluate` "supernet") or trained from
    scratch for so many epochs each ("train:10"). `budget` is a number of evaluations, a time such as "10min", or
    "converged". A latency limit holds for the upper end of the predicted interval; with `device` and `verify` the best
    so many are measured there, and the best that measures within its limit is taken: else the table is calibrated with
    them, and `budget` searched once more, four times in all. Candidates that are hopelessly behind the best, or behind
    the last of those to be measured, are given up early. With `pareto` it looks for the front of accuracy against that
    cost (see `usual_strategy`), and gives up none; what the front covers, a later search answers from it. All `ranks`
    call it alike: each evaluates some of the candidates, rank 0 does the rest.
    """
    check_target(out, "found")
    wanted, spend = parse_limits(limits), parse_budget(budget)
    chosen = strategy or usual_strategy(pareto, note)
    if chosen not in STRATEGIES:
        raise unknown_name("strategy", chosen, STRATEGIES)
    trained, supernet = load_run(run), load_supernet(run)
    if trained.arch is not None:
        raise InputError(f"{run} holds one network and no supernet: search in the run that it was found in")
    space, loaded = supernet.space, load_tables(tables, supernet.space)
    pricing = priced_by(space, loaded, wanted, pareto)
    data, weights = run_data(trained, space), weights_fingerprint(supernet)
    if metric is not None:
        check_metric(data.task, metric, data.spec)
        data = replace(data, metric=metric)
    alone = trained_settings(evaluate, trained, ranks.device)
    evaluator = Evaluator(trained, supernet.to(ranks.device), data, weights, ranks, alone)
    if not ranks.first:
        evaluator.serve()
        searched: Searched = ranks.broadcast(None)
        return searched
    better, check = METRICS[data.metric].direction, verification(loaded, wanted, device, verify, progress)
    beside = out.with_name(f"{out.stem}.{check.table.name}.json") if check else out
    check_target(beside, "table" if check else "found")
    heard, results, new = _search_progress(progress, data.metric, better), list[SearchResult](), set[Arch]()
    with EvaluationStore(run / STORE) as store, evaluator.helped():
        for number in range(1, (ROUNDS if check else 1) + 1):
            accuracy = evaluator.stored(store, None if pareto else (verify or 1) * number)
            problem = Problem(space, directed(accuracy, better), pricing.costs, pricing.limits)
            full = replace(problem, accuracy=directed(evaluator.stored(store), better))
            known = None if pareto or check or strategy else answered(run, full, accuracy.key, store, spend)
            results.append(known or run_search(problem, chosen, spend, seed, heard))
            new |= accuracy.new
            best = check.round(results[-1], note) if check else results[-1].best
            if check:
                check.recalibrated().save(beside)
            if best is not None:
                break
            assert check is not None
            loaded[check.table.name] = check.recalibrated()
            pricing = priced_by(space, loaded, wanted, pareto)
        if best is None:
            raise check.error() if check else AssertionError(results)
        if pareto:
            remember(run, front_of(problem, pareto, accuracy.key, len(results[-1].history)))
        holder, network = evaluator.network(best.arch)
    for name, table in pricing.tables.items():
        warn_of(name, table, note)
    check_sums(best, space, {**loaded, **pricing.tables})
    paths = dict(zip(loaded, tables, strict=True))
    if check:  # what is promised is what the table tells by now
        loaded[check.table.name], paths[check.table.name] = check.recalibrated(), beside
        pricing = priced_by(space, loaded, wanted, pareto)
        note(f"{beside}: the table of {check.table.name}, calibrated with {len(check.measured)} more networks")
    for words in _words_on(results[-1], chosen):
        note(words)
    evaluated = {evaluation.arch for result in results for evaluation in result.history}
    found = Found(
        **_described(best, results[-1], space, pricing.tables, pareto, better),
        evaluations=len(evaluated),
        seconds=sum(result.seconds for result in results),
        limits=wanted,
        data=data.spec,
        metric=data.metric,
        run=str(holder.folder.resolve()),
        weights=weights if alone is None else weights_fingerprint(network),
        tables=dict(_table_record(paths[name], table) for name, table in loaded.items()),
        strategy="front" if results[-1].ended == "front" else chosen,
        reused=len(evaluated - new),
        seed=seed,
        measured=check.measured[best.arch] if check else {},
        progress=tuple((number, better * e.accuracy) for number, e in results[-1].improvements()),
    )
    found.save(out)
    ranks.broadcast(Searched(found, results[-1]))
    return Searched(found, results[-1])


def verification(
    loaded: Mapping[str, LatencyTable],
    wanted: Mapping[str, float],
    device: str | None,
    best: int | None,
    progress: Progress,
) -> Verification | None:
    """How `--device D --verify K` measures, None without them; InputError where they can't."""
    if device is None and best is None:
        return None
    if device is None or best is None:
        raise InputError("--device and --verify go together: the device, and how many of the best to measure there")
    where = load_device(device)
    if where.name not in loaded:
        raise InputError(f"--device {where.name} has no table here ({', '.join(loaded) or 'none'}): add its --table")
    if best < 1:
        raise InputError(f"--verify {best} must be at least 1")
    table = loaded[where.name]
    return Verification(where, table, limits_there(table, wanted), best, progress)


def _words_on(result: SearchResult, strategy: str) -> Iterator[str]:
    """What to know of how a result came about."""
    if result.ended == "front":
        yield (
            f"answered from the {len(result.history)} evaluations that this run knows within the limits, as one of its "
            "fronts covers them: a larger --budget searches on"
        )
    if given_up := sum(evaluation.estimated for evaluation in result.history):
        yield f"{given_up} of {len(result.history)} candidates were given up early, as far behind the best"
    if strategy == "predictor" and result.ended != "front" and (tau := held_out_tau(result.history)) is not None:
        yield f"the predictor ranks networks that it has not seen at Kendall tau {tau:.2f}"


def directed(accuracy: StoredAccuracy | RacedAccuracy, better: int) -> Callable[[Any], Iterator[float]]:
    """What a search makes as large as it can: the metric, or its negative where less is better."""
    if better == 1:
        return accuracy
    return lambda archs: (better * value for value in accuracy(archs))


def _described(
    best: Evaluation,
    result: SearchResult,
    space: SearchSpace,
    tables: Mapping[str, LatencyTable],
    pareto: str | None,
    better: int,
) -> dict[str, Any]:
    """What a FOUND.json says of the best network and of the search itself; accuracies in the metric's own sign."""
    return {
        "arch": best.arch,
        "description": tuple(str(node.layer) for node in space.graph(best.arch)),
        "accuracy": better * best.accuracy,
        **_predicted(best.arch, space, tables),
        "space": space.spec,
        "front": _front(result, pareto, space, tables, better) if pareto else (),
    }


def _table_record(path: Path, table: LatencyTable) -> tuple[str, dict[str, Any]]:
    return table.name, {
        "path": str(path.resolve()),
        "device": dict(table.device),
        "reference_ms": table.reference_ms,
        "sustained_s": table.sustained_s,
        "anchors": [asdict(anchor) for anchor in anchors_of(table, FEW)],
    }


def _predicted(arch: Arch, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> dict[str, Any]:
    """All costs of one architecture, latencies as predicted, with the intervals of the latter."""
    promised = {name: table.predict(arch) for name, table in tables.items()}
    costs = {name: float(price(space, arch)) for name, price in COSTS.items()}
    return {
        "costs": {**costs, **{name: estimate.ms for name, estimate in promised.items()}},
        "intervals": {name: (estimate.low, estimate.high) for name, estimate in promised.items()},
    }


def _front(
    result: SearchResult, name: str, space: SearchSpace, tables: Mapping[str, LatencyTable], better: int
) -> tuple[dict[str, Any], ...]:
    front = result.pareto(name)
    return tuple({"arch": e.arch, "accuracy": better * e.accuracy, **_predicted(e.arch, space, tables)} for e in front)


def _search_progress(progress: Progress, metric: str, better: int) -> Callable[[int, int, Evaluation | None], None]:
    def report(done: int, total: int, best: Evaluation | None) -> None:
        progress(done, total, f"best {metric} {better * best.accuracy:.4f}" if best else "")

    return report
