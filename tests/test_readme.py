"""Tables and pictures are those of the committed results, and the commands named exist."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from deeplab_repro.cli import _COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: The README and all pages: file name -> text.
PAGES = {"README.md": README} | {
    f"docs/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")
}


def benchmark(name: str) -> ModuleType:
    """A module of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(picture: Path) -> list[str]:
    texts = ElementTree.parse(picture).getroot().itertext()
    return [text.strip() for text in texts if text.strip()]


def test_numbers_come_from_the_results():
    tables = benchmark("_tables")
    page = tables.PAGE.read_text(encoding="utf-8")
    assert "| --- |" in page.split("<!-- numbers -->")[1]
    assert tables.filled(page) == page, "run python benchmarks/_tables.py"


@pytest.mark.slow
def test_pictures_come_from_the_results(tmp_path):
    """Their words and numbers, that is: another matplotlib places them a little differently."""
    plots = benchmark("_plots")
    shutil.copytree(plots.RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.svg"))
    drawn = plots.draw_all(tmp_path / "results")
    committed = sorted(plots.RESULTS.rglob("*.svg"))
    assert len(drawn) == len(committed) > 0
    for new, old in zip(sorted(drawn), committed, strict=True):
        assert new.name == old.name
        assert words_of(new) == words_of(old), f"{old}: run python benchmarks/_plots.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_exists(page):
    named = set(re.findall(r"deeplab-repro ([a-z][a-z-]*)\b", PAGES[page]))
    assert named <= set(_COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page])
    assert all(((ROOT / page).parent / link).exists() for link in links), links
    folders = "benchmarks|csrc|docs|prototxt_import|tensorflow_import|tests|weights"
    for file in re.findall(rf"`((?:{folders})/[\w./-]+)`", PAGES[page]):
        assert (ROOT / file).exists(), file
