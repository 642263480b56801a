"""A new device from a few measurements, given what earlier devices took: a Gaussian model of how devices differ.

What a device takes for an item (a network, a layer) is, on a log scale or as relative deviation, the mean of the
earlier devices plus a combination of the ways in which these differed from each other, plus noise. So the few
measurements of a new device have only to say which combination it is; `design` chooses what to measure.
This is Gaussian-process regression with a covariance learned from the earlier devices (Rasmussen and Williams 2006,
https://gaussianprocess.org/gpml, eqs. 2.25, 2.26).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .calibration import ABOVE
from .design import Floats, Prior
from .regression import regress

LEVEL = 3.0  # deviation of a device's overall speed on a log scale: it may be 20 times as fast as another
NOISES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # the measurements decide which
SLOPE = 0.5  # deviation of how far a device spreads what differs in size
NOISE = 0.07  # what neither the earlier devices nor a measurement tell of an item, and the noise of measuring


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
        """By what fractions (items,) the upper ends of the 90 % intervals (`interval`) lie above `ms`."""
        return np.expm1(stats.norm.isf(ABOVE) * self.deviation)


def transfer(known: Prior, items: Sequence[int], measured_ms: Floats) -> Transferred:
    """All items of a new device from the measured ones.

    The deviations are larger where the items left out in turn were missed by more than they promise.
    """
    at = known.factors[:, list(items)].T  # (n, k)
    found = regress(at, np.log(measured_ms) - known.mean[list(items)], NOISES, NOISE)
    ms = np.exp(known.mean + found.weights @ known.factors)
    deviation = found.surprise * found.deviation(known.factors.T)
    return Transferred(ms, deviation, found.weights, float(np.mean(np.abs(np.expm1(-found.missed)))))
