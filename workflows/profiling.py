"""Profiling of a device, and what a table is worth there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..devices import Device, load_device
from ..errors import InputError, MismatchError
from ..files import check_target, exclusive, write_json
from ..latency import LatencyTable, Validation
from ..latency import profile as profile_device
from ..latency import validate as validate_table
from ..progress import Progress, silent
from .runs import space_of

VALIDATION_VERSION = 1


def profile(
    space: str, device: str, out: Path, resume: bool = False, seed: int = 0, progress: Progress = silent
) -> LatencyTable:
    """Profile `device` for all layers of `space` (or of a RUN) and write the table to `out`.

    Until the table is written, every sample is kept in the folder `out`.samples, where `resume` goes on.
    """
    check_target(out, "table")
    loaded, where = space_of(space), load_device(device)
    samples = out.with_name(out.name + ".samples")
    with exclusive(samples):
        if any(samples.glob("*/samples.jsonl")) and not resume:
            raise InputError(f"{samples} holds an unfinished profile: add --resume to continue it, or remove it")
        table = profile_device(loaded, where, samples, seed=seed, progress=progress)
        table.save(out)
        shutil.rmtree(samples)
    return table


def validate(
    space: str,
    table: Path,
    device: str,
    nets: int = 20,
    pause_s: float = 60.0,
    out: Path | None = None,
    progress: Progress = silent,
) -> Validation:
    """Compare a table with `nets` whole networks measured now, twice; write the figures to `out`."""
    if out is not None:
        check_target(out, "validation")
    loaded, where = LatencyTable.load(table), load_device(device)
    loaded.check_space(space_of(space))
    check_device(loaded.device, where)
    found = validate_table(loaded, where, nets, pause_s, progress=progress)
    if out is not None:
        write_json(out, "validation", VALIDATION_VERSION, asdict(found))
    return found


def check_device(fingerprint: Mapping[str, str], device: Device) -> None:
    """MismatchError where a table's device and the one at hand differ in anything that a timing depends on."""
    now = device.fingerprint()
    changed = [f"{key} {fingerprint.get(key)} -> {now[key]}" for key in now if fingerprint.get(key) != now[key]]
    if changed:
        raise MismatchError(
            f"the table was measured on another device or version ({'; '.join(changed)}): run hwnas profile again"
        )
