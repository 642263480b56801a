"""Several processes under torchrun: the same weights, the same network found, and what a killed one costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas import workflows
from hwnas.errors import InputError
from hwnas.search.found import Found
from hwnas.search.store import STORE
from hwnas.supernet import Ranks, Supernet, TrainSettings, load_data, load_space, load_supernet, train
from hwnas.supernet.checkpoint import read_metrics, weights_fingerprint

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
TRAIN = ["train", "--space", SPACE, "--data", "digits", "--batch", "128", "--seed", "3"]
Torchrun = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def torchrun(tmp_path: Path) -> Torchrun:
    """Starts a command of hwnas on two processes, in a folder of the test."""

    def start(*command: str, restarts: int = 0) -> subprocess.Popen[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        launcher += ["--max-restarts", str(restarts), "-m", "hwnas", "--"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*launcher, *command],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def finished(process: subprocess.Popen[str]) -> str:
    """What a command that went well said."""
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    return said


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in load_supernet(run).named_parameters()}


@pytest.mark.parametrize("sampling", ["uniform", "fair", "sandwich"])
def test_two_ranks_train_as_one_process_on_two_half_batches(torchrun: Torchrun, tmp_path: Path, sampling: str) -> None:
    """To rounding; statistics of whole batches make weights that differ by more than ten times as much."""
    said = finished(torchrun(*TRAIN, "--batch", "512", "--sampling", sampling, "--epochs", "1", "--out", "two"))
    assert said.count("validation accuracy") == 1  # one process speaks
    for name, parts in (("one", 2), ("whole", 1)):
        settings = TrainSettings(epochs=1, batch=512, seed=3, accumulate=parts, sampling=sampling)
        workflows.train(SPACE, "digits", tmp_path / name, settings)
    one, two, whole = (weights(tmp_path / name) for name in ("one", "two", "whole"))
    assert max((two[name] - weight).abs().max() for name, weight in one.items()) < 1e-5
    assert max((whole[name] - weight).abs().max() for name, weight in one.items()) > 1e-4
    (first,), (same,) = (read_metrics(tmp_path / run) for run in ("one", "two"))
    assert same["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert same["val_accuracy"] == pytest.approx(first["val_accuracy"], abs=0.01)


def test_two_ranks_find_what_one_process_finds(torchrun: Torchrun, tmp_path: Path) -> None:
    workflows.train(SPACE, "digits", tmp_path / "run", TrainSettings(epochs=2, batch=128, seed=3))
    command = ["search", "--run", "run", "--limit", "params=8K", "--budget", "15", "--seed", "1"]
    said = finished(torchrun(*command, "--out", "two.json"))
    assert said.count("validation accuracy") == 1
    (tmp_path / "run" / "evaluations.sqlite").unlink()
    one = workflows.search(tmp_path / "run", tmp_path / "one.json", limits=["params=8K"], budget=15, seed=1).found
    two = json.loads((tmp_path / "two.json").read_text())
    assert (tuple(two["arch"]), two["accuracy"]) == (one.arch, one.accuracy)
    assert (two["evaluations"], two["reused"]) == (15, 0)


def test_two_ranks_rank_as_one_process_does(torchrun: Torchrun, tmp_path: Path) -> None:
    workflows.train(SPACE, "digits", tmp_path / "run", TrainSettings(epochs=1, batch=128, seed=3))
    command = ["rank", "--run", "run", "--nets", "4", "--epochs", "1", "--again", "3"]
    finished(torchrun(*command, "--out", "two.json"))
    assert len(list((tmp_path / "run" / "alone").iterdir())) == 7
    one = workflows.rank(tmp_path / "run", 4, epochs=1, again=3)  # reads what was trained
    two = json.loads((tmp_path / "two.json").read_text())
    assert [tuple(net["arch"]) for net in two["networks"]] == [net["arch"] for net in one.networks]
    assert [net["accuracy"] for net in two["networks"]] == [net["accuracy"] for net in one.networks]
    assert [net["without_bn"] for net in two["networks"]] == [net["without_bn"] for net in one.networks]
    assert two["supernet"]["tau"]["value"] == one.supernet.tau.value


def test_two_ranks_finetune_as_one_process_does(torchrun: Torchrun, tmp_path: Path) -> None:
    workflows.train(SPACE, "digits", tmp_path / "run", TrainSettings(epochs=1, batch=128, seed=3))
    found = tmp_path / "found.json"
    workflows.search(tmp_path / "run", found, limits=["params=8K"], budget=3)
    said = finished(torchrun("finetune", "found.json", "--out", "two", "--epochs", "1"))
    assert said.count("validation accuracy") == 1
    workflows.finetune(found, tmp_path / "one", changes={"epochs": 1, "accumulate": 2})
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    assert max((two[name] - weight).abs().max() for name, weight in one.items()) < 1e-5
    same, other = (Found.load(tmp_path / name / "found.json") for name in ("one", "two"))
    assert (other.arch, other.accuracy) == (same.arch, pytest.approx(same.accuracy, abs=0.01))


def rank_process(launcher: int, rank: int) -> int | None:
    """The process id of a rank that torchrun started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except (OSError, IndexError, ValueError):
            continue
    return None


