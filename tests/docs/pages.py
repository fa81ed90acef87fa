"""The commands and the code of the Markdown pages, found by a Markdown parser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

__all__ = ["PAGES", "ROOT", "SHELL", "Block", "Command", "blocks"]

ROOT: Final = Path(__file__).parents[2]
#: Of a fence, for what is run in a shell; an indented block is such a one, too.
SHELL: Final = ("console", "bash", "")
#: Of a fence, for what there is nothing to run of.
SHOWN: Final = ("text", "math", "{toctree}")


def _pages() -> list[str]:
    """Every page of the checkout, but for what is built or made by commands."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    found = [*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))]
    names = (page.relative_to(ROOT) for page in found)
    made = {"_build", "build", "demo_output", "dist"}
    # What a changelog shows worked when it was written.
    return sorted(
        str(name) for name in names if not made & {*name.parts} and str(name) != "CHANGELOG.md"
    )


PAGES: Final = _pages()


@dataclass(frozen=True)
class Command:
    """A command line of a block, and what the page says that it prints.

    Attributes:
        text: the line, without the prompt and without a comment behind it.
        output: the lines below it; None where the block shows no output.
    """

    text: str
    output: list[str] | None


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: its name, relative to the checkout.
        line: where its content begins, from 1.
        language: "python", one of `SHELL`, or one of `SHOWN`.
        content: the text.
    """

    page: str
    line: int
    language: str
    content: str

    @property
    def commands(self) -> list[Command]:
        """Of a block for the shell: in `console`, lines behind a prompt; elsewhere every line."""
        found: list[Command] = []
        begun = ""
        for line in self.content.splitlines():
            if begun or line.startswith("$ ") or (self.language != "console" and line.strip()):
                begun += line.removeprefix("$ ")
                if begun.endswith("\\"):
                    begun += "\n"
                    continue
                text = begun.split("  #")[0].rstrip()
                found.append(Command(text, [] if self.language == "console" else None))
                begun = ""
            elif found and found[-1].output is not None:
                found[-1].output.append(line)
        return found


def blocks(page: str) -> list[Block]:
    """Every fenced and every indented block of a page.

    Raises:
        ValueError: a block is in a language that nobody has said how to run.
    """
    found = []
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        fenced = token.type == "fence"
        language = token.info.split()[0] if token.info.split() else ""
        line = token.map[0] + 1 + fenced
        if (fenced and not language) or language not in ("python", *SHELL, *SHOWN):
            raise ValueError(f"{page}:{line}: a block in {language or 'no language'!r}")
        if language not in SHOWN:
            found.append(Block(page, line, language, token.content))
    return found
