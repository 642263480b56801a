"""Profiling of a device, and what a table is worth there."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..devices import Device, load_device
from ..devices.timed import samples_of
from ..errors import InputError, MismatchError
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
from .runs import as_asked, space_of

VALIDATION_VERSION = 1
VALIDATION, RENEWAL = "validation", "renewal"  # in the folder of samples
PAUSE_S = 60.0  # between the two measurements of a validation


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
    if out.resolve() in [path.resolve() for path in earlier]:
        raise InputError(f"the new table would replace {out}, which tells it: give --out another name")
    if earlier and sustained_s:
        raise InputError("--sustained needs a whole profile: leave out --from")
    loaded, where = space_of(space), load_device(device)
    asked = as_asked(device=device, networks=networks, seed=seed or None)
    if earlier:
        asked["from"] = shlex.join(map(str, earlier))
    tables = [LatencyTable.load(path) for path in earlier]
    if networks is None:
        networks = FEW_NETWORKS if tables else CALIBRATION_NETWORKS
    with at_work_on(out) as samples:
        check_begun(samples, where, resume)
        if tables:
            found = onboard(loaded, where, tables, samples, networks, seed, progress)
        else:
            found = profile_device(loaded, where, samples, networks, sustained_s, seed, progress)
        save_samples(samples_file(out), found.measurements.samples)
        for file in validation_samples(out):  # of the table before
            file.unlink(missing_ok=True)
        table = replace(found.table, asked=asked)
        table.save(out)
        shutil.rmtree(samples)
    return table


def validation_samples(table: Path) -> list[Path]:
    """Where the samples of a table's validation lie, of each measurement."""
    return [samples_file(table, f"{VALIDATION}-{number}") for number in (1, 2)]


@contextmanager
def at_work_on(table: Path) -> Iterator[Path]:
    """The folder beside a table for samples of what is unfinished; no other process works on the table meanwhile.

    Once nothing is left in the folder, it goes.
    """
    folder = table.with_name(f"{table.name}.samples")
    with exclusive(folder):
        try:
            yield folder
        finally:
            if folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
                shutil.rmtree(folder, ignore_errors=True)


def check_begun(samples: Path, device: Device, resume: bool) -> None:
    """InputError where the samples of an unfinished profile lie in a folder, unless it is to go on and can."""
    begun = {path.parent.name for path in samples.glob("*/samples.jsonl")}
    if begun and not resume:
        raise InputError(f"{samples} holds an unfinished profile: add --resume to continue it, or remove it")
    if begun and begun != {samples_of(device)}:
        raise InputError(
            f"{samples} holds an unfinished profile of another device, or of this one with another runtime or system: "
            "remove it, or give another --out"
        )


def validate(
    space: str,
    table: Path,
    device: str,
    nets: int = 20,
    pause_s: float = PAUSE_S,
    out: Path | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = unheard,
    resume: bool = False,
) -> Validation:
    """Compare a table with `nets` whole networks measured now, twice; write the figures to `out`.

    The verdict is kept in the table, where `search` reads it. A table older than the runtime or system that the
    device has now is renewed first, by a spot check. Every sample is kept until it is done: `resume` goes on there;
    afterwards those of each measurement lie beside the table as compressed CSV.
    """
    if out is not None:
        check_target(out, "validation")
    where, asked = load_device(device), as_asked(space=space, table=table, device=device)
    if pause_s != PAUSE_S:
        asked["pause"] = f"{pause_s:g}"
    LatencyTable.load(table).check_space(space_of(space))
    with at_work_on(table) as samples:
        kept = samples / VALIDATION
        for begun in (kept, samples / RENEWAL):
            if begun.exists() and not resume:
                raise InputError(f"{begun} holds an unfinished validation: add --resume to continue it, or remove it")
        loaded = renewed(table, where, samples / RENEWAL, progress, note)
        found = validate_table(loaded, where, nets, pause_s, progress=progress, samples=kept)
        if loaded.device["label"] == "emulated":
            note(f"{loaded.name} is emulated: its times are no latency of any device")
        if abs(found.slower) > SLOWER:
            note(speed_words(loaded.name, found.slower))
        if abs(found.changed) > WORTH_A_WORD:
            note(change_words(loaded.name, found.changed))
        for file, taken in zip(validation_samples(table), found.samples, strict=False):
            if taken:
                save_samples(file, taken)
        figures = found.figures()
        if out is not None:
            write_json(out, "validation", VALIDATION_VERSION, {"device": loaded.name, **figures, "asked": asked})
        del figures["measurements"]
        replace(loaded, validation=figures).save(table)
        shutil.rmtree(kept, ignore_errors=True)
    return found


def renewed(
    table: Path, device: Device, samples: Path, progress: Progress, note: Callable[[str], None]
) -> LatencyTable:
    """The table of a file, renewed there first where the device's runtime or system was updated since.

    Samples of the spot check lie in a folder until it has told, whatever it tells.
    """
    before = LatencyTable.load(table)  # nobody changes it from now on
    try:
        found, factor = renew(before, device, progress, samples)
    except MismatchError:
        shutil.rmtree(samples, ignore_errors=True)
        raise
    if changed := changes(before.device, found.device):
        verdict = "it holds as it was" if factor == 1 else f"all times x {factor:.3f}"
        found.save(table)
        note(f"{table} renewed by a spot check ({'; '.join(changed.values())}): {verdict}")
    if samples.is_dir():
        shutil.rmtree(samples)
    return found
