"""Export by workflow and by command: what is written, what is proven, what is rejected and where it goes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hwnas import workflows
from hwnas.__main__ import run
from hwnas.errors import InputError
from hwnas.export import INT8, Latency, certify, to_mobile
from hwnas.export.targets import TargetCheck, parse_targets
from hwnas.search.found import Found
from hwnas.supernet import TrainSettings
from hwnas.workflows import exporting
from hwnas.workflows.exporting import without_folders

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
LOCAL = "local:tolerance=9,target=0.1,min_rounds=3,max_rounds=3,max_seconds=1"
NAMES = ("net.json", "net.md", "net.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a table and a result."""
    folder = tmp_path_factory.mktemp("exporting")
    workflows.train(SPACE, "digits", folder / "run", TrainSettings(epochs=8, batch=64))
    workflows.profile(str(folder / "run"), LOCAL, folder / "local.json")
    limits = ["local=1s", "flops=100K"]
    workflows.search(folder / "run", folder / "found.json", [folder / "local.json"], limits, budget=20)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_int8_is_proven_and_held_against_fp32(made: Path, tmp_path: Path) -> None:
    shipping = workflows.Shipping(int8=True, drop=0.05)
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", LOCAL, shipping)
    assert proof.rejected == ()
    assert (proof.precision, proof.tolerance) == ("int8", replace(INT8, metric=0.05))
    assert proof.accuracy_torch - proof.accuracy_onnx <= 0.05
    assert proof.size_fp32_bytes is not None
    assert proof.size_fp32_bytes != proof.size_bytes == (tmp_path / "net.onnx").stat().st_size
    kinds = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    points = f"{100 * (proof.accuracy_torch - proof.accuracy_onnx):.2f} points of accuracy"
    assert f"| lost by int8 | {points}" in (tmp_path / "net.md").read_text()
    assert any(line.startswith(f"  lost by int8: {points}") for line in workflows.proof_lines(proof, tmp_path))
    assert json.loads((tmp_path / "net.json").read_text())["metric_lost"] == proof.metric_lost
    speed_up = proof.latency["local"].speed_up
    assert speed_up is not None
    assert speed_up > 0
    assert "the promise of local is that of the network in fp32" in proof.notes
    assert (proof.latency["local"].timed_as, proof.latency["local"].of_file) == ("", True)


def test_an_older_reader_gets_pixels_and_the_same_accuracy(made: Path, tmp_path: Path) -> None:
    shipping = workflows.Shipping(opset=13, pixels=True, mobile=True)
    plain = workflows.export(made / "found.json", tmp_path / "plain.onnx")
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=shipping)
    assert proof.rejected == ()
    assert (proof.opset, proof.input, plain.input) == (13, "pixels", "normalised")
    assert proof.accuracy_onnx == plain.accuracy_onnx
    assert {"net.ort", "net.required_operators.config"} <= set(names(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16)).astype(np.float32)
    first, second = (
        ort.InferenceSession((tmp_path / name).read_bytes()).run(None, {"image": image})[0]
        for name in ("net.onnx", "net.ort")
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_file_says_what_it_is_and_nothing_of_this_machine(made: Path, tmp_path: Path) -> None:
    workflows.export(made / "found.json", tmp_path / "net.onnx")
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    found = Found.load(made / "found.json")
    assert told["hwnas.arch"] == json.dumps(found.arch)
    assert json.loads(told["hwnas.limits"]) == found.limits
    assert json.loads(told["hwnas.classes"]) == list("0123456789")
    assert (told["hwnas.space"], told["hwnas.data"], told["hwnas.input"]) == (SPACE, "digits", "normalised")
    written = (tmp_path / "net.onnx").read_bytes() + (tmp_path / "net.md").read_bytes()
    for folder in (made, tmp_path, Path.home()):
        assert str(folder).encode() not in written


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/home/x/my.toml", "my.toml"),
        ("folder:/home/x/my cats", "folder:my cats"),
        ("mobilenet:size=32", "mobilenet:size=32"),
        ("pkg.mod:space", "pkg.mod:space"),
        ("digits", "digits"),
        ("local:threads=2,python=/opt/x/bin/python3", "local:threads=2,python=python3"),
        ("local:python=/opt/x/bin/python3,threads=2,", "local:python=python3,threads=2"),
        ("local:tolerance=9", "local:tolerance=9"),
        ("devices/board.toml", "board.toml"),
        ("folder:/home/a=b,c=d/phone", "folder:phone"),
        ("/home/a:b=c/my.toml", "my.toml"),
    ],
)
def test_folders_of_this_machine_are_not_told(text: str, plain: str) -> None:
    assert without_folders(text) == plain


