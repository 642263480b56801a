"""Profiling: every layer of a space, and a few whole networks, timed on a device -> a latency table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from scipy import stats

from ..devices import Device, Form, Job, Measurements
from ..devices.device import Progress as DeviceProgress
from ..errors import FaultError, InputError
from ..export.onnx_model import compose, layers_to_onnx
from ..export.precision import to_fp16, to_int8
from ..progress import Progress, silent
from ..supernet.cost import analytic_cost, layer_cost
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .calibration import ABOVE, Calibration, Network, fit, most_telling, run_margin, sizes_of
from .spread import spread
from .table import Entry, LatencyTable

CALIBRATION_NETWORKS = 20
POOL = 10  # times as many networks, for which the calibration is to hold
UNTOLD = 0.1  # deviation of the ratio to the median between networks, where nothing tells it
WORST = 5  # times the tolerance: beyond it a single interval is too wide for a table
EMPTY = "empty"
MORE = (
    "add --resume and more max_seconds, max_rounds (local:max_seconds=180,max_rounds=800, or [effort] in the device's "
    "file; by hand: more times of each model): every sample is kept"
)

PRECISIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp32": lambda model: model,
    "fp16": to_fp16,
    "int8": to_int8,
    "int8-symmetric": partial(to_int8, symmetric=True),
}

Models = Mapping[Layer, onnx.ModelProto | None]


@dataclass(frozen=True)
class Profiled:
    """A new table, and every sample behind it."""

    table: LatencyTable
    measurements: Measurements


def profile(
    space: SearchSpace,
    device: Device,
    samples: Path | None = None,
    networks: int = CALIBRATION_NETWORKS,
    sustained_s: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Profiled:
    """Measure all layers of `space` and `networks` whole networks on `device`, interleaved, and calibrate.

    Layers that the device can't run are `rejected` by the table, with the reason, and are in none of the networks.
    `samples` is a folder that keeps every sample at once; a later call with the same folder goes on there. With
    `sustained_s` three of the networks run for so many seconds without a pause at the end. FaultError where the
    machine was too noisy for a table.
    """
    layers, fingerprint = space.layers(), device.fingerprint()  # what can't be reached says so before the work
    progress(0, 1, f"exporting {len(layers)} layers to ONNX")
    models = layers_to_onnx(space, layers, device.form.batch)
    archs, pool, rejected, found = measured(space, device, models, samples, networks, sustained_s, seed, progress)
    if fingerprint["label"] == "compiled":  # what it can't run is all that it tells
        nothing = dict.fromkeys(layers, Entry(0, 0, 0, 0))
        return Profiled(LatencyTable(fingerprint, space, nothing, Calibration(), 0.0, rejected=rejected), found)
    if fingerprint["label"] != "emulated":  # whose times mean nothing anyway
        check_noise(device.name, found, MORE)
    entries = {
        layer: _entry(found, str(layer)) if model and layer not in rejected else Entry(0, 0, 0, 0)
        for layer, model in models.items()
    }
    table = calibrated_table(fingerprint, space, entries, archs, pool, found)
    return Profiled(replace(table, sustained_s=sustained_s, rejected=rejected), found)


def measured(
    space: SearchSpace,
    device: Device,
    models: Models,
    samples: Path | None,
    networks: int,
    sustained_s: float,
    seed: int,
    progress: Progress,
) -> tuple[list[Arch], list[Arch], dict[Layer, str], Measurements]:
    """Whole networks of the space, others like them, the layers that the device rejects, and the times of all else.

    A network with a rejected layer is replaced by one without, until no other layer is rejected.
    """
    flops, form = analytic_cost(space, "flops"), device.form
    jobs = {str(layer): Job(str(layer), formed(model, form)) for layer, model in models.items() if model}
    names, rejected = {str(layer): layer for layer in models}, dict[Layer, str]()
    if len(names) < len(models):
        raise InputError(f"two layers of {space} print alike, and their times could not be told apart: rename one")
    while True:
        try:
            pool = spread(space, flops, POOL * networks, seed, without=rejected)
        except InputError as error:
            if not rejected:
                raise
            layer, reason = next(iter(rejected.items()))
            others = f" (and {len(rejected) - 1} other layers)" if len(rejected) > 1 else ""
            raise FaultError(
                f"{device.name} can't run {layer}{others}: {reason}; no network of {space} is left without"
            ) from error
        pool = [arch for arch in pool if any(models[node.layer] for node in space.graph(arch))]
        count = min(networks, (len(pool) + 1) // 2)  # of few, as many are left for a validation
        archs = [pool[i] for i in most_telling([outline(space, arch, models) for arch in pool], count)]
        whole = network_jobs(space, models, archs, form)
        for i in {0, len(whole) // 2, len(whole) - 1} if sustained_s and whole else ():
            whole[i] = replace(whole[i], sustained_s=sustained_s)
        run = [job for name, job in jobs.items() if names[name] not in rejected]
        empty = Job(EMPTY, empty_model().SerializeToString())
        found = device.measure([empty, *run, *whole], device_progress(progress), samples)
        new = {names[name]: reason for name, reason in found.errors.items() if name in names}
        if not new:
            return archs, pool, rejected, found.complete(device.name)
        rejected |= new


def outline(space: SearchSpace, arch: Arch, models: Models) -> Network:
    """A network that nobody has measured: its multiply-accumulates, and the sums that a calibration goes by."""
    layers = [node.layer for node in space.graph(arch) if models[node.layer]]
    sums = np.sum([(layer_cost(space, layer).flops, *sizes_of(space, layer)) for layer in layers], axis=0)
    flops, count, elements, weights = map(float, sums)
    return Network(arch, flops, 0.0, (count, elements, weights))


def calibrated_table(
    fingerprint: Mapping[str, str],
    space: SearchSpace,
    entries: Mapping[Layer, Entry],
    archs: Sequence[Arch],
    pool: Sequence[Arch],
    found: Measurements,
) -> LatencyTable:
    """The table of measured layers, with the calibrations that the measured networks `archs` give for all of `pool`."""
    unit, timings = found.reference_ms, [found.timings[network_name(arch)] for arch in archs]
    overhead_ms = found.timings[EMPTY].ratio * unit
    raw = LatencyTable(fingerprint, space, entries, Calibration(overhead_ms=overhead_ms), unit)

    def fitted(ratios: Sequence[float]) -> Calibration:
        known = [raw.network(arch, ratio * unit) for arch, ratio in zip(archs, ratios, strict=True)]
        table = raw.calibrated(fit(known, overhead_ms, [raw.network(arch, 0.0) for arch in pool]))
        missed = [raw_ms / measured_ms - 1 for raw_ms, measured_ms in _told(table)]
        margin = max(table.calibration.margin, run_margin(missed)) if missed else table.calibration.margin
        return replace(table.calibration, margin=margin)  # layers that take nothing are not what was fitted

    calibration = fitted([timing.ratio for timing in timings])
    felt = {"p95": fitted([timing.p95 for timing in timings])}
    slower = [timing.sustained / timing.ratio for timing in timings if timing.sustained is not None]
    if slower:
        felt["sustained"] = felt_as(calibration, slower)
    return replace(raw, calibration=calibration, felt=felt)


def _told(table: LatencyTable) -> list[tuple[float, float]]:
    """For each network that calibrates a table what the table says of it, and what it took, in ms."""
    return [(table.network_ms(network.arch), network.measured_ms) for network in table.calibration.networks]


def felt_as(calibration: Calibration, ratios: Sequence[float]) -> Calibration:
    """The calibration of a statistic that a few networks (n,) showed to be so many times the median.

    Other networks' ratios are foretold by Student's t; one network alone tells nothing of them.
    """
    n, middle = len(ratios), statistics.median(ratios)
    if n == 1:
        return calibration.times(middle, run_margin(UNTOLD))
    spread_of = statistics.stdev(ratios) / middle * float(np.sqrt(1 + 1 / n))
    return calibration.times(middle, float(stats.t.isf(ABOVE, n - 1)) * spread_of)


def check_noise(name: str, found: Measurements, remedy: str, what: str = "a table") -> None:
    """FaultError with a remedy where timings are known too poorly for `what` they are taken for."""
    if noise := noise_of(found, what):
        raise FaultError(f"{name} was {noise}; end what else runs there, then {remedy}")


def noise_of(found: Measurements, what: str) -> str:
    """That timings are too noisy for `what` they are taken for, "" where they are not.

    That is where half of the intervals are wider than the tolerance, or one five times as wide.
    """
    typical = statistics.median(timing.half_width for timing in found.timings.values())
    worst = max(found.timings.values(), key=lambda timing: timing.half_width)
    if typical <= found.tolerance and worst.half_width <= WORST * found.tolerance:
        return ""
    return f"too noisy for {what}: timings are known to +-{typical:.1%} only, {worst.name} to +-{worst.half_width:.1%}"


def _entry(found: Measurements, name: str) -> Entry:
    timing, unit = found.timings[name], found.reference_ms
    return Entry(timing.ratio * unit, timing.low * unit, timing.high * unit, timing.rounds)


def network_name(arch: Arch) -> str:
    """The name of a whole network among the jobs of a measurement."""
    return f"network {'-'.join(map(str, arch))}"


def network_jobs(space: SearchSpace, models: Models, archs: Sequence[Arch], form: Form) -> list[Job]:
    """Whole networks, composed of their layers' ONNX models, as jobs for a device."""
    return [Job(network_name(arch), formed(compose(space.graph(arch), models), form)) for arch in archs]


def formed(model: onnx.ModelProto, form: Form) -> bytes:
    """A float model as a device of this form gets it."""
    return PRECISIONS[form.precision](model).SerializeToString()


def empty_model() -> onnx.ModelProto:
    """A model that computes nothing: its time is what a call costs."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], EMPTY, value[:1], value[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def device_progress(progress: Progress) -> Callable[[DeviceProgress], None]:
    """A listener for a device's progress that speaks to everyone else's."""

    def report(state: DeviceProgress) -> None:
        words = f"{state.settled} of {state.total} settled, widest +-{state.half_width:.1%}, round {state.rounds}"
        progress(state.fraction, 1, words)

    return report
