"""The certificate of a small network that was really trained, searched by nobody and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.errors import FaultError
from hwnas.export import INT8, PLAIN, Certificate, Latency, certify, to_onnx
from hwnas.export.card import lost_words, proof_lines
from hwnas.export.certificate import MobileCheck, Tolerance, compare_outputs, objections
from hwnas.export.intervals import binomial_interval
from hwnas.export.running import onnx_session, run_onnx
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


PROOF = Certificate(
    arch=ARCH,
    space="tiny",
    max_abs_diff=9e-5,
    accuracy_torch=0.9,
    accuracy_onnx=0.8995,
    accuracy_interval=(0.88, 0.92),
    test_images=2000,
    latency={},
    limits={"flops": 1e6, "watch": 3.0},
    costs={"flops": 1e6},
    within_limits=None,
    size_bytes=100,
    opset=18,
    runtime_options={},
    weights="",
    max_output=0.5,
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"max_abs_diff": 2e-4}, ["outputs differ by 0.0002, more than 0.0001"]),
        ({"max_abs_diff": 2e-4, "max_output": 3.0}, []),  # of outputs above 1 it is a share
        ({"accuracy_onnx": 0.8985}, ["accuracy is 0.8985, 0.9000 in torch: more than 0.001 off"]),
        ({"accuracy_onnx": 0.9015}, ["accuracy is 0.9015, 0.9000 in torch: more than 0.001 off"]),  # no luck, a bug
        ({"accuracy_onnx": 0.899}, []),  # exactly a tenth of a point
        ({"costs": {"flops": 1.1e6}}, ["flops is 1.1e+06, over its limit of 1e+06"]),
        ({"costs": {"flops": 1e6, "watch": 3.1}}, ["watch is 3.1, over its limit of 3"]),
        ({"tolerance": INT8, "max_abs_diff": 0.2, "accuracy_onnx": 0.895}, []),
        ({"tolerance": INT8, "max_abs_diff": 0.2, "accuracy_onnx": 0.95}, []),  # it may only get better
        ({"tolerance": INT8, "accuracy_onnx": 0.894}, ["accuracy is 0.8940, 0.9000 in torch: more than 0.005 off"]),
        ({"tolerance": INT8, "max_abs_diff": 0.3}, ["outputs differ by 0.3, more than 0.25"]),
        ({"metric": "rmse", "accuracy_torch": 40.0, "accuracy_onnx": 40.03}, []),  # of errors it is a share
        (
            {"metric": "rmse", "accuracy_torch": 40.0, "accuracy_onnx": 40.05},
            ["rmse is 40.0500, 40.0000 in torch: more than 0.04 off"],
        ),
        ({"metric": "rmse", "tolerance": INT8, "accuracy_torch": 40.0, "accuracy_onnx": 39.0}, []),
    ],
)
def test_what_is_not_what_was_promised_is_rejected(change: dict[str, Any], words: list[str]) -> None:
    assert list(objections(replace(PROOF, **change))) == words


def test_outputs_that_are_no_numbers_are_a_fault(supernet: Supernet, subnet: nn.Module, model: onnx.ModelProto) -> None:
    images = torch.full((2, 1, 16, 16), torch.nan)
    with pytest.raises(FaultError, match="no number"):
        compare_outputs(supernet, ARCH, subnet, model.SerializeToString(), images, images.numpy())


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
    same, other = (
        compare_outputs(supernet, ARCH, subnet, found.SerializeToString(), images, images.contiguous().numpy())
        for found in (model, changed)
    )
    assert same.max_abs_diff <= 1e-4
    assert other.max_abs_diff == pytest.approx(0.25, abs=1e-3)
    assert same.largest == other.largest > 0


def test_a_fixed_batch_takes_any_number_of_images(subnet: nn.Module, digits: Data) -> None:
    session = onnx_session(to_onnx(subnet, [(4, 1, 16, 16)]).SerializeToString())
    images = digits.normalise(digits.test.images[:10])
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(session, images.contiguous().numpy()), subnet(images), atol=1e-4)


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


def test_what_the_export_alone_makes_no_number_is_a_difference(
    supernet: Supernet, subnet: nn.Module, model: onnx.ModelProto, digits: Data
) -> None:
    """The network is sound, and the file is rejected as one that computes something else."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    bias = next(tensor for tensor in broken.graph.initializer if tuple(tensor.dims) == (10,))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, dtype=np.float32), bias.name))
    proof = certify(supernet, ARCH, subnet, broken, digits, "", {}, {}, {})
    assert proof.max_abs_diff >= 1e14
    assert proof.rejected[0].startswith("outputs differ by 1e+15")


@pytest.mark.parametrize(("precision", "tolerance", "most"), [("fp32", PLAIN, 1e-4), ("int8", INT8, 0.05)])
def test_the_mobile_format_computes_what_the_file_does(precision: str, tolerance: Tolerance, most: float) -> None:
    proof = replace(PROOF, precision=precision, tolerance=tolerance)
    said = [list(objections(replace(proof, mobile=MobileCheck(apart * most, 1, "")))) for apart in (0.9, 1.1)]
    assert said[0] == []
    assert said[1] == [f"outputs of the mobile format differ by {1.1 * most:.2g}, more than {most:.2g}"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy_onnx": 0.896}, "0.40 points of accuracy, at most 0.50"),
        ({"accuracy_onnx": 0.91}, "-1.00 points of accuracy (it gained), at most 0.50"),
        ({"metric": "rmse", "accuracy_torch": 40.0, "accuracy_onnx": 40.1}, "0.1 of rmse, at most 0.2"),
        ({"metric": "rmse", "accuracy_torch": 40.0, "accuracy_onnx": 40.0}, "0 of rmse, at most 0.2"),
    ],
)
def test_what_int8_lost_is_a_figure_of_its_own(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    proof = replace(PROOF, tolerance=INT8, precision="int8", **change)
    assert lost_words(proof) == words
    assert any(line == f"  lost by int8: {words}" for line in proof_lines(proof, tmp_path / "net.onnx"))
    proof.save(tmp_path / "net.json")
    assert json.loads((tmp_path / "net.json").read_text())["metric_lost"] == proof.metric_lost
