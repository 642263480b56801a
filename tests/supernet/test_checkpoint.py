"""What a run tells others of its history."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.supernet.checkpoint import tell_tensorboard


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
