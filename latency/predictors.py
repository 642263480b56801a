"""Other predictors of latency than the table, learned from whole networks; cross-validation says which is best.

The table needs a few networks and is a sum over layers, for which a search has exact methods. The others are for what
may be no such sum: a device that runs branches at once, or overlaps layers. All have the table's two methods,
so each can be the cost of a `Problem`, or re-rank what a search has found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..errors import InputError
from ..supernet.cost import counts, layer_cost
from ..supernet.ranking import kendall_tau
from ..supernet.space import Arch, SearchSpace
from .calibration import fit, interval, run_margin, sizes_of
from .table import Estimates, Floats, LatencyTable, Predictor

FOLDS = 5
LEAST = 10  # networks, for a comparison
Rows = Callable[[Sequence[Arch]], Floats]  # (n architectures) -> (n, features)


@dataclass(frozen=True, eq=False)
class Learned:
    """A fitted scikit-learn model of ms, or with `base` of the logarithm of ms over what the base predicts."""

    rows: Rows
    model: Any
    base: Predictor | None = None
    margin: float = 0.0
    rejections: Callable[[Arch], float] | None = None

    def predict_many(self, archs: ArrayLike) -> Floats:
        """(n, choices) integers, or a list of tuples -> (n,) ms; infinite where there are `rejections`."""
        listed = [tuple(arch) for arch in cast(Sequence[Arch], archs)]
        found = np.asarray(self.model.predict(self.rows(listed)), dtype=float)
        ms = found if self.base is None else self.base.predict_many(listed) * np.exp(found)
        return ms if self.rejections is None else np.where([self.rejections(arch) > 0 for arch in listed], np.inf, ms)

    def estimate_many(self, archs: ArrayLike) -> Estimates:
        """The same with intervals."""
        ms = self.predict_many(archs)
        return Estimates(ms, *interval(ms, self.margin))


def totals(space: SearchSpace, archs: Sequence[Arch]) -> Floats:
    """Multiply-accumulates, layers, elements read and written, weights, and 1 for the network itself: (n, 5)."""

    def row(arch: Arch) -> Floats:
        layers = [node.layer for node in space.graph(arch)]
        sums = np.sum([(layer_cost(space, layer).flops, *sizes_of(space, layer)) for layer in layers], axis=0)
        return np.append(sums, 1.0)

    return np.array([row(arch) for arch in archs], dtype=float)


def bags(space: SearchSpace, archs: Sequence[Arch]) -> Floats:
    """How often each network has each layer of the space, beside the totals' logarithms: (n, layers + 5)."""
    return np.hstack([np.log1p(totals(space, archs)), counts(space, space.layers(), archs)])


def calibrated_table(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Predictor:
    """The table, calibrated by these networks."""
    networks = [table.network(arch, ms) for arch, ms in zip(archs, measured_ms.tolist(), strict=True)]
    return table.calibrated(fit(networks, table.calibration.overhead_ms))


def linear(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Predictor:
    """A price, not below zero, for each multiply-accumulate, layer, element and weight: least relative squares."""
    rows = partial(totals, table.space)
    model = LinearRegression(positive=True, fit_intercept=False)
    fitted = model.fit(rows(archs), measured_ms, 1 / measured_ms**2)
    return Learned(rows, fitted, rejections=table.rejections if table.rejected else None)


def forest(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Predictor:
    """A random forest (https://doi.org/10.1023/A:1010933404324) on what a linear model misses."""
    return _residual(
        linear(table, archs, measured_ms), RandomForestRegressor(random_state=0), table, archs, measured_ms
    )


def network(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Predictor:
    """A Gaussian process (GPML, ch. 2) on whole networks, which knows nothing of single layers' times."""
    return _residual(linear(table, archs, measured_ms), gaussian_process(), table, archs, measured_ms)


def residual(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Predictor:
    """A Gaussian process on what the table, calibrated by the same networks, misses."""
    return _residual(calibrated_table(table, archs, measured_ms), gaussian_process(), table, archs, measured_ms)


def gaussian_process() -> Any:
    """Smooth over all features at once, with noise; how smooth, the likelihood decides."""
    kernel = ConstantKernel(1e-3, (1e-8, 1e2)) * RBF(10.0, (1e-1, 1e4)) + WhiteKernel(1e-4, (1e-8, 1.0))
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, random_state=0))


def _residual(base: Predictor, model: Any, table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> Learned:
    rows = partial(bags, table.space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound: no residual, or no noise
        model.fit(rows(archs), np.log(measured_ms / base.predict_many(archs)))
    return Learned(rows, model, base)


Fit = Callable[[LatencyTable, Sequence[Arch], Floats], Predictor]
PREDICTORS: dict[str, Fit] = {
    "table": calibrated_table,
    "residual": residual,
    "linear": linear,
    "forest": forest,
    "network": network,
}


@dataclass(frozen=True)
class Score:
    """How well a predictor tells networks that it was not fitted to. Errors are fractions."""

    mape: float
    within_5: float
    kendall_tau: float


def compare_predictors(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> dict[str, Score]:
    """The score of every predictor, fitted to four fifths of the measured networks and held against the rest."""
    scores = {}
    for name in PREDICTORS:
        ms = left_out(table, archs, measured_ms, name)
        error = np.abs(ms / measured_ms - 1)
        scores[name] = Score(float(error.mean()), float((error <= 0.05).mean()), kendall_tau(ms, measured_ms))
    return scores


def left_out(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats, name: str) -> Floats:
    """What a predictor tells of each network when fitted to others: (n,) ms."""
    if len(archs) < LEAST:
        raise InputError(f"{len(archs)} networks are too few to compare predictors: at least {LEAST}")
    ms = np.empty(len(archs))
    for known, rest in KFold(FOLDS, shuffle=True, random_state=0).split(measured_ms):
        fitted = PREDICTORS[name](table, [archs[i] for i in known], measured_ms[known])
        ms[rest] = fitted.predict_many([archs[i] for i in rest])
    return ms


def best_predictor(table: LatencyTable, archs: Sequence[Arch], measured_ms: Floats) -> tuple[str, Predictor]:
    """The predictor with the least cross-validated error, fitted to all networks, with the interval so found.

    The table wins a tie within a tenth: it alone is a sum over layers.
    """
    scores: Mapping[str, Score] = compare_predictors(table, archs, measured_ms)
    name = min(scores, key=lambda n: scores[n].mape * (0.9 if n == "table" else 1.0))
    fitted = PREDICTORS[name](table, archs, measured_ms)
    if isinstance(fitted, Learned):
        errors = np.log(left_out(table, archs, measured_ms, name) / measured_ms)
        return name, replace(fitted, margin=run_margin(errors))
    return name, fitted
