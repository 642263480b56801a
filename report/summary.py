"""The first screen in words: what was got, does it keep its limit, how sure is that, how does it compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..export import Certificate
from ..latency import LatencyTable
from ..search.found import Found
from ..supernet.cost import COSTS
from .networks import (
    EMULATED,
    Field,
    Network,
    Times,
    accuracy_words,
    cost_words,
    direction,
    ms_words,
    percent,
    table_of,
    time_of,
)
from .read import Inputs

KEPT, BROKEN, OPEN, FREE = "kept", "broken", "open", "free"


@dataclass(frozen=True)
class Card:
    """What is to be known of one network: whether limits are kept, broken, open or none (free), the gist, its rows.

    A row is (what, words).
    """

    name: str
    state: str
    gist: str
    verdict: str
    rows: tuple[tuple[str, str], ...]


def cards(inputs: Inputs, networks: Sequence[Network], fields: Sequence[Field]) -> list[Card]:
    """A card for each network, those that were measured first.

    Networks that others are only compared with have none, unless there are no others.
    """
    shown = [network for network in networks if not network.is_baseline] or list(networks)
    found = [_card(inputs, network, networks, fields) for network in shown]
    return sorted(found, key=lambda card: card.state == OPEN)


def lead(found: Sequence[Card]) -> str:
    """One sentence on all cards."""
    if not found:
        return "No found network is among these files."
    counts = {state: sum(card.state == state for card in found) for state in (KEPT, BROKEN, OPEN, FREE)}
    words = {
        KEPT: "within limits",
        BROKEN: "over a limit, or rejected",
        OPEN: "not measured under every limit yet",
        FREE: "without a limit",
    }
    said = [f"{count} {words[state]}" for state, count in counts.items() if count]
    return f"{len(found)} {'network' if len(found) == 1 else 'networks'}: {'; '.join(said)}."


def _card(inputs: Inputs, network: Network, all_: Sequence[Network], fields: Sequence[Field]) -> Card:
    times = list(network.times())
    state = _state(network, times)
    rows = [(network.metric, _accuracy(network))]
    rows += [(f"on {t.device}", _times(t)) for t in times]
    rows += [(name, words) for name, words in _exact(network, {t.device for t in times})]
    rows += [("file", _file(network.proof))] if network.proof else []
    rows += [("how sure", " ".join(_sure(inputs, network, times)))]
    rows += [("compared", words)] if (words := " ".join(_compared(network, all_, fields))) else []
    return Card(network.name, state, _gist(network, times), _verdict(network, state, times), tuple(rows))


def _state(network: Network, times: Sequence[Times]) -> str:
    verdict = network.proof.within_limits if network.proof else None
    if network.proof and network.proof.rejected:
        verdict = False
    elif not network.limits:
        return FREE
    if verdict is None:
        seen = {t.device: t.proven for t in times if t.limit is not None}
        open_ = not seen or None in seen.values() or network.limits.keys() - seen.keys() - COSTS.keys()
        verdict = False if False in seen.values() else None if open_ else True
    return {True: KEPT, False: BROKEN, None: OPEN}[verdict]


def _gist(network: Network, times: Sequence[Times]) -> str:
    """The two figures that count: the best known accuracy, and each device's latency."""
    known = network.proof.accuracy_onnx if network.proof else network.found.accuracy if network.found else 0.0
    words = [f"{ms_words(t.promised if t.measured is None else t.measured)} on {t.device}" for t in times]
    return ", ".join([accuracy_words(known, network.metric), *words])


def _verdict(network: Network, state: str, times: Sequence[Times]) -> str:
    if network.proof and network.proof.rejected:
        return f"REJECTED: {'; '.join(network.proof.rejected)}"
    if not network.limits:
        return "no limit was set"
    words = [f"{cost_words(name, limit)} on {name}" for name, limit in network.limits.items()]
    limits = f"{'its limit' if len(words) == 1 else 'its limits'}: {' and '.join(words)}"
    if state == OPEN and all(t.measured is None for t in times):
        return f"promised to keep {limits}; not measured yet"
    return {KEPT: "keeps ", BROKEN: "BREAKS ", OPEN: "not all measured of "}[state] + limits


def _accuracy(network: Network) -> str:
    metric, found, proof = network.metric, network.found, network.proof
    words = []
    if proof:
        low, high = (accuracy_words(end, metric) for end in proof.accuracy_interval)
        value = accuracy_words(proof.accuracy_onnx, metric)
        words += [f"{value} on {proof.test_images} test images (95 % interval {low} to {high}), the exported file"]
        if proof.precision != "fp32":
            words += [f"{accuracy_words(proof.accuracy_torch, metric)} on them in fp32"]
    if found:
        words += [f"{accuracy_words(found.accuracy, metric)} on validation images"]
    return "; ".join(words)


