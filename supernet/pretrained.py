"""Start a supernet from a pretrained network: what fits by kind, order and shape goes into the largest options.

The source is read from its weights alone: convolutions and linear layers, each with the batch norm behind it, form
blocks (expand, depthwise, squeeze-excite, project). Those are matched, in order and as a whole, with the blocks of
the same kind in the supernet's largest options.

- The important channels come first (`sort_channels`): smaller options are the first channels and the centre of the
  kernel, and so is what a wider source leaves.
- A source with fewer channels (half of them at least) or a smaller kernel goes there too, and reads zeros from the
  rest, which keeps its random start: the source's function is unchanged.
- A stem is summed over its colours for grey images, and shared among them the other way. A classifier needs as many
  classes. Each option's own batch norm takes the first channels; where the source has none it stays as it is.

A supernet's checkpoint keeps its order of channels, and its tensors go where the same names are.
"""

from __future__ import annotations

import graphlib
import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from ..errors import InputError, unknown_name
from ..files import digest
from .layer import named
from .space import SearchSpace
from .supernet import Supernet
from .weights import Block, Part, State, load_tensors, read_blocks, sort_channels

Options = dict[str, list[nn.Module]]  # by slot (and operation) the options that are filled together

NESTED = ("model", "state_dict", "model_state_dict")  # where a checkpoint keeps its weights
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # what nn.DataParallel and torch.compile put before a name
REMEDY = "save torch.save(network.state_dict(), FILE)"
SLOTS = "slots."  # what the names in a supernet's checkpoint begin with


@dataclass(frozen=True)
class Initialised:
    """Where the layers of a supernet's largest options start: `copied` says from which source, `fresh` at random.

    `unused` are tensors of the source without a place, `fingerprint` is a digest of its weights.
    """

    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    source: str
    fingerprint: str

    def summary(self) -> str:
        """One line for the user, long lists shortened."""
        text = f"{len(self.copied)} of {len(self.copied) + len(self.fresh)} layers start from {self.source}"
        layers = dict.fromkeys(name.rpartition(".")[0] for name in self.unused)
        for word, names in (("fresh", self.fresh), ("unused", tuple(layers))):
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            text += f"; {word}: {', '.join(names[:4])}{more}" if names else ""
        return text


def load_weights(source: str) -> dict[str, torch.Tensor]:
    """The weights that `torchvision:NAME` or a file names, as float32.

    A file is a state_dict that torch saved, alone or within a checkpoint (`NESTED`). InputError where there is none,
    no layer in it, or a weight that is not finite.
    """
    kind, _, name = source.partition(":")
    found = torchvision_state(name) if kind == "torchvision" else read_state(Path(source))
    state = {key: tensor.float() for key, tensor in found.items() if tensor.is_floating_point()}
    if not read_blocks(state):
        raise InputError(f"{source} holds no convolution and no linear layer: {REMEDY}")
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{source}: {key} is not finite: give the weights of a training that went well")
    return state


