"""The built-in search spaces, and how a text becomes a space."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable

from ..errors import InputError, unknown_name
from .chain import SKIP, Block, ChainSpace
from .layer import Value
from .space import SearchSpace

MIN_MAP_PX = 4  # the last feature map is kept at least this wide


def block(op: str, out_channels: int, stride: int = 1, params: dict[str, Value] | None = None) -> Block:
    """A Block from a mapping of parameters."""
    return Block(op, out_channels, stride, tuple(sorted((params or {}).items())))


def mobilenet(
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
    stem: int = 16,
    widths: tuple[int, ...] = (24, 40, 80, 112, 160),
    depths: tuple[int, ...] = (4, 4, 4, 4, 4),
    strides: tuple[int, ...] = (2, 2, 2, 1, 2),
    kernels: tuple[int, ...] = (3, 5, 7),
    expansions: tuple[int, ...] = (3, 6),
    se: tuple[int, ...] = (0,),
    skip: bool = True,
    head: int = 960,
    act: str = "relu",
) -> ChainSpace:
    """MBConv blocks: every block chooses kernel, expansion and, with `se=0-1`, squeeze-excite.

    One width and depth per stage; all but the first block of a stage may be skipped. The space of
    https://arxiv.org/abs/1812.00332 (section 3.1). On small images the first strides become 1, the stem's
    before the stages', so that the last map keeps at least 4 pixels.
    """
    stages = list(itertools.zip_longest(widths, depths, strides[: len(widths)]))
    if not widths or any(None in stage or min(stage) < 1 for stage in stages):
        raise InputError(
            f"mobilenet needs one width, depth and stride per stage, all positive; "
            f"got widths={widths}, depths={depths}, strides={strides}"
        )
    stem_stride, *stage_strides = fit_strides(size, [2, *(stride for _, _, stride in stages)])
    slots: list[tuple[Block, ...]] = []
    for (width, depth, _), first_stride in zip(stages, stage_strides, strict=True):
        for position in range(depth):
            stride = first_stride if position == 0 else 1
            options = tuple(
                block("mbconv", width, stride, {"kernel": k, "expansion": e, "se": s, "act": act})
                for s, e, k in itertools.product(se, expansions, kernels)
            )
            slots.append((*options, SKIP) if skip and position else options)
    return ChainSpace(
        (channels, size),
        (block("conv", stem, stem_stride, {"kernel": 3, "act": act}),),
        tuple(slots),
        (block("head", classes, 0, {"width": head, "act": act}),),
    )


def nas_bench_macro(size: int = 32, channels: int = 3, classes: int = 10) -> ChainSpace:
    """The 3^8 MobileNetV2 chains of NAS-Bench-Macro (https://github.com/xiusu/NAS-Bench-Macro).

    Options: 0 identity (a strided 1x1 convolution where the shape changes), 1 MBConv expand 3 kernel 3,
    2 MBConv expand 6 kernel 5.
    """
    slots: list[tuple[Block, ...]] = []
    for width, depth in ((64, 2), (128, 3), (256, 3)):
        for position in range(depth):
            stride = 1 if position else 2
            none = SKIP if position else block("conv", width, 2, {"kernel": 1, "act": "none"})
            mbconvs = (
                block("mbconv", width, stride, {"kernel": k, "expansion": e, "se": 0, "act": "relu6"})
                for e, k in ((3, 3), (6, 5))
            )
            slots.append((none, *mbconvs))
    return ChainSpace(
        (channels, size),
        (block("conv", 32, 1, {"kernel": 3, "act": "relu6"}),),
        tuple(slots),
        (block("head", classes, 0, {"width": 1280, "act": "relu6"}),),
    )


def fit_strides(size_px: int, strides: list[int]) -> list[int]:
    """`strides` with as many of the first ones set to 1 as keep the last map at MIN_MAP_PX or more."""
    fitted = list(strides)
    for i in range(len(strides)):
        shrunk = size_px
        for stride in fitted:
            shrunk = -(-shrunk // stride)
        if shrunk >= MIN_MAP_PX:
            break
        fitted[i] = 1
    return fitted


SPACES: dict[str, Callable[..., ChainSpace]] = {"mobilenet": mobilenet, "nas-bench-macro": nas_bench_macro}


def load_space(text: str) -> SearchSpace:
    """The space that `text` names.

    A built-in name, with settings or without (`mobilenet:size=32,widths=16-24`), or `module:attribute` for
    a SearchSpace (or a function that returns one) in an importable Python module.
    """
    name, _, rest = text.partition(":")
    if name in SPACES:
        settings = parse_settings(SPACES[name], name, rest)
        space: SearchSpace = SPACES[name](**settings)
        space.spec = f"{name}:{rest}" if rest else name
        return space
    if rest and all(part.isidentifier() for part in [*name.split("."), rest]):
        return import_space(name, rest)
    raise unknown_name("space", name, SPACES)


def import_space(module: str, attribute: str) -> SearchSpace:
    """The SearchSpace that a Python module holds under a name."""
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot load the space {module}:{attribute}: {error}") from error
    space = found() if callable(found) else found
    if not isinstance(space, SearchSpace):
        raise InputError(f"{module}:{attribute} is a {type(space).__name__}, not a SearchSpace")
    space.spec = f"{module}:{attribute}"
    return space


def parse_settings(function: Callable[..., object], name: str, text: str) -> dict[str, Value | tuple[int, ...]]:
    """`size=32,widths=16-24` as the typed arguments of `function`; the defaults' types decide."""
    known = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    settings: dict[str, Value | tuple[int, ...]] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise unknown_name(f"setting of {name}", key, known)
        try:
            if not equals:
                raise ValueError
            settings[key] = _parse_value(value, known[key])
        except ValueError:
            kind = "a list such as 3-5-7" if isinstance(known[key], tuple) else type(known[key]).__name__
            raise InputError(f"{name}: {item!r} is not a setting; {key} takes {kind}") from None
    return settings


def _parse_value(text: str, like: object) -> Value | tuple[int, ...]:
    if isinstance(like, tuple):
        return tuple(int(part) for part in text.split("-"))
    if isinstance(like, bool):
        return bool(("false", "true").index(text)) if text in ("false", "true") else bool(("0", "1").index(text))
    return int(text) if isinstance(like, int) else text