def _times(t: Times) -> str:
    promised = f"promised {ms_words(t.promised)} (90 % interval {ms_words(t.low)} to {ms_words(t.high)})"
    if t.measured is None:
        limit = f"; the limit is {ms_words(t.limit)}" if t.limit is not None else ""
        return f"{promised}{limit}; not measured yet"
    seen = f"measured {ms_words(t.measured)} {t.where}"
    if t.limit is not None:
        seen += f", {percent(abs(1 - t.measured / t.limit), '.0f')} {'under' if t.kept else 'OVER'} the limit"
    return f"{seen}; {promised}"


def _file(proof: Certificate) -> str:
    """What was written, and who else reads it."""
    before = f" ({proof.size_fp32_bytes / 1e6:.2f} in fp32)" if proof.size_fp32_bytes else ""
    words = [f"{proof.precision}, {proof.size_bytes / 1e6:.2f} MB{before}, ONNX opset {proof.opset}"]
    words += [
        f"{times.speed_up:.2f} times as fast as in fp32 on {name}"
        for name, times in proof.latency.items()
        if times.speed_up is not None
    ]
    return "; ".join([*words, *map(str, proof.targets)])


def _exact(network: Network, devices: set[str]) -> Iterator[tuple[str, str]]:
    """Limits on what is counted and not measured."""
    costs = {**(network.proof.costs if network.proof else {}), **(network.found.costs if network.found else {})}
    for name, limit in network.limits.items():
        if name not in devices and name in costs:
            yield name, f"{cost_words(name, costs[name])} of {cost_words(name, limit)}, counted exactly"


def _sure(inputs: Inputs, network: Network, times: Sequence[Times]) -> Iterator[str]:
    """What speaks for the promise, and what against."""
    for t in times:
        if t.measured is not None:
            inside = "inside" if t.low <= t.measured <= t.high else "OUTSIDE"
            off = percent(t.measured / t.promised - 1, "+z.1f")
            yield f"The measurement is {off} off the promise, {inside} its interval."
        if time_of(inputs, t.device) == EMULATED:
            yield f"{t.device} is emulated: its times are no latency of any device."
        else:
            yield _table_words(t.device, table_of(inputs, t.device, network))
    if network.proof:
        yield f"Outputs of supernet, subnet and ONNX Runtime differ by {network.proof.max_abs_diff:.1e} at most."
        yield from (f"Note: {note}." for note in network.proof.notes)
    else:
        yield "No export has proven it yet (hwnas export)."


def _table_words(device: str, table: LatencyTable | None) -> str:
    if table is None:
        return f"The table of {device} is not among these files."
    found: Any = table.validation
    if not found:
        return f"The table of {device} was never validated (hwnas validate)."
    floor = found.get("floor_mape")
    repeat = f", where measuring twice differs by {percent(floor)}" if floor is not None else ""
    fit = "fit" if found["fit_for_use"] else "NOT fit"
    error = f"{percent(found['mape'])} on {found['nets']} networks it had never seen"
    return f"The table of {device} errs by {error}{repeat}; it is {fit} for use."


def _compared(network: Network, all_: Sequence[Network], fields: Sequence[Field]) -> Iterator[str]:
    """The best of random networks under the same limits, and the front."""
    for other in all_:
        if other.is_baseline and not network.is_baseline and _alike(network, other):
            yield _against_random(network, other)
    for field in fields:
        if network.name in field.among and network.found:
            yield _on_front(network, network.found, field)


def _alike(a: Network, b: Network) -> bool:
    """Whether two networks were found with the same weights, under the same limits but for rounding."""
    if a.found is None or b.found is None or a.limits.keys() != b.limits.keys():
        return False
    same = (a.found.weights, a.metric) == (b.found.weights, b.metric)
    return same and all(math.isclose(a.limits[name], b.limits[name], rel_tol=1e-3) for name in a.limits)


def _against_random(network: Network, other: Network) -> str:
    assert network.found is not None
    assert other.found is not None
    best = f"The best of {other.found.evaluations} random networks under the same limit"
    if other.arch == network.arch:
        return f"{best} is this very network."
    words = f"{best} has {accuracy_words(other.found.accuracy, network.metric)} on validation images"
    if network.proof and other.proof:
        (low, high), rival = network.proof.accuracy_interval, other.proof.accuracy_onnx
        words += f", {accuracy_words(rival, network.metric)} on test images"
        words += ", within this one's interval" if low <= rival <= high else ""
    return f"{words}; this one was the best of {network.found.evaluations}."


def _on_front(network: Network, found: Found, field: Field) -> str:
    better, ms = direction(field.metric), found.costs[field.device]  # of its own search: each field's device is of it
    faster = [better * (p.accuracy - found.accuracy) for p in field.front if p.ms < ms and p.arch != network.arch]
    of = f"of {field.evaluated:,} networks evaluated"
    if any(more > 0 for more in faster):
        return f"Not on the front: {of} some are both faster on {field.device} and more accurate."
    if any(more == 0 for more in faster):
        return (
            f"Almost on the front: {of} none is faster on {field.device} and more accurate, some are just as accurate."
        )
    return f"On the front: {of} none is faster on {field.device} and as accurate."
