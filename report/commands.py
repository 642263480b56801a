"""The command behind each file, as far as the file itself records it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..export.certificate import INT8, PLAIN, Certificate
from ..export.targets import TARGETS
from ..latency import LatencyTable
from ..search.found import Found
from ..supernet import TrainSettings
from ..supernet.cost import COSTS
from ..supernet.metrics import METRICS
from .networks import Network
from .read import Checked, Inputs, Ranked, Trained

NO_OPTIONS = {"momentum", "weight_decay", "label_smoothing", "clip_norm", "warmup"}  # settings for programs alone


def commands(inputs: Inputs, networks: Sequence[Network]) -> list[tuple[str, str, str]]:
    """For every file its name, what it is, and the command that would make it again from what it says of itself."""
    proven = {id(n.proof): n for n in networks if n.proof}
    sources = {id(found): path for path, found in inputs.found.items()}
    tuned = {path.parent.resolve(): found for path, found in inputs.found.items() if is_tuned(path, found)}
    rows = [
        (path, "trained supernet", trained(path, t))
        if t.run.arch is None
        else (path, "trained network", finetuned(path, tuned.get(path.resolve()), t.run.train.get("epochs")))
        for path, t in inputs.runs.items()
    ]
    rows += [(path, f"latency table of {table.name}", profiled(path, table)) for path, table in inputs.tables.items()]
    rows += [(path, "validation of a table", validated(path, it)) for path, it in inputs.validations.items()]
    rows += [(path, "ranking", ranked(path, it)) for path, it in inputs.rankings.items()]
    for path, found in inputs.found.items():
        if is_tuned(path, found):
            rows.append((path, "network trained on", finetuned(path.parent, found)))
        else:
            rows.append((path, "network found", searched(path, found)))
    for path, proof in inputs.certificates.items():
        owner = proven.get(id(proof))
        source = sources.get(id(owner.found)) if owner and owner.found else None
        rows.append((path, "certificate of an export", exported(path, proof, source)))
    rows += [
        (path, "transfer matrix", line("python", "benchmarks/transfer_matrix.py", "--out", near(path.parent)))
        for path in inputs.transfers
    ]
    return [(near(path), what, command) for path, what, command in rows]


def line(*words: str) -> str:
    """A command line of words, quoted where a shell needs it."""
    return shlex.join(words)


def near(path: Path | str) -> str:
    """A path from here, where it lies below."""
    inside = os.path.relpath(path)
    return str(path) if inside.startswith("..") else inside


def listed(text: str) -> list[str]:
    """The words of what was asked for more than once; text that no shell would take apart is one."""
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def options(values: Mapping[str, Any]) -> list[str]:
    """Options of a command; what is None or empty is not given, and what is written as false is `--no-...`."""
    given = [(name.replace("_", "-"), value) for name, value in values.items() if value not in (None, "", False)]
    return [word for name, value in given for word in _option(name, str(value))]


def _option(name: str, value: str) -> list[str]:
    return {"True": [f"--{name}"], "False": [f"--no-{name}"]}.get(value, [f"--{name}", value])


def is_tuned(path: Path, found: Found) -> bool:
    """Whether a FOUND.json lies where `hwnas finetune` leaves what it made of a network: in its run."""
    return path.parent.resolve() == Path(found.run).resolve()


def finetuned(out: Path, found: Found | None, epochs: int | None = None) -> str:
    """`hwnas finetune` into the run `out`, as what it left there tells."""
    asked = dict(found.asked) if found and "found" in found.asked else {}  # files of before have those of the search
    source = near(asked.pop("found", "FOUND.json"))
    known = {name: value for name, value in asked.items() if name not in NO_OPTIONS}
    return line("hwnas", "finetune", source, *options({"epochs": epochs, **known, "out": near(out)}))


def trained(path: Path, it: Trained) -> str:
    """`hwnas train`, with the settings that are not the usual ones."""
    run, usual = it.run, TrainSettings()
    known = {field.name for field in fields(TrainSettings)} - NO_OPTIONS
    set_ = {name: value for name, value in run.train.items() if name in known and value != getattr(usual, name)}
    set_["epochs"] = run.train.get("epochs")
    if set_.get("augment") is False:
        set_["no_augment"] = not set_.pop("augment")
    start = run.start["source"] if run.start else None
    base = {"space": run.space["spec"], "data": run.data["spec"], "data_dir": run.data_dir, "init_from": start}
    sharing = None if run.sharing == "entangled" else run.sharing
    return line("hwnas", "train", *options({**base, **set_, "sharing": sharing, "out": near(path)}))


def profiled(path: Path, table: LatencyTable) -> str:
    """`hwnas profile`; the device by its name alone where a table of before tells nothing of its settings."""
    asked = {"device": table.name, **table.asked}
    files = listed(asked.pop("from", "")) or [f"{name}.json" for name in table.told_by]
    given = {"space": table.space.spec, **asked, "sustained": table.sustained_s or None}
    earlier = [word for file in files for word in ("--from", near(file))]
    return line("hwnas", "profile", *options(given), *earlier, *options({"out": near(path)}))


def validated(path: Path, it: Checked) -> str:
    """`hwnas validate` of the table of that device."""
    device = it.device or "DEVICE"
    given = {"space": "SPACE", "table": f"{device}.json", "device": device, **it.asked, "nets": len(it.networks)}
    return line("hwnas", "validate", *options({**given, "out": near(path)}))


def ranked(path: Path, it: Ranked) -> str:
    """`hwnas rank`."""
    table = None if it.cost in COSTS else f"{it.cost}.json"
    truth = {"truth": near(it.truth)} if it.truth else {"nets": len(it.networks) + it.lost}
    return line("hwnas", "rank", *options({"run": "RUN", **truth, "table": table, **it.asked, "out": near(path)}))


def searched(path: Path, found: Found) -> str:
    """`hwnas search`; files of before tell no budget: then it is the number of evaluations that were made.

    They tell no tables as given, either: then they are those that price the network, after --verify its own.
    """
    words = ["--run", near(found.run)]
    for file in listed(found.asked.get("table", "")) or [table["path"] for table in found.tables.values()]:
        words += ["--table", near(file)]
    for name, limit in found.limits.items():
        words += ["--limit", f"{name}={limit:.12g}{'' if name in COSTS else 'ms'}"]
    strategy = None if found.strategy == "front" else found.strategy
    metric = None if found.metric == "accuracy" or found.metric not in METRICS else found.metric
    rest = {
        "strategy": strategy,
        "budget": found.evaluations,
        **{
            name: found.asked[name]
            for name in ("budget", "evaluate", "pareto", "device", "verify")
            if name in found.asked
        },
        "metric": metric,
        "seed": str(found.seed),
        "out": near(path),
    }
    return line("hwnas", "search", *words, *options(rest))


def exported(path: Path, proof: Certificate, source: Path | None) -> str:
    """`hwnas export`."""
    timed = [name for name in proof.latency if "." not in name]
    plain = path.with_name(path.name.removesuffix(".rejected"))
    words = [near(source) if source else "FOUND.json", "--out", near(plain.with_suffix(".onnx"))]
    devices = listed(proof.device) or timed  # they may have compiled the file alone
    words += [word for device in devices for word in ("--device", device)]
    given = {
        "batch": None if proof.batch == 1 else proof.batch or "dynamic",
        "opset": proof.opset if proof.opset != 18 else None,
        "pixels": proof.input == "pixels",
        "int8": proof.precision.startswith("int8"),
        "drop": proof.tolerance.metric if proof.tolerance not in (INT8, PLAIN) else None,
        "symmetric": proof.precision == "int8-symmetric",
        "mobile": proof.mobile is not None,
        "targets": ",".join(reader(check.name) for check in proof.targets),
    }
    return line("hwnas", "export", *words, *options(given))


def reader(target: str) -> str:
    """A target as --targets takes it: one of another machine needs a Python of its own, which no file records."""
    return f"{target}=PYTHON" if target in TARGETS and TARGETS[target].machine else target
