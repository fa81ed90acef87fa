"""Every command and every block of code of the pages is run, in a folder with the files named.

A page is run from top to bottom in one folder, its Python in one namespace.  `exceptions` says what
is run elsewhere, or with smaller numbers; what a page says that a command prints is what it prints.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deeplab_repro.ops import _atrous_tuned
from deeplab_repro.released.manifest import MANIFEST_VARIABLE
from deeplab_repro.released.store import STORE_VARIABLE
from tests.docs.exceptions import ELSEWHERE, ENDS_WITH, SMALLER, VARIES
from tests.docs.pages import PAGES, ROOT, SHELL, Block, Command, blocks
from tests.docs.reproduced import check_reproduced
from tests.docs.sandbox import furnish, manifest
from tests.docs.shell import environment, run
from tests.released.server import Page, serving
from tests.testing.warm import Warm

#: It fetches a released model: a small one, from a server of the test.
REPRODUCE = "docs/reproduce.md"


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "furnished"
    folder.mkdir()
    furnish(folder)
    return folder


@pytest.fixture
def variables(page: str, furnished: Path, warm: Warm, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The sandbox, and the environment in it."""
    shutil.copytree(furnished, tmp_path, symlinks=True, dirs_exist_ok=True)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(warm.folder)
    if "in this folder" in (ROOT / page).read_text(encoding="utf-8"):
        for path in (ROOT / page).parent.iterdir():
            if path.is_file():
                shutil.copy(path, tmp_path)
    found = environment(tmp_path)
    found["PATH"] = f"{warm.folder}{os.pathsep}{found['PATH']}"
    if page != REPRODUCE:
        yield found
        return
    with serving() as server:
        address = server.url("/a.zip", Page((tmp_path / "prototxt_and_model.zip").read_bytes()))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest(address)))
        found[MANIFEST_VARIABLE] = str(tmp_path / "manifest.json")
        found[STORE_VARIABLE] = str(tmp_path / "store")
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_block_runs(
    page: str, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_atrous_tuned, "_choices", {})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {"__name__": "__main__"}
    said: dict[str, list[str]] = {}
    for block in blocks(page):
        if block.language in SHELL:
            said |= run_commands(block, tmp_path, variables)
        else:
            # Empty lines in front, so that an error names the line of the page.
            source = "\n" * (block.line - 1) + block.content
            exec(compile(source, ROOT / page, "exec"), names)
    if page == REPRODUCE:
        check_reproduced(tmp_path, said)


def run_commands(block: Block, folder: Path, variables: dict[str, str]) -> dict[str, list[str]]:
    """Run those that are run here: command -> what it printed."""
    said = {}
    for command in block.commands:
        if (block.page, command.text) in ELSEWHERE:
            continue
        text = SMALLER.get(command.text, command.text)
        code, shown = run(text, folder, variables)
        said[command.text] = shown
        place = f"{block.page}:{block.line}: {text}\n" + "\n".join(shown)
        assert code == ENDS_WITH.get(command.text, 0), place
        # torchrun shows one where a process of it ends with 1.
        assert "Traceback" not in "\n".join(shown) or text.startswith("torchrun"), place
        if command.output is not None and command.text not in VARIES:
            assert words(shown) == words(command.output), f"{place}\nrun docs/run_examples.py"
    return said


def words(lines: list[str]) -> list[str]:
    """What is printed, without numbers, which differ a little between processors."""
    return re.sub(r"(?<!\w)[-+]?\d[\d.,:e+-]*", "#", " ".join(lines)).split()


def test_commands_and_output_are_told_apart() -> None:
    shown = "$ one \\\n  --two  # why\nprinted\n\n$ three # four\n"
    found = Block("page", 1, "console", shown).commands
    assert [command.text for command in found] == ["one \\\n  --two", "three # four"]
    assert [command.output for command in found] == [["printed", ""], []]
    plain = Block("page", 1, "bash", "one\n\n$ two   # why\n").commands
    assert plain == [Command("one", None), Command("two", None)]


def test_no_block_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text\na\n```\n\n- b\n\n  ```python\n  c\n  ```\n\nd\n\n    e\n")
    assert [(b.line, b.language, b.content) for b in blocks(str(page))] == [
        (8, "python", "c\n"),
        (13, "", "e\n"),
    ]
    page.write_text("```\na\n```\n")
    with pytest.raises(ValueError, match="no language"):
        blocks(str(page))
    page.write_text("```ruby\na\n```\n")
    with pytest.raises(ValueError, match="ruby"):
        blocks(str(page))


def test_the_exceptions_are_those_of_the_pages() -> None:
    found = {
        (page, command.text)
        for page in PAGES
        for block in blocks(page)
        if block.language in SHELL
        for command in block.commands
    }
    assert set(ELSEWHERE) <= found
    assert {*SMALLER, *ENDS_WITH, *VARIES} <= {command for _, command in found}
    for command, place in ELSEWHERE.items():
        assert place.words in (ROOT / place.file).read_text(encoding="utf-8"), command
