"""Every built-in space's networks are read alike by other programs, and a reader that fails says so.

Targets in environments of their own are tried where a variable names one (HWNAS_OPENVINO=ENV/bin/python and the like;
HWNAS_ARM64 is the folder of scripts/arm64-userland): `hwnas list targets` says how each is installed.
"""

from __future__ import annotations

import ast
import functools
import os
import random
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor
from torch import nn

from hwnas.errors import HwnasError, InputError
from hwnas.export import at_opset, to_onnx
from hwnas.export.onnx_model import shifted
from hwnas.export.precision import to_int8
from hwnas.export.readers import onnxruntime_reader, reference_reader
from hwnas.export.readers.reading import Job
from hwnas.export.running import onnx_session, run_onnx
from hwnas.export.targets import (
    READERS,
    TARGETS,
    TargetCheck,
    Wanted,
    check_targets,
    entry_of,
    installed,
    parse_targets,
    trtexec_command,
)
from hwnas.supernet import SPACES, Supernet, load_space

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
    """Random networks of a space as ONNX: all in one model, and one by one, with torch's outputs for the images."""

    images: NDArray[np.float32]
    together: bytes
    each: list[bytes]
    expected: list[NDArray[np.float32]]


@functools.cache
def drawn(name: str) -> Drawn:
    """Five networks of a built-in space, exported at once, as one export of many costs little more than one."""
    space, rng = load_space(SMALL[name]), random.Random(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        supernet = Supernet(space)
        archs = {space.canonical(space.sample(rng)): None for _ in range(3 * NETWORKS)}
        nets = SideBySide([shifted(supernet.subnet(arch)) for arch in list(archs)[:NETWORKS]]).eval()
        shape = space.input_shape(1)
        images = torch.randn(4, *shape[1:])
        _, *expected = (output.numpy() for output in nets(images))
    outputs = [f"logits{i}" for i in range(NETWORKS)]
    extractor = Extractor(to_onnx(nets, [shape], ["logits", *outputs]))
    together, *each = (extractor.extract_model(["image"], [one]).SerializeToString() for one in ["logits", *outputs])
    return Drawn(images.numpy(), together, each, expected)


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
    (check,) = check_targets(quantized, found.images, expected, [Wanted(target, python)], 0.1 * expected.std())
    print(f"int8, outputs with a deviation of {expected.std():.2f}, {check}")
    if target in ("ncnn", "opencv"):
        assert check.label == "rejected"
    else:
        assert not check.failed, check
        assert (check.label == "compiled") == (target == "tensorrt-rtx")


def network(batch: int | str = 1, op: str = "Relu", weight: float = 1.0, domain: str = "") -> bytes:
    """Images (B, 1, 2, 2), a 2x2 convolution to two values, an operator, flattened: (B, 2)."""
    weights = np.array([weight, 1, 2, 3, -4, 3, 2, 1], dtype=np.float32).reshape(2, 1, 2, 2)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], kernel_shape=[2, 2]),
            helper.make_node(op, ["c"], ["r"], domain=domain),
            helper.make_node("Flatten", ["r"], ["logits"]),
        ],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 18), *[helper.make_opsetid(domain, 1)] * bool(domain)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


IMAGES = np.random.default_rng(0).normal(size=(7, 1, 2, 2)).astype(np.float32)
RIGHT = np.maximum(IMAGES.reshape(7, 4) @ np.array([[1, 1, 2, 3], [-4, 3, 2, 1]], dtype=np.float32).T, 0)


def checked(model: bytes, target: str = "onnxruntime", python: str = "") -> TargetCheck:
    (check,) = check_targets(model, IMAGES, RIGHT, [Wanted(target, python)], TOLERANCE)
    return check


@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_any_batch_is_fed(batch: int | str) -> None:
    """One image at a time, three (so that seven don't fit), or as many as one likes."""
    found = check_targets(network(batch), IMAGES, RIGHT, parse_targets("onnxruntime,onnx-reference"), TOLERANCE)
    assert [(check.name, check.label, check.agrees) for check in found] == [
        ("onnxruntime", "ran", True),
        ("onnx-reference", "ran", True),
    ]
    assert [check.images for check in found] == [7, 4]
    assert found[0].version.startswith("onnxruntime 1.")
    assert str(found[1]).startswith("onnx-reference: ran (onnx 1.")


