"""Is a table fit for use: its predictions beside whole networks that it has never seen, and the repeat floor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..devices import Device, Sample
from ..devices.timed import samples_of
from ..progress import Progress, silent
from ..supernet.ranking import kendall_tau
from ..supernet.space import Arch
from .anchors import Beside, Change, measure_networks
from .calibration import ABOVE
from .profile import network_name
from .spread import spread
from .table import LatencyTable

if TYPE_CHECKING:
    from .predictors import Score

Floats = NDArray[np.float64]
FIT_WITHIN_10 = 0.95  # a table is fit for use if so many networks lie within 10 %,
FIT_TAU = 0.9  # if it orders them as well as this,
UNLIKELY = 1e-4  # and unless fewer keep the upper end of their interval than do so by chance where the promise holds
SLOWER = 0.1  # a reference that takes so much longer or shorter than when the table was made is worth a word


@dataclass(frozen=True)
class NetworkCheck:
    """One network: what the table promised, and what two measurements, minutes apart, found.

    `measured_ms` and `again_ms` are in the table's milliseconds, by the reference and the table's own networks
    (`anchors`), `raw_ms` is by the device's clock.
    """

    arch: Arch
    predicted_ms: float
    low_ms: float
    high_ms: float
    measured_ms: float
    raw_ms: float
    again_ms: float | None


@dataclass(frozen=True)
class Validation:
    """How well a table predicts. All errors are fractions; the floor is that of measuring twice (None: measured once).

    `kept` is the fraction of networks that took no longer than the upper end of their interval. `slower` says by how
    much longer the reference takes now than when the table was made, `changed` by how much longer, against the
    reference, the network for which that changed most; where it may pass (`Change.passing`) it is taken out of
    `measured_ms`. `predictors` has the cross-validated score on the same networks of each predictor that there is,
    where these are enough to compare. `samples` are the raw ones of each measurement, which no file of figures has.
    """

    nets: int
    mape: float
    within_5: float
    within_10: float
    kendall_tau: float
    floor_mape: float | None
    floor_tau: float | None
    interval_coverage: float
    kept: float
    slower: float
    changed: float
    measurements: tuple[NetworkCheck, ...]
    seconds: float
    fit_for_use: bool
    predictors: Mapping[str, Score]
    samples: tuple[tuple[Sample, ...], ...] = field(default=(), repr=False)

    def figures(self) -> dict[str, Any]:
        """All but the samples, as files have it."""
        values = asdict(replace(self, samples=()))
        del values["samples"]
        return values


def validate(
    table: LatencyTable,
    device: Device,
    nets: int = 20,
    pause_s: float = 60.0,
    seed: int = 1,
    progress: Progress = silent,
    samples: Path | None = None,
) -> Validation:
    """Measure `nets` networks, spread over the table's range and not used to calibrate it, twice.

    The second measurement starts `pause_s` after the first has ended: their difference is the repeat floor,
    the error that no prediction can go below. A device that was measured elsewhere measures only once. `samples` is a
    folder that keeps every sample at once, for a later call. FaultError where the machine was too noisy to judge.
    """
    table.check_timed()
    started = time.perf_counter()
    used = {network.arch for network in table.calibration.networks}
    archs = spread(table.space, table.cost or table.predict_many, nets, seed, exclude=used, without=table.rejected)
    passes: list[Beside] = []
    for number in range(1 if table.device["label"] == "measured elsewhere" else 2):
        kept = samples / str(number) if samples else None
        if passes and not (kept and (kept / samples_of(device)).exists()):
            wait(pause_s, progress)
        passes.append(measure_networks(table, device, archs, kept, progress))
    changed = max((passes[0].factor(network_name(arch)) - 1 for arch in archs), key=abs)
    if not all(seen.change.passing for seen in passes):  # of both, or of none: else they would differ by it
        passes = [replace(seen, change=Change()) for seen in passes]
    first, second = (np.array([seen.network_ms(arch) for arch in archs]) for seen in (passes[0], passes[-1]))
    raw_ms = np.array([passes[0].timing(arch).raw_ms for arch in archs])
    again = second if len(passes) > 1 else None
    seconds, slower = time.perf_counter() - started, passes[0].found.reference_ms / table.reference_ms - 1
    found = compare(table, archs, first, again, seconds, raw_ms, slower, changed)
    return replace(found, samples=tuple(seen.found.samples for seen in passes))


def compare(
    table: LatencyTable,
    archs: Sequence[Arch],
    first: Floats,
    second: Floats | None,
    seconds: float,
    raw_ms: Floats | None = None,
    slower: float = 0.0,
    changed: float = 0.0,
) -> Validation:
    """The figures of a validation from one measurement or two (n,) in the table's ms; `raw_ms` are its clock's."""
    from .predictors import LEAST, compare_predictors  # imports scikit-learn, which a search does without

    promised = table.estimate_many(archs)
    error, tau = np.abs(promised.ms / first - 1), kendall_tau(promised.ms, first)
    floor_tau = None if second is None else kendall_tau(second, first)
    again = [None] * len(archs) if second is None else second.tolist()
    within_10 = float((error <= 0.10).mean())
    raw = first if raw_ms is None else raw_ms
    columns = zip(*(ms.tolist() for ms in (promised.ms, promised.low, promised.high, first, raw)), again, strict=True)
    within, enough = first <= promised.high, min(FIT_TAU, FIT_TAU if floor_tau is None else floor_tau)
    return Validation(
        nets=len(archs),
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=within_10,
        kendall_tau=tau,
        floor_mape=None if second is None else float(np.abs(second / first - 1).mean()),
        floor_tau=floor_tau,
        interval_coverage=float(((promised.low <= first) & (first <= promised.high)).mean()),
        kept=float(within.mean()),
        slower=slower,
        changed=changed,
        measurements=tuple(NetworkCheck(arch, *row) for arch, row in zip(archs, columns, strict=True)),
        seconds=seconds,
        fit_for_use=within_10 >= FIT_WITHIN_10 and tau >= enough and promise_holds(int(within.sum()), len(archs)),
        predictors=compare_predictors(table, archs, first) if len(archs) >= LEAST else {},
    )


def promise_holds(kept: int, nets: int) -> bool:
    """Whether that many of so many networks may take no longer than was promised, which each does by 1 - ABOVE.

    Five of 20 may take longer, 15 of 200: so many are more than one in ten thousand tables has that keep their promise.
    """
    return float(stats.binom.cdf(kept, nets, 1 - ABOVE)) >= UNLIKELY


def speed_words(name: str, slower: float) -> str:
    """That a device is not as fast as when it was profiled: `slower` is the fraction by which it takes longer."""
    return f"{name} now runs {abs(slower):.0%} {'slower' if slower > 0 else 'faster'} than profiled"


def wait(seconds: float, progress: Progress) -> None:
    """Let the machine change its mood, and say so."""
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        progress(seconds - left, seconds, "waiting before the same networks are measured again")
        time.sleep(min(left, 1.0))
