"""The certificate of a small network that was really trained, searched by nobody and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.export import Certificate, Latency, certify, to_onnx
from hwnas.export.certificate import binomial_interval, max_abs_diff, onnx_session, run_onnx
from hwnas.supernet import ChainSpace, Data, Supernet, TrainSettings, train
from hwnas.supernet.evaluation import accuracy, bn_images, calibrated_subnet

ARCH = (3, 1, 4)
Certify = Callable[..., Certificate]


@pytest.fixture(scope="module")
def supernet(tiny: ChainSpace, digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(tiny)
    train(supernet, digits, TrainSettings(epochs=2), tmp_path_factory.mktemp("run"))
    return supernet


@pytest.fixture(scope="module")
def subnet(supernet: Supernet, digits: Data) -> nn.Module:
    return calibrated_subnet(supernet, ARCH, bn_images(digits, 0))


@pytest.fixture(scope="module")
def model(subnet: nn.Module) -> onnx.ModelProto:
    return to_onnx(subnet, [(1, 1, 16, 16)])


@pytest.fixture(scope="module")
def few(digits: Data) -> Data:
    return replace(digits, test=digits.test.take(torch.arange(90)))


@pytest.fixture
def certified(supernet: Supernet, subnet: nn.Module, model: onnx.ModelProto, few: Data) -> Certify:
    def run(limits: dict[str, float], costs: dict[str, float], latency: dict[str, Latency]) -> Certificate:
        return certify(supernet, ARCH, subnet, model, few, "0123", limits, costs, latency)

    return run


def latency(measured_ms: float, limit_ms: float | None) -> Latency:
    return Latency(4.0, 3.8, 4.2, measured_ms, 5.0, limit_ms)


def test_it_says_what_was_checked(certified: Certify, subnet: nn.Module, model: onnx.ModelProto, few: Data) -> None:
    found = certified({"pixel8": 4.5}, {"flops": 1e6}, {"pixel8": latency(4.1, 4.5)})
    assert found.max_abs_diff <= 1e-4
    assert found.accuracy_torch == accuracy(subnet, few, few.test)
    assert found.accuracy_onnx == pytest.approx(found.accuracy_torch, abs=1 / 90)
    assert found.accuracy_interval[0] < found.accuracy_onnx < found.accuracy_interval[1]
    assert found.costs == {"flops": 1e6, "pixel8": 4.1}
    assert (found.arch, found.test_images, found.weights, found.notes) == (ARCH, 90, "0123", ())
    assert (found.opset, found.size_bytes) == (18, len(model.SerializeToString()))
    assert found.runtime_options["runtime"].startswith("onnxruntime ")


@pytest.mark.parametrize(
    ("limits", "within"),
    [
        ({}, True),
        ({"flops": 1e6, "pixel8": 4.5}, True),  # on the limit is within
        ({"pixel8": 4.0}, False),  # promised 4.0, measured 4.1
        ({"flops": 9e5, "pixel8": 4.5}, False),
        ({"flops": 1e6, "watch": 9.0}, None),
        ({"flops": 9e5, "watch": 9.0}, False),  # broken whatever the watch says
    ],
)
def test_limits_are_held_against_what_was_measured(
    certified: Certify, limits: dict[str, float], within: bool | None
) -> None:
    found = certified(limits, {"flops": 1e6}, {"pixel8": latency(4.1, limits.get("pixel8"))})
    assert found.within_limits is within
    assert bool(found.notes) == ("watch" in limits)


def test_a_limit_that_was_not_measured_says_how(certified: Certify) -> None:
    assert certified({"watch": 9.0}, {}, {}).notes == ("watch was not measured: export with --device watch",)


def test_it_is_written_as_it_is(certified: Certify, tmp_path: Path) -> None:
    found = certified({"pixel8": 4.5}, {}, {"pixel8": latency(4.1, 4.5)})
    found.save(tmp_path / "net.json")
    written = json.loads((tmp_path / "net.json").read_text())
    assert (written["format"], written["version"]) == ("hwnas.certificate", 1)
    assert written["latency"]["pixel8"] == vars(found.latency["pixel8"])
    assert tuple(written["arch"]) == ARCH
    assert written["within_limits"] is True


def test_another_network_has_other_outputs(
    supernet: Supernet, subnet: nn.Module, model: onnx.ModelProto, digits: Data
) -> None:
    """The difference is measured, not assumed: one changed weight shows."""
    images = digits.normalise(digits.test.images[:20])
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    bias = next(tensor for tensor in changed.graph.initializer if tuple(tensor.dims) == (10,))
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.25)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    assert max_abs_diff(supernet, ARCH, subnet, model.SerializeToString(), images) <= 1e-4
    assert max_abs_diff(supernet, ARCH, subnet, changed.SerializeToString(), images) == pytest.approx(0.25, abs=1e-3)


def test_a_fixed_batch_takes_any_number_of_images(subnet: nn.Module, digits: Data) -> None:
    session = onnx_session(to_onnx(subnet, [(4, 1, 16, 16)]).SerializeToString())
    images = digits.normalise(digits.test.images[:10])
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(session, images)[:10], subnet(images), atol=1e-4)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (682, 925, 0.7076683, 0.7654066),  # the example of R's binom.test
    ],
)
def test_the_binomial_interval_is_clopper_and_pearsons(right: int, count: int, low: float, high: float) -> None:
    assert binomial_interval(right / count, count) == pytest.approx((low, high), abs=1e-6)
