"""A chain of stages as data: what a built-in space is made of, and what a TOML file says.

A list is a choice: of resolutions, of widths and depths of a stage, of any parameter of a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from ..errors import InputError, unknown_name
from ..files import load_toml
from .blocks import ACTIVATIONS, PARAMETERS
from .layer import Layer, Value

WHERE = ("all", "first", "rest")


@dataclass(frozen=True)
class Block:
    """A layer before its input is known. `out_channels` 0 keeps the channels of the input."""

    op: str
    out_channels: int = 0
    stride: int = 1
    params: tuple[tuple[str, Value], ...] = ()

    def at(self, in_channels: int, in_size: int) -> Layer:
        """The layer that this block becomes behind an input of (B, in_channels, in_size, in_size)."""
        return Layer(self.op, in_channels, self.out_channels or in_channels, in_size, self.stride, self.params)


@dataclass(frozen=True)
class Choice:
    """Options of one operation: the product of the values listed for its parameters, the last one fastest.

    `where` says for which blocks of a stage: all of them, the first, or the rest.
    """

    op: str
    params: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    where: str = "all"

    def blocks(self, position: int) -> list[Block]:
        """The options at a position of a stage, width and stride still open."""
        if self.where == ("rest" if position == 0 else "first"):
            return []
        names = [name for name, _ in self.params]
        products = itertools.product(*(values for _, values in self.params))
        return [Block(self.op, params=tuple(sorted(zip(names, p, strict=True)))) for p in products]


@dataclass(frozen=True)
class Stage:
    """Blocks of one width, the first with a stride. Several widths or depths are a choice."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    options: tuple[Choice, ...]

    def blocks(self, position: int) -> tuple[Block, ...]:
        """The options of the block at `position`."""
        stride = self.stride if position == 0 else 1
        found = [block for choice in self.options for block in choice.blocks(position)]
        if len(set(found)) < len(found):
            twice = next(block for block in found if found.count(block) > 1)
            raise InputError(f"{twice.op} {dict(twice.params)} is listed twice: an option must be given once")
        return tuple(replace(block, stride=stride) for block in found)


@dataclass(frozen=True)
class Recipe:
    """A whole space: images of `channels` at one of `sizes` pixels, stem, stages, tail, `classes` outputs."""

    channels: int
    sizes: tuple[int, ...]
    classes: int
    stem: tuple[Block, ...]
    stages: tuple[Stage, ...]
    tail: tuple[Block, ...]

    def __post_init__(self) -> None:
        sizes = [("channels", self.channels), ("classes", self.classes), *(("size", size) for size in self.sizes)]
        sizes += [("width", block.out_channels) for block in self.stem]
        sizes += [("stride", block.stride) for block in (*self.stem, *self.tail[:-1])]
        params = [item for block in (*self.stem, *self.tail) for item in block.params]
        for stage in self.stages:
            sizes += [("stride", stage.stride), *(("width", width) for width in stage.widths)]
            sizes += [("depth", depth) for depth in stage.depths]
            params += [(name, value) for c in stage.options for name, values in c.params for value in values]
        listed = [("size", self.sizes)]
        for stage in self.stages:
            listed += [("width", stage.widths), ("depth", stage.depths)]
        for name, values in listed:
            if len(set(values)) < len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise InputError(f"{name} {twice} is listed twice: an option must be given once")
        for name, number in sizes:
            if number < 1:
                raise InputError(f"{name} is {number}; it must be at least 1")
        for name, value in params:
            _check_param(name, value)


