"""Export of a found network: fit for shipping, measured, and proven; what fails the proof is kept aside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import torch
from torch import nn

from .. import __version__
from ..devices import Device, load_device
from ..errors import InputError
from ..export import (
    INT8,
    PLAIN,
    Certificate,
    OfPixels,
    at_batch,
    at_opset,
    certify,
    described,
    model_card,
    to_int8,
    to_mobile,
    to_onnx,
)
from ..export.card import CARD
from ..export.certificate import COMPARED, ROUNDED, MobileCheck, Read, as_array, numbers, objections
from ..export.running import onnx_session, run_onnx
from ..export.shipping import MARK
from ..export.targets import Wanted, check_targets, engine_suffix, installed, renamed
from ..files import check_target, write_atomic, write_bytes
from ..latency.profile import formed
from ..progress import Progress, silent
from ..search.found import Found
from ..supernet import Data, Supernet
from ..supernet.cost import COSTS
from ..supernet.evaluation import bn_images, calibrated_subnet, training_images
from ..supernet.network import evaluating
from .runs import objective, run_data, run_of, supernet_of
from .timing import Measured, check_known, measure_exported, together

CALIBRATION = 256  # training images whose ranges an int8 network is made for
REJECTED = ".rejected"
ENGINES = {name: engine_suffix(name) for name in ("tensorrt", "tensorrt-rtx")}  # what compilers make of it
BESIDE = (".json", ".md", ".ort", ".required_operators.config", *ENGINES.values())
"""What is written beside NET.onnx, by its suffix."""


@dataclass(frozen=True)
class Shipping:
    """How a network is to be written.

    `batch` None leaves the batch size open; `opset` is the newest that its reader knows; with `pixels` it reads
    float32 0..255 and normalises them itself; `int8` quantizes it (`symmetric`: as TensorRT takes it),
    for a `drop` of the metric of at most so much; `mobile` writes ONNX Runtime's format for phones, too; `targets` are
    other programs that are to read it.
    """

    batch: int | None = 1
    opset: int = 18
    pixels: bool = False
    int8: bool = False
    symmetric: bool = False
    drop: float = INT8.metric
    mobile: bool = False
    targets: tuple[Wanted, ...] = ()

    @property
    def precision(self) -> str:
        """As devices call it."""
        return "fp32" if not self.int8 else "int8-symmetric" if self.symmetric else "int8"


@dataclass(frozen=True)
class Subject:
    """What is exported: the network found, its supernet, its data, and itself as a plain module."""

    found: Found
    supernet: Supernet
    data: Data
    subnet: nn.Module
    seed: int

    def read(self, shipping: Shipping) -> Read:
        """What makes uint8 images ready for the exported network."""
        return torch.Tensor.float if shipping.pixels else self.data.normalise

    def model(self, shipping: Shipping, batch: int | None) -> onnx.ModelProto:
        """The network in fp32, for so many images per run."""
        module = OfPixels(self.subnet, self.data.mean, self.data.std) if shipping.pixels else self.subnet
        shape = self.supernet.space.input_shape(batch or 2)  # torch takes an open size of 1 for a fixed one
        return at_opset(to_onnx(module, [shape], dynamic_batch=batch is None), shipping.opset)

    def as_shipped(self, model: onnx.ModelProto, shipping: Shipping) -> onnx.ModelProto:
        """A model in the precision in which it is shipped."""
        if not shipping.int8:
            return model
        (entry,) = model.graph.input
        batch = entry.type.tensor_type.shape.dim[0].dim_value or 1
        count = -(-CALIBRATION // batch) * batch  # whole batches
        images = training_images(self.data, self.seed, count)
        return to_int8(model, as_array(self.read(shipping)(images)), shipping.symmetric)


def export(
    found_file: Path,
    out: Path,
    device: str | Sequence[str] | None = None,
    shipping: Shipping = Shipping(),
    progress: Progress = silent,
) -> Certificate:
    """Write the network of a FOUND.json as ONNX to `out`; its certificate (.json) and its card (.md) go beside it.

    With `device`, one or several, the exported file is measured there. Where the certificate has reasons to reject it,
    all is written under names that end in .rejected, and what was there before stays.
    """
    if out.suffix != ".onnx":
        raise InputError(f"--out {out} must end in .onnx; the certificate is written beside it as .json")
    check_places(out)
    installed(shipping.targets)
    asked = [device] if isinstance(device, str) else list(device or ())
    where = devices_of(asked, shipping)
    symmetric = shipping.symmetric or any(one.form.precision == "int8-symmetric" for one in where)
    shipping, subject = replace(shipping, symmetric=symmetric), _subject(found_file)
    for one in where:
        check_known(subject.found, one)
    progress(0, 3, "exporting")
    plain = subject.model(shipping, shipping.batch)
    model = described(subject.as_shipped(plain, shipping), _words(subject, shipping))
    measured = together([_measured(subject, shipping, plain, model, one, progress) for one in where])
    progress(2, 3, "comparing outputs and accuracy")
    certificate = _certified(subject, shipping, model, measured)
    certificate = replace(certificate, device=shlex.join(map(without_folders, asked)))
    if shipping.int8:
        certificate = replace(certificate, size_fp32_bytes=len(plain.SerializeToString()))
    certificate, beside = _judged(subject, shipping, model.SerializeToString(), out, certificate)
    _write(out, model.SerializeToString(), beside, certificate)
    return certificate


def check_places(out: Path) -> None:
    """InputError where a file that belongs to `out` can't be written, or something of the user's would be lost."""
    check_target(out)
    for ending in ("", REJECTED):
        for suffix in (out.suffix, *BESIDE):
            check_target(Path(f"{out.with_suffix(suffix)}{ending}"), "certificate" if suffix == ".json" else "")
    check_card(out.with_suffix(".md"))
    if out.exists() and not is_export(out):
        raise InputError(f"{out} would be overwritten, but it is no export of hwnas: give --out another name")
    if not out.with_suffix(".json").exists() and not is_export(out):  # nothing there is of an export of before
        for path in (out.with_suffix(suffix) for suffix in BESIDE[2:]):
            if path.exists():
                raise InputError(f"{path} is there already, and not of an export to {out}: give --out another name")


def is_export(path: Path) -> bool:
    """Whether a file is a network of ours, as one is that was written before the disk was full."""
    try:
        return any(entry.key.startswith(MARK) for entry in onnx.load(path, load_external_data=False).metadata_props)
    except Exception:  # there is none, or it is something else: protobuf has errors of its own
        return False


def devices_of(texts: Sequence[str], shipping: Shipping) -> list[Device]:
    """The devices that texts name; InputError where two share a name, or one has no use for the file."""
    devices = [load_device(text) for text in texts]
    names = [device.name for device in devices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two devices are called {twice[0]}: name each once, by the name of its own table")
    for device in devices:
        check_form(device, shipping)
    return devices


def check_form(device: Device, shipping: Shipping) -> None:
    """InputError where a device runs networks in a precision that the file will not have, and could have or can't."""
    form = device.form
    if form.precision.startswith("int8") and not shipping.int8:
        raise InputError(f"{device.name} runs networks in {form.precision}: export with --int8, so does the file")
    if form.precision == "fp16" and shipping.int8:
        raise InputError(f"{device.name} runs networks in fp16, and an int8 one stays int8: export without --int8")


