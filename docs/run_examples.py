"""Runs the console blocks of the pages and puts what they print below their commands.

    python docs/run_examples.py [PAGE...]

In a ``console`` block every line that starts with "$ " is a command; the lines up to the next one
are its output.  The commands of a page are run in one folder, which holds small files of the names
that the pages use (tests/docs/sandbox.py).  tests/docs/test_pages.py runs the same blocks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.docs.exceptions import ELSEWHERE, SMALLER  # noqa: E402
from tests.docs.pages import PAGES, SHELL, Block, blocks  # noqa: E402
from tests.docs.sandbox import furnish  # noqa: E402
from tests.docs.shell import environment, run  # noqa: E402


def main(pages: list[str]) -> None:
    """Fill these pages in, or all that have a console block."""
    for page in pages or PAGES:
        found = [block for block in blocks(page) if block.language in SHELL]
        if not any(block.language == "console" for block in found):
            continue
        with tempfile.TemporaryDirectory() as name:
            furnish(Path(name))
            filled = [filled_in(block, Path(name)) for block in found]
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        for block, shown in reversed(list(zip(found, filled, strict=True))):
            if block.language == "console":
                start = block.line - 1
                lines[start : start + len(block.content.splitlines())] = shown
        (ROOT / page).write_text("\n".join(lines) + "\n", encoding="utf-8")


def filled_in(block: Block, folder: Path) -> list[str]:
    """The lines of a block, with what its commands print now."""
    lines = []
    for command in block.commands:
        lines.append(f"$ {command.text}")
        if (block.page, command.text) in ELSEWHERE:
            lines += command.output or []
            continue
        text = SMALLER.get(command.text, command.text)
        shown = run(text, folder, environment(folder))[1]
        if any("Traceback" in line for line in shown):
            sys.exit("\n".join([text, *shown]))
        lines += shown
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
