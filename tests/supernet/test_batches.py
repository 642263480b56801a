"""The images of a step: augmentation against a loop, parts that do not depend on who asks for them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from hwnas.errors import FaultError
from hwnas.supernet import Data, TrainSettings, load_data, load_space
from hwnas.supernet.batches import MOST_WORKERS, Part, augment, prepared, seed_of, training_batches, usual_workers
from hwnas.supernet.pictures import Pictures
from hwnas.supernet.ranks import CPU, Ranks

PLAIN = TrainSettings(batch=16, augment=False)


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def pictures(count: int, channels: int, size: int) -> torch.Tensor:
    """No two pixels alike, none 0."""
    return torch.arange(1, count * channels * size**2 + 1, dtype=torch.int32).view(count, channels, size, size)


def shifted(picture: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """By a loop: what was at (y, x) is at (y + down, x + right)."""
    moved, size = torch.zeros_like(picture), picture.shape[-1]
    for y in range(size):
        for x in range(size):
            if 0 <= y - down < size and 0 <= x - right < size:
                moved[:, y, x] = picture[:, y - down, x - right]
    return moved


def possible(picture: torch.Tensor, pad: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    steps = range(-pad, pad + 1)
    return {
        (moved.flip(-1) if mirrored else moved).numpy().tobytes(): (down, right, mirrored)
        for down in steps
        for right in steps
        for moved in [shifted(picture, down, right)]
        for mirrored in ([False, True] if flip else [False])
    }


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_shifts_by_an_eighth_and_mirrors_when_told(flip: bool) -> None:
    images = pictures(1, 2, 16).expand(1500, -1, -1, -1).contiguous()
    known = possible(images[0], 2, flip)
    found = [known[row] for row in rows(augment(images, flip, torch.Generator().manual_seed(0)).contiguous())]
    assert set(found) == set(known.values())  # all 25 shifts, each mirrored or not: none further
    assert np.mean([mirrored for *_, mirrored in found]) == pytest.approx(0.5 * flip, abs=0.05)


def test_each_image_has_a_shift_of_its_own() -> None:
    images = pictures(40, 1, 16)
    moved = augment(images, False, torch.Generator().manual_seed(0)).contiguous()
    found = [possible(image, 2, False)[row] for image, row in zip(images, rows(moved), strict=True)]
    assert len(set(found)) > 10


# ---- batches


def images_of(data: Data, settings: TrainSettings, step: int) -> torch.Tensor:
    """The images of the first part of a step's batch as the network takes them."""
    return prepared(next(training_batches(data, settings, step))[0], data, settings, step, CPU)[0]


def test_batches_are_a_function_of_seed_and_step(digits: Data) -> None:
    first, other = TrainSettings(batch=16, seed=3), TrainSettings(batch=16, seed=4)
    assert torch.equal(images_of(digits, first, 70), images_of(digits, first, 70))
    assert not torch.equal(images_of(digits, first, 70), images_of(digits, first, 71))
    assert not torch.equal(images_of(digits, first, 70), images_of(digits, other, 70))


def test_an_epoch_visits_every_image_once_in_whole_batches(digits: Data) -> None:
    settings = replace(PLAIN, batch=49, epochs=2)
    labels = [part.labels for parts in training_batches(digits, settings) for part in parts]
    assert [len(some) for some in labels] == [49] * 44
    for epoch in (labels[:22], labels[22:]):
        assert torch.equal(torch.bincount(torch.cat(epoch)), torch.bincount(digits.train.labels))
    assert not torch.equal(labels[0], labels[22])


def test_without_augmentation_images_are_as_they_are(digits: Data) -> None:
    images, augmented = (images_of(digits, replace(PLAIN, augment=augment), 0) for augment in (False, True))
    assert not torch.equal(images, augmented)
    originals = {row.tobytes() for row in digits.normalise(digits.train.images).numpy()}
    assert all(row.tobytes() in originals for row in images.contiguous().numpy())


CHANGED = {
    "augment": {"augment": True},
    "randaugment": {"randaugment": 9},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "all": {"augment": True, "randaugment": 5, "mixup": 0.2, "cutmix": 1.0},
}
each_change = pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())