def _check_param(name: str, value: Value) -> None:
    """InputError unless a block's parameter has a value that makes sense."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int | float | str):
        raise InputError(f"{name} is {value!r}; a number or a word was expected")
    if name == "act":
        if value not in ACTIVATIONS:
            raise unknown_name("act", str(value), ACTIVATIONS)
    elif name == "se":
        if value not in (0, 1):
            raise InputError(f"se is {value!r}; it must be 0 or 1")
    elif not (number and int(value) >= 1):
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1")
    elif name == "kernel" and int(value) % 2 == 0:
        raise InputError(f"kernel is {value}; it must be odd, so that the map keeps its size")


def read_toml(path: Path) -> Recipe:
    """The recipe in a TOML file; InputError names the key, or the line where the file is no TOML."""
    return recipe_from(load_toml(path, "space"), str(path))


def recipe_from(data: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from the tables of a TOML file."""
    _check_keys(data, {"channels", "size", "classes", "stem", "stage", "tail"}, source)
    classes = _number(data["classes"], f"{source}: classes")
    stem = tuple(_block(item, where) for item, where in _tables(data["stem"], f"{source}: stem"))
    tail = tuple(_block({"width": classes, **item}, where) for item, where in _tables(data["tail"], f"{source}: tail"))
    stages = tuple(_stage(item, where) for item, where in _tables(data["stage"], f"{source}: stage"))
    if not stages or not tail:
        raise InputError(f"{source}: a space needs at least one [[stage]] and one [[tail]]")
    if tail[-1].op != "head" or any(block.op == "head" for block in (*stem, *tail[:-1])):
        raise InputError(f"{source}: the last [[tail]] must be a head, which pools the map, and no other block")
    given = data["tail"][-1]
    for name in ("width", "stride"):
        if name in given and (name != "width" or given[name] != classes):
            raise InputError(f"{source}: the head has no {name}: it pools the whole map and puts out {classes} classes")
    last = replace(tail[-1], out_channels=classes, stride=0)
    channels, sizes = _number(data["channels"], f"{source}: channels"), _numbers(data["size"], f"{source}: size")
    try:
        return Recipe(channels, sizes, classes, stem, stages, (*tail[:-1], last))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _tables(value: Any, where: str) -> list[tuple[Mapping[str, Any], str]]:
    """The tables of an array of tables, each with its place for messages."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{where} must be an array of tables: write [[...]] with two brackets")
    return [(item, f"{where} {i}") for i, item in enumerate(value, 1)]


def _stage(data: Mapping[str, Any], where: str) -> Stage:
    _check_keys(data, {"width", "depth", "stride", "options"}, where)
    return Stage(
        _numbers(data["width"], f"{where}: width"),
        _numbers(data["depth"], f"{where}: depth"),
        _number(data["stride"], f"{where}: stride"),
        tuple(_choice(item, option) for item, option in _tables(data["options"], f"{where}: option")),
    )


def _choice(data: Mapping[str, Any], where: str) -> Choice:
    if data.get("op") == "head":
        raise InputError(f"{where}: a head pools the whole map: it is the last [[tail]], no option of a stage")
    params = _params(data, {"op", "where"}, where)
    empty = [name for name, value in params.items() if value == []]
    if empty:
        raise InputError(f"{where}: {empty[0]} is an empty list; give it a value or leave it out")
    part = data.get("where", "all")
    if part not in WHERE:
        raise InputError(f"{where}: {unknown_name('where', str(part), WHERE)}")
    return Choice(data["op"], tuple((name, _listed(value)) for name, value in params.items()), part)


def _block(data: Mapping[str, Any], where: str) -> Block:
    params = _params(data, {"op", "width", "stride"}, where)
    lists = [name for name, value in params.items() if isinstance(value, list)]
    if lists:
        raise InputError(f"{where}: {lists[0]} is a list; only stages have choices")
    return Block(
        data["op"],
        _number(data.get("width"), f"{where}: width"),
        _number(data.get("stride", 1), f"{where}: stride"),
        tuple(sorted(params.items())),
    )


def _params(data: Mapping[str, Any], reserved: set[str], where: str) -> dict[str, Any]:
    """The parameters of an operation: those given, the operation's defaults for the rest."""
    op = str(data.get("op"))
    if op not in PARAMETERS:
        raise InputError(f"{where}: {unknown_name('op', op, PARAMETERS)}")
    known = PARAMETERS[op]
    for key in data:
        if key not in known and key not in reserved:
            raise InputError(f"{where}: {unknown_name('key', key, [*known, *reserved])}")
    given = {name: data.get(name, default) for name, default in known.items()}
    order = [name for name in data if name in known] + [name for name in known if name not in data]
    return {name: given[name] for name in order}


def _check_keys(data: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise InputError(f"{where}: {unknown_name('key', key, known)}")
    missing = sorted(known - set(data))
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} is missing")


def _number(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{where} is {value!r}; a whole number was expected")
    return value


def _numbers(value: Any, where: str) -> tuple[int, ...]:
    values = tuple(_number(item, where) for item in _listed(value))
    if not values or len(set(values)) < len(values):
        raise InputError(f"{where} is {value!r}; a number, or a list of different numbers, was expected")
    return values


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file that `read_toml` reads back."""
    tail = [{name: value for name, value in _block_table(block).items() if name != "width"} for block in recipe.tail]
    tail[-1].pop("stride", None)
    return tomli_w.dumps(
        {
            "channels": recipe.channels,
            "size": _single(recipe.sizes),
            "classes": recipe.classes,
            "stem": [_block_table(block) for block in recipe.stem],
            "stage": [_stage_table(stage) for stage in recipe.stages],
            "tail": tail,
        }
    )


def _block_table(block: Block) -> dict[str, Any]:
    return {"op": block.op, "width": block.out_channels, "stride": block.stride, **dict(block.params)}


def _stage_table(stage: Stage) -> dict[str, Any]:
    options = []
    for choice in stage.options:
        where = {} if choice.where == "all" else {"where": choice.where}
        options.append({"op": choice.op, **where, **{name: _single(values) for name, values in choice.params}})
    return {
        "width": _single(stage.widths),
        "depth": _single(stage.depths),
        "stride": stage.stride,
        "options": options,
    }


def _single(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)
