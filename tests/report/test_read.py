"""What a report reads: every file by what it says of itself; what it can't read is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import InputError, MismatchError
from hwnas.export.targets import TargetCheck
from hwnas.latency import LatencyTable
from hwnas.latency.calibration import Calibration
from hwnas.latency.table import Entry
from hwnas.report import Inputs, fields_of, networks_of, page, read_inputs
from hwnas.report.summary import BROKEN, FREE, OPEN, cards, lead
from hwnas.supernet import ChainSpace

FILES = {
    "best-found.json": "found",
    "best.json": "certificates",
    "table0.json": "tables",
    "validation.json": "validations",
    "ranking.json": "rankings",
    "matrix.json": "transfers",
}


def counts(inputs: Inputs) -> dict[str, int]:
    return {field.name: len(getattr(inputs, field.name)) for field in fields(Inputs)}


def test_a_folder_is_everything_in_it(made: Any) -> None:
    kinds = ("found", "certificates", "tables", "runs", "validations", "rankings", "transfers")
    assert counts(read_inputs([made.folder])) == dict(zip(kinds, (2, 1, 2, 1, 1, 1, 1), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_it_says_it_is(made: Any, name: str) -> None:
    assert {kind for kind, count in counts(read_inputs([made.folder / name])).items() if count} == {FILES[name]}


@pytest.mark.parametrize("name", ["run", "run/run.json"])
def test_a_run_brings_its_epochs_evaluations_and_fronts(made: Any, name: str) -> None:
    (trained,) = read_inputs([made.folder / name]).runs.values()
    assert [line["epoch"] for line in trained.metrics] == [1, 2, 3]
    assert trained.evaluations["key"] == made.evaluations
    assert trained.fronts == ("accuracy against flops, 40 evaluations",)


def test_reading_changes_nothing(made: Any, files: Callable[[Path], dict[str, bytes]]) -> None:
    before = files(made.folder)
    read_inputs([made.folder])
    assert files(made.folder) == before


def test_a_file_named_twice_is_read_once(made: Any) -> None:
    assert counts(read_inputs([made.folder, made.folder / "table0.json"]))["tables"] == 2


def test_what_lies_in_a_run_is_of_that_run(made: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "alone" / "0-1").mkdir(parents=True)
    for name in ("run.json", "metrics.jsonl"):
        for folder in (run, run / "alone" / "0-1"):
            (folder / name).write_bytes((made.folder / "run" / name).read_bytes())
    assert list(read_inputs([tmp_path]).runs) == [run]


def test_fields_of_a_later_certificate_are_left_out(changed: Callable[..., Path], made: Any) -> None:
    latency = json.loads((made.folder / "best.json").read_text())["latency"]
    latency["pixel8"]["energy_mj"] = 3
    target = {**asdict(TargetCheck("ncnn", "ran", "1.0", 2e-7, agrees=True, images=8)), "energy_mj": 3}
    file = changed("best.json", card="NET.md", targets=[target], latency=latency)
    (proof,) = read_inputs([file]).certificates.values()
    assert proof.targets == (TargetCheck("ncnn", "ran", "1.0", 2e-7, agrees=True, images=8),)
    assert proof.accuracy_onnx == 0.81
    assert proof.latency["pixel8"].measured_ms == latency["pixel8"]["measured_ms"]


def test_a_rejected_network_is_shown_as_one(changed: Callable[..., Path], tmp_path: Path) -> None:
    """An export that failed its proof leaves no file that looks like a good one, and a report says so first."""
    file = changed("best.json", rejected=["outputs differ by 3"], within_limits=True)
    kept = file.rename(file.with_name("net.json.rejected"))
    changed("best.json").rename(file.with_name("net.json"))  # an export of before, which was accepted
    inputs = read_inputs([kept.parent])
    networks = networks_of(inputs)
    assert {network.name for network in networks} == {"net", "net (rejected)"}
    (card,) = [it for it in cards(inputs, networks, fields_of(inputs, networks)) if it.name == "net (rejected)"]
    assert (card.state, card.verdict) == (BROKEN, "REJECTED: outputs differ by 3")


def state(*files: Path) -> tuple[str, str]:
    """Of the first card of a report on these files: the state of its limits, and the verdict."""
    inputs = read_inputs(files)
    networks = networks_of(inputs)
    card = cards(inputs, networks, fields_of(inputs, networks))[0]
    return card.state, card.verdict


def test_a_limit_on_a_device_that_was_not_measured_is_open(changed: Callable[..., Path], made: Any) -> None:
    limits = {**json.loads((made.folder / "best.json").read_text())["limits"], "pi5": 30.0}
    assert state(changed("best.json", limits=limits, within_limits=None))[0] == OPEN


def test_what_only_the_search_has_measured_is_not_proven(changed: Callable[..., Path]) -> None:
    """Until the exported file is; over its limit is over it."""
    assert state(changed("best-found.json", measured={"pixel8": 1e-3}))[0] == OPEN
    assert state(changed("best-found.json", measured={"pixel8": 1e6}))[0] == BROKEN


def test_a_run_json_of_someone_else_s_is_passed_over(changed: Callable[..., Path]) -> None:
    file = changed("best.json")
    (file.parent / "run.json").write_text('{"steps": 3}')
    inputs = read_inputs([file.parent])
    assert (len(inputs.certificates), len(inputs.runs)) == (1, 0)


@pytest.mark.parametrize("name", FILES)
def test_a_newer_format_names_both_versions(changed: Callable[..., Path], name: str) -> None:
    with pytest.raises(MismatchError, match=rf"{name} has format version 99, this hwnas reads \d"):
        read_inputs([changed(name, version=99)])


DAMAGE: dict[str, dict[str, Any]] = {
    "best-found.json": {"accuracy": "<b>", "costs": {}, "tables": {"pixel8": {}}, "intervals": {"pixel8": 3}},
    "best.json": {"accuracy_interval": [0], "latency": {"pixel8": {}}, "test_images": None, "arch": 3},
    "table0.json": {"entries": 3, "device": {}, "validation": {"mape": "low"}},
    "validation.json": {"measurements": [{}]},
    "ranking.json": {"supernet": {}, "networks": [3]},
    "matrix.json": {"networks": [{"found_for": "x"}], "limits": {"x": "y"}},
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, known in DAMAGE.items() for field in known])
def test_a_damaged_file_is_named(changed: Callable[..., Path], name: str, field: str) -> None:
    with pytest.raises(InputError, match=f"{name} is .*damaged") as error:
        read_inputs([changed(name, **{field: DAMAGE[name][field]})])
    assert len(str(error.value).splitlines()) == 1


def test_the_code_of_a_space_is_not_run_by_who_looks_at_its_table(
    made: Any, changed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sent.py").write_text("raise SystemExit('this was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = changed("table0.json", space={"spec": "sent:space", "recipe": None, "fingerprint": "0"})
    (table,) = read_inputs([file]).tables.values()
    assert table.entries == made.table.entries
    assert "mbconv" in page(read_inputs([file]), "hwnas report")


def test_what_is_no_result_is_named_with_what_could_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.json").write_text('{"format": "hwnas.diary"}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name in ("empty", "notes.json", "list.json", "picture.png", "nowhere"):
        with pytest.raises(InputError, match=rf"{name}.*a latency table"):
            read_inputs([tmp_path / name])


def test_a_table_of_what_the_space_has_become_is_not_of_the_networks_found_before(
    made: Any, tmp_path: Path, tiny: ChainSpace
) -> None:
    """The name is the same, as of a TOML file that was changed: once, its architectures were looked up in the other."""
    folder = Path(shutil.copytree(made.folder, tmp_path / "results"))
    fewer = ChainSpace(replace(tiny.recipe, stages=tiny.recipe.stages[:1]), tiny.spec)
    before = read_inputs([folder])
    assert all(field.evaluated for field in fields_of(before, networks_of(before)))
    for name in ("table0.json", "table1.json"):
        table = LatencyTable.load(folder / name)
        cut = {layer: Entry(1.0, 0.9, 1.1, 5) for layer in fewer.layers()}
        LatencyTable(table.device, fewer, cut, Calibration(), 0.5).save(folder / name)
    inputs = read_inputs([folder])
    assert len(inputs.tables) == 2
    assert not any(field.evaluated for field in fields_of(inputs, networks_of(inputs)))
    assert "best" in page(inputs, "hwnas report results")


def test_a_proof_is_of_the_search_that_promised_it(changed: Callable[..., Path], made: Any) -> None:
    """The same network, found within the same limits without a table: what was promised elsewhere is not its own."""
    limits = {"params": 1e6}
    exact = {name: value for name, value in made.best.costs.items() if name != "pixel8"}
    files = [changed("best.json", limits=limits)]
    for name, other in (("best-found.json", {}), ("drawn-found.json", {"costs": exact, "intervals": {}})):
        same = {"arch": made.best.arch, "description": made.best.description, "accuracy": made.best.accuracy}
        files.append(changed(name, limits=limits, **same, **other))
    inputs = read_inputs([*files, made.folder / "table0.json", made.folder / "run"])
    found = {network.name: network for network in networks_of(inputs)}
    assert (found["best"].proof is not None, found["drawn"].proof) == (True, None)
    assert "<html" in page(inputs, "hwnas report")


def test_without_a_limit_none_is_kept(changed: Callable[..., Path]) -> None:
    file = changed("best.json", limits={}, within_limits=True)
    assert state(file) == (FREE, "no limit was set")
    inputs = read_inputs([file])
    networks = networks_of(inputs)
    assert lead(cards(inputs, networks, fields_of(inputs, networks))) == "1 network: 1 without a limit."


def test_a_network_that_another_device_cannot_run_is_shown(
    made: Any, tmp_path: Path, changed: Callable[..., Path]
) -> None:
    folder = Path(shutil.copytree(made.folder, tmp_path / "results"))
    table = LatencyTable.load(folder / "table1.json")
    layer = next(node.layer for node in table.space.graph(made.best.arch) if node.layer.op == "mbconv")
    replace(table, rejected={layer: "no kernel"}).save(folder / "table1.json")
    said = page(read_inputs([folder]), "hwnas report")
    assert "Empty: it can" in said
    assert "Empty: it can" not in page(read_inputs([made.folder]), "hwnas report")
