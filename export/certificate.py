"""The proof beside an exported network: the same outputs, the same accuracy, the limits kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import FaultError
from ..files import write_json
from ..supernet.data import Data
from ..supernet.evaluation import accuracy
from ..supernet.metrics import METRICS
from ..supernet.network import evaluating
from ..supernet.sources import Split
from ..supernet.space import Arch
from ..supernet.supernet import Supernet
from .intervals import accuracy_interval
from .running import Footprint, onnx_session, run_onnx, weigh
from .targets import TargetCheck

VERSION = 1
COMPARED = 64  # images whose outputs are compared
ROUNDED = 0.05  # of the largest output, by which two readers of an int8 file may differ: each rounds every layer
FARTHEST = 1e15  # what an output that is no number counts as: its square is one, and JSON has no infinity

Read = Callable[[torch.Tensor], torch.Tensor]  # uint8 images (B, C, S, S) as the exported network reads them


@dataclass(frozen=True)
class Latency:
    """One device: what was promised and what was measured on the exported file.

    `measured_ms` is in the table's milliseconds: relative to the reference measured beside it, less what the table's
    own networks, measured beside it, too, say has `changed` (a fraction) since the table was made. `raw_ms` is without
    that (processor time with one thread). A limit of None was not asked for. `speed_up` is by what factor an int8
    network is faster there than the same in fp32, measured beside it. `timed_as` says what was timed where that is not
    the file itself; in another precision or batch than the file's (`of_file` False) it tells nothing of the file's
    limits, nor where the limit lies within the noise of a restless machine (`sure` False).
    """

    predicted_ms: float
    low_ms: float
    high_ms: float
    measured_ms: float
    raw_ms: float
    limit_ms: float | None
    changed: float = 0.0
    speed_up: float | None = None
    timed_as: str = ""
    of_file: bool = True
    sure: bool = True

    @property
    def judges(self) -> bool:
        """Whether it tells if the file keeps its limit."""
        return self.of_file and self.sure


@dataclass(frozen=True)
class Tolerance:
    """By how much an exported network may differ from the one that was found.

    `outputs` is a share of the largest output where that is above 1; `metric` a fraction, of errors (rmse, mae) a share
    of theirs. Where it may only get worse by so much (`drop`), it may get better.
    """

    outputs: float
    metric: float
    drop: bool = False


PLAIN = Tolerance(outputs=1e-4, metric=0.001)
"""Of a network in fp32: outputs to rounding, the metric to a tenth of a point either way."""
INT8 = Tolerance(outputs=0.25, metric=0.005, drop=True)
"""Of a network in int8: outputs to a quarter of the largest, half a point of the metric lost at most."""


@dataclass(frozen=True)
class MobileCheck:
    """The same network in ONNX Runtime's mobile format: the largest difference of its outputs from the file's."""

    max_abs_diff: float
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """What was checked on an exported network.

    The accuracies are values of `metric`, by default the fraction right. `sha256` is that of the ONNX file.
    `within_limits` is None where a limit could not be measured; `targets` are other readers of the file, `mobile` what
    became of it in ONNX Runtime's format for phones. `runtime_options` are those of outputs and accuracy, `devices`
    what the devices that timed it say of themselves. `max_output` is the largest output that was compared; `rejected`
    says what went beyond the `tolerance` or a limit: nothing, and the network is what was promised. `device` are those
    that timed it, as the command named them, in one line as a shell would take it. `footprint` is of the machine that
    exported it.
    """

    arch: Arch
    space: str
    max_abs_diff: float
    accuracy_torch: float
    accuracy_onnx: float
    accuracy_interval: tuple[float, float]
    test_images: int
    latency: Mapping[str, Latency]
    limits: Mapping[str, float]
    costs: Mapping[str, float]
    within_limits: bool | None
    size_bytes: int
    opset: int
    runtime_options: Mapping[str, str]
    weights: str
    sha256: str = ""
    notes: tuple[str, ...] = field(default=())
    metric: str = "accuracy"
    max_output: float = 0.0
    tolerance: Tolerance = PLAIN
    rejected: tuple[str, ...] = ()
    precision: str = "fp32"
    input: str = "normalised"
    footprint: Footprint | None = None
    size_fp32_bytes: int | None = None
    targets: tuple[TargetCheck, ...] = ()
    mobile: MobileCheck | None = None
    batch: int | None = 1
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    device: str = ""

    @property
    def metric_lost(self) -> float:
        """By how much the file is worse than the network in torch, in the metric's unit; below 0 it is better."""
        more = METRICS[self.metric].direction > 0
        return self.accuracy_torch - self.accuracy_onnx if more else self.accuracy_onnx - self.accuracy_torch

    @property
    def metric_allowed(self) -> float:
        """By how much its metric may differ from that in torch, in the metric's unit."""
        share = METRICS[self.metric].task != "classification"  # of errors
        return self.tolerance.metric * (abs(self.accuracy_torch) if share else 1.0)

    def save(self, path: Path) -> None:
        """Write the certificate as JSON, atomically; `metric_lost` stands there, too."""
        write_json(path, "certificate", VERSION, asdict(self) | {"metric_lost": self.metric_lost})


@dataclass(frozen=True)
class Outputs:
    """What was compared: the largest difference of any output, and the largest output."""

    max_abs_diff: float
    largest: float


