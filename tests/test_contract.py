"""What other programs rely on word by word: the files that the commands write, and the names in Python."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import hwnas
from hwnas.__main__ import run
from hwnas.search import Problem, search
from hwnas.search.found import Found

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
LOCAL = "local:tolerance=9,target=0.1,min_rounds=3,max_rounds=3,max_seconds=1"
LIMITS = {"flops": 60_000.0, "local": 1000.0, "params": 2000.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole way through the commands, the first as a program of its own."""
    folder = tmp_path_factory.mktemp("contract")
    train = ["train", "--space", SPACE, "--data", "digits", "--out", "run", "--epochs", "2", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "hwnas", *train], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = f"--table {folder}/local.json"
    for command in (
        f"profile --space {folder}/run --device {LOCAL} --out {folder}/local.json",
        f"validate --space {folder}/run {table} --device {LOCAL} --nets 4 --pause 0 --out {folder}/validation.json",
        f"search --run {folder}/run {table} --limit flops=60K --limit local=1s --limit params=2K --pareto local "
        f"--budget 30 --seed 5 --out {folder}/found.json",
        f"export {folder}/found.json --out {folder}/net.onnx --device {LOCAL}",
        f"export {folder}/found.json --out {folder}/open.onnx --batch dynamic",
        f"export {folder}/found.json --out {folder}/four.onnx --batch 4",
        f"report {folder} --out {folder}/report.html",
    ):
        assert run(command.split()) == 0
    return folder


def read(made: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((made / name).read_text()))


def table_of(made: Path) -> hwnas.LatencyTable:
    return hwnas.LatencyTable.load(made / "local.json")


