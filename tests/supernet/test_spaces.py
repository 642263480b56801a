"""The built-in spaces against their published figures, and the text that names a space."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.latency import flops, params
from hwnas.listing import space_toml
from hwnas.supernet import SPACES, ChainSpace, SearchSpace, load_space
from hwnas.supernet.recipe import Block
from hwnas.supernet.spaces import recorded_space, space_record

TWENTY = Path(__file__).parents[1] / "data" / "nas_bench_macro_20.csv"


def chain(text: str) -> ChainSpace:
    space = load_space(text)
    assert isinstance(space, ChainSpace)
    return space


@pytest.mark.parametrize("name", SPACES)
def test_a_name_alone_is_the_default(name: str) -> None:
    space = load_space(name)
    assert space.spec == str(space) == name
    assert space.fingerprint() == load_space(f"{name}:").fingerprint()


def test_settings_are_parsed_by_the_type_of_their_default() -> None:
    text = "mobilenet:size=32,channels=1,classes=10,widths=8-16,depths=1-3,kernels=3-5,se=0-1,skip=false,act=hswish"
    space = chain(text)
    assert space.spec == text
    assert space.input_shape() == (1, 1, 32, 32)
    assert space.classes() == 10
    assert space.options == (2 * 2 * 2,) * 4
    assert {layer["act"] for layer in space.layers()} == {"hswish"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("mobilenet", 6**5 * 7**15),
        ("mobilenet:skip=0", 6**20),
        ("mobilenet:se=0-1", 12**5 * 13**15),
        ("mobilenet:kernels=3-5,expansions=6,widths=8-8-8,depths=1-2-3", 2**3 * 3**3),
        ("nas-bench-macro", 3**8),
    ],
)
def test_size_is_the_product_of_the_choices(text: str, size: int) -> None:
    assert load_space(text).size() == size


@pytest.mark.parametrize(
    ("size_px", "stem_stride", "last_px"), [(224, 2, 7), (192, 2, 6), (64, 1, 4), (32, 1, 4), (28, 1, 4), (16, 1, 4)]
)
def test_strides_keep_the_last_map_at_four_pixels(size_px: int, stem_stride: int, last_px: int) -> None:
    layers = [node.layer for node in load_space(f"mobilenet:size={size_px}").graph((0,) * 20)]
    assert layers[0].stride == stem_stride
    assert layers[-1].in_size == last_px


def test_small_images_are_not_shrunk_by_the_stem() -> None:
    space = load_space("mobilenet:size=28,channels=1,widths=8-16-24,depths=1-1-1")
    assert [node.layer.in_size for node in space.graph((0, 0, 0))] == [28, 28, 14, 7, 4]


def test_the_default_has_sixty_blocks_to_measure() -> None:
    """Two positions of each of five stages, six blocks each."""
    assert sum(layer.op == "mbconv" for layer in load_space("mobilenet").layers()) == 60


def test_every_block_but_the_first_of_a_stage_may_be_skipped() -> None:
    space = chain("mobilenet:size=16,widths=8-8,depths=1-2")
    assert {slot for slot, layer in space.nodes() if layer.op == "identity"} == {"stage1_1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mobilnet", "unknown space 'mobilnet'; did you mean mobilenet?"),
        ("mobilnet:size=32", "did you mean mobilenet?"),
        ("", "unknown space ''; known: mobilenet, nas-bench-macro"),
        ("mobilenet:widht=3", "unknown setting of mobilenet 'widht'; did you mean widths?"),
        ("mobilenet:size", "mobilenet: 'size' is not a setting; size takes a list such as 224"),
        ("mobilenet:size=big", "mobilenet: 'size=big' is not a setting; size takes a list such as 224"),
        ("mobilenet:widths=8-x", "'widths=8-x' is not a setting; widths takes a list such as 24-40-80"),
        ("mobilenet:skip=maybe", "skip takes 0 or 1"),
        ("mobilenet:widths=8-16,depths=1", "one width, depth and stride per stage.*depths=1,"),
        ("mobilenet:widths=8,depths=0", "depth is 0; it must be at least 1"),
        ("nas-bench-macro:size=2", "an input of 2 px is too small"),
        ("nas-bench-macro:size=8", "at stage2_1 1x1 is left of it, .*: fewer strides, or larger images"),
        ("no_such_module:space", "cannot load no_such_module:space as a SearchSpace: .*No module named"),
        ("math:space", "cannot load math:space as a SearchSpace: .*module 'math' has no attribute"),
        ("math:pi", "math:pi is a float, not a SearchSpace"),
        ("fractions:Fraction", "fractions:Fraction is a Fraction, not a SearchSpace"),
    ],
)
def test_a_wrong_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_space(text)


@pytest.mark.parametrize("attribute", ["SPACE", "make"])
def test_a_space_of_ones_own_comes_from_a_module(
    attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from hwnas.supernet import ChoiceSpace\nSPACE = ChoiceSpace([2, 3])\ndef make(): return SPACE\n"
    (tmp_path / "own_space.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    space = load_space(f"own_space:{attribute}")
    assert isinstance(space, SearchSpace)
    assert (space.spec, space.size()) == (f"own_space:{attribute}", 6)


def test_blocks_of_a_chain_keep_channels_unless_told() -> None:
    assert [Block("conv", width).at(3, 8).out_channels for width in (0, 5)] == [3, 5]


def published(path: Path) -> list[tuple[tuple[int, ...], int, int]]:
    with path.open(newline="") as file:
        return [(tuple(map(int, row["arch"])), int(row["params"]), int(row["flops"])) for row in csv.DictReader(file)]


def test_nas_bench_macro_has_its_published_costs() -> None:
    space, rows = load_space("nas-bench-macro"), published(TWENTY)
    assert [(arch, params(space, arch), flops(space, arch)) for arch, *_ in rows] == rows
    assert len(rows) == 20


@pytest.mark.skipif("HWNAS_BENCH_DATA" not in os.environ, reason="HWNAS_BENCH_DATA names no folder of tables")
def test_nas_bench_macro_has_all_its_published_costs() -> None:
    space, rows = load_space("nas-bench-macro"), published(Path(os.environ["HWNAS_BENCH_DATA"]) / "nas_bench_macro.csv")
    assert [(arch, params(space, arch), flops(space, arch)) for arch, *_ in rows] == rows
    assert len(rows) == space.size() == 6561


OWN_CHAIN = """
from hwnas.supernet import ChainSpace, load_space

class Own(ChainSpace):
    def canonical(self, arch):
        return (0, *super().canonical(arch)[1:])

def small():
    return Own(load_space("vgg:size=16,channels=1,classes=3,widths=4-8,depths=1-1,head=8").recipe, "")
"""


def test_a_chain_with_code_of_its_own_is_recorded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_chain.py").write_text(OWN_CHAIN)
    monkeypatch.syspath_prepend(tmp_path)
    space = load_space("own_chain:small")
    again = recorded_space(space_record(space), "run.json")
    assert type(again).__name__ == "Own"
    assert again.canonical((2, 1)) == (0, 1)
    with pytest.raises(InputError, match="written in Python"):
        space_toml("own_chain:small")


def test_a_setting_is_given_once() -> None:
    with pytest.raises(InputError, match="mobilenet: size is given twice"):
        load_space("mobilenet:size=32,size=64")


def test_a_module_that_ends_the_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot load leaves:space"):
        load_space("leaves:space")
