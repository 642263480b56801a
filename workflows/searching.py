"""Search in a trained supernet under limits, priced by tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..devices import load_device
from ..errors import FaultError, InfeasibleError, InputError, unknown_name
from ..files import check_target
from ..latency import LatencyTable
from ..latency.anchors import FEW, anchors_of
from ..progress import Progress, silent, unheard
from ..search import STRATEGIES, Evaluation, EvaluationStore, Problem, RacedAccuracy, SearchResult, StoredAccuracy
from ..search import search as run_search
from ..search.budget import Budget, parse_budget
from ..search.found import Found
from ..search.limits import parse_limits
from ..search.nsga2 import NSGA2
from ..search.store import STORE
from ..search.strategy import StrategySettings
from ..search.surrogate import held_out_tau
from ..supernet import SearchSpace, load_run
from ..supernet.checkpoint import weights_fingerprint
from ..supernet.cost import COSTS
from ..supernet.metrics import METRICS
from ..supernet.ranks import ALONE, Ranks
from ..supernet.space import Arch
from .evaluating import Evaluator, evaluator_of
from .fronts import answered, front_of, remember
from .pricing import Pricing, check_sums, load_tables, priced_by, warn_of
from .runs import as_asked, check_finished
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


@dataclass(frozen=True)
class Asked:
    """What is searched for within which limits: one network, or a front against the costs `pareto`; and how.

    `named` says whether the user named the strategy.
    """

    limits: Mapping[str, float]
    pareto: tuple[str, ...]
    strategy: str
    named: bool
    budget: Budget
    seed: int

    def settings(self) -> str | StrategySettings:
        """The strategy; `nsga2` looks for the front that was asked for, not for that of all costs."""
        return NSGA2(objectives=self.pareto) if self.pareto and self.strategy == "nsga2" else self.strategy

    def priced(self, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> Pricing:
        """The costs that this needs to know; InputError where nothing tells one."""
        return priced_by(space, tables, self.limits, self.pareto)


@dataclass(frozen=True)
class Hunt:
    """How a search of one or more rounds ended: its best network, the results, what was evaluated `new` in them.

    `pricing` is what the last of them knew of costs; `tables` are those of the devices, calibrated by now, `promised`
    the same with those of other statistics.
    """

    best: Evaluation
    results: tuple[SearchResult, ...]
    new: frozenset[Arch]
    pricing: Pricing
    tables: Mapping[str, LatencyTable]
    promised: Mapping[str, LatencyTable]


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
    resume: bool = False,
) -> Searched:
    """Find the architecture of a run's supernet that is best within the limits; write it to `out`.

    Best by `metric`, without one by that of the data, with inherited weights (`evaluate` "supernet") or trained from
    scratch for so many epochs each ("train:10"). `budget` is a number of evaluations, a time such as "10min", or
    "converged". A latency limit holds for the upper end of the predicted interval; with `device` and `verify` the best
    so many are measured there, and the best that measures within its limit is taken: else the table is calibrated with
    them, and `budget` searched once more, four times in all. What was measured before an interruption counts with
    `resume`, or where torchrun has started it anew (evaluations always do). Candidates that are hopelessly behind the
    best, or behind the last of those to be measured, are given up early. With `pareto` it looks for the front of
    accuracy against that cost, or several apart by commas (see `usual_strategy`), and gives up none; what a front
    against one covers, a later search answers from it. All `ranks` call it alike: each evaluates some of the
    candidates, rank 0 does the rest.
    """
    check_target(out, "found")
    chosen = strategy or usual_strategy(pareto, note)
    if chosen not in STRATEGIES:
        raise unknown_name("strategy", chosen, STRATEGIES)
    costs = tuple(name.strip() for name in pareto.split(",")) if pareto else ()
    asked = Asked(parse_limits(limits), costs, chosen, strategy is not None, parse_budget(budget), seed)
    given = as_asked(
        table=shlex.join(map(str, tables)) if tables else None,
        budget=budget,
        evaluate=None if evaluate == "supernet" else evaluate,
        pareto=pareto,
        device=device,
        verify=verify,
    )
    trained = load_run(run)
    check_finished(trained, note)
    space = trained.load_space()
    tables_before = load_tables(tables, space)
    pricing = asked.priced(space, tables_before)  # what it can't be asked is an error before anything is loaded
    evaluator = evaluator_of(run, metric, evaluate, ranks)
    metric = evaluator.data.metric
    if not ranks.first:
        evaluator.serve()
        searched: Searched = ranks.broadcast(None)
        return searched
    begun = f"begun {out.resolve()}"  # by an attempt of torchrun's in which a process died since
    check = verification(
        tables_before, tables, asked.limits, device, verify, out, resume or ranks.pinned(begun), progress
    )
    ranks.pin(begun)
    if check and f"{check.table.name}.sustained" in asked.limits:
        note(f"--verify doesn't measure {check.table.name}.sustained: export --device does")
    heard = _search_progress(progress, metric, METRICS[metric].direction)
    with EvaluationStore(run / STORE) as store, evaluator.helped():
        hunt = hunted(asked, tables_before, pricing, evaluator, store, check, heard, note)
        holder, network = evaluator.network(hunt.best.arch)
    for name, table in hunt.pricing.tables.items():
        warn_of(name, table, note)
    check_sums(hunt.best, space, {**tables_before, **hunt.pricing.tables})
    paths = dict(zip(tables_before, tables, strict=True))
    if check:
        paths[check.table.name] = check.file
        note(f"{check.file}: the table of {check.table.name}, calibrated with {len(check.measured)} more networks")
    for words in _words_on(hunt.results[-1], chosen):
        note(words)
    found = Found(
        **_described(asked, hunt, space, METRICS[metric].direction),
        data=evaluator.data.spec,
        metric=metric,
        run=str(holder.folder.resolve()),
        weights=evaluator.weights if evaluator.trained is None else weights_fingerprint(network),
        tables=dict(_table_record(paths[name], table) for name, table in hunt.tables.items()),
        measured=check.measured[hunt.best.arch] if check else {},
        asked=given,
    )
    found.save(out)
    if check:
        check.finish()
    ranks.broadcast(Searched(found, hunt.results[-1]))
    return Searched(found, hunt.results[-1])


def hunted(
    asked: Asked,
    tables: Mapping[str, LatencyTable],
    pricing: Pricing,
    evaluator: Evaluator,
    store: EvaluationStore,
    check: Verification | None,
    heard: Callable[[int, int, Evaluation | None], None],
    note: Callable[[str], None],
) -> Hunt:
    """Search; with a `check` until a network is measured within its limits, each time with what was measured before.

    What one of the run's fronts covers is answered from it, where no strategy was named.
    """
    run, space, better = evaluator.run.folder, evaluator.supernet.space, METRICS[evaluator.data.metric].direction
    results, new = list[SearchResult](), set[Arch]()
    for number in range(1, (ROUNDS if check else 1) + 1):
        place = None if asked.pareto else (check.best if check else 1) * number
        accuracy = evaluator.stored(store, place)
        problem = Problem(space, directed(accuracy, better), pricing.costs, pricing.limits)
        known = None
        if not (asked.pareto or check or asked.named):
            to_the_end = replace(problem, accuracy=directed(evaluator.stored(store), better))
            known = answered(run, to_the_end, accuracy.key, store, asked.budget)
        try:
            result = known or run_search(problem, asked.settings(), asked.budget, asked.seed, heard)
        except InfeasibleError as error:
            if check is None or not check.measured:
                raise
            check.finish()  # what was measured says that nothing keeps the limits
            raise InfeasibleError(f"{check.error()}; as it is known by now, {error}") from error
        results.append(result)
        new |= accuracy.new
        if math.isnan(result.best.accuracy):
            counted = f"none of {len(result.history)} networks has a finite {evaluator.data.metric}"
            raise FaultError(f"{counted}: train anew, with a smaller --lr")
        best, now = result.best if check is None else check.round(result, note), pricing
        if check:
            tables = {**tables, check.table.name: check.recalibrated()}
            now = asked.priced(space, tables)
        if best is not None:
            if len(asked.pareto) == 1:
                remember(run, front_of(problem, asked.pareto[0], accuracy.key, len(result.history)), store)
            return Hunt(best, tuple(results), frozenset(new), pricing, tables, now.tables)
        pricing = now
    assert check is not None
    check.finish()
    raise check.error()


def verification(
    loaded: Mapping[str, LatencyTable],
    paths: Sequence[Path],
    wanted: Mapping[str, float],
    device: str | None,
    best: int | None,
    out: Path,
    resume: bool,
    progress: Progress,
) -> Verification | None:
    """How `--device D --verify K` measures, None without them; InputError where they can't.

    The table, calibrated with what is measured, is kept beside the search's own `out`; `paths` are those it has.
    """
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
    file = out.with_name(f"{out.stem}.{table.name}.json")
    check_target(file, "table")
    if file.resolve() in [path.resolve() for path in paths]:
        raise InputError(f"the calibrated table would replace {file}, which is searched with: give --out another name")
    samples = file.with_name(f"{file.name}.samples")
    if samples.exists() and not resume:
        raise InputError(f"{samples} holds an unfinished search: add --resume to continue it, or remove it")
    return Verification(where, table, limits_there(table, wanted), best, file, samples, progress)


def _words_on(result: SearchResult, strategy: str) -> Iterator[str]:
    """What to know of how a result came about."""
    if result.ended == "front":
        yield (
            f"answered from the {len(result.history)} evaluations that this run knows within the limits, as one of its "
            "fronts covers them: a larger --budget searches on"
        )
    if given_up := sum(evaluation.estimated for evaluation in result.history):
        yield f"{given_up} of {len(result.history)} candidates were given up early, as far behind the best"
    if lost := sum(math.isnan(evaluation.accuracy) for evaluation in result.history):
        yield f"{lost} of {len(result.history)} candidates have no finite value of the metric, and were passed over"
    if strategy == "predictor" and result.ended != "front" and (tau := held_out_tau(result.history)) is not None:
        yield f"the predictor ranks networks that it has not seen at Kendall tau {tau:.2f}"


def directed(accuracy: StoredAccuracy | RacedAccuracy, better: int) -> Callable[[Any], Iterator[float]]:
    """What a search makes as large as it can: the metric, or its negative where less is better."""
    if better == 1:
        return accuracy
    return lambda archs: (better * value for value in accuracy(archs))


def _described(asked: Asked, hunt: Hunt, space: SearchSpace, better: int) -> dict[str, Any]:
    """What a FOUND.json says of the best network and of the search itself; accuracies in the metric's own sign.

    What is promised is what the tables tell by now.
    """
    best, last, tables = hunt.best, hunt.results[-1], hunt.promised
    evaluated = {evaluation.arch for result in hunt.results for evaluation in result.history}
    return {
        "arch": best.arch,
        "description": tuple(str(node.layer) for node in space.graph(best.arch)),
        "accuracy": better * best.accuracy,
        **_predicted(best.arch, space, tables),
        "limits": asked.limits,
        "space": space.spec,
        "strategy": "front" if last.ended == "front" else asked.strategy,
        "evaluations": len(evaluated),
        "reused": len(evaluated - hunt.new),
        "seconds": sum(result.seconds for result in hunt.results),
        "seed": asked.seed,
        "front": _front(last, asked.pareto, space, tables, better) if asked.pareto else (),
        "progress": tuple((number, better * e.accuracy) for number, e in last.improvements()),
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
    result: SearchResult, names: Sequence[str], space: SearchSpace, tables: Mapping[str, LatencyTable], better: int
) -> tuple[dict[str, Any], ...]:
    front = result.pareto(*names)
    return tuple({"arch": e.arch, "accuracy": better * e.accuracy, **_predicted(e.arch, space, tables)} for e in front)


def _search_progress(progress: Progress, metric: str, better: int) -> Callable[[int, int, Evaluation | None], None]:
    def report(done: int, total: int, best: Evaluation | None) -> None:
        progress(done, total, f"best {metric} {better * best.accuracy:.4f}" if best else "")

    return report
