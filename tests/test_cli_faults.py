"""What can go wrong around a command: a full disk, no rights, Ctrl-C, two at once. What is finished stays."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.__main__ import run
from hwnas.devices.reference import reference_model
from hwnas.latency import LatencyTable
from hwnas.latency.profile import profile
from hwnas.supernet import load_space

Files = Callable[[Path], dict[str, bytes]]
SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
EPOCHS, BUDGET, ROUNDS = 8, 40, 12
LOCAL = f"local:tolerance=9,target=1e-9,min_rounds={ROUNDS},max_rounds={ROUNDS}"
WAIT_SECONDS = 60

TRAIN = f"train --space {SPACE} --data digits --batch 256 --epochs {EPOCHS} --out"
SEARCH = f"search --budget {BUDGET} --limit flops=60K --run"
PROFILE = f"profile --space {SPACE} --device {LOCAL} --out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, simulated: Any) -> Path:
    """A folder with a run, a table and a network found."""
    folder = tmp_path_factory.mktemp("faults")
    assert run([*TRAIN.split(), f"{folder}/run"]) == 0
    profile(load_space(SPACE), simulated(name="local", noise=0.01)).table.save(folder / "local.json")
    assert run(["search", "--budget", "4", "--run", f"{folder}/run", "--out", f"{folder}/found.json"]) == 0
    return folder


# ---- a training that blows up


def test_a_training_that_blows_up_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gradient that was no number once spoiled the weights at the last step of an epoch, and they were kept."""
    kept = set()
    for rate in ("1e6", "1e7", "3.16e7", "1e8", "1e12"):
        folder = tmp_path / rate
        assert run(f"{TRAIN} {folder} --lr {rate}".split()) == 1
        (line,) = capsys.readouterr().err.splitlines()
        words = (
            r"hwnas: the (loss|gradient) is (nan|-?inf) at step (\d+) on path \(\d, \d, \d\); (.*): train anew .*--lr"
        )
        told = re.fullmatch(words, line)
        assert told, line
        epoch = int(told[3]) // 4  # of 4 steps each
        assert told[4] == (f"the checkpoint of epoch {epoch} is kept" if epoch else "no epoch was finished")
        assert (folder / "checkpoint.pt").exists() == (epoch > 0)
        if epoch:
            saved = torch.load(folder / "checkpoint.pt", weights_only=True)
            weights = [value for name, value in saved["model"].items() if not name.endswith(("_mean", "_var"))]
            assert saved["epoch"] == epoch
            assert all(torch.isfinite(value).all() for value in weights)
        kept.add(epoch)
    assert len(kept) > 1, kept


# ---- a full disk


@contextmanager
def full_disk(when: Callable[[], bool] = lambda: True, size: int = 0) -> Iterator[None]:
    """As soon as `when` is true, no file can grow beyond `size` bytes: EFBIG, which is handled like ENOSPC."""
    before, left = resource.getrlimit(resource.RLIMIT_FSIZE), threading.Event()

    def fill() -> None:
        while not when() and not left.wait(0.001):
            pass
        if not left.is_set():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    watcher = threading.Thread(target=fill)
    watcher.start()
    if when():
        watcher.join()
    try:
        yield
    finally:
        left.set()
        watcher.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_fault(status: int, said: str, words: list[str]) -> None:
    """Status 1 and one line, with these words."""
    assert (status, len(said.splitlines())) == (1, 1), said
    assert [word for word in [*words, "make room there", "--resume"] if word not in said] == [], said


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "checkpoint.pt", weights_only=True)["model"])


