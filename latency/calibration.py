"""How layers timed alone become latencies of networks: fitted to whole networks measured beside the layers.

What a layer takes alone is not what it takes in a network. Alone it reads and writes its activations in the runtime's
outer layout, every time, and finds its weights in the cache; and every call has a price. How much that matters differs
between devices. So a network's latency has a term for each of these, and a few whole networks say how large
they are: for lack of evidence they are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..supernet.cost import layer_cost
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .design import Prior, choose
from .regression import regress

Ms = TypeVar("Ms", float, NDArray[np.float64])
Sizes = tuple[float, float, float]  # layers, elements that they read and write, weights
SCALE, TERM = 0.3, 0.1  # how far the scale is likely to be from 1, and a term from 0, as a share of a typical latency
NOISES = tuple(np.geomspace(0.002, 0.2, 40).tolist())  # relative; the networks tell how large it is
NOISE = 0.01
LEAST = 0.1  # of a mean latency, that every network takes: what computes hardly anything has calls and memory to pay
DRIFT = 0.007  # deviation of all ratios to the reference together from one run to the next (38 runs on a quiet host)
# the same where the table's own networks are measured beside: all together were off by 0.004 in six runs of
# benchmarks/latency.py, of which 20 networks leave 0.0025 unknown
ANCHORED = 0.003
Z_90 = float(stats.norm.ppf(0.95))  # deviations to the ends of a 90 % interval
# What 90 % intervals of predictions leave out above and below: a limit that is broken costs more than one that is not
# used up, and a search prefers the networks whose latency is predicted too low.
ABOVE, BELOW = 0.025, 0.075


def run_margin(errors: ArrayLike) -> float:
    """The margin, a fraction, for relative errors (n,) within one run, with what the next run differs by."""
    return float(np.expm1(stats.norm.isf(ABOVE) * np.sqrt(np.mean(np.square(errors)) + ANCHORED**2)))


def interval(ms: Ms, margin: Ms | float) -> tuple[Ms, Ms]:
    """The ends of the 90 % interval of latencies that are known to this margin, the upper one at ms * (1 + margin)."""
    return ms / (1 + margin) ** float(stats.norm.isf(BELOW) / stats.norm.isf(ABOVE)), ms * (1 + margin)


def sizes_of(space: SearchSpace, layer: Layer) -> Sizes:
    """What a layer's terms are counted by: one layer, elements read and written (of one image), weights."""
    read = sum(float(np.prod(shape)) for shape in layer.input_shapes())
    written = layer.out_channels * max(layer.out_size, 1) ** 2
    return 1.0, read + written, float(layer_cost(space, layer).params)


@dataclass(frozen=True)
class Network:
    """One whole network that was measured beside the layers, with the sums over its layers."""

    arch: Arch
    sum_ms: float
    measured_ms: float
    sizes: Sizes = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Calibration:
    """How sums over layers become latencies: ms = scale * sum + size_ms @ sizes + offset_ms, no layer less than 0.

    `size_ms` has a term for each of `Sizes`. `interval` tells what the margin means. `overhead_ms`, the price of a call
    that computes nothing, is taken off every layer before.
    """

    scale: float = 1.0
    offset_ms: float = 0.0
    margin: float = 0.0
    overhead_ms: float = 0.0
    networks: tuple[Network, ...] = ()
    size_ms: Sizes = (0.0, 0.0, 0.0)

    def layer_ms(self, alone_ms: float, sizes: Sizes) -> float:
        """What a layer takes within a network, never less than nothing."""
        terms = sum(ms * size for ms, size in zip(self.size_ms, sizes, strict=True))
        return max(0.0, self.scale * max(alone_ms - self.overhead_ms, 0.0) + terms)

    def fitted_ms(self, network: Network) -> float:
        """What a network takes where layers may take less than nothing, as they may while this is fitted."""
        terms = sum(ms * size for ms, size in zip(self.size_ms, network.sizes, strict=True))
        return self.scale * network.sum_ms + terms + self.offset_ms

    def times(self, factor: float, margin: float) -> Calibration:
        """Of latencies that are `factor` times these, known to +- `margin` more; the layers stay what they are."""
        layers, elements, weights = self.size_ms
        return replace(
            self,
            scale=self.scale * factor,
            size_ms=(layers * factor, elements * factor, weights * factor),
            offset_ms=self.offset_ms * factor,
            margin=self.margin + margin,
            networks=tuple(replace(n, measured_ms=n.measured_ms * factor) for n in self.networks),
        )

    def rescaled(self, factor: float, margin: float) -> Calibration:
        """The same where all layers have become `factor` times as long."""
        after = self.times(factor, margin)
        networks = tuple(replace(n, sum_ms=n.sum_ms * factor) for n in after.networks)
        return replace(after, scale=self.scale, overhead_ms=self.overhead_ms * factor, networks=networks)


