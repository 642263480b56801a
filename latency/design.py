"""Which items to measure, so that few tell most about all: greedy A-optimal design for a linear Gaussian model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of items before any is measured: their mean (items,), and ways to differ from it (k, items).

    What they are is `mean + weights @ factors`, weights standard normal, and `noise` for each item by itself.
    """

    mean: Floats
    factors: Floats
    noise: float


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
