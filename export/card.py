"""The model card beside an exported network: what a stranger must know to use it, in Markdown; its short form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..supernet.metrics import METRICS
from .certificate import Certificate

CARD = "<!-- a model card by hwnas -->"  # so it is known for one, and may be replaced
INPUTS = {
    "normalised": "float32, normalised: `(pixels / 255 - mean) / std`",
    "pixels": "float32, pixels as they are, 0 to 255: normalised inside",
}


def model_card(
    proof: Certificate,
    name: str,
    shape: Sequence[int | str],
    data: str,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    layers: Sequence[str],
) -> str:
    """The card of the file `name`, an image (B, C, S, S) of `shape`, the network's `layers` in words."""
    sections = [
        f"{CARD}\n\n# {_plain(name)}\n\nA network for {_plain(data)}, found by hwnas and exported with proof.",
        "\n".join(_verdict(proof)),
        "## Use\n\n" + "\n".join(_use(proof, name, shape, classes, mean, std)),
        "## What was measured\n\n" + "\n".join(_measured(proof)),
        "## What it is\n\n" + "\n".join(_made_of(proof, layers)),
    ]
    return "\n\n".join(sections) + "\n"


def _verdict(proof: Certificate) -> Iterator[str]:
    if proof.rejected:
        yield "**Rejected, not fit for use:**\n"
        yield from (f"- {_plain(reason)}" for reason in proof.rejected)
    else:
        kept = "every limit is kept" if proof.limits else "it was given no limit"
        within = kept if proof.within_limits else "not every limit was measured"
        if proof.precision == "fp32":
            yield f"Its outputs and its {proof.metric} are those of the network that was trained; {within}."
        else:
            moved = f"{proof.accuracy_torch:.4f} before, {proof.accuracy_onnx:.4f} now"
            yield f"In {proof.precision} its {proof.metric} is close to that of the network trained: {moved}; {within}."


