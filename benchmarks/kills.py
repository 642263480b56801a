"""Kill -9 at random moments, then --resume: does everything end as if nothing had happened?

    python benchmarks/kills.py [--kills 30] [--seed 0]

`train`, `profile` and `search` run once undisturbed, for D seconds; then anew, killed at random moments in (0, D) and
resumed. A command that ends before its kill is begun anew, until it has its third of the kills and may finish.
Half of the kills strike the command alone, half its measuring program too. Bar: no difference.

Printed for each: its kills, how many of them struck it alone, when, how many found work that was saved already, how
many runs came to their end, temporary files that kills left in them, and what was compared with the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hwnas.latency import LatencyTable

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=2-3,kernels=3-5,expansions=2-3,head=16"
EPOCHS, ROUNDS, BUDGET = 25, 60, 120  # about 8 s of work each, behind 5 s of imports
TRAIN = f"train --space {SPACE} --data digits --batch 256 --epochs {EPOCHS} --out run"
DEVICE = f"local:tolerance=9,target=1e-9,min_rounds={ROUNDS},max_rounds={ROUNDS}"
PROFILE = f"profile --space {SPACE} --device {DEVICE} --out local.json"
SEARCH = f"search --run run --limit flops=90K --budget {BUDGET} --out found.json"
MADE_NEW = {"seconds", "reused", "run"}  # in a found.json, what another run of the same search has of its own
ROW = "{:8} {:>5} {:>5}  {:22} {:>9} {:>4} {:>10}  {:26} {}"
GONE_SECONDS = 30  # a measuring program whose command was killed ends after its round


@dataclass
class Attempts:
    """What happened to one command in one folder: its kills, and what was saved at each."""

    folder: Path
    moments_s: list[float] = field(default_factory=list)
    alone: int = 0  # kills that struck the command, not its measuring program
    saved: list[list[str]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def start(self, words: str) -> subprocess.Popen[bytes]:
        """The command in a process group of its own; resumed unless it is the first."""
        more = ["--resume"] if self.groups else []
        process = subprocess.Popen(
            [sys.executable, "-m", "hwnas", *words.split(), *more],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HWNAS_TRACEBACK": "1"},
            start_new_session=True,
        )
        self.groups.append(process.pid)
        return process

    def finish(self, words: str) -> float:
        """Let the command end by itself; its seconds."""
        start = time.perf_counter()
        if status := self.start(words).wait():
            sys.exit(f"hwnas {words} ended with status {status}")
        return time.perf_counter() - start


def disturb(
    attempts: Attempts, words: str, saved: Callable[[Path], list[str]], whole_s: float, kills: int, rng
) -> bool:
    """Start a command and kill it, up to `kills` times; whether it ended before a kill."""
    for _ in range(kills):
        moment_s, alone = rng.uniform(0, whole_s), rng.random() < 0.5
        process = attempts.start(words)
        try:
            status = process.wait(moment_s)
        except subprocess.TimeoutExpired:
            (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
            process.wait()
            attempts.moments_s.append(moment_s)
            attempts.alone += alone
            attempts.saved.append(saved(attempts.folder))
        else:
            if status:
                sys.exit(f"hwnas {words} --resume ended with status {status}")
            return True
    return False


# ---- what is saved, line by line


def epochs_saved(folder: Path) -> list[str]:
    """The lines of metrics.jsonl without their seconds."""
    path = folder / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [json.dumps({key: value for key, value in line.items() if key != "seconds"}) for line in lines]


def samples_saved(folder: Path) -> list[str]:
    """The whole lines of samples.jsonl, which gets a second name: a finished profile removes the first."""
    kept = folder / "kept.jsonl"
    for path in folder.glob("local.json.samples/*/samples.jsonl"):
        if not kept.exists():
            os.link(path, kept)
    lines = kept.read_text().splitlines(keepends=True) if kept.exists() else []
    return [line for line in lines if line.endswith("\n") and "runs_ms" in line]


def evaluations_saved(folder: Path) -> list[str]:
    """What the evaluation store knows of each network."""
    try:
        with closing(sqlite3.connect(f"file:{folder}/run/evaluations.sqlite?mode=ro", uri=True)) as database:
            query = "SELECT key, arch, images, hex(rights) FROM answers"
            return [json.dumps(row) for row in database.execute(query)]
    except sqlite3.OperationalError:  # not made yet
        return []


# ---- comparisons: each says what differs


def same(ours: object, theirs: object) -> bool:
    """Equality of what a checkpoint holds, bit by bit."""
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def compare_training(attempts: Attempts, whole: Path) -> list[str]:
    """Weights, statistics and optimizer bit by bit, the history but its seconds."""
    ours, theirs = (torch.load(f / "run" / "checkpoint.pt", weights_only=True) for f in (attempts.folder, whole))
    wrong = [f"{key} differs" for key in theirs if not same(ours[key], theirs[key])]
    history = epochs_saved(whole)
    wrong += ["the history differs"] * (epochs_saved(attempts.folder) != history)
    return wrong + [f"a kill left {len(lines)} epochs" for lines in attempts.saved if lines != history[: len(lines)]]


def compare_profile(attempts: Attempts, whole: Path) -> list[str]:
    """Samples taken before a kill stay as they were, none is taken twice, and the table has them all."""
    after = samples_saved(attempts.folder)
    wrong = [f"{len(lines)} samples were changed" for lines in attempts.saved if lines != after[: len(lines)]]
    taken = Counter((sample["model"], sample["round"]) for sample in map(json.loads, after))
    wrong += [f"{job} was taken {count} times" for job, count in taken.items() if count > 1]
    rounds = Counter(model for model, _ in taken)
    wrong += [f"{model} has {count} samples" for model, count in rounds.items() if count != ROUNDS]
    ours, theirs = (LatencyTable.load(folder / "local.json") for folder in (attempts.folder, whole))
    measured = {layer: entry.rounds for layer, entry in theirs.entries.items()}
    wrong += ["the table lacks samples"] * ({layer: e.rounds for layer, e in ours.entries.items()} != measured)
    return wrong + ["the samples' folder is left"] * (attempts.folder / "local.json.samples").exists()


def compare_search(attempts: Attempts, whole: Path) -> list[str]:
    """Evaluations made before a kill stay as they were and are reused; the network found is the same."""
    after = set(evaluations_saved(attempts.folder))
    wrong = [f"of {len(rows)} evaluations some were changed" for rows in attempts.saved if not after.issuperset(rows)]
    ours, theirs = (json.loads((folder / "found.json").read_text()) for folder in (attempts.folder, whole))
    wrong += [f"{key} differs" for key in theirs if key not in MADE_NEW and ours[key] != theirs[key]]
    wrong += [f"{len(after)} stored, {ours['evaluations']} used"] * (len(after) != ours["evaluations"])
    last = len(attempts.saved[-1]) if attempts.saved else 0
    return wrong + [f"{last} were stored, {ours['reused']} reused"] * (ours["reused"] != last)


CASES = {
    "train": (TRAIN, epochs_saved, compare_training, "weights, optimizer, history"),
    "profile": (PROFILE, samples_saved, compare_profile, "samples, table"),
    "search": (SEARCH, evaluations_saved, compare_search, "evaluations, network found"),
}


def folder_for(name: str, root: Path, number: int) -> Path:
    """A new folder; for a search with a trained run, but no evaluations."""
    folder = root / f"{name}{number}"
    folder.mkdir()
    if name == "search":
        shutil.copytree(root / "train0" / "run", folder / "run")
    return folder


def processes_left(groups: list[int]) -> int:
    """How many process groups are still there after a while."""
    end = time.monotonic() + GONE_SECONDS
    while any(map(alive, groups)) and time.monotonic() < end:
        time.sleep(0.1)
    return sum(map(alive, groups))


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run_case(name: str, kills: int, rng: random.Random, root: Path) -> bool:
    """Print a line about one command; whether all was the same."""
    words, saved, compare, compared = CASES[name]
    whole, wrong, done = Attempts(folder_for(name, root, 0)), list[str](), list[Attempts]()
    whole_s = whole.finish(words)
    while left := kills - sum(len(attempts.moments_s) for attempts in done):
        attempts = Attempts(folder_for(name, root, len(done) + 1))
        if not disturb(attempts, words, saved, whole_s, left, rng):
            attempts.finish(words)
        wrong += compare(attempts, whole.folder)
        wrong += ["processes are left"] * bool(processes_left(attempts.groups))
        done.append(attempts)
    moments_s = [moment_s for attempts in done for moment_s in attempts.moments_s]
    alone = sum(attempts.alone for attempts in done)
    at_work = sum(bool(lines) for attempts in done for lines in attempts.saved)
    files = sum(len(list(attempts.folder.rglob("*.part"))) for attempts in done)
    moments = f"{min(moments_s):.1f} to {max(moments_s):.1f} of {whole_s:.1f} s"
    verdict = "; ".join(wrong) or "the same"
    print(ROW.format(name, kills, alone, moments, at_work, len(done), files, compared, verdict), flush=True)
    return not wrong


def main() -> None:
    """Print a line per command; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kills < len(CASES):
        parser.error(f"--kills {options.kills}: each of {', '.join(CASES)} needs one")
    rng, start, good = random.Random(options.seed), time.perf_counter(), True
    print(ROW.format("command", "kills", "alone", "moments", "with work", "runs", "files left", "compared", "verdict"))
    with tempfile.TemporaryDirectory(prefix="hwnas-kills-") as root:
        for i, name in enumerate(CASES):
            good &= run_case(name, (options.kills + len(CASES) - 1 - i) // len(CASES), rng, Path(root))
    print(f"{options.kills} kills in {time.perf_counter() - start:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()
