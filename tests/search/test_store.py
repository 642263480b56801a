"""The evaluation store: nothing is lost when a process dies, nothing clashes, bad files are named."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import FaultError, InputError, MismatchError
from hwnas.search import EvaluationStore, StoredAccuracy, store
from hwnas.supernet.space import Arch

ARCHS: list[Arch] = [(i, i % 3) for i in range(40)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "store.sqlite"


def evaluate(archs: list[Arch]) -> Iterator[float]:
    for arch in archs:
        time.sleep(0.001)
        yield arch[0] / 7


def evaluate_all(path: Path) -> None:
    with EvaluationStore(path) as opened:
        assert list(StoredAccuracy(opened, "key", evaluate)(ARCHS)) == [a[0] / 7 for a in ARCHS]


def hang_after_ten(path: Path) -> None:
    done = itertools.count()

    def stuck(archs: list[Arch]) -> Iterator[float]:
        for arch in archs:
            if next(done) == 10:
                time.sleep(60)
            yield from evaluate([arch])

    with EvaluationStore(path) as opened:
        list(StoredAccuracy(opened, "key", stuck)(ARCHS))


def forked(target: Callable[[Path], None], path: Path) -> BaseProcess:
    """A process that already has everything imported."""
    process = multiprocessing.get_context("fork").Process(target=target, args=(path,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on forking beside threads, which here are idle
        process.start()
    return process


def test_keeps_accuracies_exactly(path: Path) -> None:
    with EvaluationStore(path) as opened:
        opened.add("a", (0, 1), 0.1 + 0.2, seconds=1.5)
        opened.add("a", (), math.nan, seconds=0.0)
    with EvaluationStore(path) as opened:
        assert opened.get("a", (0, 1)) == 0.1 + 0.2
        assert math.isnan(opened.get("a", ()) or 0)
        assert opened.get("a", (1, 0)) is None
        assert opened.get("b", (0, 1)) is None
        assert (opened.count("a"), opened.count("b")) == (2, 0)


def test_the_first_value_stays(path: Path) -> None:
    with EvaluationStore(path) as opened:
        assert opened.add("a", (0,), 0.5, 1.0) == 0.5
        assert opened.add("a", (0,), 0.6, 1.0) == 0.5
        assert opened.get("a", (0,)) == 0.5


def test_evaluates_only_what_is_unknown(path: Path) -> None:
    asked: list[Arch] = []

    def first_genes(archs: list[Arch]) -> list[float]:
        asked.extend(archs)
        return [float(arch[0]) for arch in archs]

    with EvaluationStore(path) as opened:
        accuracy = StoredAccuracy(opened, "key", first_genes)
        assert list(accuracy([(1, 0), (2, 0)])) == [1, 2]
        assert list(accuracy([(3, 0), (1, 0), (4, 0), (3, 0)])) == [3, 1, 4, 3]
        assert list(accuracy([(1, 0)])) == [1]
    assert asked == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert len(accuracy.new) == 4


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_values_is_an_error(path: Path, count: int) -> None:
    with EvaluationStore(path) as opened, pytest.raises(InputError, match="each of 1 architectures"):
        list(StoredAccuracy(opened, "key", lambda _: [0.5] * count)([(0, 0), (1, 0)]))


def test_a_killed_process_keeps_what_it_had_finished(path: Path) -> None:
    process = forked(hang_after_ten, path)
    with EvaluationStore(path) as opened:
        while opened.count("key") < 10:
            time.sleep(0.002)
        process.kill()
        process.join()
        accuracy = StoredAccuracy(opened, "key", evaluate)
        assert list(accuracy(ARCHS)) == [a[0] / 7 for a in ARCHS]
    assert process.exitcode == -9
    assert len(accuracy.new) == 30


def test_processes_share_a_new_file(path: Path) -> None:
    processes = [forked(evaluate_all, path) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    with EvaluationStore(path) as opened:
        assert opened.count("key") == len(ARCHS)


def test_a_store_that_stays_busy_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.01)
    with EvaluationStore(path) as opened, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FaultError, match=r"store\.sqlite: database is locked"):
            opened.add("key", (0,), 0.5, 1.0)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be taken for one " * 50)
    with pytest.raises(InputError, match=r"notes\.txt is not a readable evaluation store"):
        EvaluationStore(text)
    with pytest.raises(InputError, match="is not a readable evaluation store"):
        EvaluationStore(tmp_path)


def test_a_damaged_store_is_named(path: Path) -> None:
    with EvaluationStore(path) as opened:
        for arch in ARCHS * 10:
            opened.add("key" * 50, arch, 0.5, 1.0)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\x55" * (len(data) - 4096))
    with EvaluationStore(path) as opened, pytest.raises(InputError, match="malformed"):
        opened.get("key", (0, 0))


def test_a_file_where_the_folder_should_be_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(FaultError, match="File exists"):
        EvaluationStore(tmp_path / "run" / "store.sqlite")


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 7", "CREATE TABLE other (x)"])
def test_another_version_or_database_is_refused(path: Path, statement: str) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    with pytest.raises(MismatchError, match=r"store version \d, this hwnas reads 1"):
        EvaluationStore(path)


def test_who_only_reads_sees_everything_and_leaves_nothing(path: Path) -> None:
    with EvaluationStore(path) as writing:
        writing.add("a", (0, 1), 0.5, 1.0)
        writing.add("b", (2,), math.nan, 1.0)
        during = store.read_store(path)
    after = [store.read_store(path), list(path.parent.iterdir())]
    assert during["a"] == after[0]["a"] == {(0, 1): 0.5}  # type: ignore[index]
    assert math.isnan(during["b"][2,])
    assert after[1] == [path]


def test_who_only_reads_is_told_what_is_no_store(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database, and longer than a header of one: " * 20)
    with pytest.raises(InputError, match="not a readable evaluation store"):
        store.read_store(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(MismatchError, match=r"store version 7, this hwnas reads 1"):
        store.read_store(path)


def test_what_another_search_evaluates_meanwhile_is_used(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "a.sqlite") as mine, EvaluationStore(tmp_path / "a.sqlite") as other:

        def evaluate(archs: list[Arch]) -> list[float]:
            other.add("key", (2,), 0.25, 1.0)
            return [0.5 for _ in archs]

        accuracy = StoredAccuracy(mine, "key", evaluate)
        assert list(accuracy([(1,), (2,)])) == [0.5, 0.25]
        assert len(accuracy.new) == 1


def test_what_is_evaluated_together_is_stored_together(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "a.sqlite") as store:
        accuracy = StoredAccuracy(store, "key", lambda archs: [0.5 for _ in archs], together=3)
        assert next(accuracy([(1,), (2,), (3,), (4,)])) == 0.5
        assert set(store.all("key")) == {(1,), (2,), (3,)}


def test_answers_are_kept_exactly_and_added_to(path: Path) -> None:
    right = np.random.default_rng(0).random(100) < 0.7
    with EvaluationStore(path) as opened:
        assert opened.answers("key", (1,)).shape == (0,)
        for seen in (13, 5, 64):
            assert np.array_equal(opened.add_answers("key", (1,), right[:seen], 100, 1.0), right[: max(13, seen)])
            assert opened.get("key", (1,)) is None
        others = ~right  # what is known stays
        assert np.array_equal(opened.add_answers("key", (1,), others, 100, 1.0), [*right[:64], *others[64:]])
    with EvaluationStore(path) as opened:
        assert opened.get("key", (1,)) == opened.answers("key", (1,)).mean()
        assert opened.all("key") == {(1,): opened.get("key", (1,))}
        assert opened.answers("other", (1,)).shape == (0,)


def test_a_store_of_before_answers_were_kept_is_read(path: Path) -> None:
    with EvaluationStore(path) as opened:
        opened.add("key", (1,), 0.5, 1.0)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE answers")
    with EvaluationStore(path) as opened:
        assert opened.get("key", (1,)) == 0.5
        opened.add_answers("key", (1,), np.ones(3, dtype=bool), 9, 1.0)
        assert opened.answers("key", (1,)).all()
