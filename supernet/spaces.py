"""The built-in search spaces, and how a text becomes a space."""

from __future__ import annotations

import inspect
import itertools
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, MismatchError, unknown_name
from ..names import import_attribute, is_attribute, parse_settings, written
from .chain import ChainSpace
from .layer import Value
from .recipe import Block, Choice, Recipe, Stage, read_toml, recipe_from, to_toml
from .space import SearchSpace

MIN_MAP_PX = 4  # the last feature map is kept at least this wide

Ints = tuple[int, ...]
SKIP = Choice("identity", where="rest")


def block(op: str, out_channels: int, stride: int = 1, **params: Value) -> Block:
    """A Block with its parameters by name."""
    return Block(op, out_channels, stride, tuple(sorted(params.items())))


def choice(op: str, where: str = "all", **params: tuple[Value, ...]) -> Choice:
    """A Choice with its lists of parameter values by name, the last one changing fastest."""
    return Choice(op, tuple(params.items()), where)


def mobilenet(
    size: Ints = (224,),
    channels: int = 3,
    classes: int = 1000,
    stem: int = 16,
    widths: tuple[Ints, ...] = ((24,), (40,), (80,), (112,), (160,)),
    depths: tuple[Ints, ...] = ((4,), (4,), (4,), (4,), (4,)),
    strides: Ints = (2, 2, 2, 1, 2),
    blocks: tuple[str, ...] = ("mbconv",),
    kernels: Ints = (3, 5, 7),
    expansions: Ints = (3, 6),
    se: Ints = (0,),
    act: tuple[str, ...] = ("relu",),
    skip: bool = True,
    head: int = 960,
) -> Recipe:
    """MBConv blocks: every block chooses kernel, expansion and whatever else is given as a list.

    All but the first block of a stage may be skipped: the space of https://arxiv.org/abs/1812.00332
    (section 3.1). `blocks` may list mbconv, fused and conv; `size`, `se` and `act` take lists too; a stage's
    width or depth is a choice when written as 16+24. On small images the first strides become 1, the stem's
    before the stages', so that the last map keeps at least 4 pixels.
    """
    stages = list(itertools.zip_longest(widths, depths, strides[: len(widths)]))
    if not widths or any(None in stage for stage in stages):
        raise InputError(
            f"mobilenet needs one width, depth and stride per stage; got widths={written(widths)}, "
            f"depths={written(depths)}, strides={written(strides)}"
        )
    families = {
        "mbconv": choice("mbconv", se=se, act=act, expansion=expansions, kernel=kernels),
        "fused": choice("fused", se=se, act=act, expansion=expansions, kernel=kernels),
        "conv": choice("conv", act=act, kernel=kernels),
    }
    for name in blocks:
        if name not in families:
            raise unknown_name("block", name, families)
    options = (*(families[name] for name in blocks), *[SKIP] * skip)
    stem_stride, *fitted = fit_strides(min(size), [2, *(stride for _, _, stride in stages)])
    return Recipe(
        channels,
        size,
        classes,
        (block("conv", stem, stem_stride, kernel=3, act=act[-1]),),
        tuple(Stage(w, d, s, options) for (w, d, _), s in zip(stages, fitted, strict=True)),
        (block("head", classes, 0, hidden=head, act=act[-1]),),
    )


def nas_bench_macro(size: Ints = (32,), channels: int = 3, classes: int = 10) -> Recipe:
    """The 3^8 MobileNetV2 chains of NAS-Bench-Macro (https://github.com/xiusu/NAS-Bench-Macro).

    Options: 0 identity (a strided 1x1 convolution where the shape changes), 1 MBConv expand 3 kernel 3,
    2 MBConv expand 6 kernel 5.
    """
    options = (
        choice("conv", "first", kernel=(1,), act=("none",)),
        SKIP,
        choice("mbconv", kernel=(3,), expansion=(3,), se=(0,), act=("relu6",)),
        choice("mbconv", kernel=(5,), expansion=(6,), se=(0,), act=("relu6",)),
    )
    return Recipe(
        channels,
        size,
        classes,
        (block("conv", 32, 1, kernel=3, act="relu6"),),
        tuple(Stage((width,), (depth,), 2, options) for width, depth in ((64, 2), (128, 3), (256, 3))),
        (block("head", classes, 0, hidden=1280, act="relu6"),),
    )


