"""`hwnas rank`: a supernet against networks trained alone, or against a table of what they reach."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hwnas import workflows
from hwnas.__main__ import run as main
from hwnas.cli.options import console
from hwnas.errors import DivergedError, InputError
from hwnas.latency import flops
from hwnas.progress import silent
from hwnas.supernet import (
    Data,
    Ranks,
    Run,
    SearchSpace,
    TrainSettings,
    load_data,
    load_run,
    load_space,
    load_supernet,
)
from hwnas.supernet.ranking import difference, ranking
from hwnas.supernet.ranks import CPU
from hwnas.supernet.space import Arch
from hwnas.workflows import ranking as ranking_workflow
from hwnas.workflows.evaluating import alone_folder, train_alone

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of two epochs."""
    path = tmp_path_factory.mktemp("rank") / "run"
    workflows.train(SPACE, "digits", path, TrainSettings(epochs=2, batch=128, seed=3))
    return path


def networks(space: SearchSpace, count: int) -> list[Arch]:
    drawn = dict.fromkeys(space.canonical(space.sample(random.Random(i))) for i in range(200))
    return list(drawn)[:count]


def table(path: Path, archs: list[Arch], **columns: list[float]) -> Path:
    rows = {"arch": ["-".join(map(str, arch)) for arch in archs], **columns}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_networks_are_trained_alone_once(folder: Path, tmp_path: Path) -> None:
    """Interrupted after the second network, it goes on with the third; asked again it trains none."""
    steps: list[str] = []

    def stop(done: float, total: float, words: str) -> None:
        steps.append(words)
        if words.startswith("network 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflows.rank(folder, nets=4, epochs=1, again=3, progress=stop)
    trained = sorted(path.parent.name for path in (folder / "alone").glob("*/checkpoint.pt"))
    assert len(trained) == 2
    out = tmp_path / "rank.json"
    first = workflows.rank(folder, nets=4, epochs=1, again=3, out=out)
    steps.clear()
    second = workflows.rank(folder, nets=4, epochs=1, again=3, progress=lambda *said: steps.append(said[2]))
    assert second == first
    assert not any(word.startswith("network") for word in steps)
    assert first.nets == 4
    assert first.ceiling is not None
    assert first.ceiling.nets == 3
    assert {path.name for path in tmp_path.iterdir()} == {"rank.json", "rank.png", "rank.truth.csv"}
    written = json.loads(out.read_text())
    assert written["supernet"]["tau"]["value"] == first.supernet.tau.value
    by_truth = workflows.rank(folder, truth=tmp_path / "rank.truth.csv")
    assert by_truth == replace(first, truth=str(tmp_path / "rank.truth.csv"), asked={"run": str(folder)})


def test_networks_that_diverge_are_left_out_and_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = workflows.rank(folder, nets=4, epochs=1, again=4)
    lost, second = whole.networks[1]["arch"], whole.networks[2]["arch"]
    trained = ranking_workflow.train_alone

    def diverging(origin: Run, space: SearchSpace, data: Data, arch: Arch, settings: TrainSettings, *rest: Any) -> Any:
        if arch == lost or (arch == second and settings.seed != 3):
            raise DivergedError("the loss is nan")
        return trained(origin, space, data, arch, settings, *rest)

    monkeypatch.setattr(ranking_workflow, "train_alone", diverging)
    asked = ["rank", "--run", str(folder), "--nets", "4", "--epochs", "1", "--again", "4"]
    assert main([*asked, "--out", str(tmp_path / "rank.json")]) == 0
    assert "left out: 3 trainings alone that ended without a finite accuracy" in capsys.readouterr().out
    report = json.loads((tmp_path / "rank.json").read_text())
    assert [tuple(net["arch"]) for net in report["networks"]] == [
        n["arch"] for n in whole.networks if n["arch"] != lost
    ]
    assert report["lost"] == [[list(lost), 3], [list(lost), 4], [list(second), 4]]
    assert report["ceiling"] is None  # of two networks alone

    def none(*_: Any) -> Any:
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(ranking_workflow, "train_alone", none)
    with pytest.raises(InputError, match=r"0 networks tell no ranking: .* 3 trainings ended without a finite accuracy"):
        workflows.rank(folder, nets=3, epochs=1, again=0)


def test_a_network_that_diverges_is_not_trained_again(folder: Path) -> None:
    run, space, settings = load_run(folder), load_space(SPACE), TrainSettings(epochs=1, lr=1e20)
    arch, steps = networks(space, 1)[0], list[float]()
    for _ in range(2):
        with pytest.raises(DivergedError, match="at step"):
            train_alone(
                run, space, load_data("digits", space), arch, settings, lambda *said: steps.append(said[0]), CPU
            )
    assert len(steps) == len(set(steps)) > 0


def test_networks_trained_in_another_way_lie_elsewhere(folder: Path) -> None:
    run, settings = load_run(folder), TrainSettings(epochs=1)
    others = [replace(settings, epochs=2), replace(settings, seed=1), replace(settings, lr=0.2)]
    places = {alone_folder(run, arch, how) for how in (settings, *others) for arch in ((0, 1), (1, 0), (1,) * 400)}
    assert len(places) == 12
    assert max(len(place.name) for place in places) < 255


def test_a_table_of_what_networks_reach_is_the_truth(folder: Path, tmp_path: Path) -> None:
    space = load_space(SPACE)
    archs = networks(space, 12)
    rng = np.random.default_rng(0)
    accuracy, again = rng.uniform(0.5, 0.9, 12).tolist(), rng.uniform(0.5, 0.9, 12).tolist()
    again[3:] = [float("nan")] * 9
    found = workflows.rank(folder, truth=table(tmp_path / "truth.csv", archs, accuracy=accuracy, again=again))
    sizes = np.array([flops(space, arch) for arch in archs], dtype=float)
    assert found.flops == ranking(sizes, accuracy, sizes)
    assert found.ceiling == ranking(again[:3], accuracy[:3], sizes[:3])
    inherited = [net["inherited"] for net in found.networks]
    assert found.supernet == ranking(inherited, accuracy, sizes)
    assert [net["without_bn"] for net in found.networks] != inherited


def test_bands_are_of_latency_where_there_is_a_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = networks(load_space(SPACE), 6)
    truth = table(tmp_path / "truth.csv", archs, accuracy=[0.5, 0.6, 0.7, 0.8, 0.9, 0.95])

    class Known:
        name = "pixel8"

        def predict_many(self, archs: list[Arch]) -> np.ndarray:
            return np.full(len(archs), 3.0)

    monkeypatch.setattr("hwnas.workflows.ranking.load_tables", lambda *_: {"pixel8": Known()})
    found = workflows.rank(folder, truth=truth, table=Path("pixel8.json"))
    assert (found.cost, found.supernet.pairs_in_bands) == ("pixel8", 15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch,acc\n0-0-0,0.5\n", "lacks the column accuracy"),
        ("arch,accuracy\n0-0-0,0.5\n0-x-0,0.6\n", "line 3: .*write rows ARCH,ACCURACY"),
        ("arch,accuracy\n0-0-0,0.5\n9-0-0,0.6\n", r"line 3: gene 0 of architecture \(9, 0, 0\)"),
        ("arch,accuracy\n0-0-0,0.5\n0-0-0,0.6\n", "line 3: 0-0-0 has no accuracy, or comes twice"),
        ("arch,accuracy\n0-0-0,0.5\n", "1 networks tell no ranking: at least 3 are needed"),
    ],
)
def test_a_truth_that_is_none_is_refused(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "truth.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        workflows.rank(folder, truth=file)


def test_a_truth_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.csv"):
        workflows.rank(folder, truth=tmp_path / "none.csv")


def test_the_command_prints_what_is_compared(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", 200)
    archs = networks(load_space(SPACE), 12)
    truth = table(tmp_path / "truth.csv", archs, accuracy=np.linspace(0.5, 0.9, 12).tolist())
    assert main(["rank", "--run", str(folder), "--truth", str(truth), "--out", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "Kendall tau" in said
    assert {(name, nets) for name, nets, *_ in table_rows(said)} == {
        ("the supernet", "12"),
        ("without batch norms of their own", "12"),
        ("multiply-accumulates alone", "12"),
    }
    assert main(["rank", "--run", str(folder)]) == 2
    assert "give either --nets" in capsys.readouterr().err


def table_rows(said: str) -> list[list[str]]:
    """The cells of the rows of all tables that were printed, on lines wide enough for each."""
    lines = [line.strip("│ ").split("│") for line in said.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines]


def test_the_command_tells_of_how_many_networks_and_how_far_above(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ceiling is of fewer networks: the supernet is held against it over those alone."""
    archs, rng = networks(load_space(SPACE), 12), np.random.default_rng(0)
    accuracy, again = rng.uniform(0.5, 0.9, 12), rng.uniform(0.5, 0.9, 12)
    again[5:] = np.nan
    truth = table(tmp_path / "truth.csv", archs, accuracy=accuracy.tolist(), again=again.tolist())
    monkeypatch.setattr(console, "width", 200)
    assert main(["rank", "--run", str(folder), "--truth", str(truth), "--out", str(tmp_path / "r.json")]) == 0
    rows = table_rows(capsys.readouterr().out)
    written = json.loads((tmp_path / "r.json").read_text())
    inherited, sizes = (np.array([net[name] for net in written["networks"]]) for name in ("inherited", "flops"))
    above = [
        difference(inherited, sizes, accuracy, sizes),
        difference(inherited[:5], again[:5], accuracy[:5], sizes[:5]),
    ]
    assert [written[name]["tau"] for name in ("above_flops", "above_ceiling")] == [asdict(it.tau) for it in above]
    counts = [(name, nets) for name, nets, *_ in rows]
    assert counts[3:] == [
        ("trained alone again (the ceiling)", "5"),
        counts[2],
        ("trained alone again (the ceiling)", "5"),
    ]
    for (_, _, tau, *_), it in zip(rows[4:], above, strict=True):
        assert tau == f"{it.tau.value:.3f} [{it.tau.low:.3f}, {it.tau.high:.3f}]"


def test_each_rank_looks_at_a_part_of_the_networks_without_statistics_of_their_own(
    folder: Path,
) -> None:
    """Without the others, whose figures are summed up with its own."""
    supernet = load_supernet(folder)
    space = supernet.space
    data, archs = load_data("digits", space), networks(space, 5)

    class Apart(Ranks):
        def sum_(self, tensors: Sequence[torch.Tensor]) -> None: ...

    def figures(ranks: Ranks) -> np.ndarray:
        return np.array(ranking_workflow.with_statistics_of_training(supernet, data, archs, silent, ranks))

    whole, first, second = (figures(ranks) for ranks in (Ranks(), Apart(0, 2), Apart(1, 2)))
    assert whole.all()
    assert (first > 0).tolist() == [True, False, True, False, True]
    assert (first + second).tolist() == whole.tolist()


def test_files_of_the_user_s_are_not_written_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = networks(load_space(SPACE), 5)
    truth = table(tmp_path / "mine.truth.csv", archs, accuracy=[0.1, 0.2, 0.3, 0.4, 0.5], minutes=[1.0] * 5)
    before = truth.read_bytes()
    workflows.rank(folder, truth=truth, out=tmp_path / "mine.json")
    assert truth.read_bytes() == before
    (tmp_path / "other.png").write_bytes(b"a picture")
    with pytest.raises(InputError, match=r"other\.png is there already, and not of a ranking in .*other\.json"):
        workflows.rank(folder, truth=truth, out=tmp_path / "other.json")
    with pytest.raises(InputError, match=r"mine\.png is no name for a ranking"):
        workflows.rank(folder, truth=truth, out=tmp_path / "mine.png")
    other = table(tmp_path / "another.csv", archs, accuracy=[0.5, 0.4, 0.3, 0.2, 0.1])
    with pytest.raises(InputError, match=r"mine\.truth\.csv is there already, and not of a ranking"):
        workflows.rank(folder, truth=other, out=tmp_path / "mine.json")
    monkeypatch.chdir(tmp_path)  # the same file by another name
    workflows.rank(folder, truth=Path("mine.truth.csv"), out=tmp_path / "mine.json")
    assert truth.read_bytes() == before


def test_a_ranking_that_was_cut_short_is_written_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = networks(load_space(SPACE), 5)
    truth = table(tmp_path / "truth.csv", archs, accuracy=[0.1, 0.2, 0.3, 0.4, 0.5])
    with monkeypatch.context() as patch:
        patch.setattr(ranking_workflow, "save_chart", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workflows.rank(folder, truth=truth, out=tmp_path / "rank.json")
    workflows.rank(folder, truth=truth, out=tmp_path / "rank.json")
    assert (tmp_path / "rank.png").is_file()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"truth": Path("t.csv"), "again": 3}, "leave them out with --truth"),
        ({"truth": Path("t.csv"), "epochs": 3}, "leave them out with --truth"),
        ({"nets": 5, "again": 2}, "--again 2 tells no ceiling: give at least 3, or 0"),
    ],
)
def test_what_would_be_of_no_use_is_refused(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        workflows.rank(folder, **options)


def test_what_puts_out_no_numbers_ranks_last(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = networks(load_space(SPACE), 5)
    truth = table(tmp_path / "truth.csv", archs, accuracy=[0.1, 0.2, 0.3, 0.4, 0.5])
    values = iter([0.3, float("nan"), 0.1, 0.2, 0.4])
    monkeypatch.setattr(ranking_workflow, "accuracy", lambda *_: next(values))
    workflows.rank(folder, truth=truth, out=tmp_path / "rank.json")
    written = json.loads((tmp_path / "rank.json").read_text())["networks"]
    assert [network["without_bn"] for network in written] == [0.3, 0.1, 0.1, 0.2, 0.4]


def test_a_training_that_has_not_come_to_its_end_is_said(folder: Path, tmp_path: Path) -> None:
    """What is found in it is void once it goes on."""
    run, said = Path(shutil.copytree(folder, tmp_path / "run")), list[str]()
    truth = table(tmp_path / "truth.csv", networks(load_space(SPACE), 3), accuracy=[0.1, 0.2, 0.3])

    def asked() -> list[str]:
        said.clear()
        workflows.rank(run, truth=truth, note=said.append)
        workflows.search(run, tmp_path / "found.json", budget=2, note=said.append)
        return [words for words in said if "has been trained for" in words]

    assert asked() == []
    history = run / "metrics.jsonl"
    history.write_text(history.read_text().splitlines()[0] + "\n")
    assert [words.split(":")[0] for words in asked()] == [f"{run} has been trained for 1 of 2 epochs"] * 2