@pytest.mark.parametrize("typed", ["", "--int8 --drop 0.5", "--pixels", "--batch 4", "--batch dynamic"])
def test_the_card_says_how_to_run_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    assert run(["export", f"{made}/found.json", "--out", f"{tmp_path}/net.onnx", *typed.split()]) == 0
    card = (tmp_path / "net.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "net.md", "exec"), {})
    (session,) = [ort.InferenceSession("net.onnx")]
    assert session.get_inputs()[0].type == "tensor(float)"
    assert re.fullmatch(r"\[\d( \d)*\]\n", capsys.readouterr().out)
    proof = json.loads((tmp_path / "net.json").read_text())
    assert f"{proof['accuracy_onnx']:.4f}" in card
    assert proof["sha256"] in card
    assert "not every limit was measured" in card  # none was: no --device


def test_a_rejected_network_is_kept_aside_and_what_was_accepted_stays(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that the exported file misses on the device: the exit status is 1, and no file looks like a good one."""
    slow = replace(Found.load(made / "found.json"), limits={"local": 1e-6})
    slow.save(tmp_path / "slow.json")
    out = tmp_path / "net.onnx"
    assert run(["export", f"{made}/found.json", "--out", str(out)]) == 0
    good = {name: (tmp_path / name).read_bytes() for name in NAMES}
    capsys.readouterr()
    assert run(["export", f"{tmp_path}/slow.json", "--out", str(out), "--device", LOCAL]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(rf"hwnas: {out} is rejected \(local is .*, over its limit of 1e-06\): .*{out}.rejected\n", said)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == good
    rejected = [f"{name}.rejected" for name in NAMES]
    assert names(tmp_path) == sorted([*NAMES, *rejected, "slow.json"])
    proof = json.loads((tmp_path / "net.json.rejected").read_text())
    assert proof["within_limits"] is False
    assert len(proof["rejected"]) == 1
    assert "Rejected, not fit for use" in (tmp_path / "net.md.rejected").read_text()
    assert run(["export", f"{made}/found.json", "--out", str(out)]) == 0
    assert names(tmp_path) == sorted([*NAMES, "slow.json"])  # an accepted one takes the place of both


def test_int8_that_loses_more_than_it_may_is_rejected(made: Path, tmp_path: Path) -> None:
    shipping = workflows.Shipping(int8=True, drop=-1.0)  # it would have to gain everything
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=shipping)
    assert len(proof.rejected) == 1
    assert names(tmp_path) == [f"{name}.rejected" for name in NAMES]


def test_what_belonged_to_the_network_before_goes(made: Path, tmp_path: Path) -> None:
    """Never a new network beside an old mobile form of another."""
    out = tmp_path / "net.onnx"
    workflows.export(made / "found.json", out, shipping=workflows.Shipping(mobile=True))
    workflows.export(made / "found.json", out)
    assert names(tmp_path) == list(NAMES)


def test_a_text_of_the_users_is_not_overwritten_by_a_card(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert run(["export", f"{made}/found.json", "--out", f"{tmp_path}/README.onnx"]) == 2
    assert "README.md would be overwritten" in capsys.readouterr().err
    assert names(tmp_path) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_int8_for_a_device_of_half_precision_is_refused(made: Path, tmp_path: Path) -> None:
    device = tmp_path / "half.toml"
    device.write_text('name = "half"\n[runtime]\nkind = "tensorrt"\nprecision = "fp16"\n')
    with pytest.raises(InputError, match="fp16"):
        workflows.export(made / "found.json", tmp_path / "net.onnx", str(device), workflows.Shipping(int8=True))
    assert names(tmp_path) == ["half.toml"]


def test_a_device_of_int8_asks_for_a_file_in_int8(made: Path, tmp_path: Path) -> None:
    """Once, a float file was said to keep a limit that an int8 network was timed for."""
    with pytest.raises(InputError, match="export with --int8"):
        workflows.export(made / "found.json", tmp_path / "net.onnx", f"{LOCAL},precision=int8")
    assert names(tmp_path) == []


def test_what_was_timed_in_another_batch_is_told(made: Path, tmp_path: Path) -> None:
    shipping = workflows.Shipping(batch=4)
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", LOCAL, shipping)
    assert proof.latency["local"].timed_as == "with batch 1"
    card = (tmp_path / "net.md").read_text()
    assert "latency on local (with batch 1)" in card
    assert "local: timed with batch 1, not as the file is: that tells nothing of its limits" in card
    assert "first run (4 images)" in card
    assert "to load it, once, where it was exported" in card
    assert proof.runtime_options["threads"] == "1"
    assert proof.devices["local"]["batch"] == "1"


def test_a_network_timed_in_another_precision_keeps_no_limit(made: Path) -> None:
    times = Latency(1.0, 0.9, 1.1, 1.0, 1.0, 2.0, timed_as="in fp16", of_file=False)
    subject = exporting._subject(made / "found.json")
    model = subject.model(workflows.Shipping(), 1)
    notes = ["local: timed in fp16, which the file is not"]
    space, arch = subject.supernet.space, subject.found.arch
    proof = certify(
        subject.supernet, arch, subject.subnet, model, subject.data, "", {"local": 2.0}, {}, {"local": times}, notes
    )
    assert str(space) == proof.space
    assert (proof.within_limits, proof.notes, proof.rejected) == (None, tuple(notes), ())


def test_a_batch_larger_than_the_images_is_quantized(made: Path, tmp_path: Path) -> None:
    """Once: No data is collected."""
    shipping = workflows.Shipping(int8=True, drop=0.9, batch=300)
    assert workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=shipping).precision == "int8"


@pytest.mark.parametrize("name", ["net.ort", "net.required_operators.config", "net.json.rejected"])
def test_files_of_the_users_stay(made: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=re.escape(name)):
        workflows.export(made / "found.json", tmp_path / "net.onnx")
    assert (names(tmp_path), (tmp_path / name).read_text()) == ([name], "mine")


def test_options_of_int8_alone_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--symmetric"], ["--drop", "0.01"]):
        assert run(["export", f"{made}/found.json", "--out", f"{tmp_path}/net.onnx", *option]) == 2
        assert "--int8" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_the_mobile_format_is_proven_too(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=workflows.Shipping(mobile=True))
    assert proof.mobile is not None
    assert proof.mobile.max_abs_diff < 1e-4
    assert proof.mobile.size_bytes == (tmp_path / "net.ort").stat().st_size
    written = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("net.onnx", "net.ort")]
    assert [proof.sha256, proof.mobile.sha256] == written
    other = workflows.export(made / "found.json", tmp_path / "plain.onnx", shipping=workflows.Shipping(pixels=True))
    assert other.mobile is None
    wrong = to_mobile((tmp_path / "plain.onnx").read_bytes())
    monkeypatch.setattr(exporting, "to_mobile", lambda _: wrong)
    again = workflows.export(made / "found.json", tmp_path / "bad.onnx", shipping=workflows.Shipping(mobile=True))
    assert again.rejected[0].startswith("outputs of the mobile format differ by")
    assert (tmp_path / "bad.ort.rejected").exists()
    assert not (tmp_path / "bad.ort").exists()


def test_other_readers_stand_in_the_certificate(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", f"{made}/found.json", "--out", f"{tmp_path}/net.onnx", "--pixels", "--opset", "15"]
    assert run([*command, "--targets", "onnxruntime,onnx-reference,tensorrt"]) == 0
    proof = json.loads((tmp_path / "net.json").read_text())
    assert [check["name"] for check in proof["targets"]] == ["onnxruntime", "onnx-reference", "tensorrt"]
    ran = [check for check in proof["targets"] if check["label"] == "ran"]
    assert len(ran) == 2
    assert all(check["agrees"] and check["max_abs_diff"] <= 1e-4 for check in ran)
    assert "trtexec --onnx=net.onnx --saveEngine=net.tensorrt.engine " in capsys.readouterr().out.replace("\n", " ")
    assert ".tensorrt.engine" in exporting.BESIDE
    assert str(tmp_path) not in (tmp_path / "net.json").read_text() + (tmp_path / "net.md").read_text()
    assert "read by onnx-reference" in (tmp_path / "net.md").read_text()


def test_what_is_said_of_a_rejected_network_names_its_file(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command for TensorRT, and the Python of the card."""
    replace(Found.load(made / "found.json"), limits={"flops": 1.0}).save(tmp_path / "found.json")
    shipping = workflows.Shipping(targets=parse_targets("tensorrt"))
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", shipping=shipping)
    assert len(proof.rejected) == 1
    assert "trtexec --onnx=net.onnx.rejected --saveEngine=net.tensorrt.engine.rejected " in proof.targets[0].reason
    card = (tmp_path / "net.md.rejected").read_text()
    assert "--onnx=net.onnx.rejected " in card
    monkeypatch.chdir(tmp_path)
    exec(compile(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], "net.md", "exec"), {})
    assert not (tmp_path / "net.onnx").exists()


def test_a_reader_that_computes_something_else_rejects_the_network(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object) -> tuple[TargetCheck, ...]:
        return (TargetCheck("openvino", "ran", "1.0", max_abs_diff=3.0, agrees=False),)

    monkeypatch.setattr(exporting, "check_targets", other)
    shipping = workflows.Shipping(targets=parse_targets("onnxruntime"))
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=shipping)
    assert len(proof.rejected) == 1
    assert proof.rejected[0].startswith("target openvino")
    assert names(tmp_path) == [f"{name}.rejected" for name in NAMES]


