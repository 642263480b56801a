"""Targets: what is fed to them, and what is said of a reader or a model that fails."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import HwnasError, InputError
from hwnas.export import to_int8
from hwnas.export.targets import (
    READERS,
    TARGETS,
    TargetCheck,
    Wanted,
    check_targets,
    installed,
    parse_targets,
    renamed,
    trtexec_command,
)

TOLERANCE = 1e-4


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


def test_a_tolerance_of_numpy_fails_what_is_beyond_it() -> None:
    """Once: its verdict was numpy's False, which is not False, and the check did not fail."""
    (check,) = check_targets(network(weight=1.01), IMAGES, RIGHT, parse_targets("onnxruntime"), np.float32(1e-4))
    assert check.agrees is False
    assert check.failed


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
    model.write_bytes(network("batch").replace(b"image", b"photo"))
    (check,) = check_targets(model, IMAGES, RIGHT, parse_targets("tensorrt"), TOLERANCE)
    assert "--minShapes=photo:1x1x2x2 --optShapes=photo:1x1x2x2 --maxShapes=photo:8x1x2x2" in check.reason


def test_the_command_for_trtexec_is_one_line_for_this_file() -> None:
    assert trtexec_command(Path("net.onnx")) == (
        "trtexec --onnx=net.onnx --saveEngine=net.tensorrt.engine --stronglyTyped"
    )
    assert trtexec_command(Path("a b.onnx"), (None, 3, 32, 32)) == (
        "trtexec '--onnx=a b.onnx' '--saveEngine=a b.tensorrt.engine' --stronglyTyped --minShapes=image:1x3x32x32 "
        "--optShapes=image:1x3x32x32 --maxShapes=image:8x3x32x32"
    )
    assert "--saveEngine=net.tensorrt.engine.rejected " in trtexec_command(Path("net.onnx.rejected"))
    assert "--saveEngine=net.tensorrt.engine " in trtexec_command(Path("net"))


def test_int8_that_tensorrt_does_not_take_gets_no_command() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    plain = onnx.load_from_string(network())
    for symmetric in (False, True):
        model = to_int8(plain, symmetric=symmetric).SerializeToString()
        (check,) = check_targets(model, IMAGES, RIGHT, parse_targets("tensorrt"), TOLERANCE)
        assert check.label == "names only"
        assert ("export with --symmetric" in check.reason) == (not symmetric)
        assert ("trtexec" in check.reason) == symmetric


@pytest.mark.parametrize(
    ("result", "fell_back", "words"),
    [
        ("{}", None, "operators that fell back: not looked for"),
        ('{"fell_back": []}', (), "operators that fell back: none"),
        ('{"fell_back": ["Gather", "Relu"]}', ("Gather", "Relu"), "operators that fell back: Gather, Relu"),
    ],
)
def test_operators_that_nobody_looked_for_are_not_none(
    result: str, fell_back: tuple[str, ...] | None, words: str, tmp_path: Path
) -> None:
    check = checked(network(), python=stand_in(tmp_path, f"echo '{result}' > $3/result.json"))
    assert check.fell_back == fell_back
    assert words in str(check)


def test_a_file_that_is_called_otherwise_later_is_named_so() -> None:
    checks = (TargetCheck("tensorrt", "names only", "", reason="of before"), TargetCheck("ncnn", "ran", "1.0"))
    found = renamed(checks, Path("net.onnx.rejected"), network())
    assert "--onnx=net.onnx.rejected " in found[0].reason
    assert found[1] == checks[1]


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


def test_what_a_compiler_makes_is_kept(tmp_path: Path) -> None:
    words = "echo '{\"size_bytes\": 6}' > $3/result.json; printf engine > $3/compiled"
    kept: dict[str, bytes] = {}
    wanted = [Wanted("onnxruntime", stand_in(tmp_path, words))]
    (check,) = check_targets(network(), IMAGES, RIGHT, wanted, TOLERANCE, keep=kept.__setitem__)
    assert (check.size_bytes, kept) == (6, {"onnxruntime": b"engine"})


API = Path(os.environ.get("HWNAS_TENSORRT_API", "nowhere"))


@pytest.mark.skipif(not API.is_dir(), reason="needs HWNAS_TENSORRT_API, a folder of api-VERSION.json")
def test_every_name_of_tensorrt_that_its_reader_uses_exists_in_the_real_bindings() -> None:
    """Of TensorRT 10 and of 11: no engine of it was built by this yet."""
    tree = ast.parse((READERS / "tensorrt_reader.py").read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {
        "Builder": {
            "create_network",
            "create_builder_config",
            "create_optimization_profile",
            "build_serialized_network",
        },
        "OnnxParser": {"parse", "num_errors", "get_error"},
        "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
        "INetworkDefinition": {"get_input"},
        "ITensor": {"shape"},
        "IBuilderConfig": {"add_optimization_profile"},
        "IOptimizationProfile": {"set_shape"},
        "ILogger": {"Severity"},
    }
    files = sorted(API.glob("api-*.json"))
    assert len(files) >= 2
    for file in files:
        names = json.loads(file.read_text())
        missing = {(kind, name) for kind, attributes in used.items() for name in attributes - names[kind].keys()}
        assert missing == set(), file.name
    assert set().union(*used.values()) <= read
    ours = {"batch", "compiled", "dynamic", "input", "last", "model", "options"}  # of the reader's own objects
    python = {"CDLL", "byref", "c_int", "cuDeviceGetCount", "cuInit", "value", "insert", "parent", "path", "main"}
    python |= {"read_bytes", "write_bytes", "join", "needed", "not_installed", "__init__", "__version__", "ERROR"}
    assert read - ours - python <= set().union(*used.values()) | used.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("batch", [1, "n"])
def test_tensorrt_builds_an_engine_where_there_is_a_gpu(batch: int | str) -> None:
    """It is kept, and TensorRT opens it again."""
    trt = pytest.importorskip("tensorrt")
    made: dict[str, bytes] = {}
    (check,) = check_targets(network(batch), IMAGES, RIGHT, [Wanted("tensorrt")], TOLERANCE, keep=made.__setitem__)
    assert (check.label, check.agrees, check.reason) == ("compiled", None, ""), check
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(made["tensorrt"])
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["image", "logits"]
    assert check.size_bytes == len(made["tensorrt"])
