"""What a search is told of costs: tables and limits as functions of architectures, and checks of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FaultError, InputError
from ..latency import LatencyTable, analytic_cost
from ..search import Evaluation
from ..supernet import SearchSpace
from ..supernet.additive import additive
from ..supernet.cost import COSTS


@dataclass(frozen=True)
class Pricing:
    """What a search is told of costs: their functions, their limits, and the tables behind them by name."""

    costs: Mapping[str, Callable[[Any], Any]]
    limits: Mapping[str, float]
    tables: Mapping[str, LatencyTable]


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


def priced_by(
    space: SearchSpace, loaded: Mapping[str, LatencyTable], wanted: Mapping[str, float], pareto: Sequence[str]
) -> Pricing:
    """The costs that limits and `pareto` name; and that no layer may be in a network that its device can't run."""
    timed = {name: table for name, table in loaded.items() if table.timed}
    by_name = timed | statistics_of(timed, [*wanted, *pareto])
    costs = search_costs(space, by_name, wanted, pareto, loaded.keys() - timed.keys())
    runs = {f"{name}.rejected": rejection_cost(table) for name, table in loaded.items() if table.rejected}
    return Pricing(costs | runs, dict(wanted) | dict.fromkeys(runs, 0.5), by_name)


def statistics_of(tables: Mapping[str, LatencyTable], names: Sequence[str]) -> dict[str, LatencyTable]:
    """The tables of other statistics that limits name, such as `pixel8.p95`."""
    parts = {name: name.rpartition(".") for name in names}
    return {name: tables[d].statistic(statistic) for name, (d, _, statistic) in parts.items() if d in tables}


def rejection_cost(table: LatencyTable) -> Callable[[Any], Any]:
    """How many layers of a network a device can't run, as a cost that is limited to none."""
    return additive(table.space, table.rejections) or (
        lambda archs: np.array([table.rejections(arch) for arch in archs], dtype=float)
    )


def search_costs(
    space: SearchSpace,
    tables: Mapping[str, LatencyTable],
    limits: Mapping[str, float],
    pareto: Sequence[str],
    untimed: Collection[str],
) -> dict[str, Callable[[Any], Any]]:
    """The costs that a search has to know: of tables the upper end of the interval, as limits are held to it."""
    costs: dict[str, Callable[[Any], Any]] = {name: table.upper_sum or table.upper for name, table in tables.items()}
    for name in dict.fromkeys([*limits, *pareto]):
        if name in COSTS:
            costs[name] = analytic_cost(space, name)
        elif name in untimed:
            raise InputError(f"{name} only compiles, it has no times to limit: its table keeps out what it can't run")
        elif name not in costs:
            known = ", ".join([*COSTS, *tables])
            raise InputError(f"there is no cost {name!r} (known here: {known}): add the device's --table")
    return costs


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