def compare_outputs(
    supernet: Supernet, arch: Arch, subnet: nn.Module, model: bytes, images: torch.Tensor, as_read: NDArray[np.float32]
) -> Outputs:
    """Outputs of the supernet's path and the subnet for `images`, and of ONNX Runtime for the same `as_read`.

    FaultError where they are no numbers in torch: what the export alone makes of them is a difference.
    """
    statistics = supernet.statistics(arch, subnet)
    with evaluating(supernet, subnet):
        path = torch.func.functional_call(supernet, statistics, (images, arch)).numpy()
        plain = subnet(images).numpy()
    if not np.isfinite([path, plain]).all():
        raise FaultError("the network puts out what is no number: train it anew, at a smaller --lr")
    exported = numbers(run_onnx(onnx_session(model), as_read))
    stacked = np.stack([path, plain, exported])  # (3, N, classes)
    return Outputs(float((stacked.max(axis=0) - stacked.min(axis=0)).max()), float(np.abs(plain).max()))


def numbers(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs in which what is no number is FARTHEST from any."""
    found: NDArray[np.float32] = np.nan_to_num(outputs, nan=FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
    return found


def onnx_answers(model: bytes, data: Data, split: Split, read: Read) -> NDArray[Any]:
    """What the metric of `data` reads of the model's outputs in ONNX Runtime, for each image of `split`: (N, ...)."""
    session, answer = onnx_session(model), METRICS[data.metric].read
    outputs = (numbers(run_onnx(session, as_array(read(part)))) for part in split.images.split(512))
    return np.concatenate([answer(torch.from_numpy(part)).numpy() for part in outputs])


def as_array(images: torch.Tensor) -> NDArray[np.float32]:
    """Images (B, C, S, S) as ONNX Runtime takes them."""
    found: NDArray[np.float32] = images.contiguous().numpy()
    return found


def certify(
    supernet: Supernet,
    arch: Arch,
    subnet: nn.Module,
    model: onnx.ModelProto,
    data: Data,
    weights: str,
    limits: Mapping[str, float],
    costs: Mapping[str, float],
    latency: Mapping[str, Latency],
    notes: Sequence[str] = (),
    read: Read | None = None,
    tolerance: Tolerance = PLAIN,
) -> Certificate:
    """Compare the three forms of a network on real test images, and its costs with the limits.

    `costs` are the analytic ones, `latency` what devices measured on this very model, `read` makes images ready for it
    (by default normalised ones).
    """
    read = read or data.normalise
    data_bytes = model.SerializeToString()
    labels, predicted = data.test.labels.numpy(), onnx_answers(data_bytes, data, data.test, read)
    images = data.test.images[:COMPARED]
    found = compare_outputs(supernet, arch, subnet, data_bytes, data.normalise(images), as_array(read(images)))
    values = {**costs, **{name: times.measured_ms for name, times in latency.items() if times.judges}}
    unknown = [name for name in limits if name not in values]
    kept = all(values[name] <= limit for name, limit in limits.items() if name in values)
    certificate = Certificate(
        arch=arch,
        space=str(supernet.space),
        max_abs_diff=found.max_abs_diff,
        accuracy_torch=accuracy(subnet, data, data.test),
        accuracy_onnx=METRICS[data.metric](labels, predicted),
        accuracy_interval=accuracy_interval(data.metric, labels, predicted),
        test_images=len(data.test),
        latency=latency,
        limits=limits,
        costs=values,
        within_limits=kept if not (unknown and kept) else None,
        size_bytes=len(data_bytes),
        opset=next(entry.version for entry in model.opset_import if not entry.domain),
        runtime_options={"runtime": f"onnxruntime {ort.__version__}", "threads": "1", "optimization": "all"},
        weights=weights,
        sha256=hashlib.sha256(data_bytes).hexdigest(),
        notes=(*notes, *advice(unknown, notes)),
        metric=data.metric,
        max_output=found.largest,
        tolerance=tolerance,
        footprint=weigh(data_bytes),
    )
    return replace(certificate, rejected=tuple(objections(certificate)))


def advice(unknown: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    """What to do about limits that were not measured, where no note says already why."""
    for name in unknown:
        device = name.partition(".")[0]
        if not any(note.startswith(f"{device}: ") for note in notes):
            yield f"{name} was not measured: export with --device {device}"


def objections(proof: Certificate) -> Iterator[str]:
    """Why an exported network is not what was promised."""
    most = proof.tolerance.outputs * max(1.0, proof.max_output)
    if proof.max_abs_diff > most:
        yield f"outputs differ by {proof.max_abs_diff:.2g}, more than {most:.2g}"
    moved = proof.metric_lost if proof.tolerance.drop else abs(proof.metric_lost)
    if not moved <= proof.metric_allowed + 1e-12:  # nan is more, too; rounding is not
        both = f"{proof.accuracy_onnx:.4f}, {proof.accuracy_torch:.4f} in torch"
        yield f"{proof.metric} is {both}: more than {proof.metric_allowed:.2g} off"
    yield from (f"target {check}" for check in proof.targets if check.failed)
    same = (ROUNDED if proof.precision.startswith("int8") else PLAIN.outputs) * max(1.0, proof.max_output)
    if proof.mobile is not None and not proof.mobile.max_abs_diff <= same:
        yield f"outputs of the mobile format differ by {proof.mobile.max_abs_diff:.2g}, more than {same:.2g}"
    for name, limit in proof.limits.items():
        if proof.costs.get(name, -math.inf) > limit:
            yield f"{name} is {proof.costs[name]:.4g}, over its limit of {limit:.4g}"
