"""How sums of layers become latencies of networks: fitted to whole networks measured beside the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ..supernet.space import Arch

MIN_MARGIN = 0.01  # no interval is narrower: it is what a measurement repeats to on a quiet host
RIDGE = 1e-4


@dataclass(frozen=True)
class Network:
    """One whole network that was measured beside the layers, and the sum of its layers."""

    arch: Arch
    sum_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Calibration:
    """How sums of layers become latencies: ms = scale * sum + offset_ms, within +- margin (a fraction).

    `overhead_ms`, the price of a call that computes nothing, is taken off every layer before.
    """

    scale: float = 1.0
    offset_ms: float = 0.0
    margin: float = 0.0
    overhead_ms: float = 0.0
    networks: tuple[Network, ...] = ()

    def times(self, factor: float, margin: float) -> Calibration:
        """Of latencies that are `factor` times these, known to +- `margin` more; the layers stay what they are."""
        return replace(
            self, scale=self.scale * factor, offset_ms=self.offset_ms * factor, margin=self.margin + margin, networks=()
        )

    def rescaled(self, factor: float, margin: float) -> Calibration:
        """The same where all layers have become `factor` times as long."""
        return replace(self.times(factor, margin), scale=self.scale, overhead_ms=self.overhead_ms * factor)


def fit(networks: Sequence[Network], overhead_ms: float) -> Calibration:
    """Scale and offset by ridge regression of relative errors, drawn towards scale 1 and offset 0.

    minimise sum_i ((scale * x_i + offset - y_i) / y_i)^2 + RIDGE * n * ((scale - 1)^2 + (offset / mean(y))^2)
    for sums x and measured y. The margin is Student's 90 % prediction interval
    of the relative residuals, averaged over the range.
    """
    if len(networks) < 3:
        return Calibration(overhead_ms=overhead_ms, margin=0.1, networks=tuple(networks))
    x = np.array([network.sum_ms for network in networks])
    y = np.array([network.measured_ms for network in networks])
    n, unit, weight = len(x), y.mean(), np.sqrt(RIDGE * len(x))
    design = np.vstack([np.stack([x / y, unit / y], axis=1), weight * np.eye(2)])  # (n + 2, 2)
    target = np.concatenate([np.ones(n), [weight, 0.0]])
    (scale, offset), *_ = np.linalg.lstsq(design, target)
    residuals = y / (scale * x + offset * unit) - 1  # as fractions of the prediction, as the margin is
    error = np.sqrt((residuals**2).sum() / (n - 2) * (1 + 2 / n))  # 2 / n: the mean leverage of two parameters
    margin = max(MIN_MARGIN, float(stats.t.ppf(0.95, n - 2) * error))
    return Calibration(float(scale), float(offset * unit), margin, overhead_ms, tuple(networks))
