"""What the workflows ask of a finished run: its space, its data, its weights, unchanged since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, MismatchError
from ..search.found import Found
from ..supernet import (
    Data,
    Run,
    SearchSpace,
    Supernet,
    TrainSettings,
    load_data,
    load_run,
    load_space,
    load_supernet,
)
from ..supernet.checkpoint import METRICS, RUN, read_metrics, weights_fingerprint
from ..supernet.data import data_record
from ..supernet.metrics import METRICS as KNOWN_METRICS
from ..supernet.spaces import SPACES


def as_asked(**given: object) -> dict[str, str]:
    """Options of a command as they were given, for the file that it makes to tell them; None was not given."""
    return {name: str(value) for name, value in given.items() if value is not None}


def last_metrics(run: Run) -> dict[str, float]:
    """What the last finished epoch of a run measured."""
    metrics = read_metrics(run.folder)
    if not metrics:
        raise InputError(f"{run.folder} has a checkpoint and no {METRICS}: its history is lost, its weights are whole")
    return metrics[-1]


def space_of(text: str) -> SearchSpace:
    """The space that a SPACE or the folder of a RUN names."""
    path = Path(text)
    is_run = (path / RUN).is_file() or (path.is_dir() and text not in SPACES)  # a folder may be called as a space is
    is_run |= "/" in text and not text.endswith(".toml")
    return load_run(Path(text)).load_space() if is_run else load_space(text)


def check_finished(run: Run, note: Callable[[str], None]) -> None:
    """Note that a run's training has not come to its end, where its history tells."""
    history, wanted = read_metrics(run.folder), run.train["epochs"]
    if history and (done := int(history[-1]["epoch"])) < wanted:
        note(
            f"{run.folder} has been trained for {done} of {wanted} epochs: what is found in it is void once it goes on"
        )


def run_data(run: Run, space: SearchSpace, folder: Path | None = None) -> Data:
    """The data of a run, split as it was trained; MismatchError where they have changed since.

    `folder` is where they lie now, where that is not where they lay.
    """
    where = folder or (Path(run.data_dir) if run.data_dir else None)
    data = load_data(run.data["spec"], space, run.train["seed"], where)
    if data_record(data)["fingerprint"] != run.data["fingerprint"]:
        raise MismatchError(
            f"the images or the metric of {data.spec} have changed since {run.folder} was trained: train it anew"
        )
    return replace(data, mean=torch.tensor(run.data["mean"]), std=torch.tensor(run.data["std"]))


def objective(data: Data, metric: str) -> Data:
    """The data judged by the metric that a network was searched for, where that is one of their task."""
    return replace(data, metric=metric) if KNOWN_METRICS[metric].task == data.task else data


def check_same(old: Run, new: Run) -> None:
    """InputError where a training that is continued was begun with other settings."""

    def settings(run: Run) -> dict[str, Any]:
        made_of = {
            name: f"{it['spec']} ({it['fingerprint']})" for name, it in (("space", run.space), ("data", run.data))
        }
        data = {"metric": run.data.get("metric", "accuracy"), "flip": run.data.get("flip", new.data["flip"])}
        start = f"{run.start['source']} ({run.start['fingerprint']})" if run.start else "scratch"
        return {
            **made_of,
            **data,
            "network": run.arch,
            "start": start,
            "weights of the teacher": run.teacher,
            "sharing": run.sharing,
            **vars(TrainSettings(**run.train)),
        }

    before, now = settings(old), settings(new)
    names = [name for name in now if before[name] != now[name]]
    if names:
        changes = ", ".join(f"{name} {before[name]} -> {now[name]}" for name in names)
        raise InputError(f"{old.folder} was begun with other settings ({changes}): give the same, or a new folder")


def run_of(found: Found, source: Path) -> Run:
    """The run in which the network of the file `source` was found."""
    if not (Path(found.run) / RUN).is_file():
        raise InputError(f"{source} was found in the run {found.run}, which is not there any more: search again")
    return load_run(Path(found.run))


def supernet_of(found: Found, source: Path) -> Supernet:
    """The supernet in which the network of the file `source` was found, unchanged since."""
    supernet = load_supernet(run_of(found, source).folder)
    if weights_fingerprint(supernet) != found.weights:
        raise MismatchError(f"{found.run} was trained on since {source} was found in it: search again")
    supernet.space.check(found.arch)
    return supernet