def fit(networks: Sequence[Network], overhead_ms: float, others: Sequence[Network] = ()) -> Calibration:
    """The calibration that whole networks tell, by `regress` on relative errors.

    The rows are (y - x) / y = sum_k w_k c_k / y for measured y, sums x, and c_k the sum x itself, the sizes and a
    constant, each scaled to the mean of y. The margin is what is foretold of `others` (of networks like these, where
    none are given).
    """
    if not networks:
        return Calibration(overhead_ms=overhead_ms, margin=run_margin(np.hypot(SCALE, 2 * TERM)))
    columns, y = _columns(networks), np.array([network.measured_ms for network in networks])
    likely = _likely(columns, float(y.mean()))
    rows = columns * likely / y[:, None]
    found = regress(rows, 1 - columns[:, 0] / y, NOISES, NOISE)
    more, layer_ms, element_ms, weight_ms, offset_ms = map(float, found.weights * likely)
    if others:
        foretold = _columns(others) @ (found.weights * likely) + _columns(others)[:, 0]
        rows = _columns(others) * likely / np.maximum(foretold, y.min())[:, None]
    return Calibration(
        1 + more,
        offset_ms,
        float(np.expm1(found.quantile(rows, 1 - ABOVE, ANCHORED))),
        overhead_ms,
        tuple(networks),
        (layer_ms, element_ms, weight_ms),
    )


def most_telling(networks: Sequence[Network], count: int) -> list[int]:
    """Which `count` of these networks to measure to know all of them: indices, in order.

    Half of them are spread over the range. The others are those that tell most beside these: what layers, activations
    and weights cost is told by networks that have many of one for few of the others. Sums may be in any unit in which
    they are about proportional to latency, such as multiply-accumulates: nothing has to be measured before.
    """
    if (count := min(count, len(networks))) == 0:
        return []
    columns = _columns(networks)
    sums = columns[:, 0] if columns[:, 0].any() else columns[:, 1]
    sums = np.maximum(sums, LEAST * sums.mean())
    rows = columns * _likely(columns, float(sums.mean())) / sums[:, None]
    places = np.linspace(0, len(rows) - 1, max((count + 1) // 2, min(count, 2))).round().astype(int)
    even = np.argsort(sums, kind="stable")[places]
    return sorted(choose(Prior(np.zeros(len(rows)), rows.T, NOISE), count, range(len(rows)), even.tolist()))


def _likely(columns: np.ndarray, typical: float) -> np.ndarray:
    """How large the weights of the columns are likely to be (5,), where latencies are about `typical`."""
    means = columns.mean(axis=0)
    return np.array([SCALE, TERM, TERM, TERM, TERM]) * np.divide(typical, means, where=means > 0, out=0 * means)


def _columns(networks: Sequence[Network]) -> np.ndarray:
    """What a network's latency is a weighted sum of: (networks, 5), the sum over layers first."""
    return np.array([(network.sum_ms, *network.sizes, 1.0) for network in networks])