def test_a_run_says_what_it_is_made_of(made: Path) -> None:
    found = read(made, "run/run.json")
    assert (found["format"], found["version"]) == ("hwnas.run", 1)
    assert (found["space"]["spec"], found["data"]["spec"]) == (SPACE, "digits")
    assert found["train"]["epochs"] == 2
    assert found["train"]["seed"] == 3
    assert found["space"]["fingerprint"] == hwnas.load_space(SPACE).fingerprint()
    metrics = [json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert all(0 <= line["val_accuracy"] <= 1 for line in metrics)


def test_nothing_is_left_behind(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {
        "run", "local.json", "local.samples.csv.gz", "validation.json", "found.json", "report.html",
        *(f"local.validation-{measurement}.samples.csv.gz" for measurement in (1, 2)),
        *(f"{name}.{suffix}" for name in ("net", "open", "four") for suffix in ("onnx", "json", "md")),
    }  # fmt: skip
    assert {path.name for path in (made / "run").iterdir()} - {".lock"} == {
        "run.json", "checkpoint.pt", "metrics.jsonl", "evaluations.sqlite", "fronts.json",
    }  # fmt: skip


def test_a_report_is_one_page_that_loads_nothing(made: Path) -> None:
    text = (made / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in html.unescape(text.partition("</head>")[0])
    assert not re.findall(r"<[^>]*\s(?:src|href)=\"(?!#)", text.partition("<script>")[0])


def test_a_table_is_named_after_its_device(made: Path) -> None:
    table = table_of(made)
    assert table.name == "local"
    assert set(table.entries) == set(table.space.layers())
    assert table.device["label"] == "measured"
    assert {"runtime", "cpu", "system", "threads", "optimization", "reference"} <= set(table.device)
    assert all(entry.low <= entry.ms <= entry.high for entry in table.entries.values())


def test_what_validate_writes(made: Path) -> None:
    found = read(made, "validation.json")
    assert set(found) >= {
        "nets", "mape", "within_5", "within_10", "kendall_tau", "floor_mape", "floor_tau", "interval_coverage",
        "measurements", "seconds", "fit_for_use",
    }  # fmt: skip
    assert found["nets"] == len(found["measurements"]) == 4
    assert all(0 <= found[name] <= 1 for name in ("within_5", "within_10", "interval_coverage"))
    assert all(-1 <= found[name] <= 1 for name in ("kendall_tau", "floor_tau"))
    assert found["within_5"] <= found["within_10"]
    used = {network.arch for network in table_of(made).calibration.networks}
    measured = [tuple(line["arch"]) for line in found["measurements"]]
    assert len(set(measured)) == 4
    assert not used & set(measured)
    errors = [abs(line["predicted_ms"] / line["measured_ms"] - 1) for line in found["measurements"]]
    assert found["mape"] == pytest.approx(np.mean(errors))
    assert found["within_5"] == np.mean(np.array(errors) <= 0.05)


def test_what_search_writes(made: Path) -> None:
    found = read(made, "found.json")
    assert set(found) >= {
        "arch", "description", "accuracy", "costs", "intervals", "limits", "space", "data", "run", "weights",
        "tables", "strategy", "evaluations", "reused", "seconds", "seed",
    }  # fmt: skip
    assert (found["space"], found["data"], found["strategy"], found["seed"]) == (SPACE, "digits", "nsga2", 5)
    assert found["limits"] == LIMITS
    assert 0 <= found["accuracy"] <= 1
    assert 0 <= found["reused"] <= found["evaluations"] <= 30
    assert Path(found["run"]) == made / "run"
    assert len(found["description"]) == len(hwnas.load_space(SPACE).graph(tuple(found["arch"])))


def test_found_costs_are_what_python_says_and_keep_the_limits(made: Path) -> None:
    found, space, table = read(made, "found.json"), hwnas.load_space(SPACE), table_of(made)
    for network in (found, *found["front"]):
        arch = tuple(network["arch"])
        estimate = table.predict(arch)
        assert network["costs"] == {
            "flops": hwnas.flops(space, arch),
            "params": hwnas.params(space, arch),
            "memory": hwnas.memory(space, arch),
            "local": estimate.ms,
        }
        assert network["intervals"] == {"local": [estimate.low, estimate.high]}
        assert estimate.low < estimate.ms < estimate.high <= LIMITS["local"]
        assert network["costs"]["flops"] <= LIMITS["flops"]
        assert network["costs"]["params"] <= LIMITS["params"]


def test_a_latency_limit_holds_for_the_upper_end(made: Path, tmp_path: Path) -> None:
    """However wide the intervals of this quick table are, whose machine may be busy."""
    table = table_of(made)
    assert table.cost is not None
    assert table.upper_sum is not None
    arch = table.cost.affine(-1, 0).argmin()
    limit = max(
        table.predict(arch).ms, 1.001 * table.upper_sum.bounds()[0]
    )  # met on the point, missed by the upper end
    assert limit < table.predict(arch).high
    search = f"search --run {made}/run --table {made}/local.json --limit local={limit:.6f}ms --budget 80"
    assert run([*search.split(), "--out", f"{tmp_path}/found.json"]) == 0
    found = read(tmp_path, "found.json")
    assert found["intervals"]["local"][1] <= found["limits"]["local"]
    assert tuple(found["arch"]) != arch


def test_the_front_is_a_front(made: Path) -> None:
    found = read(made, "found.json")
    points = [(network["costs"]["local"], network["accuracy"]) for network in found["front"]]
    assert points == sorted(points)
    assert all(a[1] < b[1] for a, b in pairwise(points))
    assert points[-1][1] == found["accuracy"]


def test_found_comes_back(made: Path, tmp_path: Path) -> None:
    found = Found.load(made / "found.json")
    found.save(tmp_path / "again.json")
    assert read(tmp_path, "again.json") == read(made, "found.json")


def test_what_export_writes(made: Path) -> None:
    proof, found = read(made, "net.json"), read(made, "found.json")
    assert set(proof) >= {
        "max_abs_diff", "accuracy_torch", "accuracy_onnx", "latency", "limits", "within_limits", "size_bytes",
        "opset", "runtime_options",
    }  # fmt: skip
    assert proof["max_abs_diff"] <= 1e-4
    assert 0 <= proof["accuracy_interval"][0] <= proof["accuracy_onnx"] <= proof["accuracy_interval"][1] <= 1
    assert proof["accuracy_torch"] == pytest.approx(proof["accuracy_onnx"], abs=1 / proof["test_images"])
    assert proof["limits"] == found["limits"]
    assert proof["size_bytes"] == (made / "net.onnx").stat().st_size
    assert proof["opset"] == onnx.load(made / "net.onnx").opset_import[0].version == 18
    assert proof["weights"] == found["weights"]
    times = proof["latency"]["local"]
    assert set(times) >= {"predicted_ms", "low_ms", "high_ms", "measured_ms", "raw_ms", "limit_ms"}
    assert times["predicted_ms"] == found["costs"]["local"]
    assert [times["low_ms"], times["high_ms"]] == found["intervals"]["local"]
    assert times["limit_ms"] == found["limits"]["local"]
    assert times["measured_ms"] > 0
    assert times["raw_ms"] > 0
    assert proof["within_limits"] is True  # a limit of a second


def test_files_tell_the_options_that_they_were_made_with(made: Path) -> None:
    """As they were given: a report shows the commands, and no guesses."""
    table, lines = f"{made}/local.json", html.unescape((made / "report.html").read_text())
    assert table_of(made).asked == {"device": LOCAL}
    validation = {"space": f"{made}/run", "table": table, "device": LOCAL, "pause": "0"}
    assert read(made, "validation.json")["asked"] == validation
    assert read(made, "found.json")["asked"] == {"table": table, "budget": "30", "pareto": "local"}
    assert f"hwnas profile --space {SPACE} --device {LOCAL} --out" in lines
    assert f"hwnas validate --space {made}/run --table {table} --device {LOCAL} --pause 0 --nets 4 --out" in lines
    assert f".onnx --device {LOCAL}" in lines


def test_a_limit_that_was_not_measured_is_not_said_to_hold(made: Path) -> None:
    proof = read(made, "open.json")
    assert (proof["within_limits"], proof["latency"]) == (None, {})
    assert "--device local" in proof["notes"][0]


@pytest.mark.parametrize(("name", "batch", "runs_with"), [("net", 1, 1), ("four", 4, 4), ("open", "batch", 3)])
def test_an_exported_file_runs_alone(made: Path, name: str, batch: int | str, runs_with: int) -> None:
    """Weights inside, one input (B, 1, 16, 16), one output (B, 10), the batch that was asked for."""
    model = onnx.load(made / f"{name}.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(weight.external_data for weight in model.graph.initializer)
    session = ort.InferenceSession((made / f"{name}.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert image.shape == [batch, 1, 16, 16]
    images = np.random.default_rng(0).standard_normal((runs_with, 1, 16, 16)).astype(np.float32)
    (out,) = session.run([logits.name], {image.name: images})
    assert out.shape == (runs_with, 10)
    alone = ort.InferenceSession((made / "net.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    each = [alone.run(None, {image.name: row[None]})[0][0] for row in images]
    np.testing.assert_allclose(out, each, atol=1e-5)


def test_the_python_of_the_contract(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    from hwnas.latency import LatencyTable, flops, params
    from hwnas.search import Problem, search
    from hwnas.supernet import ChoiceSpace, load_space, load_supernet

    space = load_space(SPACE)
    arch = (0, 1, 2)
    assert type(flops(space, arch)) is int
    assert type(params(space, arch)) is int
    supernet = load_supernet("run")
    subnet = supernet.subnet(arch)
    assert params(space, arch) == sum(weight.numel() for weight in subnet.parameters())
    table = LatencyTable.load("local.json")
    estimate = table.predict(arch)
    archs = np.array([(0, 1, 2), (3, 3, 4), (1, 0, 0)])
    assert table.predict_many(archs).shape == (3,)
    assert table.predict_many(archs)[0] == pytest.approx(estimate.ms)
    assert estimate.low < estimate.ms < estimate.high
    limit = float(np.median(table.predict_many(archs)))
    problem = Problem(
        space,
        accuracy=lambda batch: 1 / (1 + batch.sum(axis=1)),
        costs={"pixel8": table.predict_many},
        limits={"pixel8": limit},
    )
    result = search(problem, strategy="evolution", budget=20, seed=0)
    assert result.best.costs["pixel8"] <= limit
    assert result.best.accuracy == 1 / (1 + sum(result.best.arch))
    assert result.best in result.history
    assert result.pareto("pixel8")
    assert ChoiceSpace([5] * 6).size() == 5**6


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_published_table_is_a_problem_too(strategy: str) -> None:
    """No network: accuracies and latencies are looked up, as in NAS-Bench-201's 5^6 rows."""
    rows = np.random.default_rng(0).random((2, 4**5))

    def row(batch: Any) -> Any:
        assert batch.shape[1:] == (5,)
        assert batch.dtype == np.int64
        return np.ravel_multi_index(tuple(batch.T), (4,) * 5)

    problem = Problem(
        hwnas.ChoiceSpace([4] * 5), lambda b: rows[0][row(b)], {"gpu": lambda b: rows[1][row(b)]}, {"gpu": 0.5}
    )
    result = search(problem, strategy=strategy, budget=4**5, seed=0)
    allowed = rows[1] <= 0.5
    assert len(result.history) == allowed.sum()
    assert result.best.accuracy == rows[0][allowed].max()


def test_the_names_of_the_package() -> None:
    promised = {"load_space", "load_supernet", "ChoiceSpace", "LatencyTable", "flops", "params", "Problem"}
    assert promised <= set(hwnas.__all__) <= set(dir(hwnas))
    assert all(getattr(hwnas, name) is not None for name in hwnas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hwnas.nonsense  # noqa: B018


def test_search_stays_the_sub_package() -> None:
    program = "import hwnas, hwnas.search; assert hwnas.search.search and type(hwnas.search).__name__ == 'module'"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_the_package_is_light() -> None:
    program = "import sys, hwnas; hwnas.__all__; assert not {'torch', 'numpy', 'typer'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], check=True)
