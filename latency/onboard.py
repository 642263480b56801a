"""A table for a new device from a few measured networks and the tables of earlier devices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..devices import Device, Job
from ..errors import InputError
from ..export.onnx_model import layers_to_onnx
from ..progress import Progress, silent
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .calibration import Calibration, sizes_of
from .profile import EMPTY, Profiled, check_noise, device_progress, empty_model, network_jobs, network_name
from .table import Entry, LatencyTable
from .transfer import Floats, Prior, choose, prior, transfer

POOL = 2000
KIND = 0.15  # deviation of a kind of layer on a new device, beyond what earlier ones differed by
LEAST_MS = 1e-6  # of a layer that measuring could not tell from nothing


def onboard(
    space: SearchSpace,
    device: Device,
    earlier: Sequence[LatencyTable],
    samples: Path | None = None,
    networks: int = 10,
    seed: int = 0,
    progress: Progress = silent,
) -> Profiled:
    """A table of `device` from `networks` measured networks, chosen to tell most, and tables of earlier devices.

    What networks take is, by their layers' shares of the time, a combination of what layers take: so the weights that
    explain the measured networks (`transfer`) give every layer a time. The margin is the model's own, widened by what
    the networks were missed by when left out in turn.
    """
    for table in earlier:
        table.check_space(space)
    timed = [layer for layer in space.layers() if all(table.entries[layer].rounds for table in earlier)]
    if not earlier or not timed:
        raise InputError("earlier tables with measured layers are needed to know a new device from a few networks")
    layers = layer_prior(timed, earlier)
    pool = sorted({space.canonical(space.sample(random.Random(f"{seed}/{i}"))) for i in range(POOL)})
    known = network_prior(layers, counts(space, timed, pool))
    archs = [pool[i] for i in choose(known, networks, range(len(pool)))]
    progress(0, 1, f"exporting the layers of {len(archs)} networks to ONNX")
    models = layers_to_onnx(space, space.layers(), device.form.batch)
    jobs = [Job(EMPTY, empty_model().SerializeToString()), *network_jobs(space, models, archs, device.form)]
    found = device.measure(jobs, device_progress(progress), samples).complete(device.name)
    check_noise(device.name, found)
    unit, overhead_ms = found.reference_ms, found.timings[EMPTY].ratio * found.reference_ms
    measured_ms = np.array([found.timings[network_name(arch)].ratio * unit for arch in archs])
    told = transfer(known, [pool.index(arch) for arch in archs], np.maximum(measured_ms - overhead_ms, LEAST_MS))
    ms = np.exp(layers.mean + told.weights @ layers.factors)
    entries = {layer: Entry(0, 0, 0, 0) for layer in space.layers()} | {
        layer: Entry(value + overhead_ms, value + overhead_ms, value + overhead_ms, 1)
        for layer, value in zip(timed, ms.tolist(), strict=True)
    }
    raw = LatencyTable(device.fingerprint(), space, entries, Calibration(overhead_ms=overhead_ms), unit)
    rows = tuple(raw.network(arch, ms) for arch, ms in zip(archs, measured_ms.tolist(), strict=True))
    calibration = Calibration(1.0, overhead_ms, float(told.margin.mean()), overhead_ms, rows)
    return Profiled(LatencyTable(raw.device, space, entries, calibration, unit), found)


def layer_prior(layers: Sequence[Layer], earlier: Sequence[LatencyTable]) -> Prior:
    """What earlier tables tell of each layer, and that kinds of layers (operation, each parameter) differ as such."""
    times = np.array([[_inside_ms(table, layer) for layer in layers] for table in earlier])  # (devices, layers)
    known = prior(times)
    kinds = sorted({kind for layer in layers for kind in _kinds(layer)})
    member = np.array([[kind in _kinds(layer) for layer in layers] for kind in kinds], dtype=float)
    return Prior(known.mean, np.vstack([known.factors, KIND * member]), known.noise)


def _inside_ms(table: LatencyTable, layer: Layer) -> float:
    """What a layer takes within a network, by a table."""
    return max(table.calibration.layer_ms(table.entries[layer].ms, sizes_of(table.space, layer)), LEAST_MS)


def _kinds(layer: Layer) -> set[str]:
    return {layer.op, *(f"{layer.op} {name}={value}" for name, value in layer.params)}


def network_prior(layers: Prior, count: Floats) -> Prior:
    """The prior of networks that have `count` (networks, layers) of each layer, to first order in the factors."""
    parts = count * np.exp(layers.mean)
    whole = parts.sum(axis=1)
    return Prior(np.log(whole), layers.factors @ (parts / whole[:, None]).T, layers.noise)


def counts(space: SearchSpace, layers: Sequence[Layer], archs: Sequence[Arch]) -> Floats:
    """How often each network has each layer: (networks, layers)."""
    index = {layer: i for i, layer in enumerate(layers)}
    count = np.zeros((len(archs), len(layers)))
    for row, arch in zip(count, archs, strict=True):
        for node in space.graph(arch):
            if node.layer in index:
                row[index[node.layer]] += 1
    return count
