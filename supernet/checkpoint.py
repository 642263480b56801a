"""What a training run leaves in its folder: run.json, checkpoint.pt, metrics.jsonl, with TensorBoard its own files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import InputError
from ..files import digest, read_json, write_bytes, write_json
from .averaging import Average
from .space import Arch, SearchSpace
from .spaces import recorded_space
from .supernet import Supernet
from .weights import load_tensors

VERSION = 1
CHECKPOINT, METRICS, RUN, TENSORBOARD = "checkpoint.pt", "metrics.jsonl", "run.json", "tensorboard"
REQUIRED = {"model", "optimizer"}  # parts of every checkpoint


@dataclass(frozen=True)
class Run:
    """A training run: what it is made of, as written in its run.json.

    `space` is a `space_record`, `data` a `data_record`. `arch` is the one network that is trained, None for a
    supernet; `start` says where its weights come from (`source`, `fingerprint`; of a tuned network also `train`, the
    settings of the supernet), None from scratch; `teacher` is the fingerprint of the network that taught it.
    """

    folder: Path
    space: dict[str, Any]
    data: dict[str, Any]
    data_dir: str | None
    sharing: str
    train: dict[str, Any]
    arch: Arch | None = None
    start: dict[str, Any] | None = None
    teacher: str | None = None

    def save(self) -> None:
        """Write run.json."""
        fields = {name: value for name, value in vars(self).items() if name != "folder"}
        write_json(self.folder / RUN, "run", VERSION, fields)

    def load_space(self) -> SearchSpace:
        """The space that was trained; MismatchError when it has changed since."""
        return recorded_space(self.space, str(self.folder))


def load_run(folder: Path) -> Run:
    """The run in `folder`; InputError where there is none."""
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} is not a training run (it has no {RUN}): make one with hwnas train")
    fields = read_json(folder / RUN, "run", VERSION)
    try:
        required = {name: fields[name] for name in ("space", "data", "data_dir", "sharing", "train")}
        arch = fields.get("arch")
        later: dict[str, Any] = {name: fields.get(name) for name in ("start", "teacher")}  # runs of before have none
        return Run(folder, **required, arch=None if arch is None else tuple(arch), **later)
    except KeyError as error:
        raise InputError(f"{folder / RUN} is damaged (it lacks {error}): train anew into another folder") from error


def load_supernet(folder: str | Path) -> Supernet:
    """The supernet of a run with its trained weights, in evaluation mode."""
    run = load_run(Path(folder))
    supernet = Supernet(run.load_space(), run.sharing, run.arch).to(memory_format=torch.channels_last)
    average = Average(supernet, run.train.get("ema", 0.0))
    if not load_checkpoint(run.folder, {"model": supernet, "average": average}):
        raise InputError(f"{folder} has no checkpoint yet: hwnas train --out {folder} --resume")
    average.swap()
    return supernet.eval()


def weights_fingerprint(module: nn.Module) -> str:
    """A digest of all weights and statistics of a module: equal weights, equal fingerprint."""
    parts: list[object] = []
    for name, tensor in module.state_dict().items():
        parts += [name, tensor.cpu().contiguous().numpy().tobytes()]
    return digest(*parts)


class Stateful(Protocol):
    """A part of a training that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def save_checkpoint(run: Path, parts: Mapping[str, Stateful], epoch: int) -> None:
    """Write the state of all `parts` and the number of finished epochs, atomically."""
    buffer = io.BytesIO()
    torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in parts.items()}}, buffer)
    write_bytes(run / CHECKPOINT, buffer.getvalue())


def load_checkpoint(run: Path, parts: Mapping[str, Stateful]) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of finished epochs, 0 without a checkpoint.

    A part that is not in the file, as it is younger, stays as it is.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        return 0
    saved = load_tensors(path, "a checkpoint of this run", "remove it to train anew")
    try:
        for name, part in parts.items():
            if name in saved or name in REQUIRED:
                part.load_state_dict(saved[name])
        return int(saved["epoch"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of this run ({reason}): remove it to train anew") from error


def append_metrics(run: Path, epoch: int, **values: float) -> None:
    """Add the line of one epoch to metrics.jsonl; lines of epochs from `epoch` on are replaced."""
    kept = [line for line in read_metrics(run) if line["epoch"] < epoch]
    lines = [*kept, {"epoch": epoch, **values}]
    write_bytes(run / METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())


def tell_tensorboard(run: Path, epoch: int, **values: float) -> None:
    """The same for TensorBoard, where it is installed and works; figures of epochs from `epoch` on are replaced."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception:  # missing, or broken in one of many ways: no training ends for want of a picture
        return
    with suppress(Exception), SummaryWriter(str(run / TENSORBOARD), purge_step=epoch) as writer:
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The metrics of every epoch so far."""
    path = run / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return [{**line, "epoch": int(line["epoch"])} for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, the training does without") from error
