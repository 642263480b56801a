"""The raw samples of a profile or validation, kept beside its table so that they can be analysed again."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..devices import Sample
from ..errors import InputError
from ..files import write_bytes

SERIES = ("runs_ms", "wall_ms", "reference_runs_ms")


def samples_file(table: Path, of: str = "") -> Path:
    """Where samples of a table lie, of its profile or `of` else: `local.json` -> `local.samples.csv.gz`."""
    return table.with_name(f"{table.stem}.{of}.samples.csv.gz" if of else f"{table.stem}.samples.csv.gz")


def save_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as compressed CSV: one row per sample, the times of its runs apart by blanks."""
    rows = [{**asdict(sample), **{name: _joined(getattr(sample, name)) for name in SERIES}} for sample in samples]
    text = pd.DataFrame(rows).dropna(axis="columns", how="all").to_csv(index=False)
    write_bytes(path, gzip.compress(text.encode(), mtime=0))


def load_samples(path: Path) -> tuple[Sample, ...]:
    """Read what `save_samples` wrote."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        return tuple(_sample(dict(zip(frame.columns, row, strict=True))) for row in frame.itertuples(index=False))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{path} is not readable as samples ({error}): profile again") from error


def _sample(row: dict[str, str]) -> Sample:
    fields: dict[str, Any] = {name: tuple(map(float, row[name].split())) for name in SERIES}
    fields |= {name: float(row[name]) for name in ("seconds", "mhz", "celsius") if row.get(name)}
    build = int(float(row["build"])) if row.get("build") else None
    return Sample(name=row["name"], round=int(row["round"]), build=build, **fields)


def _joined(values: Iterable[float]) -> str:
    return " ".join(str(round(value, 6)) for value in values)
