"""Teachers: what they say of images as a training has them, and a step that learns from them, against plain torch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.transforms.v2.functional import resize

from hwnas import workflows
from hwnas.errors import InputError
from hwnas.supernet import Data, Supernet, TrainSettings, load_space, train
from hwnas.supernet.ranks import CPU
from hwnas.supernet.teacher import IMAGENET_MEAN, IMAGENET_STD, Teacher, load_teacher

NAME = "mobilenet_v3_small"
SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4,depths=1,head=8"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network of torchvision's for ten classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "net.pt"
    torch.save(torchvision.models.get_model(NAME, num_classes=10).state_dict(), path)
    return path


def test_it_sees_grey_images_in_all_of_its_channels(file: Path, digits: Data) -> None:
    teacher = load_teacher(f"torchvision:{NAME}={file}", digits, CPU)
    plain = torchvision.models.get_model(NAME, num_classes=10).eval()
    plain.load_state_dict(torch.load(file, weights_only=True))
    images = digits.normalise(digits.train.images[:6])
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), plain(images.expand(-1, 3, -1, -1)))
    assert not teacher(images).requires_grad


def test_imagenets_weights_get_images_on_imagenets_scale(digits: Data) -> None:
    """Whatever mean and deviation the training's data have."""
    data = replace(digits, mean=torch.tensor([0.3]), std=torch.tensor([0.2]))
    own = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    teacher = Teacher(nn.Flatten(), 3, "", data, *own)
    pixels = digits.train.images[:4]
    expected = (pixels.float() / 255 - own[0].view(1, 3, 1, 1)) / own[1].view(1, 3, 1, 1)
    torch.testing.assert_close(teacher(data.normalise(pixels)), expected.flatten(1))


@pytest.mark.parametrize(
    ("name", "size_px"),
    [
        (NAME, None),
        ("resnet18", None),
        ("googlenet", None),
        ("inception_v3", 299),
        pytest.param("vit_b_16", 224, marks=pytest.mark.slow),
    ],
)
def test_it_may_be_of_any_family(name: str, size_px: int | None, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size of the data; such as take no images of 16 pixels at ImageNet's. Auxiliary outputs are left out."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plain = torchvision.models.get_model(name, num_classes=10).eval()
    monkeypatch.setattr("hwnas.supernet.teacher.read_state", lambda _: plain.state_dict())
    teacher = load_teacher(f"torchvision:{name}=net.pt", digits, CPU)
    assert teacher.size_px == size_px
    images = digits.normalise(digits.train.images[:2]).expand(-1, 3, -1, -1)
    seen = images if size_px is None else resize(images, [size_px, size_px])
    with torch.no_grad():
        torch.testing.assert_close(teacher(images[:, :1]), plain(seen), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_learns_from_labels_and_teacher(
    file: Path, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setitem(train.__globals__, "steps_per_epoch", lambda *_: 1)
    monkeypatch.setitem(train.__globals__, "probe_accuracy", lambda *_, **__: 0.0)
    spec = f"torchvision:{NAME}={file}"
    settings = TrainSettings(
        epochs=1, augment=False, warmup=0, weight_decay=0, clip_norm=1e6, teacher=spec, teacher_share=share
    )
    teacher, space = load_teacher(spec, digits, CPU), load_space(SPACE)
    torch.manual_seed(0)
    taught = Supernet(space, only=(1,))
    train(taught, digits, settings, tmp_path, teacher=teacher)
    torch.manual_seed(0)
    plain = Supernet(space, only=(1,)).train()
    rows = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(0))[:32]
    images, labels = digits.normalise(digits.train.images[rows]), digits.train.labels[rows]
    logits, said = plain(images, (1,)), teacher(images).softmax(1)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    soft = -(said * logits.log_softmax(1)).sum(1).mean()
    ((1 - share) * hard + share * soft).backward()
    for name, weight in plain.named_parameters():
        expected = weight.detach() - 0.05 * weight.grad  # type: ignore[operator] # half of the rate of 0.1
        torch.testing.assert_close(taught.get_parameter(name).detach(), expected, atol=1e-6, rtol=1e-5)


def test_what_cannot_teach_is_named(file: Path, digits: Data) -> None:
    seven = replace(digits, classes=digits.classes[:7])
    train = replace(digits.train, images=digits.train.images.expand(-1, 2, -1, -1))
    two_channels = replace(digits, train=train, mean=digits.mean.expand(2), std=digits.std.expand(2))
    for spec, data, message in [
        ("resnet18", digits, r"resnet18 can't teach digits \(classification\): write torchvision:NAME=FILE.pt"),
        (
            f"torchvision:mobilenet_v3_smal={file}",
            digits,
            "unknown torchvision model .* did you mean mobilenet_v3_small",
        ),
        (f"torchvision:{NAME}={file}", seven, r"does not tell 7 classes apart \(size mismatch for classifier"),
        (f"torchvision:{NAME}={file}", replace(digits, task="regression"), r"can't teach digits \(regression\)"),
        (f"torchvision:{NAME}=nothing.pt", digits, "there is no file nothing.pt"),
        (
            f"torchvision:{NAME}={file}",
            two_channels,
            r"can't look at images of 2x16x16 \(.* channels.*\): take another",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            load_teacher(spec, data, CPU)


def test_a_training_goes_on_with_the_same_teacher_only(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "net.pt"
    copy.write_bytes(file.read_bytes())
    settings = TrainSettings(epochs=1, batch=512, teacher=f"torchvision:{NAME}={copy}")
    workflows.train(SPACE, "digits", tmp_path / "run", settings)
    workflows.train(SPACE, "digits", tmp_path / "run", settings, resume=True)
    torch.save(torchvision.models.get_model(NAME, num_classes=10).state_dict(), copy)
    with pytest.raises(InputError, match=r"begun with other settings \(weights of the teacher"):
        workflows.train(SPACE, "digits", tmp_path / "run", settings, resume=True)
