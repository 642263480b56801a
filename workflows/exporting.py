"""Export of a found network, with its certificate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import onnx
from torch import nn

from ..devices import TIMED, Device, Job, load_device
from ..errors import InputError
from ..export import Certificate, Latency, certify, to_onnx
from ..files import check_target, write_atomic
from ..latency.anchors import WORTH_A_WORD, Anchor, Beside, beside, change_words, jobs_of
from ..latency.profile import device_progress, formed
from ..latency.renewal import check_device
from ..latency.validation import SLOWER, speed_words
from ..progress import Progress, silent
from ..search.found import Found
from ..supernet import Data, SearchSpace, Supernet
from ..supernet.cost import COSTS
from ..supernet.evaluation import bn_images, calibrated_subnet
from .runs import objective, run_data, run_of, supernet_of


def export(
    found_file: Path,
    out: Path,
    device: str | None = None,
    batch: int | None = 1,
    opset: int = 18,
    progress: Progress = silent,
) -> Certificate:
    """Write the network of a FOUND.json as ONNX to `out`, and its certificate beside it as .json.

    `batch` None leaves the batch size open. With `device` the exported file is measured there.
    """
    if out.suffix != ".onnx":
        raise InputError(f"--out {out} must end in .onnx; the certificate is written beside it as .json")
    proof = out.with_suffix(".json")
    check_target(out)
    check_target(proof, "certificate")
    found = Found.load(found_file)
    run, supernet = run_of(found, found_file), supernet_of(found, found_file)
    data = objective(run_data(run, supernet.space), found.metric)
    progress(0, 3, "exporting")
    subnet = calibrated_subnet(supernet, found.arch, bn_images(data, run.train["seed"]))
    shape = supernet.space.input_shape(batch or 2)  # torch takes an open size of 1 for a fixed one
    model = to_onnx(subnet, [shape], opset=opset, dynamic_batch=batch is None)
    measured = Measured({}, {}, ())
    if device is not None:
        where = load_device(device)
        same = batch == where.form.batch
        timed = model if same else to_onnx(subnet, [supernet.space.input_shape(where.form.batch)], opset=opset)
        measured = measure_exported(found, supernet.space, formed(timed, where.form), where, progress)
        notes = [f"the latency is that of batch {where.form.batch}"] * (not same)
        notes += [f"the latency is that of the network in {where.form.precision}"] * (where.form.precision != "fp32")
        measured = replace(measured, notes=(*measured.notes, *notes))
    progress(2, 3, "comparing outputs and accuracy")
    certificate = _certified(found, supernet, subnet, model, data, measured)
    write_atomic(out, partial(_replace_model, model.SerializeToString(), proof))
    certificate.save(proof)
    return certificate


def _certified(
    found: Found, supernet: Supernet, subnet: nn.Module, model: onnx.ModelProto, data: Data, measured: Measured
) -> Certificate:
    """The certificate of an exported network, with how it was measured."""
    costs = {name: float(price(supernet.space, found.arch)) for name, price in COSTS.items()}
    certificate = certify(
        supernet, found.arch, subnet, model, data, found.weights, found.limits, costs, measured.latency, measured.notes
    )
    return replace(certificate, runtime_options={**certificate.runtime_options, **measured.options})


def _replace_model(model: bytes, proof: Path, file: IO[bytes]) -> None:
    """Write a network, and remove the proof of the one before: never a new network beside an old proof."""
    file.write(model)
    file.flush()
    os.fsync(file.fileno())  # a full disk is met here, while both of the old files stand
    proof.unlink(missing_ok=True)


@dataclass(frozen=True)
class Measured:
    """The latency of an exported network by device, how it was run there, and what to know about it."""

    latency: Mapping[str, Latency]
    options: Mapping[str, str]
    notes: tuple[str, ...]


def measure_exported(
    found: Found, space: SearchSpace, model: bytes, device: Device, progress: Progress = silent
) -> Measured:
    """The exported network's latency on `device`, beside what the table promised.

    Networks that the table knows are measured beside it, and say by how much the device has changed since.
    """
    if device.name not in found.tables:
        known = ", ".join(found.tables) or "none"
        raise InputError(f"the search knew no table of {device.name} (tables: {known}): search with --table")
    table = found.tables[device.name]
    check_device(table["device"], device)
    names = [name for name in found.intervals if name.partition(".")[0] == device.name]
    sustained_s = table["sustained_s"] if f"{device.name}.sustained" in names else 0.0
    anchors = recorded_anchors(table, space)
    if anchors:
        progress(1, 3, f"exporting the layers of {len(anchors)} networks that were measured before")
    jobs = [Job("network", model, sustained_s), *jobs_of(space, [anchor.arch for anchor in anchors], device.form)]
    result = device.measure(jobs, device_progress(progress)).complete(device.name)
    seen = beside(result, anchors, table["reference_ms"])
    fingerprint = device.fingerprint()
    options = {name: value for name, value in fingerprint.items() if name != "name"}
    if (label := fingerprint["label"]) not in TIMED:
        return Measured({}, options, (f"{device.name}: {label} there; no latency was measured",))
    timing = result.timings["network"]
    ratios = {device.name: timing.ratio, f"{device.name}.p95": timing.p95, f"{device.name}.sustained": timing.sustained}
    latency = {
        name: Latency(
            predicted_ms=found.costs[name],
            low_ms=found.intervals[name][0],
            high_ms=found.intervals[name][1],
            measured_ms=seen.table_ms("network", ratio),
            raw_ms=timing.raw_ms if name == device.name else ratio * result.reference_ms,
            limit_ms=found.limits.get(name),
            changed=seen.factor("network") - 1,
        )
        for name in names
        if (ratio := ratios[name]) is not None
    }
    return Measured(latency, options, tuple(_notes(device.name, seen)))


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
