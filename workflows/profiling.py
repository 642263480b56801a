"""Profiling of a device, and what a table is worth there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..devices import load_device
from ..errors import InputError
from ..files import LOCK, check_target, exclusive, write_json
from ..latency import LatencyTable, Validation
from ..latency import profile as profile_device
from ..latency import validate as validate_table
from ..latency.anchors import WORTH_A_WORD, change_words
from ..latency.onboard import FEW_NETWORKS, onboard
from ..latency.profile import CALIBRATION_NETWORKS
from ..latency.renewal import changes, renew
from ..latency.samples import samples_file, save_samples
from ..latency.validation import SLOWER, speed_words
from ..progress import Progress, silent, unheard
from .runs import space_of

VALIDATION_VERSION = 1


def profile(
    space: str,
    device: str,
    out: Path,
    resume: bool = False,
    earlier: Sequence[Path] = (),
    networks: int | None = None,
    sustained_s: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> LatencyTable:
    """Profile `device` for all layers of `space` (or of a RUN) and write the table to `out`.

    `networks` whole networks calibrate the table (20, unless said). With tables of `earlier` devices they are all that
    is measured, chosen to tell most (10, unless said). Until the table is written, every sample is kept in the folder
    `out`.samples, where `resume` goes on; afterwards they lie beside the table as compressed CSV.
    """
    check_target(out, "table")
    if earlier and sustained_s:
        raise InputError("--sustained needs a whole profile: leave out --from")
    loaded, where = space_of(space), load_device(device)
    tables = [LatencyTable.load(path) for path in earlier]
    if networks is None:
        networks = FEW_NETWORKS if tables else CALIBRATION_NETWORKS
    samples = out.with_name(out.name + ".samples")
    with exclusive(samples):
        if any(samples.glob("*/samples.jsonl")) and not resume:
            raise InputError(f"{samples} holds an unfinished profile: add --resume to continue it, or remove it")
        try:
            if tables:
                found = onboard(loaded, where, tables, samples, networks, seed, progress)
            else:
                found = profile_device(loaded, where, samples, networks, sustained_s, seed, progress)
        except BaseException:
            if {path.name for path in samples.iterdir()} <= {LOCK}:
                shutil.rmtree(samples, ignore_errors=True)  # it could not even begin
            raise
        save_samples(samples_file(out), found.measurements.samples)
        found.table.save(out)
        shutil.rmtree(samples)
    return found.table


def validate(
    space: str,
    table: Path,
    device: str,
    nets: int = 20,
    pause_s: float = 60.0,
    out: Path | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = unheard,
) -> Validation:
    """Compare a table with `nets` whole networks measured now, twice; write the figures to `out`.

    The verdict is kept in the table, where `search` reads it. A table older than the runtime or system that the
    device has now is renewed first, by a spot check.
    """
    if out is not None:
        check_target(out, "validation")
    before, where = LatencyTable.load(table), load_device(device)
    before.check_space(space_of(space))
    loaded, factor = renew(before, where, progress)
    if changed := changes(before.device, loaded.device):
        verdict = "it holds as it was" if factor == 1 else f"all times x {factor:.3f}"
        loaded.save(table)
        note(f"{table} renewed by a spot check ({'; '.join(changed.values())}): {verdict}")
    found = validate_table(loaded, where, nets, pause_s, progress=progress)
    if abs(found.slower) > SLOWER:
        note(speed_words(loaded.name, found.slower))
    if abs(found.changed) > WORTH_A_WORD:
        note(change_words(loaded.name, found.changed))
    figures = {name: value for name, value in asdict(found).items() if name != "measurements"}
    replace(loaded, validation=figures).save(table)
    if out is not None:
        write_json(out, "validation", VALIDATION_VERSION, {"device": loaded.name, **asdict(found)})
    return found