def kill(process: subprocess.Popen[str], rank: int, at_work: Callable[[], bool]) -> None:
    """End one rank with -9 once it is at work; what is started anew comes to its end."""
    while not at_work():
        assert process.poll() is None
        time.sleep(0.005)
    victim = rank_process(process.pid, rank)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    finished(process)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc to find a rank")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_anew_and_ends_in_the_same_weights(
    torchrun: Torchrun, tmp_path: Path, rank: int
) -> None:
    finished(torchrun(*TRAIN, "--epochs", "12", "--out", "whole"))
    process = torchrun(*TRAIN, "--epochs", "12", "--out", "killed", restarts=3)
    kill(process, rank, lambda: len(read_metrics(tmp_path / "killed")) >= 2)
    assert len(read_metrics(tmp_path / "killed")) == 12
    whole, killed = (load_supernet(tmp_path / run) for run in ("whole", "killed"))
    assert weights_fingerprint(killed) == weights_fingerprint(whole)


def answered(run: Path) -> int:
    """Of how many candidates a search of the run keeps an answer so far."""
    try:
        with closing(sqlite3.connect(f"file:{run / STORE}?mode=ro", uri=True)) as store:
            return int(store.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # it isn't there yet
        return 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc to find a rank")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_search_of_which_a_rank_is_killed_finds_the_same(torchrun: Torchrun, tmp_path: Path, rank: int) -> None:
    """And evaluates no candidate a second time of which it had all answers."""
    workflows.train(SPACE, "digits", tmp_path / "run", TrainSettings(epochs=1, batch=128, seed=3))
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    whole = workflows.search(tmp_path / "whole", tmp_path / "whole.json", budget=60, seed=1).found
    process = torchrun("search", "--run", "run", "--budget", "60", "--seed", "1", "--out", "killed.json", restarts=3)
    kill(process, rank, lambda: answered(tmp_path / "run") >= 4)
    found = Found.load(tmp_path / "killed.json")
    assert (found.arch, found.accuracy) == (whole.arch, whole.accuracy)
    assert found.reused > 0


def test_ranks_that_would_begin_with_other_weights_are_named(tmp_path: Path) -> None:
    """Before a step: in the end nobody would see it."""

    class Others(Ranks):
        def gather_plain(self, value: Any) -> list[Any]:
            return [value, "others", value, "others"]

    space = load_space(SPACE)
    data = load_data("digits", space)
    with pytest.raises(InputError, match="of 4 processes 1, 3 would begin with other weights than process 0: give all"):
        train(Supernet(space), data, TrainSettings(epochs=1, accumulate=4), tmp_path, ranks=Others(world=4))
    assert not list(tmp_path.iterdir())


def test_parts_that_processes_cannot_share_are_named(torchrun: Torchrun) -> None:
    process = torchrun(*TRAIN, "--epochs", "1", "--accumulate", "1", "--out", "run")
    _, complaints = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [line for line in complaints.splitlines() if line.startswith("hwnas:")]
    assert line == "hwnas: 2 processes can't share the 1 parts of a batch: --accumulate must be a multiple of 2"


def test_what_only_the_first_process_knows_is_said_once(torchrun: Torchrun, tmp_path: Path) -> None:
    """An impossible limit, and a run that is there already, also after torchrun has started all of them anew."""
    workflows.train(SPACE, "digits", tmp_path / "run", TrainSettings(epochs=1, batch=128, seed=3))
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    for command, words, restarts in [
        (["search", "--run", "run", "--limit", "params=1", "--out", "none.json"], "params=1 is out of reach", 0),
        ([*TRAIN, "--epochs", "1", "--out", "run"], "run holds a run already: add --resume", 1),
    ]:
        process = torchrun(*command, restarts=restarts)
        _, complaints = process.communicate(timeout=120)
        assert process.returncode != 0
        lines = [line for line in complaints.splitlines() if line.startswith("hwnas:")]
        assert len(lines) == 1 + restarts, complaints
        assert all(words in line for line in lines)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("rank", [0, 1])
def test_what_only_one_process_knows_is_said_once(torchrun: Torchrun, tmp_path: Path, rank: int) -> None:
    """A file that is missing on one machine, which the others have."""
    module = f"""
import os
from hwnas.supernet.sources import DATA
assert os.environ["RANK"] != "{rank}", "the disk is not there"
digits = DATA["digits"](16, None)
"""
    (tmp_path / "mine.py").write_text(module)
    process = torchrun(*TRAIN, "--epochs", "1", "--data", "mine:digits", "--out", "run")
    _, complaints = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [line for line in complaints.splitlines() if line.startswith("hwnas:")]
    assert len([line for line in lines if "the disk is not there" in line]) == 1, complaints
    assert all("the disk is not there" in line or "see what it said" in line for line in lines)


TOGETHER = """
import json
import os
from dataclasses import replace
from pathlib import Path
import torch
from hwnas import workflows
from hwnas.errors import InputError
from hwnas.supernet import Ranks, Supernet, TrainSettings, load_data, load_space, train
from hwnas.supernet.checkpoint import weights_fingerprint
from hwnas.supernet.evaluation import accuracy, bn_images, calibrate_bn
from hwnas.supernet.ranks import joined
from hwnas.supernet.sampling import SAMPLING

def figures(ranks):
    torch.manual_seed(0)
    data = load_data("digits", load_space({space!r}))
    supernet = Supernet(load_space({space!r}))
    subnet = supernet.subnet(supernet.space.sample(__import__("random").Random(0)))
    calibrate_bn(subnet, bn_images(data, 0, 700), ranks=ranks)
    found = [value for norm in subnet.modules() if hasattr(norm, "running_mean")
             for value in (norm.running_mean, norm.running_var)]
    judged = [accuracy(subnet, replace(data, metric=metric), data.val, ranks) for metric in ("accuracy", "top-5")]
    few = data.val.take(torch.arange(50))  # one batch: a rank has nothing to do
    numbers = replace(few, labels=torch.zeros(50, 10))
    judged.append(accuracy(subnet, replace(data, metric="rmse", task="regression"), numbers, ranks))
    return judged + torch.cat(found).tolist()

def trained(ranks, folder, seed, rule="uniform"):
    torch.manual_seed(seed)
    data, supernet = load_data("digits", load_space({space!r})), Supernet(load_space({space!r}))
    train(supernet, data, TrainSettings(epochs=1, batch=256, accumulate=2, sampling=rule), folder, ranks=ranks)
    return weights_fingerprint(supernet)

def refused(ranks):
    try:
        trained(ranks, Path("other"), seed=ranks.rank)
    except InputError as error:
        return str(error)

def found(ranks):
    settings = TrainSettings(epochs=1, batch=256, accumulate=2)
    workflows.train({space!r}, "digits", Path("run"), settings, ranks=ranks)
    return workflows.search(Path("run"), Path("found.json"), budget=6, ranks=ranks).found.arch

with joined("cpu") as ranks:
    together, alone = figures(ranks), figures(Ranks())
    apart = max(abs(a - b) for a, b in zip(together, alone, strict=True))
    weights = [trained(ranks, Path(rule), 0, rule) for rule in SAMPLING]
    line = [ranks.world, len(together), apart, weights, found(ranks), refused(ranks)]
    os.write(1, (json.dumps(line) + "\\n").encode())  # in one go: the other process writes there, too
"""


def test_what_ranks_hold_together_is_what_one_holds(tmp_path: Path) -> None:
    """Every running mean and variance, three metrics, a split with fewer batches than ranks; after a training all
    weights and statistics, by each sampling rule, to the last bit; the network of a search. Not begun alike, they stop.
    """
    program = tmp_path / "together.py"
    program.write_text(TOGETHER.format(space=SPACE))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [world for world, *_ in lines] == [2, 2]
    for _, count, apart, weights, arch, refused in lines:
        assert count > 50
        assert apart < 1e-5
        assert weights == lines[0][3]
        assert len(set(weights)) == 3
        assert arch == lines[0][4]
        assert "of 2 processes 1 would begin with other weights than process 0" in refused
