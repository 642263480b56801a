"""Data of one's own: folders of images and Python modules, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import InputError
from hwnas.supernet import load_data, load_space
from hwnas.supernet.sources import FASHION_MNIST_FOLDERS, load_source, read_image

SPACE = "mobilenet:size=8,channels={channels},classes=2,stem=4,widths=4,depths=2,head=8"
MODULE = """
import torch
from hwnas.supernet import Source, Split

def split(n, channels=3, top=2, side=10):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, channels, side, side + 2), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % top)

good = Source(split(40), split(10), ("a", "b"))
with_val = Source(split(40), split(10), ("a", "b"), val=split(12))
def made(): return good
labels = Source(split(40, top=3), split(10), ("a", "b"))
empty = Source(split(40), split(10), ("a", "b", "never"))
floats = Source(Split(split(40).images.float(), split(40).labels), split(10), ("a", "b"))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def picture(path: Path, mode: str, size: tuple[int, int] = (12, 9), level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level, 0, 0)).save(path)


def picture_folder(root: Path, mode: str = "RGB", count: int = 10) -> Path:
    for name in ("cat", "dog"):
        for i in range(count):
            picture(root / name / f"{i}.png", mode, level=10 * i)
    return root


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_per_class(tmp_path: Path, mode: str, channels: int) -> None:
    folder = picture_folder(tmp_path, mode)
    data = load_data(f"folder:{folder}", load_space(SPACE.format(channels=channels)))
    assert data.classes == ("cat", "dog")
    assert [len(split) for split in (data.train, data.val, data.test)] == [13, 3, 4]
    assert data.train.images.shape[1:] == (channels, 8, 8)


def test_folders_named_train_val_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        picture_folder(tmp_path / part, "L" if part == "test" else "RGB", count)
    data = load_data(f"folder:{tmp_path}", load_space(SPACE.format(channels=3)))
    assert [len(split) for split in (data.train, data.val, data.test)] == [12, 6, 4]
    assert torch.equal(data.test.images[:, 0], data.test.images[:, 2])  # grey became colour


def test_a_picture_is_cropped_to_its_middle(tmp_path: Path) -> None:
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 4) == 200).all()


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    picture_folder(tmp_path)
    (tmp_path / "dog" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"dog/broken\.png is not a readable image"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    picture_folder(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(InputError, match=r"class folder .*emu has no images"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 0 sub-folders: one per class"):
        load_source(f"folder:{tmp_path}", 8, None)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["good", "made", "with_val"])
def test_a_module_of_ones_own(name: str) -> None:
    data = load_data(f"own_data:{name}", load_space(SPACE.format(channels=3)))
    assert len(data.val) == (12 if name == "with_val" else 8)
    assert data.train.images.shape[1:] == (3, 8, 8)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_data:labels", r"labels of train run from 0 to 2; .* must lie in 0\.\.1"),
        ("own_data:empty", "the class 'never' has no training image"),
        ("own_data:floats", r"train has images .* of torch.float32"),
        ("own_data:split_", "cannot load own_data:split_ as a Source"),
        ("own_data:MODULE", "cannot load own_data:MODULE as a Source"),
        ("digit", "unknown data 'digit'; did you mean digits"),
        ("folder:nowhere", "there is no folder nowhere"),
    ],
)
def test_what_is_wrong_is_named(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_source(spec, 8, None)


@pytest.mark.skipif(
    not any(folder.is_dir() for folder in FASHION_MNIST_FOLDERS),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_fashion_mnist_from_debian() -> None:
    source = load_source("fashion-mnist", 28, None)
    assert source.train.images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(source.test.labels).tolist() == [1000] * 10
