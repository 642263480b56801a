"""Nothing finished is lost or repeated: work that was stopped, however, goes on where it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas import listing, workflows
from hwnas.errors import FaultError, InfeasibleError, InputError, MismatchError
from hwnas.files import exclusive
from hwnas.latency.samples import load_samples, samples_file
from hwnas.supernet import TrainSettings, load_supernet
from hwnas.supernet.checkpoint import read_metrics

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
EPOCHS, BATCH, BUDGET, ROUNDS = 12, 256, 60, 6
LOCAL = f"local:tolerance=9,target=1e-9,min_rounds={ROUNDS},max_rounds={ROUNDS}"
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have switched it off
from hwnas.__main__ import main
main()
"""
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("workflows") / "run"
    workflows.train(SPACE, "digits", folder, TrainSettings(epochs=EPOCHS, batch=BATCH))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, without evaluations."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("*.sqlite*")))


def stop(command: list[str], how: signal.Signals, when: Callable[[], bool]) -> None:
    """Start a command, and stop it with a signal as soon as `when` is true."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HWNAS_TRACEBACK": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        end = time.monotonic() + WAIT_SECONDS
        while not when() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(how)
        said = process.communicate(timeout=WAIT_SECONDS)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130, said
        assert said == "hwnas: stopped; what is finished is kept: the same command with --resume goes on\n"
    else:
        assert process.returncode == -how, said


every_way = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])


@every_way
def test_a_stopped_training_ends_in_the_same_weights(how: signal.Signals, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = f"train --space {SPACE} --data digits --out {folder} --epochs {EPOCHS} --batch {BATCH}"
    stop(command.split(), how, lambda: len(read_metrics(folder)) >= 2)
    assert 2 <= len(read_metrics(folder)) < EPOCHS
    with pytest.raises(InputError, match="--resume"):
        workflows.train(SPACE, "digits", folder, TrainSettings(epochs=EPOCHS, batch=BATCH))
    workflows.train(SPACE, "digits", folder, TrainSettings(epochs=EPOCHS, batch=BATCH), resume=True)
    ours, theirs = load_supernet(folder).state_dict(), load_supernet(trained).state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    epochs = [[line[key] for key in ("epoch", "loss", "val_accuracy")] for line in read_metrics(folder)]
    assert epochs == [[line[key] for key in ("epoch", "loss", "val_accuracy")] for line in read_metrics(trained)]
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"run.json", "checkpoint.pt", "metrics.jsonl"}


def stored(run: Path) -> dict[str, bytes]:
    """What a run's store knows of its networks, nothing before the store is made."""
    path = run / workflows.STORE
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=5)) as database:
            return dict(database.execute("SELECT arch, rights FROM answers").fetchall())
    except sqlite3.OperationalError:  # the table is being made
        return {}


