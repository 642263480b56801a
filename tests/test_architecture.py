"""The house rules that a reader relies on: which folder may import which, and what is never done."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwnas

ROOT = Path(__file__).resolve().parents[1]
NOT_PACKAGED = {"tests", "benchmarks", "docs", "scripts", "build", "dist"}
EVERYWHERE = {"__version__", "errors", "files", "names", "progress"}
FOLDERS = {"supernet", "devices", "latency", "search", "export", "report"}
PACKAGES = {"cli", "workflows", "export.readers", *FOLDERS}
MAY_IMPORT = {
    "supernet": set(),
    "devices": set(),
    "latency": {"supernet", "export", "devices"},
    "search": {"supernet"},
    "export": {"supernet"},
    "report": {"supernet", "latency", "search", "export"},
    "workflows": FOLDERS,
    "listing": FOLDERS,
    "demo": {"workflows", *FOLDERS},
    "cli": {"workflows", "demo", "listing"},
    "__main__": {"cli", "exits"},
    "__init__": FOLDERS,
}


def package_files() -> list[Path]:
    """Every Python file of the package, relative to the root."""
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(p for p in files if not p.parts[0].startswith(".") and p.parts[0] not in NOT_PACKAGED)


FILES = package_files()
each_file = pytest.mark.parametrize("file", FILES, ids=str)


def tree(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def home(file: Path) -> str:
    """The folder that a file lies in, or its own name at the root."""
    return file.parts[0] if len(file.parts) > 1 else file.stem


def imports(file: Path) -> Iterator[str]:
    """The folders or root modules of this package that a file imports, its own folder left out."""
    package = file.parts[:-1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                target = (*base, *(node.module or alias.name).split("."))[0]
                if target != home(file):
                    yield target


def test_every_folder_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(("hwnas", *file.parts[:-1])) for file in FILES if file.name == "__init__.py"}
    assert set(listed) == found
    assert found == {"hwnas", *(f"hwnas.{folder}" for folder in PACKAGES)}


@each_file
def test_imports_follow_the_arrows(file: Path) -> None:
    allowed = MAY_IMPORT.get(home(file), set()) | EVERYWHERE
    assert set(imports(file)) <= allowed


@each_file
def test_the_package_imports_itself_relatively(file: Path) -> None:
    for node in ast.walk(tree(file)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not any(name.partition(".")[0] == "hwnas" for name in names)


@each_file
def test_nothing_unpickles_and_no_shell_runs(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            assert not modules & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
        if isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("shell") != "True"
            assert given.get("allow_pickle") != "True"
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "os.system"}
            assert name != "torch.load" or given.get("weights_only") == "True"


@each_file
def test_files_are_short_enough_to_read(file: Path) -> None:
    assert len((ROOT / file).read_text().splitlines()) <= 400


def test_the_command_line_starts_without_anything_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "sklearn", "pandas", "altair", "scipy", "numpy"}
    program = f"import sys; from hwnas.__main__ import app; print({heavy} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


def test_the_package_alone_starts_without_anything_heavy(tmp_path: Path) -> None:
    program = "import sys, hwnas; print({'torch', 'numpy', 'typer'} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


@pytest.mark.parametrize("module", ["hwnas", *(f"hwnas.{folder}" for folder in sorted(FOLDERS))])
def test_public_names_can_be_imported(module: str) -> None:
    loaded = importlib.import_module(module)
    assert all(getattr(loaded, name) is not None for name in loaded.__all__)
    assert set(loaded.__all__) <= set(dir(loaded))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hwnas' has no attribute 'Supermet'"):
        _ = hwnas.Supermet


def test_lazy_names_are_the_ones_a_type_checker_sees() -> None:
    checked = {
        alias.name
        for node in ast.walk(tree(Path("__init__.py")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert checked == set(hwnas.__all__)
