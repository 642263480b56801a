"""Every built-in space's networks are read alike by other programs.

Targets in environments of their own are tried where a variable names one (HWNAS_OPENVINO=ENV/bin/python and the like;
HWNAS_ARM64 is the folder of scripts/arm64-userland): `hwnas list targets` says how each is installed.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx.utils import Extractor
from torch import nn

from hwnas.export import at_opset, to_onnx
from hwnas.export.certificate import compare_outputs
from hwnas.export.precision import to_int8
from hwnas.export.readers import onnxruntime_reader, reference_reader
from hwnas.export.readers.reading import Job
from hwnas.export.running import onnx_session, run_onnx, to_mobile
from hwnas.export.targets import TARGETS, Wanted, check_targets, entry_of, parse_targets
from hwnas.supernet import SPACES, Supernet, load_space
from hwnas.supernet.evaluation import calibrated_subnet

SMALL = {  # every built-in space, small enough for a test
    "mobilenet": "mobilenet:size=32,classes=10,stem=8,widths=8-16,depths=2-2,strides=2-2,kernels=3-5,"
    "expansions=2-3,se=0-1,act=relu-hswish,head=32",
    "nas-bench-macro": "nas-bench-macro:size=12",
    "shufflenet": "shufflenet:size=16,classes=10,stem=8,widths=16-32,depths=2-2,head=32",
    "vgg": "vgg:size=16,classes=10,widths=8-16,depths=2-2,head=32",
}
NETWORKS = 5
ELSEWHERE = {
    "openvino": "HWNAS_OPENVINO",
    "ncnn": "HWNAS_NCNN",
    "opencv": "HWNAS_OPENCV",
    "onnxruntime-arm64": "HWNAS_ARM64",
    "qnn": "HWNAS_QNN",
    "tensorrt-rtx": "HWNAS_TENSORRT_RTX",
}
TOLERANCE = 1e-4


def python_of(target: str) -> str:
    """The Python that reads a target; the test is skipped where its variable names none."""
    found = os.environ.get(ELSEWHERE[target])
    if not found:
        pytest.skip(f"needs {ELSEWHERE[target]}: {TARGETS[target].install}")
    return str(Path(found).absolute() / "python") if target == "onnxruntime-arm64" else found


class SideBySide(nn.Module):
    """Networks that read the same images: the outputs of all in one, and of each."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = [network(image) for network in self.networks]
        return torch.cat(outputs, dim=1), *outputs


@dataclass(frozen=True)
class Drawn:
    """Random networks of a space as ONNX: all in one model, and one by one, with torch's outputs for the images.

    `apart` is the largest difference between the supernet's path, the subnet and ONNX Runtime, for each.
    """

    images: NDArray[np.float32]
    together: bytes
    each: list[bytes]
    expected: list[NDArray[np.float32]]
    apart: list[float]


@functools.cache
def drawn(name: str) -> Drawn:
    """Five networks of a built-in space, exported at once, as one export of many costs little more than one."""
    space, rng = load_space(SMALL[name]), random.Random(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        supernet = Supernet(space)
        shape = space.input_shape(1)
        images = torch.randn(4, *shape[1:])
        archs = list(dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(3 * NETWORKS)))[:NETWORKS]
        subnets = [calibrated_subnet(supernet, arch, images) for arch in archs]
        nets = SideBySide(subnets).eval()
        _, *expected = (output.numpy() for output in nets(images))
    outputs = [f"logits{i}" for i in range(NETWORKS)]
    extractor = Extractor(to_onnx(nets, [shape], ["logits", *outputs]))
    together, *each = (extractor.extract_model(["image"], [one]).SerializeToString() for one in ["logits", *outputs])
    apart = [
        compare_outputs(supernet, arch, subnet, model, images, images.numpy()).max_abs_diff
        for arch, subnet, model in zip(archs, subnets, each, strict=True)
    ]
    return Drawn(images.numpy(), together, each, expected, apart)


def test_every_built_in_space_is_tried() -> None:
    assert SMALL.keys() == SPACES.keys()


@pytest.mark.parametrize("reader", [onnxruntime_reader, reference_reader], ids=["onnxruntime", "onnx-reference"])
@pytest.mark.parametrize("name", SMALL)
def test_five_random_networks_of_each_space_are_read_alike(name: str, reader: object, tmp_path: Path) -> None:
    """By the reading programs themselves, in this process: twenty networks each would be forty processes."""
    found, apart = drawn(name), 0.0
    assert len(found.each) == NETWORKS
    for number, (model, expected) in enumerate(zip(found.each, found.expected, strict=True)):
        assert expected.std() > 0.01  # else 1e-4 says nothing
        job = Job(folder := tmp_path / str(number), **entry_of(model).job(4), options={})
        folder.mkdir()
        job.model.write_bytes(model)
        np.save(folder / "images.npy", found.images)
        assert reader.read(job) == {}  # type: ignore[attr-defined]
        outputs = np.load(folder / "outputs.npy")
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE)
        apart = max(apart, float(np.abs(outputs - expected).max()))
    print(f"{reader.version({})}, {name}: {apart:.1e}")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SMALL)
def test_five_random_networks_of_each_space_are_their_supernets_paths(name: str) -> None:
    """As in the certificate: the supernet's path, the subnet and ONNX Runtime put out the same."""
    found = drawn(name)
    print(f"{name}, supernet path, subnet and ONNX Runtime: {max(found.apart):.1e}")
    assert len(found.apart) == NETWORKS
    assert 0 < max(found.apart) <= TOLERANCE


