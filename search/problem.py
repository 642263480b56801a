"""What is searched for: the most accurate architecture of a space that keeps all limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, MismatchError
from ..supernet.additive import AdditiveCost
from ..supernet.space import Arch, SearchSpace

Archs = Sequence[Arch] | NDArray[np.integer]


class Estimate(float):
    """The accuracy of an architecture that was given up early: good enough to learn from, and not to be chosen by."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of one architecture: its costs, and its accuracy where it keeps the limits.

    An infeasible architecture is priced but never evaluated: its accuracy is nan. That of one that was given up before
    its evaluation was over is `estimated`.
    """

    arch: Arch
    accuracy: float
    costs: Mapping[str, float]
    violation: float = 0.0
    estimated: bool = False

    @property
    def feasible(self) -> bool:
        """Whether all limits are kept."""
        return self.violation == 0


def rank_key(evaluation: Evaluation) -> tuple[float, float]:
    """Sorts the better evaluation first: the smaller violation, then the higher accuracy; nan comes last.

    Deb 2000, "An efficient constraint handling method for genetic algorithms", section 3:
    https://doi.org/10.1016/S0045-7825(99)00389-8
    """
    accuracy = evaluation.accuracy
    return evaluation.violation, math.inf if math.isnan(accuracy) else -accuracy


@dataclass(frozen=True, eq=False)
class Problem:
    """Asks for the architecture of `space` with the highest accuracy among those that keep every limit.

    `accuracy` and each cost take a batch: an (n, choices) int64 array, or a list of n tuples where the
    architectures of the space vary in length. They give n numbers, higher accuracy and lower cost being
    better. An accuracy that takes its time may give an iterator: each value counts as soon as it arrives, and an
    `Estimate`, below the best given before, is one of an architecture that can't be the best.
    A limit is in the unit of its cost. To keep a limit that is later measured, price with the upper end of
    the prediction's interval.
    """

    space: SearchSpace
    accuracy: Callable[[Any], Iterable[float]]
    costs: Mapping[str, Callable[[Any], ArrayLike]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if name not in self.costs:
                known = ", ".join(sorted(self.costs)) or "none"
                raise InputError(f"limit {name}={limit} needs a cost of that name; costs given: {known}")
            if not (math.isfinite(limit) and limit > 0):
                raise InputError(f"limit {name}={limit} must be a positive number")
        for name, cost in self.costs.items():
            if isinstance(cost, AdditiveCost):
                _check_tables(name, cost, self.space)

    def batch(self, archs: Archs) -> Any:
        """The architectures as `accuracy` and the costs take them."""
        options = self.space.options
        if options is None:
            return list(archs)
        return np.asarray(archs, dtype=np.int64).reshape(len(archs), len(options))

    def price(self, archs: Archs) -> dict[str, NDArray[np.float64]]:
        """All costs of the architectures: name -> (n,)."""
        batch = self.batch(archs)
        return {name: _column(name, cost(batch), len(archs)) for name, cost in self.costs.items()}

    def violation(self, costs: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Sum over the limits of max(0, cost / limit - 1), in the shape of the costs; 0 without limits."""
        excess = [np.maximum(0, np.asarray(costs[name]) / limit - 1) for name, limit in self.limits.items()]
        return np.sum(excess, axis=0)

    def priced(self, archs: Sequence[Arch]) -> list[Evaluation]:
        """The architectures with costs and violation, their accuracy still nan."""
        if not archs:
            return []  # costs need not cope with an empty batch
        costs = self.price(archs)
        violations = np.broadcast_to(self.violation(costs), len(archs)).tolist()
        rows = zip(*(column.tolist() for column in costs.values()), strict=True) if costs else itertools.repeat(())
        return [
            Evaluation(arch, math.nan, dict(zip(costs, row, strict=True)), violation)
            for arch, row, violation in zip(archs, rows, violations, strict=False)
        ]

    def evaluated(self, priced: Sequence[Evaluation]) -> Iterator[Evaluation]:
        """The same evaluations with their accuracy, each as soon as it is known."""
        values = self.accuracy(self.batch([evaluation.arch for evaluation in priced]))
        for accuracy, evaluation in zip(one_each(values, len(priced)), priced, strict=True):
            estimated = isinstance(accuracy, Estimate)
            yield Evaluation(evaluation.arch, accuracy, evaluation.costs, evaluation.violation, estimated)


def one_each(values: Iterable[float], n: int) -> Iterator[float]:
    """The accuracies of `n` architectures, each as it arrives; InputError where they are not n numbers."""
    wrong = InputError(f"accuracy must give one number for each of {n} architectures")
    if isinstance(values, np.ndarray) and values.shape == (n,):
        values = values.tolist()  # a batch at once: numbers that need not be looked at one by one
    arriving = iter(values)
    for _ in range(n):
        value = next(arriving, None)
        if type(value) is not float:
            if value is None or np.ndim(value) != 0:
                raise wrong
            value = value if isinstance(value, Estimate) else float(value)
        yield value
    if next(arriving, None) is not None:
        raise wrong


def _column(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    """The values of a cost, checked: a nan would pass every limit unseen."""
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,):
        raise InputError(f"cost {name!r} must give one number for each of {n} architectures, not shape {column.shape}")
    if np.isnan(column).any():
        raise InputError(f"cost {name!r} is nan for {np.isnan(column).sum()} of {n} architectures")
    return column


def _check_tables(name: str, cost: AdditiveCost, space: SearchSpace) -> None:
    tables = tuple(len(table) for table in cost.unary)
    if tables != space.options:
        raise MismatchError(
            f"cost {name!r} has tables for the options {tables}, {space} has {space.options}: price it anew"
        )
