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
from scipy import optimize, stats
from scipy.special import softmax

Floats = NDArray[np.float64]

NOISE_SPREAD = 1.0  # deviation of the noise's logarithm around what is typical


@dataclass(frozen=True, eq=False)
class Regression:
    """Weights (k,) with their covariance (k, k), the noise, and for each row (n,) what leaving it out shows.

    `missed` is the error for a row that was left out, `promised` the standard deviation foretold of it. The noise is
    one of `noises` (g,) with the probabilities `beliefs` (g,), and the covariance `covariances` (g, k, k) with it.
    """

    weights: Floats
    covariance: Floats
    noise: float
    missed: Floats
    promised: Floats
    noises: Floats
    beliefs: Floats
    covariances: Floats

    @property
    def surprise(self) -> float:
        """By what factor rows that were left out were missed by more than foretold, in the mean; at least 1."""
        return max(1.0, float(np.sqrt(np.mean((self.missed / self.promised) ** 2))))

    def deviation(self, design: Floats) -> Floats:
        """Standard deviation of new measurements with rows (m, k) -> (m,)."""
        variance = ((design @ self.covariance) * design).sum(axis=1)
        return np.sqrt(np.maximum(variance, 0) + self.noise**2)

    def quantile(self, design: Floats, share: float, more: float = 0.0) -> float:
        """What the errors of so large a share of new measurements with rows (m, k) stay below.

        The fewer rows have told the noise, the further out. `more` is added to the deviation, as to the noise.
        """
        variances = np.einsum("mk,gkl,ml->gm", design, self.covariances, design).clip(min=0)
        deviations = np.sqrt(variances + np.square(self.noises)[:, None] + more**2)  # (g, m)

        def beyond(error: float) -> float:
            return float(self.beliefs @ stats.norm.cdf(error / deviations).mean(axis=1)) - share

        return float(optimize.brentq(beyond, 0.0, 10 * float(deviations.max())))


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

    beliefs = softmax([evidence(noise) for noise in noises])
    noise = float(np.sqrt(beliefs @ np.square(noises)))
    inverse = np.linalg.inv(design @ design.T + noise**2 * np.eye(len(target)))
    left_out = np.diag(inverse)
    return Regression(
        weights=design.T @ (inverse @ target),
        covariance=_covariance(design, noise),
        noise=noise,
        missed=inverse @ target / left_out,  # eq. 5.12
        promised=np.sqrt(1 / left_out),
        noises=np.array(noises),
        beliefs=beliefs,
        covariances=np.array([_covariance(design, noise) for noise in noises]),
    )


def _covariance(design: Floats, noise: float) -> Floats:
    """Of the weights (k, k), given rows (n, k) with this noise (eq. 2.8)."""
    precision: Floats = design.T @ design / noise**2 + np.eye(design.shape[1])
    return np.asarray(np.linalg.inv(precision), dtype=np.float64)
