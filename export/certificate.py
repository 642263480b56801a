"""The proof beside an exported network: the same outputs, the same accuracy, the limits kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from ..files import write_json
from ..supernet.data import Data
from ..supernet.evaluation import accuracy
from ..supernet.metrics import METRICS
from ..supernet.network import evaluating
from ..supernet.sources import Split
from ..supernet.space import Arch
from ..supernet.supernet import Supernet

VERSION = 1
COMPARED = 64  # images whose outputs are compared
RESAMPLES = 1000


@dataclass(frozen=True)
class Latency:
    """One device: what was promised and what was measured on the exported file.

    `measured_ms` is in the table's milliseconds: relative to the reference measured beside it, less what the table's
    own networks, measured beside it, too, say has `changed` (a fraction) since the table was made. `raw_ms` is without
    that (processor time with one thread). A limit of None was not asked for.
    """

    predicted_ms: float
    low_ms: float
    high_ms: float
    measured_ms: float
    raw_ms: float
    limit_ms: float | None
    changed: float = 0.0


@dataclass(frozen=True)
class Certificate:
    """What was checked on an exported network.

    The accuracies are values of `metric`, by default the fraction right. `sha256` is that of the ONNX file.
    `within_limits` is None where a limit could not be measured.
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

    def save(self, path: Path) -> None:
        """Write the certificate as JSON, atomically."""
        write_json(path, "certificate", VERSION, asdict(self))


def onnx_session(model: bytes) -> ort.InferenceSession:
    """ONNX Runtime's CPU session of a model, one thread, at the level that deployment uses."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(session: ort.InferenceSession, images: torch.Tensor) -> np.ndarray:
    """Outputs (N, classes) for images (N, C, S, S), in batches of the size that the model takes."""
    (entry,) = session.get_inputs()
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else len(images)
    if len(images) % batch:
        images = torch.cat([images, images[-1:].expand(batch - len(images) % batch, -1, -1, -1)])
    parts = [session.run(None, {entry.name: part.contiguous().numpy()})[0] for part in images.split(batch)]
    return np.concatenate(parts)


def max_abs_diff(supernet: Supernet, arch: Arch, subnet: nn.Module, model: bytes, images: torch.Tensor) -> float:
    """Largest difference of any output between the supernet's path, the subnet and ONNX Runtime."""
    statistics = supernet.statistics(arch, subnet)
    with evaluating(supernet, subnet):
        path = torch.func.functional_call(supernet, statistics, (images, arch)).numpy()
        plain = subnet(images).numpy()
    exported = run_onnx(onnx_session(model), images)[: len(images)]
    stacked = np.stack([path, plain, exported])  # (3, N, classes)
    return float((stacked.max(axis=0) - stacked.min(axis=0)).max())


def onnx_reads(model: bytes, data: Data, split: Split) -> NDArray[Any]:
    """What the metric of `data` reads of the model's outputs in ONNX Runtime, for each image of `split`: (N, ...)."""
    session, read = onnx_session(model), METRICS[data.metric].read
    outputs = (run_onnx(session, data.normalise(part))[: len(part)] for part in split.images.split(512))
    return np.concatenate([read(torch.from_numpy(part)).numpy() for part in outputs])


def accuracy_interval(metric: str, labels: NDArray[Any], predicted: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of a metric: exact where it counts trials; for any other a bootstrap's."""
    if metric in ("accuracy", "top-5"):
        return binomial_interval(METRICS[metric](labels, predicted), len(labels))
    return bootstrap_interval(METRICS[metric], labels, predicted)


def bootstrap_interval(
    metric: Callable[[NDArray[Any], NDArray[Any]], float], labels: NDArray[Any], predicted: NDArray[Any]
) -> tuple[float, float]:
    """The 95 % percentile interval over draws of as many images (Efron, https://doi.org/10.1214/aos/1176344552).

    It is a little narrow for few images, and has no width for a network without an error.
    """
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(labels), size=len(labels)) for _ in range(RESAMPLES))
    low, high = np.quantile([metric(labels[rows], predicted[rows]) for rows in draws], [0.025, 0.975])
    return float(low), float(high)


def binomial_interval(fraction: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a fraction of `count` trials (Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404)."""
    found = stats.binomtest(round(fraction * count), count).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


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
) -> Certificate:
    """Compare the three forms of a network on real test images, and its costs with the limits.

    `costs` are the analytic ones, `latency` what devices measured on this very model.
    """
    data_bytes = model.SerializeToString()
    labels, predicted = data.test.labels.numpy(), onnx_reads(data_bytes, data, data.test)
    compared = data.normalise(data.test.images[:COMPARED])
    values = {**costs, **{name: found.measured_ms for name, found in latency.items()}}
    unknown = [name for name in limits if name not in values]
    kept = all(values[name] <= limit for name, limit in limits.items() if name in values)
    return Certificate(
        arch=arch,
        space=str(supernet.space),
        max_abs_diff=max_abs_diff(supernet, arch, subnet, data_bytes, compared),
        accuracy_torch=accuracy(subnet, data, data.test),
        accuracy_onnx=METRICS[data.metric](labels, predicted),
        accuracy_interval=accuracy_interval(data.metric, labels, predicted),
        test_images=len(data.test),
        latency=latency,
        limits=limits,
        costs=values,
        within_limits=kept if not (unknown and kept) else None,
        size_bytes=len(data_bytes),
        opset=model.opset_import[0].version,
        runtime_options={"runtime": f"onnxruntime {ort.__version__}", "threads": "1", "optimization": "all"},
        weights=weights,
        sha256=hashlib.sha256(data_bytes).hexdigest(),
        notes=(*notes, *(f"{name} was not measured: export with --device {name}" for name in unknown)),
        metric=data.metric,
    )
