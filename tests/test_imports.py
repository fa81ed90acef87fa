"""The arrows between the packages and rooms: what imports what, and no circles."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("deeplab_repro", "prototxt_import", "tensorflow_import")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Modules that a file imports when it is loaded or inside functions."""
    found = set()
    skipped = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(inner) for part in node.body for inner in ast.walk(part))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in modules else node.module for name in inside)
    return found & modules


@cache
def graph() -> dict[str, set[str]]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    modules = {module_name(path) for path in files}
    return {module_name(path): imports_of(path, modules) - {module_name(path)} for path in files}


def circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """Names along a circle, if there is one."""
    state: dict[str, int] = {}  # 1: being looked at, 2: done

    def visit(name: str, path: list[str]) -> list[str] | None:
        state[name] = 1
        for below in sorted(arrows[name]):
            if state.get(below) == 1:
                return [*path[path.index(below) :], below] if below in path else [below]
            if below not in state and (found := visit(below, [*path, below])):
                return found
        state[name] = 2
        return None

    for name in sorted(arrows):
        if name not in state and (found := visit(name, [name])):
            return found
    return None


def room(module: str) -> str:
    """deeplab_repro.caffe.layers.conv -> deeplab_repro.caffe."""
    return ".".join(module.split(".")[:2]) if module.startswith("deeplab_repro.") else module


def test_the_search_for_circles_finds_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.slow
def test_no_circle_of_modules() -> None:
    """Not even one that is broken by importing inside a function."""
    # deeplab_repro/__init__.py looks its public names up at first use.
    arrows = {**graph(), "deeplab_repro": set()}
    # A package's __init__ gathers what lies in it; what lies in it imports its neighbours, not it.
    assert circle(arrows) is None


def test_no_circle_of_rooms() -> None:
    rooms: dict[str, set[str]] = {}
    for module, below in graph().items():
        if module.startswith("deeplab_repro."):
            inside = {room(name) for name in below if name.startswith("deeplab_repro.")}
            rooms.setdefault(room(module), set()).update(inside - {room(module)})
    assert circle(rooms) is None, circle(rooms)


@pytest.mark.parametrize("importer", ["prototxt_import", "tensorflow_import"])
def test_the_importers_know_nothing_of_torch_nor_of_us(importer: str) -> None:
    for path in sorted((ROOT / importer).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            for name in names:
                assert name.split(".")[0] not in ("torch", "deeplab_repro", "cupy"), path


def test_every_room_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for folder in sorted((ROOT / "deeplab_repro").iterdir()):
        if (folder / "__init__.py").is_file() and not folder.name.startswith("_"):
            assert f"`{folder.name}`" in text or f"`{folder.name}/`" in text, folder.name


def test_names_of_test_files_are_unique() -> None:
    """pytest takes two files of one name in different folders for the same module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