@pytest.mark.parametrize("target", ELSEWHERE)
@pytest.mark.parametrize("name", SMALL)
def test_targets_elsewhere_read_them_too(name: str, target: str) -> None:
    python = python_of(target)
    found = drawn(name)
    (check,) = check_targets(
        found.together, found.images, np.concatenate(found.expected, axis=1), [Wanted(target, python)], TOLERANCE
    )
    print(f"{name}, {check}")
    if (target, name) == ("opencv", "mobilenet") and check.failed:
        pytest.xfail(f"OpenCV 5.0 takes the gate of squeeze-and-excite for a hard swish: {check}")
    assert not check.failed, check
    if target == "tensorrt-rtx":
        assert (check.label, check.agrees) == ("compiled", None)
        assert check.size_bytes is not None
        assert check.size_bytes > 1000
    else:
        assert check.label == ("emulated" if target in ("onnxruntime-arm64", "qnn") else "ran")
        assert (check.agrees, check.images) == (True, 4)
        assert check.max_abs_diff is not None
        assert check.max_abs_diff <= check.tolerance
        assert check.tolerance == TOLERANCE or target == "qnn"  # which computes in half precision


@pytest.mark.parametrize("target", ["onnx-reference", *ELSEWHERE])
def test_int8_is_read_as_onnx_runtime_reads_it(target: str) -> None:
    """By those that can: TensorRT takes the symmetric form, ncnn and OpenCV none."""
    python = "" if target == "onnx-reference" else python_of(target)
    found = drawn("mobilenet")
    quantized = to_int8(onnx.load_from_string(found.each[0]), symmetric=target == "tensorrt-rtx").SerializeToString()
    expected = run_onnx(onnx_session(quantized), found.images)
    share = 0.2 if target == "qnn" else 0.1  # a simulator of a processor with arithmetic of its own
    (check,) = check_targets(quantized, found.images, expected, [Wanted(target, python)], share * expected.std())
    print(f"int8, outputs with a deviation of {expected.std():.2f}, {check}")
    if target in ("ncnn", "opencv"):
        assert check.label == "rejected"
    else:
        assert not check.failed, check
        assert (check.label == "compiled") == (target == "tensorrt-rtx")


@pytest.mark.parametrize("opset", [13, 15, 17, 18])
def test_older_int8_files_are_read_by_the_reference(opset: int) -> None:
    """It has no Q/DQ nodes of before opset 19: the model is raised to that."""
    found = drawn("shufflenet")
    model = to_int8(at_opset(onnx.load_from_string(found.each[0]), opset))
    assert model.opset_import[0].version == opset
    expected = run_onnx(onnx_session(model.SerializeToString()), found.images)
    wanted = parse_targets("onnx-reference")
    (check,) = check_targets(model.SerializeToString(), found.images, expected, wanted, 0.1 * expected.std())
    assert check.agrees, check


def test_operators_that_fall_back_are_named() -> None:
    """OpenVINO has no kernel of its own for the gate of squeeze-and-excite, and runs it by its reference code."""
    python = python_of("openvino")
    found = drawn("mobilenet")
    expected = np.concatenate(found.expected, axis=1)
    (check,) = check_targets(found.together, found.images, expected, [Wanted("openvino", python)], TOLERANCE)
    assert check.fell_back is not None
    assert "HardSigmoid (reference code)" in check.fell_back


READ_ORT = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/net.ort", providers=["CPUExecutionProvider"])
images = numpy.load(sys.argv[1] + "/images.npy")
name = session.get_inputs()[0].name
outputs = [session.run(None, {name: image[None]})[0] for image in images]
numpy.save(sys.argv[1] + "/outputs.npy", numpy.concatenate(outputs))
print(onnxruntime.__version__)
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", SMALL)
def test_the_mobile_format_is_read_by_arm64(name: str, precision: str, tmp_path: Path) -> None:
    """It is written for arm (hwnas export --mobile); here an emulated one reads it."""
    python, found = python_of("onnxruntime-arm64"), drawn(name)
    model = found.each[0] if precision == "fp32" else to_int8(onnx.load_from_string(found.each[0])).SerializeToString()
    (tmp_path / "net.ort").write_bytes(to_mobile(model).model)
    np.save(tmp_path / "images.npy", found.images)
    ran = subprocess.run([python, "-c", READ_ORT, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    expected, outputs = run_onnx(onnx_session(model), found.images), np.load(tmp_path / "outputs.npy")
    apart = float(np.abs(outputs - expected).max())
    print(f"{name}, .ort in {precision} by onnxruntime-arm64 {ran.stdout.strip()}: {apart:.1e}")
    assert expected.std() > 0.01
    assert apart <= (TOLERANCE if precision == "fp32" else 0.1 * expected.std())


def test_int8_is_read_within_a_wider_tolerance() -> None:
    found = drawn("vgg")
    quantized = to_int8(onnx.load_from_string(found.each[0])).SerializeToString()
    wanted = parse_targets("onnxruntime,onnx-reference")
    for check in check_targets(quantized, found.images, found.expected[0], wanted, 0.5):
        assert check.agrees, check
        assert check.max_abs_diff is not None
        assert check.max_abs_diff > TOLERANCE
