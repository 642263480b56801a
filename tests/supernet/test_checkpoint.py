"""What a run tells others of its history."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.supernet import ChainSpace, Data, Supernet, TrainSettings, train
from hwnas.supernet.checkpoint import TENSORBOARD, read_metrics, tell_tensorboard


def test_a_tensorboard_that_fails_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path / "tensorboard"), 3)

        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None: ...

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))
            if name == "broken":
                raise TypeError(name)

    module = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    tell_tensorboard(tmp_path, 3, loss=0.5, val_accuracy=0.9)
    assert written == [("loss", 0.5, 3), ("val_accuracy", 0.9, 3)]
    tell_tensorboard(tmp_path, 3, broken=1.0)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tell_tensorboard(tmp_path, 3, loss=0.5)  # as where it is not installed
    assert len(written) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard_reads_the_history_of_a_run(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    """The real one: every figure of every epoch, to float32; an epoch that is told again replaces what was."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def told() -> dict[str, dict[int, float]]:
        read = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
        return {name: {it.step: it.value for it in read.Scalars(name)} for name in read.Tags()["scalars"]}

    train(Supernet(tiny), digits, TrainSettings(epochs=2, batch=512), tmp_path)
    known = read_metrics(tmp_path)
    assert told().keys() == {"loss", "val_accuracy", "seconds"}
    for name, values in told().items():
        assert values == pytest.approx({line["epoch"]: line[name] for line in known})
    tell_tensorboard(tmp_path, 2, loss=0.25)
    assert told()["loss"] == pytest.approx({1: known[0]["loss"], 2: 0.25})
