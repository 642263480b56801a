"""How well one series of figures ranks networks as another does: over all, and among networks that cost the same.

A search compares networks of about equal cost, and accuracy grows with cost: a supernet that only knew how large
networks are would rank well over all, and be of no use. So ranks count inside bands of cost, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

BAND = 0.05  # networks up to so much cheaper or dearer than one are in its band
DRAWS, CONFIDENCE = 1000, 0.95  # of the bootstrap


@dataclass(frozen=True)
class Figure:
    """A statistic with its bootstrap interval, 95 % by percentiles."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """How networks are ranked; the last two are None where no two networks cost the same.

    `tau` and `spearman` are rank correlations. `tau_in_bands` is Kendall's over the `pairs_in_bands` alone. `regret` is
    the accuracy lost by choosing in each network's band what is said to be best there, in the mean.
    """

    nets: int
    tau: Figure
    spearman: Figure
    pairs_in_bands: int
    tau_in_bands: Figure | None
    regret: Figure | None


@dataclass(frozen=True)
class Difference:
    """By how much the tau of one series is above that of another, over the same networks; with its interval.

    Both judge the same networks, which makes it better known than either. `tau_in_bands` is None where no two networks
    cost the same.
    """

    tau: Figure
    tau_in_bands: Figure | None


def kendall_tau(a: Floats, b: Floats) -> float:
    """Rank correlation of two series (n,), tau-b (https://doi.org/10.1093/biomet/33.3.239); 0 if one is constant."""
    return float(np.nan_to_num(stats.kendalltau(a, b).statistic))


def ranking(said: ArrayLike, truth: ArrayLike, costs: ArrayLike, seed: int = 0) -> Ranking:
    """How networks are ranked by what is `said` of them (n,), against the `truth` (n,); both larger for better ones.

    `costs` (n,) say which networks are alternatives to each other. Intervals are of networks drawn anew.
    """
    said_, true_, costs_ = (np.asarray(values, dtype=float) for values in (said, truth, costs))
    n, compared = len(true_), _Pairs(said_, true_)
    ratio = costs_[:, None] / costs_[None, :]
    band = np.abs(ratio - 1) <= BAND  # (n, n): column j is the band of network j
    near = _near(costs_)

    def spearman(times: Floats) -> float:
        rows = np.repeat(np.arange(n), times.astype(int))
        a, b = (stats.rankdata(values[rows]) - (len(rows) + 1) / 2 for values in (said_, true_))
        return float(np.nan_to_num(a @ b / np.sqrt((a @ a) * (b @ b))))

    def regret(times: Floats) -> float:
        there = band & (times > 0)[:, None]
        best = np.where(there, true_[:, None], -np.inf).max(axis=0)
        chosen = np.where(there, said_[:, None], -np.inf).argmax(axis=0)
        rows = (times > 0) & (there.sum(axis=0) > 1)  # whose band has a choice
        return float(np.average((best - true_[chosen])[rows], weights=times[rows])) if rows.any() else float("nan")

    draws, pairs = _draws(n, seed), int((near.sum() - n) // 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Ranking(
            nets=n,
            tau=_figure(lambda times: compared.tau(times, np.ones_like(near)), draws),
            spearman=_figure(spearman, draws),
            pairs_in_bands=pairs,
            tau_in_bands=_figure(lambda times: compared.tau(times, near), draws) if pairs else None,
            regret=_figure(regret, draws) if (band.sum(axis=0) > 1).any() else None,
        )


def difference(said: ArrayLike, other: ArrayLike, truth: ArrayLike, costs: ArrayLike, seed: int = 0) -> Difference:
    """By how much better what is `said` (n,) ranks networks than what `other` (n,) says, as `ranking` has it."""
    said_, other_, true_, costs_ = (np.asarray(values, dtype=float) for values in (said, other, truth, costs))
    one, two, near = _Pairs(said_, true_), _Pairs(other_, true_), _near(costs_)
    draws, everywhere = _draws(len(true_), seed), np.ones_like(near)

    def above(among: NDArray[np.bool_]) -> Figure:
        return _figure(lambda times: one.tau(times, among) - two.tau(times, among), draws)

    with np.errstate(invalid="ignore", divide="ignore"):
        return Difference(above(everywhere), above(near) if near.sum() > len(true_) else None)


class _Pairs:
    """Of each two networks whether they are ordered alike by what is said of them (n,) and by the truth (n,)."""

    def __init__(self, said: Floats, truth: Floats) -> None:
        self.alike = _signs(said) * _signs(truth)  # (n, n): 1 alike, -1 not, 0 a tie
        self.apart = [np.abs(_signs(values)) for values in (said, truth)]

    def tau(self, times: Floats, among: NDArray[np.bool_]) -> float:
        """Kendall's tau-b of networks taken so many times (n,), over the pairs `among` (n, n)."""
        if not times @ (among & ~np.eye(len(times), dtype=bool)) @ times:
            return float("nan")  # none of them is an alternative to another
        apart = [times @ (each * among) @ times for each in self.apart]
        return float(np.nan_to_num(times @ (self.alike * among) @ times / np.sqrt(apart[0] * apart[1])))


def _near(costs: Floats) -> NDArray[np.bool_]:
    """Which two networks (n, n) are together in some band."""
    ratio = costs[:, None] / costs[None, :]
    near: NDArray[np.bool_] = np.maximum(ratio, 1 / ratio) <= (1 + BAND) / (1 - BAND)
    return near


def _draws(n: int, seed: int) -> Floats:
    """How often each of n networks is taken (draws, n) where they are drawn anew."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS).astype(float)


def _signs(values: Floats) -> Floats:
    """Of each two of (n,) values the sign of their difference (n, n)."""
    return np.sign(values[:, None] - values[None, :])


def _figure(statistic: Callable[[Floats], float], draws: Floats) -> Figure:
    """A statistic of all networks, each taken once, and its interval over networks drawn anew (draws, n)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile([statistic(times) for times in draws], [tail, 1 - tail])
    return Figure(statistic(np.ones(draws.shape[1])), float(low), float(high))
