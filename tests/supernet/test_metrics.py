"""Metrics against confusion matrices worked out by hand, and the way of a metric from a data set to a certificate."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from hwnas import workflows
from hwnas.errors import InputError
from hwnas.export import certify, to_onnx
from hwnas.export.intervals import accuracy_interval, binomial_interval, bootstrap_interval
from hwnas.files import digest
from hwnas.supernet import (
    ChainSpace,
    Data,
    Run,
    Source,
    Split,
    Supernet,
    TrainSettings,
    load_data,
    load_run,
    load_space,
)
from hwnas.supernet.data import data_record
from hwnas.supernet.evaluation import accuracy, bn_images, calibrated_subnet
from hwnas.supernet.metrics import METRICS, most_likely
from hwnas.supernet.prefixes import SharedPrefixes
from hwnas.supernet.sources import checked, load_source
from hwnas.supernet.spaces import space_record

CONFUSIONS = {  # rows are labels, columns what was predicted
    "all right": (
        [[3, 0], [0, 2]],
        {"accuracy": 1, "balanced-accuracy": 1, "macro-precision": 1, "macro-f1": 1},
    ),
    "the common class always": (
        [[90, 0], [10, 0]],
        {
            "accuracy": Fraction(9, 10),
            "balanced-accuracy": Fraction(1, 2),
            "macro-precision": Fraction(9, 20),
            "macro-f1": Fraction(9, 19),
        },
    ),
    "three classes": (
        [[5, 1, 0], [2, 4, 2], [0, 0, 6]],
        {
            "accuracy": Fraction(15, 20),
            "balanced-accuracy": Fraction(5, 18) + Fraction(4, 24) + Fraction(1, 3),
            "macro-precision": (Fraction(5, 7) + Fraction(4, 5) + Fraction(6, 8)) / 3,
            "macro-f1": (Fraction(10, 13) + Fraction(8, 13) + Fraction(12, 14)) / 3,
        },
    ),
    "a class that only the network names": (
        [[4, 0, 1], [0, 5, 0], [0, 0, 0]],
        {
            "accuracy": Fraction(9, 10),
            "balanced-accuracy": Fraction(9, 10),
            "macro-recall": Fraction(3, 5),
            "macro-precision": Fraction(2, 3),
            "macro-f1": (Fraction(8, 9) + 1 + 0) / 3,
        },
    ),
}
OF_ONE_CLASS = [name for name, metric in METRICS.items() if metric.read is most_likely]
OF_CLASSES = [name for name, metric in METRICS.items() if metric.task == "classification"]
each_metric = pytest.mark.parametrize("metric", OF_CLASSES)
each_confusion = pytest.mark.parametrize(("confusion", "expected"), CONFUSIONS.values(), ids=CONFUSIONS.keys())


def answers(confusion: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array(confusion)
    labels, predicted = np.indices(counts.shape)
    return np.repeat(labels.ravel(), counts.ravel()), np.repeat(predicted.ravel(), counts.ravel())


@pytest.mark.parametrize("metric", OF_ONE_CLASS)
@each_confusion
def test_metrics_are_those_of_the_confusion_matrix(
    confusion: list[list[int]], expected: dict[str, float], metric: str
) -> None:
    known = {"macro-recall": expected["balanced-accuracy"], **expected}
    assert METRICS[metric](*answers(confusion)) == pytest.approx(float(known[metric]), abs=1e-12)


SCIKIT_LEARN = {
    "accuracy": metrics.accuracy_score,
    "balanced-accuracy": metrics.balanced_accuracy_score,
    "macro-precision": partial(metrics.precision_score, average="macro"),
    "macro-recall": partial(metrics.recall_score, average="macro"),
    "macro-f1": partial(metrics.f1_score, average="macro"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # on classes that no label, or no answer, has
@pytest.mark.parametrize("metric", OF_ONE_CLASS)
def test_metrics_are_scikit_learns(metric: str) -> None:
    """As it defines them without being told anything, also where labels lack classes that are named."""
    rng = np.random.default_rng(0)
    for most in (5, 3):  # of five classes that the network knows
        labels, predicted = rng.integers(most, size=40), rng.integers(5, size=40)
        assert METRICS[metric](labels, predicted) == pytest.approx(SCIKIT_LEARN[metric](labels, predicted))


def test_top_5_counts_the_five_likeliest() -> None:
    """Of logits that rank the label first, fifth and sixth, two count; with three classes all do."""
    logits = torch.arange(7.0).expand(3, 7)  # the last class is the likeliest
    metric, labels = METRICS["top-5"], np.array([6, 2, 1])
    assert metric(labels, metric.read(logits).numpy()) == pytest.approx(2 / 3)
    assert metric(np.array([0]), metric.read(torch.tensor([[0.1, 0.5, 0.2]])).numpy()) == 1


def test_errors_of_numbers_are_those_worked_out_by_hand() -> None:
    values, predicted = np.float32([[1, 0], [3, 0]]), np.float32([[2, 0], [1, 4]])
    assert METRICS["mae"](values, predicted) == pytest.approx((1.5 + 2) / 2)
    assert METRICS["rmse"](values, predicted) == pytest.approx((2.5**0.5 + 8**0.5) / 2)
    assert {name: METRICS[name].direction for name in ("accuracy", "rmse", "mae")} == {
        "accuracy": 1,
        "rmse": -1,
        "mae": -1,
    }


# ---- from a data set on


class Majority(nn.Module):
    """Says class 0 of everything but the brightest images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.mean((1, 2, 3)) > 2).float()
        return torch.stack([1 - bright, bright], 1)