def check_card(path: Path) -> None:
    """InputError where no card can be written to `path`, or another text would be lost."""
    check_target(path)
    if path.exists() and not path.read_bytes().startswith(CARD.encode()):
        raise InputError(f"{path} would be overwritten by the network's card, but it is none: give --out another name")


def _subject(found_file: Path) -> Subject:
    found = Found.load(found_file)
    run, supernet = run_of(found, found_file), supernet_of(found, found_file)
    data, seed = objective(run_data(run, supernet.space), found.metric), run.train["seed"]
    subnet = calibrated_subnet(supernet, found.arch, bn_images(data, seed))
    return Subject(found, supernet, data, subnet, seed)


def without_folders(text: str) -> str:
    """What names a space, data or device, without the folders of this machine: what is shipped tells nothing of them.

    Settings behind a name lose theirs one by one; what stands behind `folder:` is a path, whatever its letters.
    """
    kind, _, rest = text.partition(":")
    settings = [item.partition("=") for item in rest.split(",") if item]
    if "/" not in kind and kind != "folder" and settings and all(equals for _, equals, _ in settings):
        return f"{kind}:{','.join(name + '=' + re.sub('.*/', '', value.rstrip('/')) for name, _, value in settings)}"
    return re.sub(r"^(\w+:)?.*/", r"\1", text.rstrip("/"))


