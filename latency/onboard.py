"""A table for a new device from a few measured networks and the tables of earlier devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..devices import Device, Job, Measurements
from ..errors import InputError
from ..export.onnx_model import layers_to_onnx
from ..progress import Progress, silent
from ..supernet.cost import analytic_cost, counts
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .calibration import Calibration, run_margin, sizes_of
from .design import Floats, Prior, choose
from .profile import (
    EMPTY,
    MORE,
    Profiled,
    check_noise,
    device_progress,
    empty_model,
    felt_as,
    network_jobs,
    network_name,
)
from .spread import spread
from .table import Entry, LatencyTable
from .transfer import prior, transfer

FEW_NETWORKS = 10
POOL = 2000
KIND = 0.15  # deviation of a kind of layer on a new device, beyond what earlier ones differed by
STEPS = 4  # of Gauss-Newton; the first two do nearly all
LEAST = 0.01  # of a table's median layer: what a layer takes there that measuring could not tell from nothing


def onboard(
    space: SearchSpace,
    device: Device,
    earlier: Sequence[LatencyTable],
    samples: Path | None = None,
    networks: int = FEW_NETWORKS,
    seed: int = 0,
    progress: Progress = silent,
) -> Profiled:
    """A table of `device` from `networks` measured networks, chosen to tell most, and tables of earlier devices.

    What networks take is, by their layers' shares of the time, a combination of what layers take: so the weights that
    explain the measured networks (`transfer`) give every layer a time. The margin is the model's own for networks that
    were not measured, widened where measured ones were missed by more than foretold when left out in turn.
    """
    for table in earlier:
        table.check_space(space)
        table.check_timed()
    if not earlier:
        raise InputError("earlier tables are needed to know a new device from a few networks: give --from")
    fingerprint = device.fingerprint()
    if fingerprint["label"] == "compiled":
        raise InputError(f"{device.name} only compiles, so no network tells its times: leave out --from")
    rejected = {layer: f"{table.name} can't: {why}" for table in earlier for layer, why in table.rejected.items()}
    timed = [layer for layer in space.layers() if all(table.entries[layer].rounds for table in earlier)]
    layers = layer_prior(timed, earlier)
    pool = spread(space, analytic_cost(space, "flops"), POOL, seed, without=rejected)
    count = counts(space, timed, pool)
    items = choose(network_prior(layers, count), networks, range(len(pool)))
    archs = [pool[i] for i in items]
    progress(0, 1, f"exporting the layers of {len(archs)} networks to ONNX")
    models = layers_to_onnx(space, [layer for layer in space.layers() if layer not in rejected], device.form.batch)
    jobs = [Job(EMPTY, empty_model().SerializeToString()), *network_jobs(space, models, archs, device.form)]
    found = device.measure(jobs, device_progress(progress), samples)
    if found.errors:
        name, reason = next(iter(found.errors.items()))
        raise InputError(f"{device.name} can't run {name} ({reason}): leave out --from, which needs networks that run")
    if fingerprint["label"] != "emulated":
        check_noise(device.name, found, MORE)
    table = told(fingerprint, space, layers, timed, count, items, archs, found)
    names = tuple(table.name for table in earlier)
    return Profiled(replace(table, rejected=rejected, told_by=names), found)


def told(
    fingerprint: Mapping[str, str],
    space: SearchSpace,
    layers: Prior,
    timed: Sequence[Layer],
    count: Floats,
    items: Sequence[int],
    archs: Sequence[Arch],
    found: Measurements,
) -> LatencyTable:
    """The table that networks `archs` tell, the rows `items` of a pool with `count` (pool, layers) of timed layers."""
    unit, overhead_ms = found.reference_ms, found.timings[EMPTY].ratio * found.reference_ms
    timings = [found.timings[network_name(arch)] for arch in archs]
    measured_ms = np.array([timing.ratio * unit for timing in timings])
    layers_ms = np.maximum(measured_ms - overhead_ms, LEAST * measured_ms)
    weights, margin, error = fit_layers(layers, count, items, layers_ms)
    ms = np.exp(layers.mean + weights @ layers.factors) + overhead_ms
    entries = {layer: Entry(0, 0, 0, 0) for layer in space.layers()} | {
        layer: Entry(value, value, value, 1) for layer, value in zip(timed, ms.tolist(), strict=True)
    }
    raw = LatencyTable(fingerprint, space, entries, Calibration(overhead_ms=overhead_ms), unit)
    rows = tuple(raw.network(arch, value) for arch, value in zip(archs, measured_ms.tolist(), strict=True))
    calibration = Calibration(1.0, overhead_ms, margin, overhead_ms, rows)
    p95 = felt_as(calibration, [timing.p95 / timing.ratio for timing in timings])
    return replace(raw, calibration=calibration, felt={"p95": p95}, told_error=error)


def fit_layers(layers: Prior, count: Floats, items: Sequence[int], measured_ms: Floats) -> tuple[Floats, float, float]:
    """Weights of the layers' factors that explain the networks `items` of a pool, and the margin of the whole pool.

    The last is what the measured networks were missed by when each was left out in turn: the mean, as a fraction.
    What a network takes is linear in the factors only nearby: so it is made linear again where the last fit lies
    (Gauss-Newton).
    """
    weights = np.zeros(len(layers.factors))
    for _ in range(STEPS):
        known = network_prior(layers, count, weights)
        fitted = transfer(known, items, measured_ms)
        weights = fitted.weights
    return weights, run_margin(fitted.deviation), fitted.error


def layer_prior(layers: Sequence[Layer], earlier: Sequence[LatencyTable]) -> Prior:
    """What earlier tables tell of each layer, and that kinds of layers (operation, each parameter) differ as such."""
    times = np.array([[_inside_ms(table, layer) for layer in layers] for table in earlier])  # (devices, layers)
    known = prior(np.maximum(times, LEAST * np.median(times, axis=1, keepdims=True)))
    kinds = sorted({kind for layer in layers for kind in _kinds(layer)})
    member = np.array([[kind in _kinds(layer) for layer in layers] for kind in kinds], dtype=float)
    return Prior(known.mean, np.vstack([known.factors, KIND * member]), known.noise)


def _inside_ms(table: LatencyTable, layer: Layer) -> float:
    """What a layer takes within a network, by a table."""
    return table.calibration.layer_ms(table.entries[layer].ms, sizes_of(table.space, layer))


def _kinds(layer: Layer) -> set[str]:
    return {layer.op, *(f"{layer.op} {name}={value}" for name, value in layer.params)}


def network_prior(layers: Prior, count: Floats, near: Floats | None = None) -> Prior:
    """The prior of networks with `count` (networks, layers) of each layer, to first order around weights `near`."""
    near = np.zeros(len(layers.factors)) if near is None else near
    parts = count * np.exp(layers.mean + near @ layers.factors)
    whole = parts.sum(axis=1)
    factors = layers.factors @ (parts / whole[:, None]).T  # (k, networks)
    return Prior(np.log(whole) - near @ factors, factors, layers.noise)
