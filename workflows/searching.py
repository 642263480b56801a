"""Search in a trained supernet under limits, priced by tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FaultError, InputError
from ..files import check_target
from ..latency import LatencyTable, analytic_cost
from ..latency.anchors import FEW, anchors_of
from ..progress import Progress, silent, unheard
from ..search import Evaluation, EvaluationStore, Problem, SearchResult, StoredAccuracy
from ..search import search as run_search
from ..search.found import Found
from ..search.limits import parse_limits
from ..supernet import SearchSpace, load_run, load_supernet
from ..supernet.additive import additive
from ..supernet.checkpoint import weights_fingerprint
from ..supernet.cost import COSTS
from ..supernet.metrics import METRICS, check_metric
from ..supernet.ranks import ALONE, Ranks
from ..supernet.space import Arch
from .evaluating import STORE, Evaluator
from .runs import run_data


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
    strategy: str = "evolution",
    budget: int = 200,
    seed: int = 0,
    pareto: str | None = None,
    metric: str | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = unheard,
    ranks: Ranks = ALONE,
) -> Searched:
    """Find the architecture of a run's supernet that is best within the limits; write it to `out`.

    Best by `metric`, without one by that of the data. A latency limit holds for the upper end of the predicted
    interval. All `ranks` call it alike: each evaluates some of the candidates, rank 0 does the rest.
    """
    check_target(out, "found")
    wanted = parse_limits(limits)
    trained, supernet = load_run(run), load_supernet(run)
    if trained.arch is not None:
        raise InputError(f"{run} holds one network and no supernet: search in the run that it was found in")
    loaded = load_tables(tables, supernet.space)
    timed = {name: table for name, table in loaded.items() if table.timed}
    by_name = timed | statistics_of(timed, [*wanted, *([pareto] if pareto else [])])
    costs = search_costs(supernet.space, by_name, wanted, pareto, loaded.keys() - timed.keys())
    runs = {f"{name}.rejected": rejection_cost(table) for name, table in loaded.items() if table.rejected}
    data, weights = run_data(trained, supernet.space), weights_fingerprint(supernet)
    if metric is not None:
        check_metric(data.task, metric, data.spec)
        data = replace(data, metric=metric)
    evaluator = Evaluator(trained, supernet.to(ranks.device), data, weights, ranks)
    if not ranks.first:
        evaluator.serve()
        searched: Searched = ranks.broadcast(None)
        return searched
    better = METRICS[data.metric].direction
    with EvaluationStore(run / STORE) as store, evaluator.helped():
        accuracy = evaluator.stored(store)
        problem = Problem(supernet.space, directed(accuracy, better), costs | runs, wanted | dict.fromkeys(runs, 0.5))
        result = run_search(problem, strategy, budget, seed, _search_progress(progress, data.metric, better))
    for name, table in by_name.items():
        warn_of(name, table, note)
    check_sums(result.best, supernet.space, loaded | by_name)
    found = Found(
        **_described(result, supernet.space, by_name, pareto, better),
        limits=wanted,
        data=data.spec,
        metric=data.metric,
        run=str(run.resolve()),
        weights=weights,
        tables=dict(_table_record(path, table) for path, table in zip(tables, loaded.values(), strict=True)),
        strategy=strategy,
        reused=accuracy.reused,
        seed=seed,
    )
    found.save(out)
    ranks.broadcast(Searched(found, result))
    return Searched(found, result)


def directed(accuracy: StoredAccuracy, better: int) -> Callable[[Any], Iterator[float]]:
    """What a search makes as large as it can: the metric, or its negative where less is better."""
    return lambda archs: (better * value for value in accuracy(archs))


def _described(
    result: SearchResult, space: SearchSpace, tables: Mapping[str, LatencyTable], pareto: str | None, better: int
) -> dict[str, Any]:
    """What a FOUND.json says of the best network and of the search itself; accuracies in the metric's own sign."""
    best = result.best
    return {
        "arch": best.arch,
        "description": tuple(str(node.layer) for node in space.graph(best.arch)),
        "accuracy": better * best.accuracy,
        **_predicted(best.arch, space, tables),
        "space": space.spec,
        "evaluations": len(result.history),
        "seconds": result.seconds,
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


def statistics_of(tables: Mapping[str, LatencyTable], names: Sequence[str]) -> dict[str, LatencyTable]:
    """The tables of other statistics that limits name, such as `pixel8.p95`."""
    parts = {name: name.rpartition(".") for name in names}
    return {name: tables[d].statistic(statistic) for name, (d, _, statistic) in parts.items() if d in tables}


def rejection_cost(table: LatencyTable) -> Callable[[Any], Any]:
    """How many layers of a network a device can't run, as a cost that is limited to none."""
    return additive(table.space, table.rejections) or (
        lambda archs: np.array([table.rejections(arch) for arch in archs], dtype=float)
    )


def warn_of(name: str, table: LatencyTable, note: Callable[[str], None]) -> None:
    """Say so where nobody knows what a table's promise is worth, or where it is known to be worth little."""
    if table.device["label"] == "emulated":
        note(f"{name} is emulated: its times are no latency of any device")
        return
    if "." in name:
        note(f"{name} is never tested by hwnas validate: export --device measures it")
        return
    how = f"run hwnas validate --space SPACE --table {name}.json --device DEVICE"
    if table.validation is None:
        note(f"the table of {name} was never validated: its promise is untested; {how}")
    elif not (found := table.validation)["fit_for_use"]:
        note(
            f"the table of {name} is not fit for use: {found['within_10']:.0%} of networks within 10 %, Kendall tau "
            f"{found['kendall_tau']:.2f}, {found['kept']:.0%} within what was promised; profile again, then {how}"
        )


def check_sums(best: Evaluation, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> None:
    """FaultError where a cost that was searched as a sum over genes is none, so that its limit may not hold."""
    exact = {name: float(COSTS[name](space, best.arch)) for name in best.costs if name in COSTS}
    exact |= {name: table.predict(best.arch).high for name, table in tables.items()}
    exact |= {f"{name}.rejected": table.rejections(best.arch) for name, table in tables.items()}
    for name, value in best.costs.items():
        if not math.isclose(value, exact[name], rel_tol=1e-6):
            raise FaultError(
                f"{name} of {best.arch} is {exact[name]:.6g}, the search had {value:.6g}: in {space} it is no sum "
                "over genes; let its options return None"
            )


def load_tables(paths: Sequence[Path], space: SearchSpace) -> dict[str, LatencyTable]:
    """The tables by the names of their devices, each made for `space`."""
    tables: dict[str, LatencyTable] = {}
    for path in paths:
        table = LatencyTable.load(path)
        table.check_space(space)
        if table.name in tables or table.name in COSTS:
            raise InputError(
                f"{path} is a second {table.name}: give one table per device, or profile with another name as in "
                "local:name=other"
            )
        tables[table.name] = table
    return tables


def search_costs(
    space: SearchSpace,
    tables: Mapping[str, LatencyTable],
    limits: Mapping[str, float],
    pareto: str | None,
    untimed: Collection[str],
) -> dict[str, Callable[[Any], Any]]:
    """The costs that a search has to know: of tables the upper end of the interval, as limits are held to it."""
    costs: dict[str, Callable[[Any], Any]] = {
        name: table.upper or partial(_upper_ms, table) for name, table in tables.items()
    }
    for name in dict.fromkeys([*limits, *([pareto] if pareto else [])]):
        if name in COSTS:
            costs[name] = analytic_cost(space, name)
        elif name in untimed:
            raise InputError(f"{name} only compiles, it has no times to limit: its table keeps out what it can't run")
        elif name not in costs:
            known = ", ".join([*COSTS, *tables])
            raise InputError(f"there is no cost {name!r} (known here: {known}): add the device's --table")
    return costs


def _upper_ms(table: LatencyTable, archs: Any) -> Any:
    return table.estimate_many(archs).high


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
