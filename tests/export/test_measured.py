"""The exported file on devices: which limits are judged, on what, and by how sure a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import pytest

from hwnas import workflows
from hwnas.__main__ import run
from hwnas.devices import Form, Job, Measurements, Progress, Timing
from hwnas.errors import InputError
from hwnas.search.found import Found
from hwnas.supernet import TrainSettings
from hwnas.workflows import exporting

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-1,kernels=3-5,expansions=2,head=16"
QUICK = "tolerance=9,target=0.1,min_rounds=3,max_rounds=3,max_seconds=1"
LOCAL, SECOND = f"local:{QUICK}", f"local:name=second,{QUICK}"


@dataclass
class Steady:
    """A device of a table that takes as long as the reference for whatever it is `given`, known to +- `half_width`."""

    table: Mapping[str, object]
    half_width: float = 0.01
    form: Form = field(default_factory=Form)
    name: str = "local"
    given: dict[str, onnx.ModelProto] = field(default_factory=dict)

    def fingerprint(self) -> dict[str, str]:
        return dict(self.table["device"])  # type: ignore[call-overload]

    def measure(
        self, jobs: Sequence[Job], progress: Callable[[Progress], None] | None = None, samples: Path | None = None
    ) -> Measurements:
        self.given |= {job.name: onnx.load_from_string(job.model) for job in jobs}
        interval = 1 - self.half_width, 1 + self.half_width
        timings = {job.name: Timing(job.name, 1.0, *interval, 3, 1.0, 1.0) for job in jobs}
        reference_ms = float(self.table["reference_ms"])  # type: ignore[arg-type]
        return Measurements(timings, reference_ms, 0.0, settled=True, samples=())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and what a search found in it under limits on two devices."""
    folder = tmp_path_factory.mktemp("measured")
    workflows.train(SPACE, "digits", folder / "run", TrainSettings(epochs=1))
    tables = [folder / "local.json", folder / "second.json"]
    for device, table in zip((LOCAL, SECOND), tables, strict=True):
        workflows.profile(str(folder / "run"), device, table)
    workflows.search(folder / "run", folder / "found.json", tables, ["local=1s", "second=1s"], budget=4)
    return folder


@pytest.fixture
def steady(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Steady]:
    """A steady device, and tmp_path/found.json with a limit of so many times what it takes for all."""

    def setting(share: float, half_width: float = 0.01, form: Form = Form()) -> Steady:  # noqa: B008, it is frozen
        found = Found.load(made / "found.json")
        table = {**found.tables["local"], "anchors": ()}
        limit_ms = share * table["reference_ms"]
        replace(found, limits={"local": limit_ms}, tables={"local": table}).save(tmp_path / "found.json")
        device = Steady(table, half_width, form)
        monkeypatch.setattr(exporting, "load_device", lambda _: device)
        return device

    return setting


@pytest.mark.parametrize(
    ("share", "half_width", "sure", "within"),
    [
        (1.05, 0.1, False, None),
        (0.95, 0.1, False, None),
        (1.2, 0.1, True, True),  # as noisy, but the limit is far away
        (0.8, 0.1, True, False),
        (1.02, 0.04, True, True),  # not too noisy: the median decides
    ],
)
def test_a_machine_too_noisy_to_judge_gets_no_verdict(
    steady: Callable[..., Steady], tmp_path: Path, share: float, half_width: float, sure: bool, within: bool | None
) -> None:
    """The latency is kept; where the limit lies within the noise it is no verdict, neither way."""
    steady(share, half_width)
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", "local")
    assert (proof.latency["local"].sure, proof.within_limits) == (sure, within)
    assert bool(proof.rejected) == (within is False)
    noisy = [note for note in proof.notes if note.startswith("local: too noisy for a verdict on a limit so near: ")]
    assert len(noisy) == len(proof.notes) == (not sure)
    assert all("timings are known to +-10.0% only" in note and note.endswith("then export again") for note in noisy)


