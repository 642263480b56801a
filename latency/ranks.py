"""Rank correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def kendall_tau(a: Floats, b: Floats) -> float:
    """Rank correlation of two series (n,), tau-b (https://doi.org/10.1093/biomet/33.3.239); 0 if one is constant."""
    return float(np.nan_to_num(stats.kendalltau(a, b).statistic))
