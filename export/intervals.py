"""The 95 % interval of a metric on test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..supernet.metrics import METRICS

RESAMPLES = 1000


def accuracy_interval(metric: str, labels: NDArray[Any], predicted: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of a metric: exact where it counts trials; for any other a bootstrap's."""
    if metric in ("accuracy", "top-5"):
        return binomial_interval(METRICS[metric](labels, predicted), len(labels))
    return bootstrap_interval(METRICS[metric], labels, predicted)


def bootstrap_interval(
    metric: Callable[[NDArray[Any], NDArray[Any]], float], labels: NDArray[Any], predicted: NDArray[Any]
) -> tuple[float, float]:
    """The 95 % percentile interval over draws of as many images (Efron, https://doi.org/10.1214/aos/1176344552).

    It is a little narrow for few images, and has no width for a network without an error.
    """
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(labels), size=len(labels)) for _ in range(RESAMPLES))
    low, high = np.quantile([metric(labels[rows], predicted[rows]) for rows in draws], [0.025, 0.975])
    return float(low), float(high)


def binomial_interval(fraction: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a fraction of `count` trials (Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404)."""
    found = stats.binomtest(round(fraction * count), count).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)