def torchvision_state(name: str) -> State:
    """The default weights of a classifier of torchvision's, which shows the progress and keeps the file."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        found: State = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return found
    except Exception as error:  # no network, a damaged download, a file in torch's cache that is none
        remedy = f"remove it from {torch.hub.get_dir()}/checkpoints if it is there, or give a FILE.pt"
        raise InputError(f"the weights of torchvision:{name} can't be loaded ({error}): {remedy}") from error


def read_state(path: Path) -> State:
    """The state_dict in a file, without wrappers."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a FILE.pt, or torchvision:NAME")
    found = load_tensors(path, "a file of weights", REMEDY)
    if isinstance(found, dict):
        _take_average(found)
        found = next((found[key] for key in NESTED if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InputError(f"{path} is no dictionary of tensors: {REMEDY}")
    return {WRAPPERS.sub("", str(key)): tensor.detach().to_dense() for key, tensor in found.items()}


def _take_average(saved: dict[str, Any]) -> None:
    """Give the weights in a checkpoint of ours the values of their average over the steps, as a run holds them."""
    weights, average = saved.get("model"), saved.get("average")
    if isinstance(weights, dict) and isinstance(average, dict):
        for name, value in average.get("weights", {}).items():
            weights[name].copy_(value)  # in place: other names of the same tensor change with it


def initialise_from(supernet: Supernet, source: str) -> Initialised:
    """Fill the supernet, in place, with what fits of the weights that `source` names (see `load_weights`)."""
    found = load_weights(source)
    if all(name.startswith(SLOTS) for name in found):
        layers, used = _fill_by_name(supernet, found)
    else:
        layers, used = _fill_by_order(supernet, sort_channels(found))
    copied, fresh = tuple(filter(None, layers.values())), tuple(name for name in layers if not layers[name])
    if not copied:
        raise InputError(f"no layer of {source} fits {supernet.space}: start from another network, or from scratch")
    content = itertools.chain.from_iterable((name, tensor.numpy().tobytes()) for name, tensor in found.items())
    return Initialised(copied, fresh, tuple(name for name in found if name not in used), source, digest(*content))


def _fill_by_name(supernet: Supernet, state: State) -> tuple[dict[str, str], set[str]]:
    """Of every layer where it comes from, nothing if fresh; and the names of the tensors that were used."""
    layers: dict[str, str] = {}
    own = supernet.state_dict().items()  # of a shared weight the largest source comes last, as it covers the others
    for name, tensor in sorted(own, key=lambda item: state[item[0]].numel() if item[0] in state else 0):
        if name in state and state[name].ndim == tensor.ndim:
            _fill(tensor, state[name])
        if tensor.ndim > 1:
            _, slot, key, *inner, _ = name.split(".")
            label = ".".join([slot, *inner])
            layers[label] = layers.get(label) or (f"{label} from {key}" if name in state else "")
    return layers, state.keys() & supernet.state_dict().keys()


def _fill_by_order(supernet: Supernet, state: State) -> tuple[dict[str, str], set[str]]:
    """Of every layer where it comes from, nothing if fresh; and the names of the tensors that were used."""
    layers, used = dict[str, str](), set[str]()
    for path in _paths(supernet):
        targets = read_blocks(_largest(path))
        partners = _partners(targets, read_blocks(state))
        for part in (part for block in targets for part in block.parts if part.name not in layers):
            layers[part.name] = ""
            if partner := partners.get(part.name):
                used |= _copy(path, part, partner, state)
                sizes = ["x".join(map(str, shape)) for shape in dict.fromkeys((partner.shape, part.shape))]
                layers[part.name] = f"{part.name} from {partner.name} ({' into '.join(sizes)})"
    return layers, used


def _paths(supernet: Supernet) -> list[Options]:
    """For every operation that slots offer a network of its options, in the order of the slots."""
    slots: list[list[tuple[str, list[nn.Module]]]] = []
    for slot in _slot_order(supernet.space):
        ops: Options = {}
        for key, module in supernet.slots[slot].named_children():
            if module.state_dict():
                ops.setdefault(key.partition(" ")[0], []).append(module)
        slots.append([(f"{slot}[{op}]" if len(ops) > 1 else slot, modules) for op, modules in ops.items()])
    return [dict(ops[min(i, len(ops) - 1)] for ops in slots if ops) for i in range(max(map(len, slots)))]


def _largest(path: Options) -> State:
    """Tensors without data, in every dimension as large as the largest of the options."""
    shapes: dict[str, list[torch.Size]] = {}
    for label, options in path.items():
        states = sorted((option.state_dict() for option in options), key=len, reverse=True)
        for name, tensor in itertools.chain.from_iterable(state.items() for state in states):
            shapes.setdefault(f"{label}.{name}", []).append(tensor.shape)
    most = {name: [max(sizes) for sizes in zip(*found, strict=True)] for name, found in shapes.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in most.items()}


def _slot_order(space: SearchSpace) -> list[str]:
    """The slots of a space, each behind those that it follows in some of its networks."""
    rng, before = random.Random(0), dict[str, set[str]]()
    graphs = [list(dict.fromkeys(slot for slot, _ in named(space.graph(space.sample(rng))))) for _ in range(256)]
    for slots in graphs:
        for i, slot in enumerate(slots):
            before.setdefault(slot, set()).update(slots[max(i - 1, 0) : i])
    try:
        order = list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError:  # no order holds in all networks
        order = max(graphs, key=len)
    return list(dict.fromkeys([*order, *(slot for slot, _ in space.nodes())]))


def _partners(targets: Sequence[Block], sources: Sequence[Block]) -> dict[str, Part]:
    """The source of every part that has one, by name: blocks are matched so that order and shapes agree best.

    The alignment of https://doi.org/10.1016/0022-2836(70)90057-4 with free gaps; of equals the first.
    """
    best: list[tuple[float, tuple[tuple[Block, Block], ...]]] = [(0.0, ())] * (len(sources) + 1)
    for target in reversed(targets):  # best[j]: of these targets and the sources from j on
        below, best = best, [(0.0, ())]
        for j, source in reversed(list(enumerate(sources))):
            likeness, (score, pairs) = _likeness(target, source), below[j + 1]
            match = (score + likeness, ((target, source),) * (likeness > 0) + pairs)
            best.insert(0, max(match, best[0], below[j], key=lambda found: found[0]))
    return {part.name: other for target, source in best[0][1] for part, other in _pairs(target, source)}


def _pairs(target: Block, source: Block) -> list[tuple[Part, Part]]:
    """The parts that belong together, of a squeeze-excite only where both have one and they fit."""
    both = len(target.parts) == len(source.parts)
    pairs = zip(target.parts, source.parts, strict=True) if both else zip(target.plain, source.plain, strict=True)
    return [(a, b) for a, b in pairs if _overlap(a, b)]


def _likeness(target: Block, source: Block) -> float:
    """How much of two blocks overlaps: 0 (they don't fit) to 1."""
    if (target.kind, target.end) != (source.kind, source.end):
        return 0.0
    overlaps = [_overlap(a, b) for a, b in zip(target.plain, source.plain, strict=True)]
    return min(overlaps) and sum(overlaps) / len(overlaps)


def _overlap(target: Part, source: Part) -> float:
    """The weights in both over those in either; 0 where the source has too few channels, or a norm too many."""
    short = [2 * have < need for have, need in zip(source.shape, target.shape, strict=True)]
    if short[0] or (short[1] and not source.grey) or (source.normed and not target.normed):
        return 0.0
    return math.prod(min(sizes) / max(sizes) for sizes in zip(source.shape, target.shape, strict=True))


def _copy(path: Options, target: Part, source: Part, state: State) -> set[str]:
    """Fill a layer in every option of its slot; the names of the tensors that went there."""
    found = {role: state[key] for role, key in source.keys.items()}
    used = {key for role, key in source.keys.items() if role in target.keys}
    if target.grey:
        found["weight"] = found["weight"].sum(1, keepdim=True)
    elif source.grey:
        found["weight"] = found["weight"].expand(-1, target.shape[1], -1, -1) / target.shape[1]
    bias = found.setdefault("bias", torch.zeros(source.shape[0]))
    if source.normed and "bias" not in target.keys:  # the norm subtracts less instead
        found["norm.running_mean"] = found["norm.running_mean"] - bias
        used |= {source.keys.get("bias", "")}
    label = target.name.partition(".")[0]
    for own in (option.state_dict() for option in path[label]):
        for role, key in target.keys.items():
            name = key.removeprefix(f"{label}.")
            if role in found and name in own:
                _fill(own[name], found[role])
    return used


def _fill(target: torch.Tensor, source: torch.Tensor) -> None:
    """Fill the first channels and the centre of the kernel; covered outputs read zeros from what is left over."""
    if target.ndim:
        target[: len(source)] = 0
    for axis, sizes in enumerate(zip(target.shape, source.shape, strict=True)):
        starts = [(size - min(sizes)) // 2 if axis > 1 else 0 for size in sizes]
        target, source = (t.narrow(axis, i, min(sizes)) for t, i in zip((target, source), starts, strict=True))
    target.copy_(source)