def _words(subject: Subject, shipping: Shipping) -> dict[str, str]:
    """What the file says of itself, each value JSON but plain text."""
    found, data = subject.found, subject.data
    return {
        "version": __version__,
        "space": without_folders(str(subject.supernet.space)),
        "arch": json.dumps(found.arch),
        "limits": json.dumps(found.limits),
        "data": without_folders(found.data),
        "classes": json.dumps(data.classes),
        "input": "pixels" if shipping.pixels else "normalised",
        "mean": json.dumps(data.mean.tolist()),
        "std": json.dumps(data.std.tolist()),
        "precision": shipping.precision,
        "weights": found.weights,
    }


def _measured(
    subject: Subject,
    shipping: Shipping,
    plain: onnx.ModelProto,
    model: onnx.ModelProto,
    device: Device,
    progress: Progress,
) -> Measured:
    """What the exported file takes on a device, in the form that the device takes.

    An open batch is set to the device's in the file's own graph; of another fixed one a network of the same weights is
    timed, which tells nothing of the file.
    """
    form = device.form
    if shipping.batch is None:
        plain, model = at_batch(plain, form.batch), at_batch(model, form.batch)
    elif form.batch != shipping.batch:
        plain = subject.model(shipping, form.batch)
        model = subject.as_shipped(plain, shipping)
    timed = model.SerializeToString() if shipping.int8 else formed(model, form)
    beside = plain.SerializeToString() if shipping.int8 else None
    measured = measure_exported(subject.found, subject.supernet.space, timed, device, progress, beside)
    other = [f"with batch {form.batch}"] * (shipping.batch not in (None, form.batch))
    other += [f"in {form.precision}"] * (not shipping.int8 and form.precision != shipping.precision)
    words = [f"with its open batch set to {form.batch}"] * (shipping.batch is None) + other
    latency = {
        name: replace(times, timed_as=" and ".join(words), of_file=not other)
        for name, times in measured.latency.items()
    }
    notes = [f"the promise of {device.name} is that of the network in {form.precision}"] * (
        shipping.int8 and form.precision != shipping.precision
    )
    notes += [
        f"{device.name}: timed {' and '.join(other)}, not as the file is: that tells nothing of its limits"
    ] * bool(other)
    return replace(measured, latency=latency, notes=(*measured.notes, *notes))


def _certified(subject: Subject, shipping: Shipping, model: onnx.ModelProto, measured: Measured) -> Certificate:
    """The certificate of an exported network, with how it was measured."""
    supernet, found = subject.supernet, subject.found
    costs = {name: float(price(supernet.space, found.arch)) for name, price in COSTS.items()}
    certificate = certify(
        supernet,
        found.arch,
        subject.subnet,
        model,
        subject.data,
        found.weights,
        found.limits,
        costs,
        measured.latency,
        measured.notes,
        subject.read(shipping),
        replace(INT8, metric=shipping.drop) if shipping.int8 else PLAIN,
    )
    return replace(
        certificate,
        devices=measured.devices,
        precision=shipping.precision,
        batch=shipping.batch,
        space=without_folders(certificate.space),
        input="pixels" if shipping.pixels else "normalised",
    )


