"""Profiling: every layer of a space, and a few whole networks, timed on a device -> a latency table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from scipy import stats

from ..devices import Device, Job, Measurements
from ..devices.device import Progress as DeviceProgress
from ..export.onnx_model import compose, layers_to_onnx
from ..progress import Progress, silent
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .cost import analytic_cost
from .spread import spread
from .table import Calibration, Entry, LatencyTable, Network

CALIBRATION_NETWORKS = 10
MIN_MARGIN = 0.01  # no interval is narrower: it is what a measurement repeats to on a quiet host
RIDGE = 1e-4
EMPTY = "empty"

Models = Mapping[Layer, onnx.ModelProto | None]


def profile(
    space: SearchSpace,
    device: Device,
    samples: Path | None = None,
    networks: int = CALIBRATION_NETWORKS,
    seed: int = 0,
    progress: Progress = silent,
) -> LatencyTable:
    """Measure all layers of `space` and `networks` whole networks on `device`, interleaved, and calibrate.

    `samples` is a folder that keeps every sample at once; a later call with the same folder goes on there.
    """
    layers = space.layers()
    progress(0, 1, f"exporting {len(layers)} layers to ONNX")
    models = layers_to_onnx(space, layers)
    archs = spread(space, analytic_cost(space, "flops"), networks, seed)
    jobs = [Job(EMPTY, empty_model().SerializeToString())]
    jobs += [Job(str(layer), model.SerializeToString()) for layer, model in models.items() if model]
    jobs += network_jobs(space, models, archs)
    found = device.measure(jobs, device_progress(progress), samples)
    entries = {layer: _entry(found, str(layer)) if model else Entry(0, 0, 0, 0) for layer, model in models.items()}
    overhead_ms = found.timings[EMPTY].ratio * found.reference_ms
    raw = LatencyTable(device.fingerprint(), space, entries, Calibration(overhead_ms=overhead_ms), found.reference_ms)
    measured = [
        Network(arch, raw.sum_ms(arch), found.timings[network_name(arch)].ratio * found.reference_ms) for arch in archs
    ]
    return LatencyTable(raw.device, space, entries, fit(measured, overhead_ms), found.reference_ms)


def _entry(found: Measurements, name: str) -> Entry:
    timing, unit = found.timings[name], found.reference_ms
    return Entry(timing.ratio * unit, timing.low * unit, timing.high * unit, timing.rounds)


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


def network_name(arch: Arch) -> str:
    """The name of a whole network among the jobs of a measurement."""
    return f"network {'-'.join(map(str, arch))}"


def network_jobs(space: SearchSpace, models: Models, archs: Sequence[Arch]) -> list[Job]:
    """Whole networks, composed of their layers' ONNX models, as jobs for a device."""
    return [Job(network_name(arch), compose(space.graph(arch), models).SerializeToString()) for arch in archs]


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
