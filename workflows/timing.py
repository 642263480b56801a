"""The latency of an exported file on a device, beside what its table promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..devices import TIMED, Device, Job
from ..errors import InputError
from ..export import Latency
from ..latency.anchors import WORTH_A_WORD, Anchor, Beside, beside, change_words, jobs_of
from ..latency.profile import device_progress, noise_of
from ..latency.renewal import check_device
from ..latency.validation import SLOWER, speed_words
from ..progress import Progress, silent
from ..search.found import Found
from ..supernet import SearchSpace

QUIETER = (
    "end what else runs there, or measure longer (more max_seconds and max_rounds; by hand: more times of each model), "
    "then export again"
)


@dataclass(frozen=True)
class Measured:
    """The latency of an exported network by device, what the devices say of themselves, and what to know about it."""

    latency: Mapping[str, Latency]
    devices: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]


def together(parts: Sequence[Measured]) -> Measured:
    """What several devices measured, as one."""
    latency = {name: times for part in parts for name, times in part.latency.items()}
    devices = {name: words for part in parts for name, words in part.devices.items()}
    return Measured(latency, devices, tuple(note for part in parts for note in part.notes))


def check_known(found: Found, device: Device) -> None:
    """InputError unless the search knew a table of the device, by which it can be told what was promised."""
    if device.name not in found.tables:
        known = ", ".join(found.tables) or "none"
        raise InputError(f"the search knew no table of {device.name} (tables: {known}): search with --table")


def measure_exported(
    found: Found,
    space: SearchSpace,
    model: bytes,
    device: Device,
    progress: Progress = silent,
    plain: bytes | None = None,
) -> Measured:
    """The exported network's latency on `device`, beside what the table promised; `plain` is the same in fp32.

    Networks that the table knows are measured beside it, and say by how much the device has changed since.
    """
    check_known(found, device)
    table = found.tables[device.name]
    check_device(table["device"], device)
    names = [name for name in found.intervals if name.partition(".")[0] == device.name]
    sustained_s = table["sustained_s"] if f"{device.name}.sustained" in names else 0.0
    anchors = recorded_anchors(table, space)
    if anchors:
        progress(1, 3, f"exporting the layers of {len(anchors)} networks that were measured before")
    jobs = [Job("network", model, sustained_s)] + ([Job("fp32", plain)] if plain is not None else [])
    jobs += jobs_of(space, [anchor.arch for anchor in anchors], device.form)
    fingerprint = device.fingerprint()
    result = device.measure(jobs, device_progress(progress)).complete(device.name)
    seen = beside(result, anchors, table["reference_ms"])
    options = {name: value for name, value in fingerprint.items() if name != "name"}
    if (label := fingerprint["label"]) not in TIMED:
        return Measured({}, {device.name: options}, (f"{device.name}: {label} there; no latency was measured",))
    timing, noise = result.timings["network"], noise_of(result, "a verdict on a limit so near")
    speed_up = None if plain is None else result.timings["fp32"].ratio / timing.ratio
    ratios = {device.name: timing.ratio, f"{device.name}.p95": timing.p95, f"{device.name}.sustained": timing.sustained}
    measured_ms = {name: seen.table_ms("network", ratio) for name in names if (ratio := ratios[name]) is not None}
    unsure = {
        name
        for name, ms in measured_ms.items()
        if noise and within_noise(ms, found.limits.get(name), timing.half_width)
    }
    latency = {
        name: Latency(
            predicted_ms=found.costs[name],
            low_ms=found.intervals[name][0],
            high_ms=found.intervals[name][1],
            measured_ms=ms,
            raw_ms=timing.raw_ms if name == device.name else ms / seen.table_ms("network") * timing.raw_ms,
            limit_ms=found.limits.get(name),
            changed=seen.factor("network") - 1,
            speed_up=speed_up if name == device.name else None,
            sure=name not in unsure,
        )
        for name, ms in measured_ms.items()
    }
    notes = [f"{device.name}: {noise}; {QUIETER}"] if unsure else []
    return Measured(latency, {device.name: options}, (*notes, *_notes(device.name, seen)))


def within_noise(ms: float, limit_ms: float | None, half_width: float) -> bool:
    """Whether a limit lies within the interval of a measurement that is known to +- `half_width` of it."""
    return limit_ms is not None and abs(limit_ms / ms - 1) <= half_width


def recorded_anchors(table: Mapping[str, Any], space: SearchSpace) -> list[Anchor]:
    """The anchors in what a FOUND.json says of a table; those of before there were any have none."""
    try:
        return [Anchor(space.check(anchor["arch"]), float(anchor["ms"])) for anchor in table.get("anchors", ())]
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(
            f"the networks of a table are damaged in what the search wrote ({error}): search again"
        ) from error


def _notes(name: str, seen: Beside) -> Iterator[str]:
    """What to know about a measurement: that the host was restless, or is not what it was when it was profiled."""
    if not seen.found.settled:
        widest = max(timing.half_width for timing in seen.found.timings.values())
        yield f"{name} was restless: what was measured there is known to +-{widest:.1%} only"
    slower = seen.found.reference_ms / seen.reference_ms - 1
    if abs(slower) > SLOWER:
        yield speed_words(name, slower)
    if abs(changed := seen.factor("network") - 1) > WORTH_A_WORD:
        yield change_words(name, changed)