@each_change
def test_a_part_is_the_same_for_every_rank_that_asks(digits: Data, change: dict[str, float]) -> None:
    """Rank 1 of 2 gets the second and fourth part of what one process gets, whatever anyone drew before."""
    settings = replace(PLAIN, batch=32, accumulate=4, **change)  # type: ignore[arg-type]

    def made(mine: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [prepared(part, digits, settings, 5, CPU) for part in next(training_batches(digits, settings, 5, mine))]

    whole = made((0, 1, 2, 3))
    state = torch.random.get_rng_state()
    torch.rand(7)
    half = made((1, 3))
    torch.random.set_rng_state(state)
    for (images, labels), (same, alike) in zip([whole[1], whole[3]], half, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, alike)
    assert not torch.equal(whole[0][0], whole[1][0])


@each_change
def test_making_batches_leaves_the_random_state_alone(digits: Data, change: dict[str, float]) -> None:
    before = torch.random.get_rng_state()
    images_of(digits, replace(PLAIN, **change), 0)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixed_images_have_the_labels_of_both(digits: Data, change: dict[str, float]) -> None:
    """Of mixup every image is the same mean of two, and its label says which; of cutmix every pixel is of one."""
    settings = replace(PLAIN, batch=64, **change)  # type: ignore[arg-type]
    part = next(training_batches(digits, settings, 3))[0]
    images, labels = prepared(part, digits, settings, 3, CPU)
    plain, other = digits.normalise(part.images), digits.normalise(part.images).roll(1, 0)
    share = labels[torch.arange(64), part.labels]
    alike = part.labels == part.labels.roll(1)
    assert torch.allclose(labels.sum(1), torch.ones(64))
    assert torch.allclose(share[~alike], share[~alike][0].expand((~alike).sum()))
    if "mixup" in change:
        assert torch.allclose(images, share[~alike][0] * plain + (1 - share[~alike][0]) * other, atol=1e-5)
    else:
        assert ((images == plain) | (images == other)).all()


def test_randaugment_is_torchvisions(digits: Data) -> None:
    """Each image by itself, from the random state of the step and its part."""
    parts = next(training_batches(digits, replace(PLAIN, batch=64, accumulate=2, randaugment=9), 3, mine=(0, 1)))
    plain = next(training_batches(digits, replace(PLAIN, batch=64, accumulate=2), 3, mine=(0, 1)))
    change = v2.RandAugment(magnitude=9)
    for part, before in zip(parts, plain, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(PLAIN.seed, "randaugment", 3, part.number))
            expected = torch.stack([change(image) for image in before.images])
        assert torch.equal(part.images, expected)
        assert torch.equal(part.labels, before.labels)
        assert (part.images != before.images).flatten(1).any(1).float().mean() > 0.5


def test_the_magnitude_says_how_far_randaugment_goes(digits: Data) -> None:
    def changed(magnitude: int) -> float:
        made = next(training_batches(digits, replace(PLAIN, batch=256, randaugment=magnitude), 0))[0].images
        plain = next(training_batches(digits, replace(PLAIN, batch=256), 0))[0].images
        return (made.float() - plain.float()).abs().mean().item()

    assert 0 < changed(1) < changed(9) < changed(30)


def test_mixup_and_cutmix_take_turns_where_both_are_on(digits: Data) -> None:
    """In which of 40 parts of batches every pixel is that of one of two images."""
    settings, found = replace(PLAIN, batch=64, mixup=0.4, cutmix=1.0), Counter[bool]()
    for step, (part,) in zip(range(40), training_batches(digits, settings), strict=False):
        images, _ = prepared(part, digits, settings, step, CPU)
        plain = digits.normalise(part.images)
        found[bool(((images == plain) | (images == plain.roll(1, 0))).all())] += 1
    assert min(found[True], found[False]) >= 10


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks of processes with threads
def test_workers_make_the_same_batches(digits: Data) -> None:
    settings = replace(PLAIN, batch=256, epochs=1, randaugment=9)

    def all_of(workers: int) -> list[Part]:
        return [part for parts in training_batches(digits, settings, workers=workers) for part in parts]

    for alone, ahead in zip(all_of(0), all_of(2), strict=True):
        assert torch.equal(alone.images, ahead.images)
        assert torch.equal(alone.labels, ahead.labels)


# ---- images that stay files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten grey pictures each, of two sizes."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = rng.integers(100 * label, 100 * label + 99, (20 + number, 24), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[], Data]:
    """The folder as a data set too large for memory."""
    monkeypatch.setattr("hwnas.supernet.sources.IN_MEMORY", 100)
    space = load_space("mobilenet:size=16,channels=1,classes=2,stem=4,widths=4,depths=1,head=8")
    return lambda: load_data(f"folder:{folder}", space)


def test_a_large_folder_is_read_when_it_is_needed(
    streamed: Callable[[], Data], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    data = streamed()
    assert isinstance(data.train.images, Pictures)
    monkeypatch.undo()
    space = load_space("mobilenet:size=16,channels=1,classes=2,stem=4,widths=4,depths=1,head=8")
    whole = load_data(f"folder:{folder}", space)
    for name in ("train", "val", "test"):
        files, tensors = getattr(data, name), getattr(whole, name)
        assert torch.equal(files.labels, tensors.labels)
        assert torch.equal(files.images[:], tensors.images)
    assert torch.allclose(data.mean, whole.mean)
    assert torch.allclose(data.std, whole.std)
    settings = replace(PLAIN, batch=4, epochs=1)
    assert torch.equal(images_of(data, settings, 1), images_of(whole, settings, 1))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_went_bad_is_named(streamed: Callable[[], Data], workers: int) -> None:
    data = streamed()
    assert isinstance(data.train.images, Pictures)
    bad = data.train.images.files[0]
    bad.write_bytes(b"no picture")
    with pytest.raises(FaultError, match=rf"{bad.name} is not a readable image"):
        list(training_batches(data, replace(PLAIN, batch=4, epochs=1), workers=workers))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux's count of cores")
def test_files_are_read_ahead_without_being_asked_for(
    streamed: Callable[[], Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, gpu = streamed(), Ranks(device=torch.device("cuda"))
    memory = replace(files, train=files.train.take(torch.arange(4)))
    for cores, beside, expected in ((64, 1, MOST_WORKERS), (6, 2, 3), (2, 4, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
        assert usual_workers(files, PLAIN, gpu) == expected
        assert usual_workers(files, PLAIN, Ranks()) == 1
        assert usual_workers(memory, PLAIN, gpu) == usual_workers(memory, PLAIN, Ranks()) == 0
        assert usual_workers(memory, replace(PLAIN, randaugment=9), gpu) == expected  # each image by itself
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    batch = PLAIN.batch * 16 * 16  # bytes
    for free, expected in ((3 * 4 * batch, 3), (batch, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert usual_workers(files, PLAIN, gpu) == expected
