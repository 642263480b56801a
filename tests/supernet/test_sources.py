"""Data of one's own: folders of images and Python modules, and what can be wrong with them."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hwnas.errors import FaultError, InputError
from hwnas.supernet import load_data, load_space, sources
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
number = Source(split(40), split(10), 2)
pairs = Source((split(40).images, split(40).labels), split(10), ("a", "b"))
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
        ("own_data:number", "own_data:number: classes is 2; their names are needed"),
        ("own_data:pairs", r"own_data:pairs: train is a tuple; a Split\(images, labels\) is needed"),
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


def test_splits_go_by_their_usual_names(tmp_path: Path) -> None:
    for part, count in (("training", 6), ("valid", 3), ("testing", 2)):
        picture_folder(tmp_path / part, count=count)
    source = load_source(f"folder:{tmp_path}", 8, None)
    assert source.val is not None
    assert (source.classes, *map(len, (source.train, source.val, source.test))) == (("cat", "dog"), 12, 6, 4)
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match=r"val and .*valid are the same split"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train")
    picture(picture_folder(tmp_path / "test") / "emu" / "1.png", "RGB")
    with pytest.raises(InputError, match=r"test/emu is a class that .*train has not"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_nothing_is_left_out_in_silence(tmp_path: Path) -> None:
    picture_folder(tmp_path)
    (tmp_path / "cat" / ".ipynb_checkpoints").mkdir()
    for name in (".hidden", "Thumbs.db", ".ipynb_checkpoints/note.txt", ".ipynb_checkpoints/1.png"):
        (tmp_path / "cat" / name).write_text("of the system's")
    load_source(f"folder:{tmp_path}", 8, None)
    (tmp_path / "cat" / "11.heic").write_bytes(b"a photo")
    with pytest.raises(InputError, match=r"cat/11\.heic is no image .*: convert it, or remove it"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_a_photo_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 200  # bright above
    tags = Image.Exif()
    tags[0x0112] = 6  # orientation: turn it clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=tags)
    read = read_image(tmp_path / "turned.png", 8)[:, :, 0]
    assert (read[:, 4:] == 200).all()
    assert (read[:, :4] == 0).all()


def test_a_large_folder_is_in_colour_if_one_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    picture_folder(tmp_path, "L")
    assert load_source(f"folder:{tmp_path}", 8, None).train.images.shape[1] == 1
    picture(tmp_path / "dog" / "9.png", "RGB")
    assert load_source(f"folder:{tmp_path}", 8, None).train.images.shape[1] == 3


def test_what_is_wrong_in_a_large_folder_is_met_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    picture_folder(tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:44])  # its header is whole
    with pytest.raises(InputError, match=r"\.png is not a readable image .*: replace or remove it$"):
        load_data(f"folder:{tmp_path}", load_space(SPACE.format(channels=3)))


class Cifar:
    """What torchvision's data sets look like from outside."""

    fails: Exception | None = None

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        if self.fails:
            raise self.fails
        rng, count = np.random.default_rng(train), 40 if train else 20
        self.data = rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
        self.targets, self.classes = [i % 10 for i in range(count)], [f"class {i}" for i in range(10)]


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_data_of_torchvision_s(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, name, Cifar)
    source = load_source(name.lower(), 32, tmp_path)
    assert source.train.images.shape == (40, 3, 32, 32)
    assert torch.equal(source.train.images[0].permute(1, 2, 0), torch.from_numpy(Cifar(tmp_path, True, True).data[0]))
    assert source.train.labels.tolist()[:11] == [*range(10), 0]
    assert source.classes[3] == "class 3"
    assert source.flip


@pytest.mark.parametrize(
    ("fails", "error", "words"),
    [
        (AssertionError("cut short"), InputError, r"CIFAR10 .* can't be downloaded \(cut short\): name its folder"),
        (OSError(errno.ENOSPC, "No space left on device"), FaultError, "cannot write .*: No space left.*make room"),
    ],
    ids=["damaged", "full"],
)
def test_torchvision_s_errors_are_ours(
    fails: Exception, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", type("CIFAR10", (Cifar,), {"fails": fails}))
    with pytest.raises(error, match=words):
        load_source("cifar10", 32, tmp_path)


def idx(path: Path, values: np.ndarray, kind: int = 8) -> None:
    header = bytes([0, 0, kind, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        (np.full(20, 26), 8, r"fashion-mnist: labels of train run from 26 to 26; with 10 classes"),
        (np.arange(10), 8, r"fashion-mnist: train has images \(20, 1, 28, 28\).* and labels \(10,\)"),
        (np.arange(20) % 10, 13, "train-labels-idx1-ubyte.gz is not a whole gzipped idx file: it begins with 00000d01"),
    ],
    ids=["other labels", "fewer labels", "numbers"],
)
def test_built_in_data_are_checked_too(labels: np.ndarray, kind: int, words: str, tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.zeros((20, 28, 28)))
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels, kind)
    with pytest.raises(InputError, match=words):
        load_source("fashion-mnist", 28, tmp_path)


def test_splits_are_known_in_any_case_and_as_sets(tmp_path: Path) -> None:
    for part, count in (("Train", 6), ("Test_Set", 2)):
        picture_folder(tmp_path / part, count=count)
    source = load_source(f"folder:{tmp_path}", 8, None)
    assert (source.classes, len(source.train), len(source.test)) == (("cat", "dog"), 12, 4)


def test_a_test_set_without_a_training_set_is_no_class(tmp_path: Path) -> None:
    picture_folder(tmp_path / "test")
    picture_folder(tmp_path / "images")
    with pytest.raises(InputError, match=r"test is there without .*train: add that, or rename it if it is a class"):
        load_source(f"folder:{tmp_path}", 8, None)


def test_a_broken_header_in_a_large_folder_is_met_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a picture that is in colour already, and among images of the test."""
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    for part in ("train", "test"):
        picture_folder(tmp_path / part)
    (tmp_path / "test" / "dog" / "9.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"test/dog/9\.png is not a readable image"):
        load_source(f"folder:{tmp_path}", 8, None)