def shufflenet(
    size: Ints = (224,),
    channels: int = 3,
    classes: int = 1000,
    stem: int = 16,
    widths: tuple[Ints, ...] = ((64,), (160,), (320,), (640,)),
    depths: tuple[Ints, ...] = ((4,), (4,), (8,), (4,)),
    head: int = 1024,
) -> Recipe:
    """Single-path one-shot NAS: 20 blocks x shuffle 3x3, 5x5, 7x7 or xception.

    https://arxiv.org/abs/1904.00420, table 1. On small images the first strides become 1.
    """
    if len(widths) != len(depths):
        raise InputError(f"shufflenet needs one depth per width; got {written(widths)} and {written(depths)}")
    options = (choice("shuffle", kernel=(3, 5, 7), act=("relu",)), choice("xception", act=("relu",)))
    stem_stride, *strides = fit_strides(min(size), [2] * (len(widths) + 1))
    return Recipe(
        channels,
        size,
        classes,
        (block("conv", stem, stem_stride, kernel=3, act="relu"),),
        tuple(Stage(w, d, s, options) for w, d, s in zip(widths, depths, strides, strict=True)),
        (block("head", classes, 0, hidden=head, act="relu"),),
    )


def vgg(
    size: Ints = (224,),
    channels: int = 3,
    classes: int = 1000,
    widths: tuple[Ints, ...] = ((64,), (128,), (256,), (512,), (512,)),
    depths: tuple[Ints, ...] = ((2,), (2,), (3,), (3,), (3,)),
    kernels: Ints = (1, 3, 5),
    head: int = 512,
) -> Recipe:
    """VGG-16's 13 convolutions (https://arxiv.org/abs/1409.1556, table 1, D), each of kernel 1, 3 or 5.

    The first convolution of a stage pools by 2; on small images the first stages don't. A 1x1 convolution, global
    pooling and one linear layer replace the three of the paper.
    """
    if len(widths) != len(depths):
        raise InputError(f"vgg needs one depth per width; got {written(widths)} and {written(depths)}")
    options = (choice("conv_pool", kernel=kernels, act=("relu",)),)
    strides = fit_strides(min(size), [2] * len(widths))
    return Recipe(
        channels,
        size,
        classes,
        (),
        tuple(Stage(w, d, s, options) for w, d, s in zip(widths, depths, strides, strict=True)),
        (block("head", classes, 0, hidden=head, act="relu"),),
    )


def fit_strides(size_px: int, strides: list[int]) -> list[int]:
    """`strides` with as many of the first ones set to 1 as keep the last map at MIN_MAP_PX or more."""
    if min(strides) < 1:
        raise InputError(f"strides {strides} must be at least 1")
    fitted = list(strides)
    for i in range(len(strides)):
        shrunk = size_px
        for stride in fitted:
            shrunk = -(-shrunk // stride)
        if shrunk >= MIN_MAP_PX:
            break
        fitted[i] = 1
    return fitted


SPACES: dict[str, Callable[..., Recipe]] = {
    "mobilenet": mobilenet,
    "nas-bench-macro": nas_bench_macro,
    "shufflenet": shufflenet,
    "vgg": vgg,
}
"""The built-in spaces of stages, by name; their parameters are the settings behind it."""


def load_space(text: str) -> SearchSpace:
    """The space that `text` names.

    A built-in name, with settings or without (`mobilenet:size=32,widths=16-24`), a TOML file, or
    `module:attribute` for a SearchSpace (or a function that returns one) in an importable Python module.
    """
    name, _, rest = text.partition(":")
    if text.endswith(".toml") or name in SPACES:
        chain = ChainSpace(read_toml(Path(text)) if text.endswith(".toml") else _built_in(name, rest), text)
        chain.check_maps()
        return chain
    if is_attribute(text):
        space: SearchSpace = import_attribute(text, SearchSpace)
        space.spec = text
        return space
    raise unknown_name("space", name, SPACES)


def _built_in(name: str, settings: str) -> Recipe:
    """The recipe of a built-in space with settings such as `size=32,widths=16-24`."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(SPACES[name]).parameters.items()}
    return SPACES[name](**parse_settings(settings, defaults, name))


def space_record(space: SearchSpace) -> dict[str, Any]:
    """What a file keeps of a space, so that it is found again: its text, its recipe and its fingerprint."""
    recipe = to_toml(space.recipe) if type(space) is ChainSpace else None  # a class of its own has code, too
    if recipe is None and not space.spec:
        raise InputError(
            f"{space} has no name by which a file could find it: load it as load_space('module:attribute')"
        )
    return {"spec": space.spec, "recipe": recipe, "fingerprint": space.fingerprint()}


def recorded_space(record: Mapping[str, Any], source: str) -> SearchSpace:
    """The space of a record in the file `source`; MismatchError where its code has changed since."""
    space: SearchSpace
    if record["recipe"] is not None:
        space = ChainSpace(recipe_from(tomllib.loads(record["recipe"]), source), record["spec"])
    else:
        space = load_space(record["spec"])
    if space.fingerprint() != record["fingerprint"]:
        raise MismatchError(
            f"{source} was made for another version of the space {space} "
            f"({record['fingerprint']}, now {space.fingerprint()}): make it anew"
        )
    return space