def _judged(
    subject: Subject, shipping: Shipping, model: bytes, out: Path, proof: Certificate
) -> tuple[Certificate, dict[str, bytes]]:
    """The certificate with all that else is made of the file, and with the verdict; and what lies beside the file."""
    beside: dict[str, bytes] = {}
    if shipping.mobile:
        proof, beside = _as_mobile(subject, shipping, model, proof)
    if shipping.targets:
        proof, engines = _read_elsewhere(subject, shipping, model, out, proof)
        beside |= engines
    proof = replace(proof, rejected=tuple(objections(proof)))
    name = f"{out.name}{REJECTED}" if proof.rejected else out.name
    proof = replace(proof, targets=renamed(proof.targets, Path(name), model))
    beside[".md"] = _card(subject, shipping, proof, name).encode()
    return proof, beside


def _as_mobile(
    subject: Subject, shipping: Shipping, model: bytes, proof: Certificate
) -> tuple[Certificate, dict[str, bytes]]:
    """The certificate with what the network computes in the mobile format, and the files of that."""
    mobile = to_mobile(model)
    images = as_array(subject.read(shipping)(subject.data.test.images[:COMPARED]))
    outputs, expected = (run_onnx(onnx_session(form), images) for form in (mobile.model, model))
    apart = float(np.abs(numbers(outputs) - numbers(expected)).max())
    check = MobileCheck(apart, len(mobile.model), hashlib.sha256(mobile.model).hexdigest())
    files = {".ort": mobile.model, ".required_operators.config": mobile.operators.encode()}
    return replace(proof, mobile=check), files


def _read_elsewhere(
    subject: Subject, shipping: Shipping, model: bytes, out: Path, proof: Certificate
) -> tuple[Certificate, dict[str, bytes]]:
    """The certificate with what other readers make of the same file, held against torch; and engines compiled of it.

    In int8 they are held against the file's own operators: what quantizing changed is no fault of theirs.
    """
    images, data = subject.data.test.images[:COMPARED], subject.data
    as_read, largest = as_array(subject.read(shipping)(images)), max(1.0, proof.max_output)
    if shipping.int8:
        expected, most = run_onnx(onnx_session(model, optimized=False), as_read), ROUNDED * largest
    else:
        with evaluating(subject.subnet):
            expected, most = subject.subnet(data.normalise(images)).numpy(), proof.tolerance.outputs * largest
    engines: dict[str, bytes] = {}

    def keep(target: str, engine: bytes) -> None:
        engines[ENGINES[target]] = engine

    checks = check_targets(model, as_read, expected, shipping.targets, most, Path(out.name), keep)
    return replace(proof, targets=checks), engines


def _card(subject: Subject, shipping: Shipping, proof: Certificate, name: str) -> str:
    """The model card of the file `name`."""
    data, found = subject.data, subject.found
    shape = [shipping.batch or "any number", *subject.supernet.space.input_shape()[1:]]
    return model_card(
        proof,
        name,
        shape,
        without_folders(found.data),
        data.classes,
        data.mean.tolist(),
        data.std.tolist(),
        found.description,
    )


def _write(out: Path, model: bytes, beside: Mapping[str, bytes], proof: Certificate) -> None:
    """Write a network and what belongs to it; a rejected one under other names, which stand until one is accepted."""
    kept = REJECTED if proof.rejected else ""
    places = {suffix: Path(f"{out.with_suffix(suffix)}{kept}") for suffix in (out.suffix, *BESIDE)}
    old = [places[suffix] for suffix in BESIDE]
    if not proof.rejected:
        old += [Path(f"{out.with_suffix(suffix)}{REJECTED}") for suffix in (out.suffix, *BESIDE)]
    write_atomic(places[out.suffix], partial(_replace_model, model, old))
    for suffix, content in beside.items():
        write_bytes(places[suffix], content)
    proof.save(places[".json"])


def _replace_model(model: bytes, old: list[Path], file: IO[bytes]) -> None:
    """Write a network, and remove what belongs to the one before: never a new network beside an old proof."""
    file.write(model)
    file.flush()
    os.fsync(file.fileno())  # a full disk is met here, while the old files stand
    for path in old:
        path.unlink(missing_ok=True)