def test_one_changed_weight_is_found() -> None:
    check = checked(network(weight=1.01))
    assert check.agrees is False
    assert check.failed
    assert check.max_abs_diff == pytest.approx(0.01 * np.abs(IMAGES[:, 0, 0, 0])[RIGHT[:, 0] > 0].max(), rel=0.05)
    assert "DISAGREES" in str(check)


def test_outputs_that_are_no_numbers_agree_with_nothing() -> None:
    check = checked(network(op="Sqrt"))
    assert (check.agrees, check.max_abs_diff) == (False, None)
    assert "not all numbers" in check.reason


def test_a_model_that_is_not_read_has_the_readers_words() -> None:
    check = checked(network(op="Nonsense", domain="nowhere"))
    assert (check.label, check.agrees, check.failed) == ("rejected", None, True)
    assert "Nonsense" in check.reason
    assert "\n" not in check.reason


def stand_in(folder: Path, words: str) -> str:
    """A Python that tells its version as it is, and does something else where it should read a model."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nif [ -z "$3" ]; then exec "{sys.executable}" "$@"; fi\n{words}\n')
    program.chmod(0o700)
    return str(program)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("kill -SEGV $$", "its process was ended by SIGSEGV"),
        ("echo out of luck >&2; exit 1", "out of luck"),
        ("exit 4", "it ended with status 4 and without a word"),
        ("exit 0", "it ended with status 0 and without a word"),
        ("echo '{' > $3/result.json", "what it wrote is damaged"),
        ("echo '{}' > $3/result.json; echo no numbers > $3/outputs.npy", "what it wrote is damaged"),
        ("exec sleep 60", "it did not end within 1 s"),
    ],
)
def test_a_reader_that_dies_takes_nothing_with_it(
    words: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "onnxruntime", replace(TARGETS["onnxruntime"], timeout_s=1))
    check = checked(network(), python=stand_in(tmp_path, words))
    assert (check.label, check.agrees) == ("rejected", None)
    assert check.reason.startswith(reason)


def test_what_is_not_installed_is_said_with_the_line_that_installs_it(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o700)
    wanted = [Wanted("openvino", str(bare))]
    for ask in (installed, lambda wanted: check_targets(network(), IMAGES, RIGHT, wanted, TOLERANCE)):
        with pytest.raises(InputError, match=r"openvino missing there; run there: .* -m pip install openvino"):
            ask(wanted)  # type: ignore[operator]


def test_an_interpreter_that_does_not_start_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/nowhere/python\n")
    (tmp_path / "python").chmod(0o700)
    with pytest.raises(InputError, match="openvino: cannot run"):
        installed([Wanted("openvino", str(tmp_path / "python"))])


@pytest.mark.parametrize("program", ["true", "echo"])
def test_what_is_no_python_is_no_target(program: str) -> None:
    with pytest.raises(InputError, match=f"openvino: .*{program} is no Python: name one; to install it: "):
        installed([Wanted("openvino", shutil.which(program) or program)])


def test_a_python_for_this_machine_is_none_for_another() -> None:
    with pytest.raises(InputError, match=r"is a Python for x86_64; to get one: scripts/arm64-userland FOLDER"):
        installed([Wanted("onnxruntime-arm64", sys.executable)])


def test_versions_are_told_before_the_work() -> None:
    assert list(installed(parse_targets("onnx-reference"))) == ["onnx-reference"]
    assert installed(parse_targets("onnx-reference"))["onnx-reference"] == f"onnx {onnx.__version__}"


def test_targets_are_parsed() -> None:
    assert parse_targets("onnxruntime") == (Wanted("onnxruntime"),)
    assert parse_targets(f" openvino={sys.executable}, onnx-reference,") == (
        Wanted("openvino", sys.executable),
        Wanted("onnx-reference"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no target; known: ncnn, onnx-reference"),
        ("openvin", "unknown target 'openvin'; did you mean openvino or "),
        ("onnxruntime,onnxruntime", "is there twice"),
        ("openvino=/nowhere/python", "'/nowhere/python' is no program: pip install openvino"),
        ("openvino=", "'' is no program"),
        ("onnxruntime-arm64", "onnxruntime-arm64 needs a Python of its own: scripts/arm64-userland FOLDER, then name "),
    ],
)
def test_what_is_no_target_is_an_error_with_a_remedy(text: str, words: str) -> None:
    with pytest.raises(HwnasError) as error:
        parse_targets(text)
    assert words in str(error.value)


def test_what_is_no_network_of_one_input_is_refused() -> None:
    two = onnx.load_from_string(network())
    two.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    for model, words in (
        (b"no model", "no ONNX model"),
        (two.SerializeToString(), "this one has image, other, logits"),
    ):
        with pytest.raises(InputError, match=words):
            checked(model)


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 20])
def test_older_int8_files_are_read_by_the_reference(opset: int) -> None:
    """It has no Q/DQ nodes of before opset 19: the model is raised to that."""
    found = drawn("shufflenet")
    model = to_int8(at_opset(onnx.load_from_string(found.each[0]), opset))
    assert model.opset_import[0].version == opset
    expected = run_onnx(onnx_session(model.SerializeToString()), found.images)
    wanted = parse_targets("onnx-reference")
    (check,) = check_targets(model.SerializeToString(), found.images, expected, wanted, 0.1 * expected.std())
    assert check.agrees, check


def test_tensorrt_that_is_missing_beside_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("tensorrt"):
        pytest.skip("it is installed here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="to install it: pip install tensorrt"):
        check_targets(network(), IMAGES, RIGHT, parse_targets("tensorrt"), TOLERANCE)


def test_tensorrt_without_a_gpu_is_a_name_and_a_command(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    model = tmp_path / "my net.onnx"
    model.write_bytes(network("batch"))
    (check,) = check_targets(model, IMAGES, RIGHT, parse_targets("tensorrt"), TOLERANCE)
    assert (check.label, check.agrees, check.failed) == ("names only", None, False)
    assert trtexec_command(model, (None, 1, 2, 2)) in check.reason


def test_the_command_for_trtexec_is_one_line_for_this_file() -> None:
    assert trtexec_command(Path("net.onnx")) == "trtexec --onnx=net.onnx --saveEngine=net.engine --stronglyTyped"
    assert trtexec_command(Path("a b.onnx"), (None, 3, 32, 32)) == (
        "trtexec '--onnx=a b.onnx' '--saveEngine=a b.engine' --stronglyTyped --minShapes=image:1x3x32x32 "
        "--optShapes=image:1x3x32x32 --maxShapes=image:8x3x32x32"
    )


def test_operators_that_fall_back_are_named() -> None:
    """OpenVINO has no kernel of its own for the gate of squeeze-and-excite, and runs it by its reference code."""
    python = python_of("openvino")
    found = drawn("mobilenet")
    expected = np.concatenate(found.expected, axis=1)
    (check,) = check_targets(found.together, found.images, expected, [Wanted("openvino", python)], TOLERANCE)
    assert "HardSigmoid (reference code)" in check.fell_back


def test_int8_is_read_within_a_wider_tolerance() -> None:
    found = drawn("vgg")
    quantized = to_int8(onnx.load_from_string(found.each[0])).SerializeToString()
    wanted = parse_targets("onnxruntime,onnx-reference")
    for check in check_targets(quantized, found.images, found.expected[0], wanted, 0.5):
        assert check.agrees, check
        assert check.max_abs_diff is not None
        assert check.max_abs_diff > TOLERANCE


@pytest.mark.parametrize("program", sorted(READERS.glob("*.py")), ids=lambda path: path.stem)
def test_readers_import_nothing_of_hwnas(program: Path) -> None:
    """They are run by other environments: only each other, and those only where they are part of the package."""
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level < 2
            assert not (node.module or "").startswith("hwnas")
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("hwnas") for alias in node.names)


def test_every_target_has_a_program() -> None:
    assert {target.program for target in TARGETS.values()} == {path.name for path in READERS.glob("*_reader.py")}


def test_the_page_of_targets_tells_of_each() -> None:
    page = Path(__file__).parents[2] / "docs" / "targets.md"
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    told = {row[1].strip(" `"): row[2].strip() for row in rows}
    assert TARGETS.keys() <= told.keys()
    elsewhere = {"onnxruntime-arm64": "emulated", "tensorrt": "names only"}  # as it was where the page was written
    assert {name: told[name] for name in TARGETS} == {
        name: elsewhere.get(name, target.label) for name, target in TARGETS.items()
    }