@pytest.mark.parametrize("epochs", [0, 2])
def test_training_on_a_full_disk_goes_on_to_the_same_weights(
    epochs: int, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Files
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with full_disk(lambda: len(lines(folder / "metrics.jsonl")) >= epochs):
        status = run([*TRAIN.split(), str(folder)])
    check_fault(status, capsys.readouterr().err, [f"cannot write {folder}", "File too large"])
    assert epochs <= len(lines(folder / "metrics.jsonl")) < EPOCHS
    assert set(files(folder)) <= {".lock", "run.json", "metrics.jsonl", "checkpoint.pt"}
    assert run([*TRAIN.split(), str(folder), "--resume"]) == 0
    ours, theirs = weights(folder), weights(made / "run")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert len(lines(folder / "metrics.jsonl")) == EPOCHS


def stored(folder: Path) -> int:
    """Networks that a run's store knows of."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'evaluations.sqlite'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def bare(made: Path, to: Path) -> Path:
    """A copy of the run, without evaluations."""
    return Path(shutil.copytree(made / "run", to, ignore=shutil.ignore_patterns("*.sqlite*")))


def test_a_profile_on_a_full_disk_loses_no_sample(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "local.json", tmp_path / "kept"
    shutil.copy(made / "local.json", out)
    old = out.read_bytes()
    with full_disk(size=len(reference_model()) + 1):  # the largest model fits, the samples don't
        status = run([*PROFILE.split(), str(out)])
    check_fault(status, capsys.readouterr().err, ["local", "local.json.samples", "File too large"])
    assert out.read_bytes() == old
    (samples,) = (tmp_path / "local.json.samples").glob("*/samples.jsonl")
    whole = samples.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    assert whole.count(b"\n") > 20
    monkeypatch.setattr(shutil, "rmtree", lambda path: Path(path).rename(kept))
    assert run([*PROFILE.split(), str(out), "--resume"]) == 0
    (samples,) = kept.glob("*/samples.jsonl")
    after = samples.read_bytes()
    assert after.startswith(whole)
    lines_of = [json.loads(line) for line in after.splitlines()]
    taken = [(line["round"], line["model"]) for line in lines_of if "runs_ms" in line]
    assert len(set(taken)) == len(taken)
    assert LatencyTable.load(out).calibration.networks


def test_an_export_on_a_full_disk_leaves_no_half_network(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Files
) -> None:
    command = ["export", str(made / "found.json"), "--out", str(tmp_path / "net.onnx")]
    with full_disk(size=1000):
        status = run(command)
    check_fault(status, capsys.readouterr().err, ["cannot write ", ".onnx"])
    assert files(tmp_path) == {}
    assert run(command) == 0
    assert set(files(tmp_path)) == {"net.onnx", "net.json", "net.md"}


# ---- commands in processes of their own


PROGRAM = """
import resource, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have switched it off
from hwnas.__main__ import main
{}
main()
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@contextmanager
def started(command: list[str], prepare: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command at work, in a process group of its own; it is killed at the end if it is still there."""
    popen = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(prepare), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    with popen as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The status of a command that had nothing to say on stdout, and what it said on stderr."""
    out, said = process.communicate(timeout=WAIT_SECONDS)
    assert out == ""
    return process.returncode, said


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_search_on_a_full_disk_loses_no_evaluation(made: Path, tmp_path: Path) -> None:
    """Nor is anything more printed while the process ends, when SQLite closes what it could not write."""
    folder, out = bare(made, tmp_path / "run"), tmp_path / "found.json"
    shutil.copy(made / "found.json", out)  # the result of another search: it stays until there is a new one
    old = out.read_bytes()
    command = [*SEARCH.split(), str(folder), "--out", str(out)]
    with started(command, "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))") as process:
        check_fault(*ended(process), [f"evaluation store {folder}/evaluations.sqlite: disk"])
    before = stored(folder)
    assert 0 < before < BUDGET
    assert out.read_bytes() == old
    assert run([*command, "--resume"]) == 0
    assert run([*SEARCH.split(), str(bare(made, tmp_path / "other")), "--out", f"{tmp_path}/whole.json"]) == 0
    ours, whole = (json.loads((tmp_path / name).read_text()) for name in ("found.json", "whole.json"))
    assert ours["reused"] == before
    assert stored(folder) == ours["evaluations"] == whole["evaluations"]
    assert (ours["arch"], ours["accuracy"]) == (whole["arch"], whole["accuracy"])


def test_a_profile_keeps_others_out_and_ends_as_a_whole_by_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal sends Ctrl-C to all processes of a command, the measuring program too."""
    endless = PROFILE.replace(f"max_rounds={ROUNDS}", "max_rounds=100000").split()
    with started([*endless, f"{tmp_path}/new.json"]) as process:
        wait_until(lambda: any(len(lines(path)) > 5 for path in tmp_path.glob("*/*/samples.jsonl")), process)
        assert run([*endless, f"{tmp_path}/new.json", "--resume"]) == 1
        assert "another process is at work in" in capsys.readouterr().err
        os.killpg(process.pid, signal.SIGINT)
        words = "hwnas: stopped; what is finished is kept: the same command with --resume goes on\n"
        assert ended(process) == (130, words)


def test_ctrl_c_in_an_export_leaves_nothing(made: Path, tmp_path: Path, files: Files) -> None:
    soon = """
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
import hwnas.workflows
signal.setitimer(signal.ITIMER_REAL, 0.3)"""
    with started(["export", str(made / "found.json"), "--out", str(tmp_path / "net.onnx")], soon) as process:
        assert ended(process) == (130, "hwnas: stopped; nothing was written\n")
    assert files(tmp_path) == {}


def test_a_second_training_of_a_run_is_refused_and_disturbs_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = [*TRAIN.split(), str(folder)]
    with started(command) as process:
        wait_until(lambda: (folder / "run.json").exists(), process)
        os.killpg(process.pid, signal.SIGSTOP)  # it must not end before the others have begun
        for more in (["--resume"], ["--resume", "--seed", "1"], []):
            assert run([*command, *more]) == 1
            assert "another process is at work in" in capsys.readouterr().err
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(WAIT_SECONDS) == 0
    assert all(torch.equal(weight, weights(made / "run")[name]) for name, weight in weights(folder).items())


def test_two_searches_of_a_run_share_their_evaluations(made: Path, tmp_path: Path) -> None:
    folder = bare(made, tmp_path / "run")
    command = [*SEARCH.split(), str(folder), "--out"]
    with started([*command, f"{tmp_path}/a.json"]) as process:
        wait_until(lambda: stored(folder) > 0, process)
        assert run([*command, f"{tmp_path}/b.json"]) == 0
        assert process.wait(WAIT_SECONDS) == 0
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert (first["arch"], first["accuracy"]) == (second["arch"], second["accuracy"])
    assert first["evaluations"] == second["evaluations"] == stored(folder)
    assert first["reused"] + second["reused"] == stored(folder)  # each was evaluated by one of them
    assert second["reused"] > 0


def test_what_killed_writers_left_is_removed_in_time(made: Path, tmp_path: Path, files: Files) -> None:
    old, new = (tmp_path / f".found.json.{name}.part" for name in ("abcdefgh", "bcdefghi"))
    for left in (old, new):  # of a kill -9 in the middle of a write, and of one that may still be at it
        left.write_text("{")
    os.utime(old, (0, time.time() - 2 * 3600))
    assert run(["search", "--budget", "4", "--run", f"{made}/run", "--out", f"{tmp_path}/found.json"]) == 0
    assert set(files(tmp_path)) == {"found.json", new.name}


# ---- no right to write


SEVERAL = """
import json, sys
from hwnas.__main__ import run
for command in json.load(sys.stdin):
    print(run(command))
"""


def test_a_folder_that_may_not_be_written_is_named(made: Path, tmp_path: Path, files: Files) -> None:
    """As a user's: root's privilege to write anywhere is taken from the process."""
    privilege = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if privilege and not shutil.which(privilege[0]):
        pytest.skip("as root, this needs setpriv")
    locked = Path(shutil.copytree(made, tmp_path / "locked"))
    store = Path(shutil.copytree(made / "run", tmp_path / "store"))
    commands = {
        f"{TRAIN} {locked}/new": "new/run.json: no right to write in",
        f"{TRAIN} {locked}/run --resume": "run.json: no right to write in",
        f"{PROFILE} {locked}/new.json": "new.json: no right to write in",
        f"{SEARCH} {made}/run --out {locked}/new.json": "new.json: no right to write in",
        f"{SEARCH} {bare(made, locked / 'bare')} --out {tmp_path}/new.json": "no right to write the evaluation store",
        f"{SEARCH} {store} --out {tmp_path}/new.json": "no right to write the evaluation store",
        f"export {made}/found.json --out {locked}/new.onnx": "new.onnx: no right to write in",
    }
    before = files(tmp_path)
    for path in [*locked.rglob("*"), locked, *store.iterdir(), store]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    done = subprocess.run(
        [*privilege, sys.executable, "-c", SEVERAL],
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    for path in [locked, *locked.rglob("*"), store, *store.iterdir()]:
        path.chmod(0o700)
    said = done.stderr.splitlines()
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    assert [line for line, words in zip(said, commands.values(), strict=True) if words not in line] == []
    assert files(tmp_path) == before


def test_a_folder_that_may_not_be_looked_into_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether a file is there can't even be asked: Python's `exists` raises that."""

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/root/run/run.json")

    monkeypatch.setattr("hwnas.workflows.train", closed)
    assert run(f"train --space {SPACE} --data digits --out {tmp_path}/run".split()) == 2
    assert "no right to read or write /root/run/run.json: see who may, or name another place" in capsys.readouterr().err
