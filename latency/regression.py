"""Linear regression for few measurements: large weights are unlikely, and the measurements tell their noise.

    y = X w + e,   w ~ N(0, I),   e ~ N(0, noise^2 I)

Rasmussen and Williams 2006 (https://gaussianprocess.org/gpml), sections 2.1, 5.4. With few rows the weights stay near
zero, with many they go where the rows say; how few is few follows from the scales of X and of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax

Floats = NDArray[np.float64]

NOISE_SPREAD = 0.7  # deviation of the noise's logarithm around what is typical


@dataclass(frozen=True, eq=False)
class Regression:
    """Weights (k,) with their covariance (k, k), the noise, and for each row (n,) what leaving it out shows.

    `missed` is the error for a row that was left out, `promised` the standard deviation foretold of it.
    """

    weights: Floats
    covariance: Floats
    noise: float
    missed: Floats
    promised: Floats

    @property
    def surprise(self) -> float:
        """By what factor rows that were left out were missed by more than foretold, in the mean; at least 1."""
        return max(1.0, float(np.sqrt(np.mean((self.missed / self.promised) ** 2))))

    def deviation(self, design: Floats) -> Floats:
        """Standard deviation of new measurements with rows (m, k) -> (m,)."""
        variance = ((design @ self.covariance) * design).sum(axis=1)
        return np.sqrt(np.maximum(variance, 0) + self.noise**2)


def regress(
    design: Floats, target: Floats, noises: Sequence[float], typical: float, spread: float = NOISE_SPREAD
) -> Regression:
    """The posterior of the weights given rows (n, k) and targets (n,), for noise as the rows tell it.

    Its variance is the mean over `noises`, each weighed by its evidence: few measurements leave open how large it is,
    and may look as if there were none at all. Hence also a prior, log-normal around `typical`, its logarithm with the
    deviation `spread`.
    """

    def evidence(noise: float) -> float:  # eq. 2.30
        covariance = design @ design.T + noise**2 * np.eye(len(target))
        unusual = np.log(noise / typical) / spread
        return float(stats.multivariate_normal.logpdf(target, cov=covariance) - unusual**2 / 2)

    noise = float(np.sqrt(softmax([evidence(noise) for noise in noises]) @ np.square(noises)))
    inverse = np.linalg.inv(design @ design.T + noise**2 * np.eye(len(target)))
    left_out = np.diag(inverse)
    return Regression(
        weights=design.T @ (inverse @ target),
        covariance=np.eye(design.shape[1]) - design.T @ inverse @ design,
        noise=noise,
        missed=inverse @ target / left_out,  # eq. 5.12
        promised=np.sqrt(1 / left_out),
    )