def test_a_search_for_int8_latency_is_kept_by_the_int8_file(made: Path, tmp_path: Path) -> None:
    """Profiled in int8, searched under a limit in int8, exported in int8, and measured there."""
    device = LOCAL.replace("local:", "local:name=small,precision=int8,")
    table = workflows.profile(str(made / "run"), device, tmp_path / "small.json")
    assert table.device["precision"] == "int8"
    workflows.search(made / "run", tmp_path / "found.json", [tmp_path / "small.json"], ["small=1s"], budget=4)
    shipping = workflows.Shipping(int8=True, drop=0.2)
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", device, shipping)
    assert proof.rejected == ()
    assert proof.within_limits is True
    assert (proof.latency["small"].of_file, proof.latency["small"].timed_as) == (True, "")
    assert not any("fp32" in note for note in proof.notes)
    with pytest.raises(InputError, match="small runs networks in int8: export with --int8"):
        workflows.export(tmp_path / "found.json", tmp_path / "other.onnx", device)


def test_an_engine_is_kept_beside_the_network(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*given: Any) -> tuple[TargetCheck, ...]:
        given[-1]("tensorrt-rtx", b"an engine")
        return (TargetCheck("tensorrt-rtx", "compiled", "1.7", size_bytes=9),)

    monkeypatch.setattr(exporting, "check_targets", compiled)
    shipping = workflows.Shipping(targets=parse_targets("onnxruntime"))
    workflows.export(made / "found.json", tmp_path / "net.onnx", shipping=shipping)
    assert (tmp_path / "net.tensorrt-rtx.engine").read_bytes() == b"an engine"
    workflows.export(made / "found.json", tmp_path / "net.onnx")  # another network: the engine is not of it
    assert names(tmp_path) == list(NAMES)


def test_a_reader_that_is_not_there_is_told_before_the_work(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no program"):
        parse_targets(f"openvino={tmp_path}/python")
    assert run(["export", f"{made}/found.json", "--out", f"{tmp_path}/net.onnx", "--targets", "openvin"]) == 2
    assert names(tmp_path) == []


def test_an_export_that_was_interrupted_is_made_again(made: Path, tmp_path: Path) -> None:
    """What lies beside a network of ours without a certificate is ours, too; beside anything else it is the user's."""
    out = tmp_path / "net.onnx"
    workflows.export(made / "found.json", out, shipping=workflows.Shipping(mobile=True))
    out.with_suffix(".json").unlink()
    assert workflows.export(made / "found.json", out, shipping=workflows.Shipping(mobile=True)).rejected == ()
    out.with_suffix(".json").unlink()
    out.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"net\.onnx would be overwritten, but it is no export of hwnas"):
        workflows.export(made / "found.json", out)
    out.unlink()
    with pytest.raises(InputError, match=r"net\.ort is there already, and not of an export"):
        workflows.export(made / "found.json", out, shipping=workflows.Shipping(mobile=True))