def uneven(metric: str = "accuracy", common: int = 90, rare: int = 10) -> Source:
    """Two classes, 9 to 1, alike but for the brightness of some of the rare one."""
    generator = torch.Generator().manual_seed(0)
    count = common + rare
    images = torch.randint(100, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    images[-rare // 2 :] += 150
    split = Split(images, (torch.arange(count) >= common).long())
    return Source(split, split, ("common", "rare"), val=split, metric=metric)


@pytest.fixture(scope="module")
def space() -> ChainSpace:
    found = load_space(
        "mobilenet:size=16,channels=1,classes=2,stem=4,widths=4,depths=2,kernels=3-5,expansions=1,head=8"
    )
    assert isinstance(found, ChainSpace)
    return found


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A module `uneven_data` of a user with one data set per metric."""
    lines = [
        "from hwnas.supernet import Source, Split",
        "import torch",
        "x = torch.load('images.pt', weights_only=True)",
    ]
    lines += ["s = Split(*x)"]
    lines += [f"{m.replace('-', '_')} = Source(s, s, ('common', 'rare'), val=s, metric={m!r})" for m in OF_CLASSES]
    lines += ["other_task = Source(s, s, ('common', 'rare'), task='regresion')"]
    lines += ["other_metric = Source(s, s, ('common', 'rare'), metric='balanced_acuracy')"]
    (tmp_path / "uneven_data.py").write_text("\n".join(lines))
    split = uneven().train
    torch.save((split.images, split.labels), tmp_path / "images.pt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("uneven_data", None)


@pytest.mark.usefixtures("own")
def test_a_data_set_says_its_metric_and_the_run_keeps_it(space: ChainSpace) -> None:
    found = {m: load_data(f"uneven_data:{m.replace('-', '_')}", space) for m in OF_CLASSES}
    assert [data.metric for data in found.values()] == OF_CLASSES
    records = [data_record(data) for data in found.values()]
    assert [(record["task"], record["metric"]) for record in records] == [("classification", m) for m in OF_CLASSES]
    assert len({record["fingerprint"] for record in records}) == len(OF_CLASSES)  # what the evaluation store goes by


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("other_task", "'regresion'; did you mean regression.* known: classification, regression"),
        (
            "other_metric",
            "'balanced_acuracy'; did you mean balanced-accuracy.* known: accuracy, balanced-accuracy, macro-f1",
        ),
    ],
)
def test_what_hwnas_does_not_know_is_named(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_source(f"uneven_data:{spec}", 16, None)


def test_the_fingerprint_of_a_run_from_before_metrics_is_still_the_same(digits: Data) -> None:
    tensors = [tensor for s in (digits.train, digits.val, digits.test) for tensor in (s.images, s.labels)]
    assert data_record(digits)["fingerprint"] == digest(*(tensor.numpy().tobytes() for tensor in tensors))


def test_a_run_from_before_metrics_is_read(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    record = {name: value for name, value in data_record(digits).items() if name not in ("task", "metric")}
    Run(tmp_path, space_record(tiny), record, None, "entangled", {}).save()
    assert "metric" not in json.loads((tmp_path / "run.json").read_text())["data"]
    assert load_run(tmp_path).data["fingerprint"] == data_record(digits)["fingerprint"]


@pytest.mark.usefixtures("own")
def test_accuracy_is_the_metric_of_the_data(space: ChainSpace) -> None:
    """The network finds 5 of the 10 rare images and all of the 90 common ones."""
    expected = {"accuracy": 0.95, "balanced-accuracy": 0.75, "macro-f1": (180 / 185 + 10 / 15) / 2}
    for metric, value in expected.items():
        data = load_data(f"uneven_data:{metric.replace('-', '_')}", space)
        assert accuracy(Majority(), data, data.val) == pytest.approx(value, abs=1e-12)


@pytest.mark.usefixtures("own")
def test_candidates_of_a_search_are_judged_by_the_metric(space: ChainSpace) -> None:
    torch.manual_seed(0)
    supernet, plain = Supernet(space), load_data("uneven_data:accuracy", space)
    images, archs = bn_images(plain, 0), [(0, 0), (1, 1), (0, 1)]
    found = {m: list(map(SharedPrefixes(supernet, replace(plain, metric=m), images), archs)) for m in OF_CLASSES}
    for i, arch in enumerate(archs):
        subnet = calibrated_subnet(supernet, arch, images)
        with torch.no_grad():
            right = subnet(plain.normalise(plain.val.images)).argmax(1) == plain.val.labels
        common, rare = right[:90].float().mean().item(), right[90:].float().mean().item()
        assert found["accuracy"][i] == right.sum().item() / 100
        assert found["balanced-accuracy"][i] == pytest.approx((common + rare) / 2, abs=1e-7)
    assert found["accuracy"] != found["balanced-accuracy"]


# ---- in the certificate


def test_the_interval_of_accuracy_is_exact() -> None:
    assert accuracy_interval("accuracy", *answers([[90, 0], [10, 0]])) == binomial_interval(0.9, 100)


@pytest.mark.parametrize("count", [200, 1000])
def test_the_bootstrap_of_a_fraction_is_as_wide_as_its_binomial(count: int) -> None:
    """The resampled fraction is binomial: its deviation is sqrt(p (1 - p) / n), and 0.03 of it the error of 1,000."""
    right = count * 8 // 10
    low, high = bootstrap_interval(METRICS["accuracy"], *answers([[right, count - right]]))
    deviation = (0.8 * 0.2 / count) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)
    assert (high + low) / 2 == pytest.approx(0.8, abs=0.15 * deviation)


def test_a_rare_class_makes_the_interval_of_balanced_accuracy_wide() -> None:
    """Half the recall of ten images: 1.96 / 2 deviations of sqrt(0.25 / 10), far more than the fraction's."""
    low, high = accuracy_interval("balanced-accuracy", *answers([[990, 0], [5, 5]]))
    assert low < 0.75 < high
    assert (high - low) / 2 == pytest.approx(0.98 * (0.25 / 10) ** 0.5, rel=0.15)


@pytest.mark.usefixtures("own")
@each_metric
def test_a_certificate_names_the_metric_of_its_figures(space: ChainSpace, metric: str) -> None:
    torch.manual_seed(0)
    supernet, data = Supernet(space), load_data(f"uneven_data:{metric.replace('-', '_')}", space)
    subnet = calibrated_subnet(supernet, (0, 1), bn_images(data, 0))
    found = certify(supernet, (0, 1), subnet, to_onnx(subnet, [(1, 1, 16, 16)]), data, "", {}, {}, {})
    assert found.metric == metric
    assert found.accuracy_onnx == pytest.approx(found.accuracy_torch, abs=0.06)  # one rare image on the fence
    assert found.accuracy_torch == accuracy(subnet, data, data.test)
    assert found.accuracy_interval[0] <= found.accuracy_onnx <= found.accuracy_interval[1]


def test_built_in_data_are_classified_by_accuracy() -> None:
    source = load_source("digits", 8, None)
    assert (source.task, source.metric) == ("classification", "accuracy")
    assert checked(source, "digits") is source


# ---- numbers instead of classes


BRIGHTNESS = """
import torch
from hwnas.supernet import Source, Split

def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(40, 216, (count, 1, 1, 1), generator=generator)
    images = (level + torch.randint(-39, 40, (count, 1, 16, 16), generator=generator)).to(torch.uint8)
    return Split(images, torch.cat([level.float() / 255, 1 - level.float() / 255], 1).view(count, 2))

brightness = Source(split(512, 0), split(100, 1), ("light", "dark"), task="regression")
by_mae = Source(split(512, 0), split(100, 1), ("light", "dark"), task="regression", metric="mae")
wrong = Source(split(50, 0), split(50, 1), ("light", "dark"), task="regression", metric="accuracy")
classes = Source(split(50, 0), split(50, 1), ("light", "dark"))
"""
NUMBERS = "mobilenet:size=16,channels=1,classes=2,stem=8,widths=8-16,depths=1-2,kernels=3-5,expansions=1-2,head=16"


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "brightness_data.py").write_text(BRIGHTNESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("brightness_data", None)


def test_the_whole_way_with_numbers(numbers: Path) -> None:
    """The error falls below what the mean would have (0.2); a search takes the smallest; the certificate names it."""
    settings = TrainSettings(epochs=8, batch=32, augment=False)
    run = workflows.train(NUMBERS, "brightness_data:brightness", numbers / "run", settings)
    assert workflows.last_metrics(run)["val_accuracy"] < 0.1
    found = workflows.search(numbers / "run", numbers / "found.json", budget=12, pareto="params")
    errors = [-evaluation.accuracy for evaluation in found.result.history]
    assert (found.found.metric, found.found.accuracy) == ("rmse", min(errors))
    front = [net["accuracy"] for net in found.found.front]
    assert front == sorted(front, reverse=True)
    assert front[-1] == min(errors)
    again = workflows.search(numbers / "run", numbers / "mae.json", budget=12, metric="mae")
    assert again.found.metric == "mae"
    assert again.found.reused == 0  # another figure
    assert workflows.export(numbers / "mae.json", numbers / "by-mae.onnx").metric == "mae"
    tuned = workflows.finetune(numbers / "mae.json", numbers / "tuned", changes={"epochs": 1})
    assert (tuned.metric, tuned.accuracy > 0) == ("mae", True)
    proof = workflows.export(numbers / "found.json", numbers / "net.onnx")
    assert proof.metric == "rmse"
    assert proof.accuracy_onnx == pytest.approx(proof.accuracy_torch, abs=1e-4)
    assert proof.accuracy_interval[0] <= proof.accuracy_onnx <= proof.accuracy_interval[1]


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wrong", "unknown metric of brightness_data:wrong 'accuracy'; .*known: mae, rmse"),
        ("classes", r"labels \(50, 2\) of torch.float32; uint8 \(N, C, H, W\) and int64 \(N,\) are needed"),
    ],
)
def test_a_task_and_its_labels_must_agree(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_source(f"brightness_data:{spec}", 16, None)


@pytest.mark.usefixtures("numbers")
def test_numbers_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mixup and cutmix mix classes, and brightness_data:brightness is regression"):
        workflows.train(NUMBERS, "brightness_data:brightness", tmp_path / "run", TrainSettings(epochs=1, mixup=0.2))