def _use(
    proof: Certificate,
    name: str,
    shape: Sequence[int | str],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[str]:
    """What goes in, what comes out, and the lines of Python that do it."""
    channels, size = shape[1], shape[2]
    task = METRICS[proof.metric].task
    out = "a score (logit) per class" if task == "classification" else "the numbers asked for"
    yield f"- in: `image` {_shape(shape)}, {INPUTS[proof.input]}"
    yield f"- out: `logits` ({shape[0]}, {len(classes)}), {out}: {_plain(', '.join(classes))}"
    if proof.input == "normalised":
        yield f"- mean {_numbers(mean)}, std {_numbers(std)}, of pixels / 255"
    count = shape[0] if isinstance(shape[0], int) else 1
    yield "\n```python"
    yield "import numpy as np"
    yield "import onnxruntime as ort\n"
    yield f"session = ort.InferenceSession({json.dumps(name)})"
    yield f"pixels = np.zeros(({count}, {channels}, {size}, {size}), np.uint8)  # your images, of this size"
    if proof.input == "normalised":
        yield f"mean = np.array([{', '.join(f'{v:.8g}' for v in mean)}], np.float32).reshape(1, -1, 1, 1)"
        yield f"std = np.array([{', '.join(f'{v:.8g}' for v in std)}], np.float32).reshape(1, -1, 1, 1)"
        yield "image = (pixels.astype(np.float32) / 255 - mean) / std"
    else:
        yield "image = pixels.astype(np.float32)"
    yield '(logits,) = session.run(["logits"], {"image": image})'
    if task == "classification":
        yield "print(logits.argmax(axis=1))"
    else:
        yield "print(logits)"
    yield "```"


def _measured(proof: Certificate) -> Iterator[str]:
    low, high = proof.accuracy_interval
    yield "| what | figure |"
    yield "|---|---|"
    interval = f"(95 % interval {low:.4f} to {high:.4f})"
    yield f"| test {proof.metric}, in ONNX Runtime | {proof.accuracy_onnx:.4f} {interval} |"
    yield f"| the same in torch, fp32 | {proof.accuracy_torch:.4f} |"
    if proof.precision != "fp32":
        yield f"| lost by {proof.precision} | {lost_words(proof)} |"
    yield f"| test images | {proof.test_images:,} |"
    yield f"| largest difference of an output | {proof.max_abs_diff:.1e} (outputs up to {proof.max_output:.3g}) |"
    for device, times in proof.latency.items():
        limit = "" if times.limit_ms is None else f", limit {times.limit_ms:.4g}"
        faster = "" if times.speed_up is None else f", {times.speed_up:.2f} times as fast as in fp32"
        promise = f"promised {times.predicted_ms:.4g} ({times.low_ms:.4g} to {times.high_ms:.4g}){limit}"
        form = f" ({times.timed_as})" if times.timed_as else ""
        yield f"| latency on {device}{form}, ms | {times.measured_ms:.4g}; {promise}{faster} |"
    for name, value in proof.costs.items():
        if name not in proof.latency:
            limit = f", limit {proof.limits[name]:,.0f}" if name in proof.limits else ""
            yield f"| {name} | {value:,.0f}{limit} |"
    for check in proof.targets:
        yield f"| read by {check.name} | {_plain(str(check).partition(': ')[2])} |"
    smaller = "" if proof.size_fp32_bytes is None else f" ({proof.size_fp32_bytes / 1e6:.3f} MB in fp32)"
    yield f"| file | {proof.size_bytes / 1e6:.3f} MB{smaller}, {proof.precision}, ONNX opset {proof.opset} |"
    if (weight := proof.footprint) is not None:
        memory = "" if weight.peak_bytes is None else f", {weight.peak_bytes / 2**20:.1f} MiB beyond the runtime's own"
        images = f" ({proof.batch} images)" if proof.batch and proof.batch > 1 else ""
        first = f"{weight.first_ms:.1f} ms for the first run{images}{memory}"
        yield f"| to load it, once, where it was exported | {weight.load_ms:.0f} ms, {first} |"
    if (mobile := proof.mobile) is not None:
        yield f"| for phones (.ort) | {mobile.size_bytes / 1e6:.3f} MB, outputs differ by {mobile.max_abs_diff:.1e} |"
    yield f"| outputs and accuracy by | {_words(proof.runtime_options)} |"
    for device, options in proof.devices.items():
        yield f"| latency by {device} | {_words(options)} |"
    yield from (f"\n{_plain(note)}" for note in proof.notes)


def _made_of(proof: Certificate, layers: Sequence[str]) -> Iterator[str]:
    yield f"Space {_plain(proof.space)}, architecture {_plain(str(list(proof.arch)))}:\n"
    yield from (f"1. {_plain(layer)}" for layer in layers)
    yield f"\nSHA-256 of the file: `{proof.sha256}`"


def _words(options: Mapping[str, str]) -> str:
    return _plain(", ".join(f"{name} {value}" for name, value in options.items()))


def _shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _plain(text: str) -> str:
    """Text from elsewhere, without what Markdown or HTML would read as more than text."""
    for mark in "\\`*<>[]|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def lost_words(proof: Certificate) -> str:
    """What an int8 file lost of the metric, and what it was allowed to: of a fraction in points."""
    scale, form, unit = 1.0, ".4g", f" of {proof.metric}"
    if METRICS[proof.metric].task == "classification":
        scale, form, unit = 100.0, ".2f", f" points of {proof.metric}"
    lost, allowed = scale * proof.metric_lost, scale * proof.metric_allowed
    gained = " (it gained)" if lost < 0 else ""
    return f"{lost:{form}}{unit}{gained}, at most {allowed:{form}}"


def proof_lines(proof: Certificate, out: Path) -> Iterator[str]:
    """What a certificate says, for the screen."""
    kept = ".rejected" if proof.rejected else ""
    was = "" if proof.size_fp32_bytes is None else f" ({proof.size_fp32_bytes / 1e6:.2f} in fp32)"
    yield f"{out}{kept}: {proof.precision}, {proof.size_bytes / 1e6:.2f} MB{was}, opset {proof.opset}"
    yield f"  certificate {out.with_suffix('.json')}{kept}, card {out.with_suffix('.md')}{kept}"
    yield f"  outputs differ by at most {proof.max_abs_diff:.1e} (supernet path, subnet, ONNX Runtime)"
    low, high = proof.accuracy_interval
    yield (
        f"  test {proof.metric} {proof.accuracy_onnx:.4f} [{low:.4f}, {high:.4f}] in ONNX Runtime, "
        f"{proof.accuracy_torch:.4f} in torch, {proof.test_images} images"
    )
    if proof.precision != "fp32":
        yield f"  lost by {proof.precision}: {lost_words(proof)}"
    for name, times in proof.latency.items():
        faster = "" if times.speed_up is None else f", {times.speed_up:.2f} times as fast as in fp32"
        yield (
            f"  {name}: measured {times.measured_ms:.4g} ms, promised {times.predicted_ms:.4g} "
            f"[{times.low_ms:.4g}, {times.high_ms:.4g}] (raw {times.raw_ms:.4g}){faster}"
            + f"; timed {times.timed_as}"
            * bool(times.timed_as)
        )
    if (weight := proof.footprint) is not None:
        memory = "" if weight.peak_bytes is None else f", {weight.peak_bytes / 2**20:.1f} MiB of memory"
        yield f"  loads in {weight.load_ms:.0f} ms{memory}, on this machine"
    yield from (f"  {check}" for check in proof.targets)
    verdicts = {True: "yes", False: "NO", None: "not all measured"}
    yield "; ".join((f"  within limits: {verdicts[proof.within_limits]}", *proof.notes))
