"""The pictures and tables of docs/ are those that docs/make_pictures.py makes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_MOST_BYTES = 700_000  # of all pictures together: whoever clones the repository gets them


@pytest.fixture(scope="module")
def make_pictures() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    try:
        import make_pictures

        yield make_pictures
    finally:
        sys.path.remove(str(DOCS))


def words_of(svg: bytes) -> list[str]:
    texts = ElementTree.fromstring(svg).itertext()
    return [text.strip() for text in texts if text.strip()]


def test_pages_show_every_picture_and_no_other(make_pictures: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    shown = set(re.findall(r"\]\(pictures/([\w.]+)\)", text))
    committed = {path.name for path in make_pictures.PICTURES.iterdir()}
    assert shown == committed == set(make_pictures.FIGURES)
    assert sum(path.stat().st_size for path in make_pictures.PICTURES.iterdir()) < _MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("page", ["lattice.md", "holes.md"])
def test_tables_are_what_is_counted(make_pictures: ModuleType, page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert "| --- |" in text.split("<!-- counted -->")[1]
    assert make_pictures.filled(page, text) == text, "run python docs/make_pictures.py"


@pytest.mark.slow
def test_every_picture_can_be_drawn_again(make_pictures: ModuleType) -> None:
    """The words of drawings are the same; another matplotlib places them a little differently."""
    for name, draw in make_pictures.FIGURES.items():
        committed = (make_pictures.PICTURES / name).read_bytes()
        drawn = make_pictures.encoded(draw(), Path(name).suffix)
        if name.endswith(".svg"):
            assert words_of(drawn) == words_of(committed), f"{name}: run docs/make_pictures.py"
        else:
            assert abs(len(drawn) - len(committed)) < len(committed) / 10, name