@pytest.mark.parametrize("share", [2.0, 0.5])
def test_a_file_of_another_batch_than_the_device_neither_keeps_nor_breaks_a_limit(
    steady: Callable[..., Steady], tmp_path: Path, share: float
) -> None:
    """Once: within_limits was true of a file that was never timed, by a network of one image."""
    device, shipping = steady(share), workflows.Shipping(batch=4)
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", "local", shipping)
    assert (proof.within_limits, proof.rejected) == (None, ())
    assert (proof.latency["local"].of_file, proof.latency["local"].timed_as) == (False, "with batch 1")
    assert proof.notes == ("local: timed with batch 1, not as the file is: that tells nothing of its limits",)
    assert device.given["network"].graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_a_file_of_the_devices_batch_is_timed_itself(steady: Callable[..., Steady], tmp_path: Path) -> None:
    steady(2.0, form=Form(batch=4))
    shipping = workflows.Shipping(batch=4)
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", "local", shipping)
    assert (proof.within_limits, proof.latency["local"].timed_as) == (True, "")


@pytest.mark.parametrize(("int8", "share", "within"), [(False, 2.0, True), (False, 0.5, False), (True, 2.0, True)])
def test_a_file_with_an_open_batch_is_timed_itself(
    steady: Callable[..., Steady], tmp_path: Path, int8: bool, share: float, within: bool
) -> None:
    """Its own graph and weights, with the batch set: its limits are judged."""
    device = steady(share, form=Form(batch=2))
    shipping = workflows.Shipping(batch=None, int8=int8, drop=0.9)
    proof = workflows.export(tmp_path / "found.json", tmp_path / "net.onnx", "local", shipping)
    assert (proof.within_limits, bool(proof.rejected)) == (within, not within)
    assert (proof.latency["local"].of_file, proof.batch) == (True, None)
    assert proof.latency["local"].timed_as == "with its open batch set to 2"
    written = onnx.load(tmp_path / f"net.onnx{'' if within else '.rejected'}").graph
    timed = device.given["network"].graph
    assert [list(timed.node), list(timed.initializer)] == [list(written.node), list(written.initializer)]
    sizes = [graph.input[0].type.tensor_type.shape.dim[0] for graph in (written, timed)]
    assert [size.HasField("dim_value") for size in sizes] == [False, True]
    assert sizes[1].dim_value == 2


def test_limits_on_two_devices_are_measured_on_both(made: Path, tmp_path: Path) -> None:
    proof = workflows.export(made / "found.json", tmp_path / "net.onnx", [LOCAL, SECOND])
    assert (proof.within_limits, proof.rejected) == (True, ())
    assert not any("was not measured" in note for note in proof.notes)
    assert proof.latency.keys() == proof.devices.keys() == {"local", "second"}
    assert all(times.limit_ms == 1000 and times.measured_ms > 0 for times in proof.latency.values())
    assert proof.device == f"{LOCAL} {SECOND}"
    one = workflows.export(made / "found.json", tmp_path / "net.onnx", SECOND)
    assert (one.within_limits, one.device) == (None, SECOND)
    assert "local was not measured: export with --device local" in one.notes


def test_the_option_may_be_repeated(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(made / "found.json"), "--out", str(tmp_path / "net.onnx"), "--device", LOCAL]
    assert run([*words, "--device", SECOND]) == 0
    assert "within limits: yes" in capsys.readouterr().out
    card = (tmp_path / "net.md").read_text()
    assert "latency on local, ms" in card
    assert "latency on second, ms" in card
    assert run([*words, "--device", LOCAL]) == 2
    assert "two devices are called local" in capsys.readouterr().err


def test_a_second_device_that_the_search_did_not_know_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knew no table of third"):
        workflows.export(made / "found.json", tmp_path / "net.onnx", (LOCAL, f"local:name=third,{QUICK}"))
    assert list(tmp_path.iterdir()) == []