@every_way
def test_a_stopped_search_evaluates_nothing_twice(
    how: signal.Signals, trained: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    command = f"search --run {run} --budget {BUDGET} --limit flops=60K --out {out} --seed 7".split()
    stop(command, how, lambda: len(stored(run)) >= 5)
    before = stored(run)
    assert 5 <= len(before) < BUDGET
    assert not out.exists()
    again = workflows.search(run, out, limits=["flops=60K"], budget=BUDGET, seed=7)
    assert again.found.reused == len(before)
    assert len(stored(run)) == again.found.evaluations
    assert before.items() <= stored(run).items()
    whole = workflows.search(trained, tmp_path / "whole.json", limits=["flops=60K"], budget=BUDGET, seed=7)
    assert again.result.history == whole.result.history
    assert again.found.arch == whole.found.arch


@every_way
def test_a_stopped_profile_repeats_no_sample(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "local.json", tmp_path / "kept"
    folder = tmp_path / "local.json.samples"

    def lines(where: Path = folder) -> list[str]:
        return [line for file in where.glob("*/samples.jsonl") for line in file.read_text().splitlines()]

    stop(f"profile --space {SPACE} --device {LOCAL} --out {out}".split(), how, lambda: len(lines()) >= 40)
    assert not out.exists()
    with pytest.raises(InputError, match="--resume"):
        workflows.profile(SPACE, LOCAL, out)
    measuring = len(lines())
    while time.sleep(0.3) or len(lines()) > measuring:  # the measuring program ends a moment after its parent
        measuring = len(lines())
    before = [json.loads(line) for line in lines() if line.endswith("}")]
    monkeypatch.setattr(shutil, "rmtree", lambda path: Path(path).rename(kept))
    table = workflows.profile(SPACE, LOCAL, out, resume=True)
    after = [json.loads(line) for line in lines(kept)]
    assert len(before) >= 40
    assert after[: len(before)] == before
    counts = Counter(sample["model"] for sample in after if "runs_ms" in sample)
    assert set(counts.values()) == {ROUNDS}
    layers = [entry for entry in table.entries.values() if entry.rounds]  # an identity needs no measurement
    assert len(counts) == 1 + len(layers) + len(table.calibration.networks)
    assert not folder.exists()


def test_a_second_search_evaluates_nothing(run: Path, tmp_path: Path) -> None:
    first = workflows.search(run, tmp_path / "a.json", budget=20, seed=1).found
    second = workflows.search(run, tmp_path / "b.json", budget=20, seed=1).found
    assert (first.reused, second.reused, second.evaluations) == (0, 20, 20)
    assert (second.arch, second.accuracy) == (first.arch, first.accuracy)


def test_another_strategy_or_limit_shares_the_evaluations(run: Path, tmp_path: Path) -> None:
    whole = workflows.search(run, tmp_path / "a.json", strategy="random", budget=80).found
    assert whole.evaluations == len(stored(run)) == 80  # the whole space
    limited = workflows.search(run, tmp_path / "b.json", limits=["flops=50K"], budget=80).found
    assert 0 < limited.reused <= limited.evaluations < 80  # what was given up early may have to be seen to the end
    assert limited.accuracy <= whole.accuracy


def test_other_weights_share_no_evaluation(run: Path, tmp_path: Path) -> None:
    workflows.search(run, tmp_path / "a.json", budget=5)
    other = tmp_path / "other"
    workflows.train(SPACE, "digits", other, TrainSettings(epochs=1, batch=BATCH, seed=1))
    shutil.copy(other / "checkpoint.pt", run / "checkpoint.pt")
    assert workflows.search(run, tmp_path / "b.json", budget=5).found.reused == 0


def test_a_limit_out_of_reach_leaves_no_file(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="out of reach"):
        workflows.search(run, tmp_path / "found.json", limits=["params=3"])
    assert not (tmp_path / "found.json").exists()


def test_export_refuses_weights_that_were_not_searched(run: Path, tmp_path: Path) -> None:
    workflows.search(run, tmp_path / "found.json", budget=3)
    other = tmp_path / "other"
    workflows.train(SPACE, "digits", other, TrainSettings(epochs=1, batch=BATCH, seed=1))
    shutil.copy(other / "checkpoint.pt", run / "checkpoint.pt")
    with pytest.raises(MismatchError, match="search again"):
        workflows.export(tmp_path / "found.json", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_an_export_that_meets_a_full_disk_keeps_the_old_pair(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows.search(run, tmp_path / "found.json", budget=2)
    workflows.export(tmp_path / "found.json", tmp_path / "net.onnx")
    old = {name: (tmp_path / name).read_bytes() for name in ("net.onnx", "net.json")}
    workflows.search(run, tmp_path / "found.json", budget=9, seed=5)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FaultError, match="make room"):
        workflows.export(tmp_path / "found.json", tmp_path / "net.onnx")
    assert {name: (tmp_path / name).read_bytes() for name in old} == old


def test_damaged_metrics_are_told_before_an_epoch_is_trained(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def stop(done: float, total: float, words: str) -> None:  # in the second epoch
        if done / total > 0.75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflows.train(SPACE, "digits", folder, TrainSettings(epochs=2, batch=BATCH), progress=stop)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "lo')
    trained: list[tuple[float, float, str]] = []
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        workflows.train(
            SPACE,
            "digits",
            folder,
            TrainSettings(epochs=2, batch=BATCH),
            resume=True,
            progress=lambda *told: trained.append(told),
        )
    assert not trained


def test_progress_is_told(run: Path, tmp_path: Path) -> None:
    told: list[tuple[float, float, str]] = []

    def listen(done: float, total: float, words: str) -> None:
        told.append((done, total, words))

    workflows.search(run, tmp_path / "found.json", budget=4, progress=listen)
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1][2].startswith("best accuracy 0.")


def test_names_without_settings_have_none() -> None:
    listed: dict[str, list[Any]] = {kind: listing.names(kind) for kind in listing.KINDS}
    assert all(words and "\n" not in words for rows in listed.values() for _, words, _ in rows)
    assert all(settings for _, _, settings in listed["spaces"])
    assert {name: bool(settings) for name, _, settings in listed["devices"]} == {"local": True, "folder": False}
    assert not any(settings for kind in ("data", "strategies", "targets") for _, _, settings in listed[kind])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "local.json"
    workflows.profile(SPACE, LOCAL, out)
    return out


def interrupt_in(number: int) -> Callable[[float, float, str], None]:
    """A listener that stops the work in a round."""

    def listen(done: float, total: float, words: str) -> None:
        if f"round {number}" in words:
            raise KeyboardInterrupt

    return listen


def samples_in(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted(folder.rglob("samples.jsonl")) for line in file.read_text().splitlines()]
    return [line for line in map(json.loads, lines) if "runs_ms" in line]


def test_an_interrupted_validation_repeats_no_sample(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, kept = Path(shutil.copy(table, tmp_path)), list[list[dict[str, Any]]]()
    old, folder = here.read_bytes(), tmp_path / "local.json.samples"
    ask: dict[str, Any] = {"nets": 5, "pause_s": 0.0}
    with pytest.raises(KeyboardInterrupt):
        workflows.validate(SPACE, here, LOCAL, progress=interrupt_in(4), **ask)
    before = samples_in(folder)
    assert len(before) >= 20
    assert here.read_bytes() == old
    with pytest.raises(InputError, match=r"holds an unfinished validation: add --resume"):
        workflows.validate(SPACE, here, LOCAL, **ask)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: kept.append(samples_in(path)))
    found = workflows.validate(SPACE, here, LOCAL, resume=True, **ask)
    assert kept[0][: len(before)] == before
    assert len(kept[0]) == 2 * ROUNDS * (found.nets + 20)
    files = [samples_file(here, f"validation-{number}") for number in (1, 2)]
    assert [load_samples(file) for file in files] == list(found.samples)
    assert sum(map(len, found.samples)) == len(kept[0])
    monkeypatch.undo()
    assert here.read_bytes() != old
    shutil.rmtree(folder)


def test_a_table_is_validated_and_profiled_one_after_the_other(table: Path, tmp_path: Path) -> None:
    """Else the slower of both would write over what the other has found."""
    here = Path(shutil.copy(table, tmp_path))
    with exclusive(tmp_path / "local.json.samples"):
        for work in (
            lambda: workflows.validate(SPACE, here, LOCAL),
            lambda: workflows.profile(SPACE, LOCAL, here),
        ):
            with pytest.raises(FaultError, match="another process is at work in"):
                work()


def test_another_device_s_unfinished_profile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        workflows.profile(SPACE, LOCAL, tmp_path / "local.json", progress=interrupt_in(3))
    before = samples_in(tmp_path)
    assert before
    with pytest.raises(InputError, match="holds an unfinished profile of another device, or of this one with another"):
        workflows.profile(SPACE, f"{LOCAL},optimization=none", tmp_path / "local.json", resume=True)
    assert samples_in(tmp_path) == before
