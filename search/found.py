"""FOUND.json: the result of a search, with all that export and report need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json, write_json
from ..supernet.space import Arch

VERSION = 1
FRONTS, FRONTS_VERSION = "fronts.json", 1  # the fronts that searches leave in a run


@dataclass(frozen=True)
class Found:
    """One network that a search found. `accuracy` is the data's `metric` on validation images, latencies are ms.

    `tables` holds for each device its fingerprint, the table's path, the nominal `reference_ms` and `anchors`; `front`
    the non-dominated networks, where they were asked for; `weights` the fingerprint of the
    supernet's, or of the network's own after fine-tuning; `measured` what it took where the search had it measured;
    `progress` each (evaluations, accuracy) at which the search came upon a better one; `asked` are options of the
    command that nothing else here tells, as they were given.
    """

    arch: Arch
    description: tuple[str, ...]
    accuracy: float
    costs: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    limits: Mapping[str, float]
    space: str
    data: str
    run: str
    weights: str
    tables: Mapping[str, Mapping[str, Any]]
    strategy: str
    evaluations: int
    reused: int
    seconds: float
    seed: int
    front: tuple[Mapping[str, Any], ...] = ()
    metric: str = "accuracy"
    measured: Mapping[str, float] = field(default_factory=dict)
    progress: tuple[tuple[int, float], ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write FOUND.json, atomically."""
        write_json(path, "found", VERSION, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Found:
        """Read what `save` wrote."""
        data = read_json(path, "found", VERSION)
        try:
            later = {"metric": data.get("metric", "accuracy"), "measured": data.get("measured", {})}
            later["asked"] = {str(name): str(value) for name, value in data.get("asked", {}).items()}
            later["progress"] = tuple((int(done), float(best)) for done, best in data.get("progress", ()))
            fields = later | {name: data[name] for name in cls.__dataclass_fields__ if name not in later}
            fields["arch"] = tuple(int(gene) for gene in fields["arch"])
            fields["front"] = tuple(fields["front"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is a damaged result ({error}): search again") from error
        return cls(**fields)
