"""The command behind each file, as far as the file itself records it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..export.certificate import INT8, PLAIN, Certificate
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
    rows = [
        (path, "trained supernet" if t.run.arch is None else "trained network", trained(path, t))
        for path, t in inputs.runs.items()
    ]
    rows += [(path, f"latency table of {table.name}", profiled(path, table)) for path, table in inputs.tables.items()]
    rows += [(path, "validation of a table", validated(path, it)) for path, it in inputs.validations.items()]
    rows += [(path, "ranking", ranked(path, it)) for path, it in inputs.rankings.items()]
    for path, found in inputs.found.items():
        if path.parent.resolve() == Path(found.run).resolve():  # where finetune leaves what it made of a network
            tuned = line("hwnas", "finetune", "FOUND.json", "--out", near(path.parent))
            rows.append((path, "network trained on", tuned))
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


def options(values: Mapping[str, Any]) -> list[str]:
    """Options of a command; what is None or empty is not given."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in values.items() if value not in (None, "", False)]
    return [word for name, value in given for word in ([name] if value is True else [name, str(value)])]


def trained(path: Path, it: Trained) -> str:
    """`hwnas train`, with the settings that are not the usual ones; of one network `hwnas finetune`."""
    run, usual = it.run, TrainSettings()
    known = {field.name for field in fields(TrainSettings)} - NO_OPTIONS
    set_ = {name: value for name, value in run.train.items() if name in known and value != getattr(usual, name)}
    set_["epochs"] = run.train.get("epochs")
    if set_.get("augment") is False:
        set_["no_augment"] = not set_.pop("augment")
    if run.arch is not None:
        return line("hwnas", "finetune", "FOUND.json", *options({"epochs": set_["epochs"], "out": near(path)}))
    start = run.start["source"] if run.start else None
    base = {"space": run.space["spec"], "data": run.data["spec"], "data_dir": run.data_dir, "init_from": start}
    sharing = None if run.sharing == "entangled" else run.sharing
    return line("hwnas", "train", *options({**base, **set_, "sharing": sharing, "out": near(path)}))


def profiled(path: Path, table: LatencyTable) -> str:
    """`hwnas profile`; `--device` is the name of the device, the table does not record its settings."""
    given = {"space": table.space.spec, "device": table.name, "sustained": table.sustained_s or None}
    earlier = [word for name in table.told_by for word in ("--from", f"{name}.json")]
    return line("hwnas", "profile", *options(given), *earlier, *options({"out": near(path)}))


def validated(path: Path, it: Checked) -> str:
    """`hwnas validate` of the table of that device."""
    device = it.device or "DEVICE"
    given = {"space": "SPACE", "table": f"{device}.json", "device": device, "nets": len(it.networks)}
    return line("hwnas", "validate", *options({**given, "out": near(path)}))


def ranked(path: Path, it: Ranked) -> str:
    """`hwnas rank`."""
    table = None if it.cost in COSTS else f"{it.cost}.json"
    truth = {"truth": near(it.truth)} if it.truth else {"nets": len(it.networks) + it.lost}
    return line("hwnas", "rank", *options({"run": "RUN", **truth, "table": table, "out": near(path)}))


def searched(path: Path, found: Found) -> str:
    """`hwnas search`; files of before tell no budget: then it is the number of evaluations that were made."""
    words = ["--run", near(found.run)]
    for table in found.tables.values():
        words += ["--table", near(str(table["path"]))]
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
    devices = [name for name in proof.latency if "." not in name]
    plain = path.with_name(path.name.removesuffix(".rejected"))
    words = [near(source) if source else "FOUND.json", "--out", near(plain.with_suffix(".onnx"))]
    words += [word for name in devices[:1] for word in ("--device", name)]
    given = {
        "batch": None if proof.batch == 1 else proof.batch or "dynamic",
        "opset": proof.opset if proof.opset != 18 else None,
        "pixels": proof.input == "pixels",
        "int8": proof.precision.startswith("int8"),
        "drop": proof.tolerance.metric if proof.tolerance not in (INT8, PLAIN) else None,
        "symmetric": proof.precision == "int8-symmetric",
        "mobile": proof.mobile is not None,
        "targets": ",".join(check.name for check in proof.targets),
    }
    return line("hwnas", "export", *words, *options(given))
