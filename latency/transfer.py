"""A new device from a few measurements, given what earlier devices took: a Gaussian model of how devices differ.

What a device takes for an item (a network, a layer) is, on a log scale or as relative deviation, the mean of the
earlier devices plus a combination of the ways in which these differed from each other, plus noise. So the few
measurements of a new device have only to say which combination it is; the items to measure are those that say most.
This is Gaussian-process regression with a covariance learned from the earlier devices (Rasmussen and Williams 2006,
https://gaussianprocess.org/gpml, eqs. 2.25, 2.26); the choice is greedy A-optimal design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .regression import regress

Floats = NDArray[np.float64]

LEVEL = 3.0  # deviation of a device's overall speed on a log scale: it may be 20 times as fast as another
NOISES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # the measurements decide which
SLOPE = 0.5  # deviation of how far a device spreads what differs in size
NOISE = 0.07  # what neither the earlier devices nor a measurement tell of an item, and the noise of measuring


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of a new device before it is measured: log times (items,), and ways to differ (k, items).

    A new device is `mean + weights @ factors`, weights standard normal, and `noise` for each item by itself.
    """

    mean: Floats
    factors: Floats
    noise: float = NOISE


def prior(earlier_ms: Floats, noise: float = NOISE) -> Prior:
    """The prior that earlier devices give: times (devices, items) in ms, all positive.

    Factors are the overall level, the spread, and what each device differs by beyond these.
    """
    logs = np.log(earlier_ms)
    mean = logs.mean(axis=0)
    deviations = logs - mean
    deviations -= deviations.mean(axis=1, keepdims=True)
    centred = mean - mean.mean()
    ways = deviations / np.sqrt(max(1, len(logs) - 1))
    return Prior(mean, np.vstack([np.full_like(mean, LEVEL), SLOPE * centred, ways]), noise)


def choose(known: Prior, count: int, candidates: Sequence[int], first: Sequence[int] = ()) -> list[int]:
    """The `count` candidates (indices of items) that together tell most about all candidates, after these `first`.

    Each step takes the item after which the mean posterior variance is least. `first` are places among the candidates.
    """
    points = known.factors[:, list(candidates)]  # (k, n)
    covariance = np.eye(len(points))
    moment = points @ points.T / points.shape[1]
    chosen: list[int] = []
    for step in range(min(count, points.shape[1])):
        spread = covariance @ points
        variance = known.noise**2 + (points * spread).sum(axis=0)
        gain = (spread * (moment @ spread)).sum(axis=0) / variance
        gain[chosen] = -np.inf
        best = first[step] if step < len(first) else int(gain.argmax())
        chosen.append(best)
        covariance -= np.outer(spread[:, best], spread[:, best]) / variance[best]
    return [int(candidates[i]) for i in chosen]


@dataclass(frozen=True, eq=False)
class Transferred:
    """A new device, item by item: ms (items,), and the standard deviation of their logarithms (items,).

    `weights` (k,) are those of the prior's factors. `error` is what the measured items were missed by when each was
    left out in turn: the mean, as a fraction.
    """

    ms: Floats
    deviation: Floats
    weights: Floats
    error: float

    @property
    def margin(self) -> Floats:
        """Half widths of the 90 % intervals as fractions: from ms / (1 + margin) to ms * (1 + margin)."""
        return np.expm1(stats.norm.ppf(0.95) * self.deviation)


def transfer(known: Prior, items: Sequence[int], measured_ms: Floats) -> Transferred:
    """All items of a new device from the measured ones.

    The deviations are larger where the items left out in turn were missed by more than they promise.
    """
    at = known.factors[:, list(items)].T  # (n, k)
    found = regress(at, np.log(measured_ms) - known.mean[list(items)], NOISES, NOISE)
    ms = np.exp(known.mean + found.weights @ known.factors)
    deviation = found.surprise * found.deviation(known.factors.T)
    return Transferred(ms, deviation, found.weights, float(np.mean(np.abs(np.expm1(-found.missed)))))
