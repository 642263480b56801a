"""The documentation as a site: its navigation has all pages, its reference all public names, nothing is fetched.

What was built is looked at where HWNAS_SITE names the folder that scripts/docs has built it into.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text()
PACKAGES = ("supernet", "devices", "latency", "search", "export", "report", "workflows", "errors")
SITE = os.environ.get("HWNAS_SITE")
each_package = pytest.mark.parametrize("name", PACKAGES)
built = pytest.mark.skipif(not SITE, reason="HWNAS_SITE doesn't name a folder with the built site")


def public_names(module: ModuleType) -> list[str]:
    """What a package exports; of errors, the errors."""
    errors = [name for name, thing in vars(module).items() if inspect.isclass(thing) and issubclass(thing, Exception)]
    return list(getattr(module, "__all__", errors))


def test_the_navigation_has_every_page_once() -> None:
    navigation = CONFIG.partition("\nnav:\n")[2].partition("\n\n")[0]
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@each_package
def test_the_reference_has_a_package_and_what_modules_of_the_same_name_hide(name: str) -> None:
    """Read statically, `hwnas.latency.profile` is the module: the function of that name has to be asked for."""
    directives = set(re.findall(r"^::: (\S+)$", (DOCS / "reference" / f"{name}.md").read_text(), re.MULTILINE))
    names = public_names(importlib.import_module(f"hwnas.{name}"))
    hidden = {f"hwnas.{name}.{public}.{public}" for public in names if (ROOT / name / f"{public}.py").is_file()}
    assert directives == {f"hwnas.{name}", *hidden}


def test_the_reference_begins_with_all_names_of_hwnas() -> None:
    text = (DOCS / "reference" / "index.md").read_text()
    assert [name for name in importlib.import_module("hwnas").__all__ if f"`{name}`" not in text] == []


def test_all_extras_are_in_all() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = (re.fullmatch(r"hwnas\[(.*)\]", extra) for extra in extras["all"])
    assert named
    assert set(named[1].split(",")) == set(extras) - {"all", "dev"}


def words(page: str) -> str:
    """The text of a page, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@built
@each_package
def test_the_built_reference_has_every_public_name_with_its_docstring(name: str) -> None:
    page, module = (
        (Path(str(SITE)) / "reference" / f"{name}.html").read_text(),
        importlib.import_module(f"hwnas.{name}"),
    )
    anchors, text = set(re.findall(r'id="hwnas\.([\w.]+)"', page)), words(page)
    last = {anchor.rpartition(".")[2] for anchor in anchors}
    names = public_names(module)
    assert names
    assert [public for public in names if public not in last] == []
    documented = [
        thing for thing in map(vars(module).get, names) if inspect.isclass(thing) or inspect.isfunction(thing)
    ]
    first = [inspect.getdoc(thing).splitlines()[0].replace("`", "") for thing in documented]  # type: ignore[union-attr]
    assert [line for line in first if " ".join(line.split()) not in text] == []


@built
def test_the_built_site_fetches_nothing_from_elsewhere() -> None:
    pages = sorted(Path(str(SITE)).rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))  # and one for what is not found
    fetched = r"""<(?:script|img|iframe)\b[^>]*\bsrc="?(?:https?:)?//|<link\b[^>]*\bhref="?(?:https?:)?//|fonts\.g"""
    assert [page.name for page in pages if re.search(fetched, page.read_text())] == []
