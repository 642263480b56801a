"""One found network trained on, or alone: it starts from what it inherits, and is a run like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hwnas import workflows
from hwnas.__main__ import run as main
from hwnas.errors import InputError, MismatchError, MissingLayerError
from hwnas.search.found import Found
from hwnas.supernet import Supernet, TrainSettings, load_run, load_space, load_supernet
from hwnas.supernet.checkpoint import read_metrics
from hwnas.supernet.network import evaluating
from hwnas.supernet.sharing import SHARING

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network found in a supernet of two epochs."""
    folder = tmp_path_factory.mktemp("finetune")
    workflows.train(SPACE, "digits", folder / "run", TrainSettings(epochs=2, batch=128, seed=3))
    workflows.search(folder / "run", folder / "found.json", budget=3)
    return folder / "found.json"


@pytest.mark.parametrize("sharing", SHARING)
def test_a_network_inherits_the_function_of_its_path(sharing: str) -> None:
    space = load_space(SPACE)
    supernet, arch = Supernet(space, sharing), (0, 1, 2)
    alone = Supernet(space, sharing, only=arch)
    images = torch.randn(8, 1, 16, 16)
    supernet(images, arch)  # statistics that are not those of a new module
    alone.inherit(supernet)
    with evaluating(alone, supernet):
        assert torch.equal(alone(images, arch), supernet(images, arch))


def test_a_network_alone_has_no_other_weights() -> None:
    space = load_space(SPACE)
    arch = (0, 1, 2)
    alone = Supernet(space, only=arch)
    plain = alone.subnet(arch)
    assert sum(p.numel() for p in alone.parameters()) == sum(p.numel() for p in plain.parameters())
    with pytest.raises(MissingLayerError, match="only"):
        alone(torch.zeros(1, 1, 16, 16), (1, 0, 0))


def test_finetuning_is_a_run_that_export_takes(found: Path, tmp_path: Path) -> None:
    before = Found.load(found)
    tuned = workflows.finetune(found, tmp_path / "tuned", epochs=3, lr=0.05, batch=128)
    again = Found.load(tmp_path / "tuned" / "found.json")
    assert again == tuned
    assert tuned.arch == before.arch
    assert tuned.costs == before.costs
    assert tuned.weights != before.weights
    assert tuned.accuracy > before.accuracy
    run = load_run(tmp_path / "tuned")
    assert run.start == {"source": before.run, "fingerprint": before.weights}
    assert run.train["seed"] == 3  # of the run it was found in: its validation images stay unseen
    assert run.data == load_run(Path(before.run)).data
    proof = workflows.export(tmp_path / "tuned" / "found.json", tmp_path / "net.onnx")
    assert proof.max_abs_diff < 1e-4
    assert proof.weights == tuned.weights


def test_from_scratch_forgets_the_inherited_weights(found: Path, tmp_path: Path) -> None:
    workflows.finetune(found, tmp_path / "alone", epochs=1, from_scratch=True)
    run = load_run(tmp_path / "alone")
    assert run.start is None
    assert run.train["lr"] == load_run(Path(Found.load(found).run)).train["lr"]
    tuned = workflows.finetune(found, tmp_path / "tuned", epochs=1)
    assert tuned.accuracy != Found.load(tmp_path / "alone" / "found.json").accuracy


def test_a_finetuning_goes_on_where_it_stopped(found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflows.finetune(found, tmp_path / "whole", epochs=3)

    def stop(done: float, total: float, words: str) -> None:
        if done / total > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflows.finetune(found, tmp_path / "parts", epochs=3, progress=stop)
    assert len(read_metrics(tmp_path / "parts")) == 2
    assert not (tmp_path / "parts" / "found.json").exists()
    with pytest.raises(InputError, match="--resume"):
        workflows.finetune(found, tmp_path / "parts", epochs=3)
    with pytest.raises(InputError, match=r"start .* -> scratch"):
        workflows.finetune(found, tmp_path / "parts", epochs=3, lr=0.05, from_scratch=True, resume=True)
    parts = workflows.finetune(found, tmp_path / "parts", epochs=3, resume=True)
    assert parts.weights == Found.load(tmp_path / "whole" / "found.json").weights


def test_a_network_alone_is_no_place_to_search(found: Path, tmp_path: Path) -> None:
    workflows.finetune(found, tmp_path / "tuned", epochs=1)
    with pytest.raises(InputError, match="one network and no supernet"):
        workflows.search(tmp_path / "tuned", tmp_path / "other.json", budget=1)


def test_weights_that_were_not_searched_are_not_tuned(found: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(found.read_text()), "weights": "0"}))
    with pytest.raises(MismatchError, match="search again"):
        workflows.finetune(other, tmp_path / "tuned", epochs=1)
    assert not (tmp_path / "tuned" / "found.json").exists()
    assert load_supernet(Path(Found.load(found).run)).only is None


def test_a_supernet_starts_from_a_pretrained_network(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.pt"
    torch.save(load_supernet(Path(Found.load(found).run)).subnet((0, 1, 2)).state_dict(), source)
    command = f"train --space {SPACE} --data digits --epochs 1 --out {tmp_path}/run --init-from"
    assert main([*command.split(), str(source)]) == 0
    assert f"layers start from {source}" in capsys.readouterr().out
    start = load_run(tmp_path / "run").start
    assert start is not None
    assert start["source"] == str(source)
    torch.save(Supernet(load_space(SPACE)).subnet((0, 1, 2)).state_dict(), source)  # other weights, the same name
    assert main([*command.split(), str(source), "--resume"]) == 2
    assert "start" in capsys.readouterr().err


def test_a_network_of_which_nothing_fits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3, 7)}, tmp_path / "linear.pt")
    command = f"train --space {SPACE} --data digits --out {tmp_path}/run --init-from {tmp_path}/linear.pt"
    assert main(command.split()) == 2
    assert "no layer of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_data_must_fit_the_network(found: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        workflows.finetune(found, tmp_path / "tuned", data=f"folder:{tmp_path}/none")
