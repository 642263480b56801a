"""Two searches of a run at the same time: nothing is evaluated twice, and none waits for one that has died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from hwnas.search import EvaluationStore, RacedAccuracy, StoredAccuracy, claims
from hwnas.search.claims import Claims
from hwnas.search.racing import Racer, Right
from hwnas.supernet.space import Arch

ARCH: Arch = (1, 2)


class Slow:
    """An evaluation that goes on when it may, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.begun, self.go_on = Event(), Event()
        self.asked: list[Arch] = []

    def __call__(self, archs: list[Arch]) -> Iterator[float]:
        for arch in archs:
            self.asked.append(arch)
            self.begun.set()
            assert self.go_on.wait(30)
            yield 0.5

    def raced(self, racers: list[Racer]) -> Iterator[Right]:
        for _ in self([arch for arch, _, _ in racers]):
            yield np.array([True, False])


def asked(path: Path, evaluate: Slow, kind: str) -> list[float]:
    with EvaluationStore(path) as store:
        accuracy: Any = (
            StoredAccuracy(store, "key", evaluate)
            if kind == "stored"
            else RacedAccuracy(store, "key", 2, evaluate.raced)
        )
        return list(accuracy([ARCH]))


@pytest.mark.parametrize("kind", ["stored", "raced"])
def test_what_another_search_is_evaluating_is_waited_for(tmp_path: Path, kind: str) -> None:
    evaluate, told = Slow(), list[list[float]]()
    searches = [Thread(target=lambda: told.append(asked(tmp_path / "a.sqlite", evaluate, kind))) for _ in range(2)]
    searches[0].start()
    assert evaluate.begun.wait(30)
    searches[1].start()
    time.sleep(0.2)
    evaluate.go_on.set()
    for search in searches:
        search.join(30)
    assert told == [[0.5], [0.5]]
    assert evaluate.asked == [ARCH]
    assert not list(tmp_path.glob("*.claims"))


@pytest.mark.parametrize("kind", ["stored", "raced"])
def test_what_never_ends_is_evaluated_by_oneself(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another search may have been stopped in the middle of it."""
    monkeypatch.setattr(claims, "LONG_SECONDS", 0.1)
    evaluate = Slow()
    evaluate.go_on.set()
    with Claims(tmp_path / "a.sqlite.claims").taken("key", [ARCH]):
        assert asked(tmp_path / "a.sqlite", evaluate, kind) == [0.5]
    assert evaluate.asked == [ARCH]


def hold(folder: Path, held: Any) -> None:
    with Claims(folder).taken("key", [ARCH]):
        held.set()
        time.sleep(60)


def test_a_search_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "claims", held))
    process.start()
    assert held.wait(60)
    here = Claims(tmp_path / "claims")
    with here.taken("key", [ARCH, (3, 4)]) as mine:
        assert mine == [(3, 4)]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with here.taken("key", [ARCH]) as mine:
        assert mine == [ARCH]


def test_where_no_file_can_be_locked_everything_is_free(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("a file, no folder")
    here = Claims(tmp_path / "claims")
    with here.taken("key", [ARCH]) as mine:
        assert mine == [ARCH]
    assert here.wait("key", ARCH)
