"""A table of a runtime or system that was updated since: a spot check tells whether it still holds.

Layers alone don't tell: an update may change what happens between them. So whole networks are checked, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..devices import Device, Job
from ..errors import MismatchError
from ..export.onnx_model import layers_to_onnx
from ..progress import Progress, silent
from .anchors import anchors_of, jobs_of
from .calibration import DRIFT, Z_90
from .profile import MORE, check_noise, device_progress, formed, network_name
from .table import LatencyTable

UPDATED = ("runtime", "os", "cuda")  # what may change under a table; anything else makes another device
LAYERS = 5
HOLDS = 0.03  # a change of single layers that measuring can't tell from none,
ALL_HOLD = float(Z_90 * np.sqrt(2) * DRIFT)  # and of all together
EVEN = 0.08  # a change of all layers alike, within this


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs between two fingerprints of a device, in words."""
    keys = dict.fromkeys([*now, *before])
    return {key: f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)}


def check_device(fingerprint: Mapping[str, str], device: Device) -> None:
    """MismatchError where a table's device and the one at hand differ in anything that a timing depends on."""
    found = changes(fingerprint, device.fingerprint())
    if found.keys() - set(UPDATED):
        raise MismatchError(f"the table was measured on another device ({_all(found)}): run hwnas profile again")
    if found:
        raise MismatchError(
            f"the table is older than what runs there now ({_all(found)}): run hwnas validate, which checks and "
            "renews it, then search again"
        )


def _all(found: Mapping[str, str]) -> str:
    return "; ".join(found.values())


def renew(
    table: LatencyTable, device: Device, progress: Progress = silent, samples: Path | None = None
) -> tuple[LatencyTable, float]:
    """The table, and the factor on its times, for the device as it is now, from measuring some of it again.

    That are five of its layers, and its anchors, of which the median counts. Where their ratios to the reference are
    what they were, the table holds as it is; where all changed alike, it is rescaled to the networks, and its intervals
    widened by what layers did not change alike; else a MismatchError says how they differ. The anchors of a rescaled
    table are what was measured now. `samples` is a folder that keeps every sample at once, for a later call.
    """
    table.check_timed()
    now = device.fingerprint()
    found = changes(table.device, now)
    if not found:
        return table, 1.0
    if table.told_by:
        raise MismatchError(
            f"the table is older than what runs there now ({_all(found)}), and its layers were told by "
            f"{', '.join(table.told_by)}, not measured: run hwnas profile --from again"
        )
    if found.keys() - set(UPDATED):
        check_device(table.device, device)
    measured = sorted((layer for layer, e in table.entries.items() if e.rounds), key=lambda la: table.entries[la].ms)
    chosen = [measured[i * (len(measured) - 1) // (LAYERS - 1)] for i in range(LAYERS)]
    models = layers_to_onnx(table.space, chosen, device.form.batch)
    jobs = [Job(str(layer), formed(model, device.form)) for layer, model in models.items() if model]
    anchors = anchors_of(table)
    jobs += jobs_of(table.space, [anchor.arch for anchor in anchors], device.form)
    seen = device.measure(jobs, device_progress(progress), samples).complete(device.name)
    if now["label"] != "emulated":
        check_noise(device.name, seen, MORE if samples else "validate again")
    now_ms = {job.name: seen.timings[job.name].ratio * table.reference_ms for job in jobs}
    ratios = [now_ms[str(layer)] / table.entries[layer].ms for layer in chosen]
    middle = statistics.median([now_ms[network_name(anchor.arch)] / anchor.ms for anchor in anchors] or ratios)
    if abs(middle - 1) <= ALL_HOLD and all(abs(ratio - 1) <= HOLDS for ratio in ratios):
        return replace(table, device=now), 1.0
    ratios.append(middle)
    uneven = max(abs(ratio / middle - 1) for ratio in ratios)
    if uneven > EVEN:
        raise MismatchError(
            f"the table of {table.name} no longer holds ({_all(found)}): layers and networks now take "
            f"{min(ratios):.2f} to {max(ratios):.2f} times as long: run hwnas profile again"
        )
    renewed = table.times(middle, uneven, now)
    networks = tuple(
        replace(network, measured_ms=now_ms.get(network_name(network.arch), network.measured_ms))
        for network in renewed.calibration.networks
    )
    return replace(renewed, calibration=replace(renewed.calibration, networks=networks)), middle
