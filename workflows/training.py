"""Training of a supernet, and of one network that was found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import FaultError, InputError, unknown_name
from ..files import check_target, exclusive
from ..names import is_attribute
from ..progress import Progress, silent, unheard
from ..search.found import Found
from ..supernet import Data, Run, SearchSpace, Supernet, TrainSettings, load_data, load_run, load_space
from ..supernet import train as train_supernet
from ..supernet.batches import steps_per_epoch, usual_workers
from ..supernet.checkpoint import CHECKPOINT, RUN, weights_fingerprint
from ..supernet.data import data_record
from ..supernet.evaluation import bn_images, inherited_accuracy
from ..supernet.pretrained import initialise_from
from ..supernet.ranks import ALONE, Ranks
from ..supernet.spaces import space_record
from ..supernet.teacher import load_teacher
from ..supernet.training import check_settings
from .runs import as_asked, check_same, objective, run_data, run_of, supernet_of

FOUND = "found.json"
FINETUNE_EPOCHS = 2
CHANGES_OF_IMAGES = ("randaugment", "mixup", "cutmix")


def train(
    space: str,
    data: str,
    out: Path,
    settings: TrainSettings,
    sharing: str = "entangled",
    data_dir: Path | None = None,
    init_from: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
    note: Callable[[str], None] = unheard,
    ranks: Ranks = ALONE,
    workers: int | None = None,
) -> Run:
    """Train a supernet of `space` on `data` into the folder `out`; with `resume` go on from its checkpoint.

    `init_from` names a pretrained network whose weights it starts with: `torchvision:NAME`, or a file of torch;
    `note` is told which layers do. All `ranks` call it alike, rank 0 writes; what torchrun has started anew goes on
    without being told. `workers` processes prepare the images of each rank, as many as `usual_workers` without it.
    """
    check_target(out / RUN)
    settings, loaded = replace(settings, teacher=resolved_teacher(settings.teacher)), load_space(space)
    with ranks.first_alone():
        images = load_data(resolved(data, data_dir), loaded, settings.seed, data_dir)
    torch.manual_seed(settings.seed)
    supernet = Supernet(loaded, sharing)
    with ranks.first_alone() if init_from else nullcontext():
        start = begin_from(supernet, init_from, out, note) if init_from else None
    folder = str(data_dir.resolve()) if data_dir else None
    run = Run(out, space_record(loaded), data_record(images), folder, sharing, asdict(settings), start=start)
    train_run(run, supernet, images, settings, resume, progress, ranks, workers)
    return load_run(out)


def begin_from(supernet: Supernet, source: str, out: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Fill a supernet from a pretrained network; the record of that for the run in `out`.

    A run that has a checkpoint already needs the source no more.
    """
    if not source.startswith("torchvision:"):
        source = str(Path(source).resolve())
    if (out / CHECKPOINT).exists() and (before := load_run(out).start) and before["source"] == source:
        return before
    done = initialise_from(supernet, source)
    note(done.summary())
    return {"source": source, "fingerprint": done.fingerprint, "layers": done.summary()}


def train_run(
    run: Run,
    supernet: Supernet,
    data: Data,
    settings: TrainSettings,
    resume: bool,
    progress: Progress,
    ranks: Ranks = ALONE,
    workers: int | None = None,
    wait: bool = False,
) -> None:
    """Train into the run's folder: from the start, or with `resume` on from where the same training stopped.

    Another process at work there is an error, or with `wait` waited for.
    """
    if ranks.first and not (run.folder / CHECKPOINT).exists():
        check_target(run.folder / RUN, "run")
    steps_per_epoch(data, settings)
    check_settings(settings, data, ranks)
    with ranks.first_alone() if settings.teacher else nullcontext():
        teacher = load_teacher(settings.teacher, data, ranks.device) if settings.teacher else None
    run = replace(run, teacher=teacher.fingerprint if teacher else None)
    begun = f"begun {run.folder.resolve()}"  # by an attempt of torchrun's in which a process died since
    wait |= ranks.pinned(begun)  # what that process has started may take a moment to end
    with exclusive(run.folder, wait) if ranks.first else nullcontext():
        if ranks.first:
            if not (run.folder / CHECKPOINT).exists():  # a run without a finished epoch has nothing to lose
                run.save()
            elif not (resume or ranks.pinned(begun)):
                raise InputError(
                    f"{run.folder} holds a run already: add --resume to continue it, or name another folder"
                )
            ranks.pin(begun)
        ranks.wait()
        check_same(load_run(run.folder), run)
        ahead = usual_workers(data, settings, ranks) if workers is None else workers
        try:
            train_supernet(supernet, data, settings, run.folder, progress, ranks, ahead, teacher)
        except torch.OutOfMemoryError as error:
            raise FaultError(
                f"the GPU has too little memory for {settings.batch // settings.accumulate} images at a time: "
                f"train anew with --accumulate {2 * settings.accumulate}, or a smaller --batch"
            ) from error


