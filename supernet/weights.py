"""What can be read from the weights of a network alone: its layers, its blocks, and which channels belong together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError

State = Mapping[str, torch.Tensor]

BLOCKS = re.compile("PD(?:RX)?P|D(?:RX)?P|C(?:RX)?P(?!D)|[A-Z]")  # in the letters of `Part`


def load_tensors(path: Path, kind: str, remedy: str) -> Any:
    """What torch saved in a file, tensors and plain values only; InputError for any file that is not `kind`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not {kind} ({reason}): {remedy}") from error


@dataclass(frozen=True)
class Part:
    """A convolution or linear layer with its batch norm; `keys` are the names of its tensors by role.

    `letter`: C a convolution, P a pointwise one, D depthwise, R and X a squeeze-excite's two, L linear.
    """

    name: str
    letter: str
    shape: tuple[int, ...]
    keys: Mapping[str, str]

    @property
    def normed(self) -> bool:
        return "norm.running_mean" in self.keys

    @property
    def inputs(self) -> int:
        """The number of channels that it reads."""
        return self.shape[0 if self.letter == "D" else 1]

    @property
    def grey(self) -> bool:
        return self.inputs == 1 and self.letter in "CP"


@dataclass(frozen=True)
class Block:
    """Parts that are matched together; `end` says what they are at a network's ends: they match their like."""

    parts: tuple[Part, ...]
    end: str = ""

    @property
    def plain(self) -> tuple[Part, ...]:
        """The parts but the squeeze-excite."""
        return tuple(part for part in self.parts if part.letter not in "RX")

    @property
    def kind(self) -> str:
        return "".join(part.letter for part in self.plain)


def read_blocks(state: State) -> list[Block]:
    """The blocks of a network whose state lists its layers in the order in which they work."""
    parts = _read_parts(state)
    text, at = "", list[int]()  # the letters, a space where no block goes on; which part each belongs to
    for i, (a, b) in enumerate(zip(parts[:1] + parts, parts, strict=False)):
        apart = i > 0 and (a.name.split(".")[0], a.shape[0]) != (b.name.split(".")[0], b.inputs)
        text, at = text + " " * apart + b.letter, at + [i] * (apart + 1)
    blocks = [Block(tuple(parts[i] for i in at[match.start() : match.end()])) for match in BLOCKS.finditer(text)]
    if blocks and blocks[-1].kind == "L":
        blocks[-1] = replace(blocks[-1], end=f"classifier of {blocks[-1].parts[0].shape[0]}")
    return [replace(block, end=block.end or "stem") for block in blocks[:1]] + blocks[1:]


def _read_parts(state: State) -> list[Part]:
    """Convolutions and linear layers; a batch norm belongs to the layer listed before, if of its width."""
    modules: dict[str, dict[str, str]] = {}
    for key in state:
        name, _, role = key.rpartition(".")
        modules.setdefault(name, {})[role] = key
    parts: list[Part] = []
    for name, keys in modules.items():
        shape = tuple(state[keys.get("weight", next(iter(keys.values())))].shape)
        if "running_mean" in keys and parts and not parts[-1].normed and shape == parts[-1].shape[:1]:
            norm = {f"norm.{role}": key for role, key in keys.items()}
            parts[-1] = replace(parts[-1], keys={**parts[-1].keys, **norm})
        elif "weight" in keys and len(shape) in (2, 4):
            letter = "L" if len(shape) == 2 else "D" if shape[1] == 1 and parts else "PC"[max(shape[2:]) > 1]
            parts.append(Part(name, letter, shape, keys))
    for i, (a, b, c) in enumerate(zip(parts, parts[1:], parts[2:], strict=False)):
        mirrored = a.letter == b.letter == "P" and a.shape[0] == b.shape[1] < a.shape[1] == b.shape[0] == c.inputs
        if mirrored and not (a.normed or b.normed):
            parts[i : i + 2] = [replace(a, letter="R"), replace(b, letter="X")]
    return parts


def sort_channels(state: State) -> dict[str, torch.Tensor]:
    """The state of the same function, the important channels first.

    Importance is the L1 norm of the weights that mix a channel into others (https://arxiv.org/abs/1908.09791, section
    3.3). Channels around a depthwise convolution are always sorted. Those between blocks, in one order where an
    addition may join them, are sorted in a chain, where each layer reads as many channels as the one before writes.
    Any other structure can't be read from a state: there they stay, as do colours, classes, and what is flattened.
    """
    blocks = read_blocks(state)
    parts, groups = [part for block in blocks for part in block.parts], channel_groups(blocks)
    importance: dict[int, torch.Tensor] = {}
    for part, (reads, _) in zip(parts, groups, strict=True):
        if reads >= 0 and part.letter not in "DR":
            weight = state[part.keys["weight"]].abs()
            norm = weight.sum([axis for axis in range(weight.ndim) if axis != 1])  # (input channels,)
            importance[reads] = importance.get(reads, torch.zeros(())) + norm
    orders = {group: norm.argsort(descending=True, stable=True) for group, norm in importance.items()}
    found = dict(state)
    for part, (reads, writes) in zip(parts, groups, strict=True):
        if writes in orders:
            found.update({key: found[key][orders[writes]] for key in part.keys.values() if found[key].ndim})
        if reads in orders and part.letter != "D":
            found[part.keys["weight"]] = found[part.keys["weight"]][:, orders[reads]]
    return found


def channel_groups(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """For every part the groups of channels that it reads and writes: one order each, -1 where it is fixed."""
    parts = [part for block in blocks for part in block.parts]
    pairs, ends, widths = _walk(blocks)
    same = list(range(len(widths)))
    for start, end in ends:
        if widths[start] == widths[end]:  # the block may add its input
            same[end] = same[start]
    breaks = [i for i, (reads, _) in enumerate(pairs) if widths[reads] != parts[i].inputs]
    linear_last = "L" not in "".join(part.letter for part in parts).rstrip("L")
    fixed = {0, ends[-1][1], *(pairs[i][0] for i in breaks)}
    if not linear_last or any(parts[i].letter != "L" for i in breaks):  # no chain
        unsure = (pair for i, pair in enumerate(pairs) if i in breaks or parts[i].letter == "C")
        fixed.update(itertools.chain(*ends, *unsure))
    still = {same[group] for group in fixed}
    return [(-1 if same[a] in still else same[a], -1 if same[b] in still else same[b]) for a, b in pairs]


def _walk(blocks: Sequence[Block]) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[int]]:
    """Groups as if each part read the one before: those of the parts, of the blocks' ends, and their widths."""
    pairs, ends = list[tuple[int, int]](), list[tuple[int, int]]()
    widths, here = [blocks[0].parts[0].inputs], 0
    for block in blocks:
        start = here
        for part in block.parts:
            if part.letter == "D":
                pairs.append((here, here))
            elif part.letter == "X":
                pairs.append((pairs[-1][1], here))
            else:
                pairs.append((here, len(widths)))
                here = here if part.letter == "R" else len(widths)
                widths.append(part.shape[0])
        ends.append((start, here))
    return pairs, ends, widths
