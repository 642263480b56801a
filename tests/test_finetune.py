"""One found network trained on, or alone: it starts from what it inherits, and is a run like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
    tuned = workflows.finetune(found, tmp_path / "tuned", changes={"epochs": 3, "lr": 0.05, "batch": 128})
    assert load_run(tmp_path / "tuned").train["augment"] is False
    again = Found.load(tmp_path / "tuned" / "found.json")
    assert again == tuned
    assert tuned.arch == before.arch
    assert tuned.costs == before.costs
    assert tuned.weights != before.weights
    assert tuned.accuracy > before.accuracy
    assert tuned.asked == {"found": str(found), "epochs": "3", "lr": "0.05", "batch": "128"}
    run = load_run(tmp_path / "tuned")
    origin = load_run(Path(before.run))
    assert run.start == {"source": before.run, "fingerprint": before.weights, "train": origin.train}
    assert run.train["seed"] == 3  # of the run it was found in: its validation images stay unseen
    assert run.data == origin.data
    proof = workflows.export(tmp_path / "tuned" / "found.json", tmp_path / "net.onnx")
    assert proof.max_abs_diff < 1e-4
    assert proof.weights == tuned.weights


def test_from_scratch_forgets_the_inherited_weights(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = load_run(Path(Found.load(found).run))
    workflows.finetune(found, tmp_path / "tuned", changes={"epochs": 1})
    half = supernet.train["lr"] / 2
    assert load_run(tmp_path / "tuned").train == {**supernet.train, "epochs": 1, "augment": False, "lr": half}
    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "inherit", lambda *_: pytest.fail("weights were inherited"))
        for source in (found, tmp_path / "tuned" / "found.json"):  # the supernet's settings, whoever trained last
            out = tmp_path / f"alone of {source.parent.name}"
            workflows.finetune(source, out, from_scratch=True)
            assert load_run(out).train == supernet.train
            assert load_run(out).start is None


def test_a_finetuning_goes_on_where_it_stopped(found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflows.finetune(found, tmp_path / "whole", changes={"epochs": 3})

    def stop(done: float, total: float, words: str) -> None:
        if done / total > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflows.finetune(found, tmp_path / "parts", changes={"epochs": 3}, progress=stop)
    assert len(read_metrics(tmp_path / "parts")) == 2
    assert not (tmp_path / "parts" / "found.json").exists()
    with pytest.raises(InputError, match="--resume"):
        workflows.finetune(found, tmp_path / "parts", changes={"epochs": 3})
    with pytest.raises(InputError, match=r"start .* -> scratch"):
        workflows.finetune(found, tmp_path / "parts", changes={"epochs": 3, "lr": 0.05}, from_scratch=True, resume=True)
    parts = workflows.finetune(found, tmp_path / "parts", changes={"epochs": 3}, resume=True)
    assert parts.weights == Found.load(tmp_path / "whole" / "found.json").weights


def test_a_training_begun_before_augmentation_was_a_setting_goes_on(tmp_path: Path) -> None:
    workflows.train(SPACE, "digits", tmp_path, TrainSettings(epochs=1, batch=128))
    record = json.loads((tmp_path / "run.json").read_text())
    del record["train"]["augment"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    workflows.train(SPACE, "digits", tmp_path, TrainSettings(epochs=1, batch=128), resume=True)
    with pytest.raises(InputError, match="augment True -> False"):
        workflows.train(SPACE, "digits", tmp_path, TrainSettings(epochs=1, batch=128, augment=False), resume=True)


def test_a_network_alone_is_no_place_to_search(found: Path, tmp_path: Path) -> None:
    workflows.finetune(found, tmp_path / "tuned", changes={"epochs": 1})
    with pytest.raises(InputError, match="one network and no supernet"):
        workflows.search(tmp_path / "tuned", tmp_path / "other.json", budget=1)


def test_weights_that_were_not_searched_are_not_tuned(found: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(found.read_text()), "weights": "0"}))
    with pytest.raises(MismatchError, match="search again"):
        workflows.finetune(other, tmp_path / "tuned", changes={"epochs": 1})
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
    source.unlink()
    assert main([*command.split(), str(source), "--resume"]) == 0  # the checkpoint has everything
    assert main([*command.split(), "torchvision:mobilenet_v2_", "--resume"]) == 2
    assert "mean mobilenet_v2" in capsys.readouterr().err


def test_a_network_of_which_nothing_fits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3, 7)}, tmp_path / "linear.pt")
    command = f"train --space {SPACE} --data digits --out {tmp_path}/run --init-from {tmp_path}/linear.pt"
    assert main(command.split()) == 2
    assert "no layer of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classes", [10, 3])
def test_a_network_is_tuned_on_other_data_that_fit(
    classes: int, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (classes, 12, 16, 16), dtype=np.uint8)
    for name, images in enumerate(pixels):
        (tmp_path / "data" / str(name)).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "data" / str(name) / f"{i}.png")
    data = f"folder:{tmp_path}/data"
    status = main(f"finetune {found} --out {tmp_path}/tuned --data {data} --epochs 1 --batch 16 --lr 0.01".split())
    if classes == 3:
        assert status == 2
        assert "has 3 classes" in capsys.readouterr().err
        return
    assert status == 0
    run = load_run(tmp_path / "tuned")
    assert run.data["spec"] == Found.load(tmp_path / "tuned" / "found.json").data == data
    assert (run.train["epochs"], run.train["batch"], run.train["lr"]) == (1, 16, 0.01)
    assert "validation accuracy" in capsys.readouterr().out