def resolved(data: str, data_dir: Path | None) -> str:
    """DATA with a folder's whole path, so that it is found again from elsewhere.

    InputError where `data_dir` is given for data that say themselves where they are.
    """
    if data_dir is not None and (data.startswith("folder:") or is_attribute(data)):
        raise InputError(f"--data-dir {data_dir} is for built-in data: {data} says itself where it is, leave it out")
    return f"folder:{Path(data.removeprefix('folder:')).resolve()}" if data.startswith("folder:") else data


def finetune(
    found_file: Path,
    out: Path,
    data: str | None = None,
    data_dir: Path | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
    workers: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Found:
    """Train the one network of a FOUND.json on, or `from_scratch`, into the folder `out`; writes found.json there.

    `changes` are fields of `TrainSettings`; what is not among them is as in the training of the supernet, the split of
    the data always. Fine-tuning takes few epochs at half the learning rate, on images that are not augmented; on other
    data without the teacher.
    """
    check_target(out / RUN)
    check_target(out / FOUND, "found")
    found = Found.load(found_file)
    origin = run_of(found, found_file)
    space = origin.load_space()
    settings = finetune_settings(origin, from_scratch, data is not None, changes or {}, ranks)
    with ranks.first_alone():
        images, folder = finetune_data(origin, space, data, data_dir)
    torch.manual_seed(settings.seed)
    network, start = Supernet(space, origin.sharing, only=found.arch), None
    if not from_scratch:
        network.inherit(supernet_of(found, found_file))
        start = {"source": found.run, "fingerprint": found.weights, "train": supernet_settings(origin)}
    record = data_record(images)
    run = Run(out, origin.space, record, folder, origin.sharing, asdict(settings), arch=found.arch, start=start)
    train_run(run, network, images, settings, resume, progress, ranks, workers)
    asked = as_asked(found=found_file, data=data, data_dir=data_dir, from_scratch=from_scratch or None, **changes or {})
    tuned = replace(evaluated(found, run, network, objective(images, found.metric), ranks), asked=asked)
    if ranks.first:
        tuned.save(out / FOUND)
    return tuned


def finetune_data(origin: Run, space: SearchSpace, data: str | None, folder: Path | None) -> tuple[Data, str | None]:
    """The images of the run `origin`, or other ones, split by its seed; and the folder in which they lie."""
    where = str(folder.resolve()) if folder else None
    if data is None:
        return run_data(origin, space, folder), where or origin.data_dir
    return load_data(resolved(data, folder), space, origin.train["seed"], folder), where


def supernet_settings(origin: Run) -> dict[str, Any]:
    """How the supernet behind a run was trained, also where the run is of one network that was tuned."""
    settings: dict[str, Any] = (origin.start or {}).get("train", origin.train)
    return settings


def finetune_settings(
    origin: Run, from_scratch: bool, other_data: bool, changes: Mapping[str, Any], ranks: Ranks
) -> TrainSettings:
    """The supernet's settings, for fine-tuning fewer epochs on images as they are at half the rate, with `changes`.

    A batch has as many parts as it had, or one for each rank where those can't share them.
    """
    before = supernet_settings(origin)
    known = TrainSettings.__dataclass_fields__.keys() - {
        "seed",
        "sampling",
        "largest_first",
    }  # of the split, and of supernets
    for name in changes:
        if name not in known:
            raise unknown_name("setting of a fine-tuning", name, known)
    usual: dict[str, Any] = {}
    if not from_scratch:
        usual |= {"epochs": FINETUNE_EPOCHS, "augment": False, "lr": before["lr"] / 2}  # what is trained needs less
        usual |= dict.fromkeys(CHANGES_OF_IMAGES, 0)
    if other_data:
        usual["teacher"] = ""
    if before.get("accumulate", 1) % ranks.world:
        usual["accumulate"] = ranks.world
    settings = TrainSettings(**{**before, **usual, **changes})
    return replace(settings, teacher=resolved_teacher(settings.teacher))


def resolved_teacher(spec: str) -> str:
    """A teacher with its file's whole path, so that it is found again from elsewhere."""
    name, equals, file = spec.partition("=")
    return f"{name}={Path(file).resolve()}" if equals else spec


def evaluated(found: Found, run: Run, network: Supernet, data: Data, ranks: Ranks) -> Found:
    """A found network as it is after it was trained in `run`; front and progress of the search are not its own."""
    images = bn_images(data, run.train["seed"])
    return replace(
        found,
        accuracy=inherited_accuracy(network, data, images, found.arch, ranks),
        metric=data.metric,
        data=data.spec,
        run=str(run.folder.resolve()),
        weights=weights_fingerprint(network),
        front=(),
        progress=(),
    )
