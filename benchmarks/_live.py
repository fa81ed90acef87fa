"""A table that fills while a benchmark runs: by rich on a terminal, else line by line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

#: Columns of characters where no terminal says how many there are.
_WIDTH = 120
_NARROWEST = 6


class LiveTable:
    """Rows appear as they are added, between `with` and its end.

    Args:
        title: a line above.
        columns: the headings, of one or more lines; the first column is text, the others numbers.
        first_width: characters of the first column, for what is no terminal.
        out: where to; by default standard output.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str],
        first_width: int = 16,
        out: Console | None = None,
    ):
        self._console = out or console()
        self._title, self._columns = title, columns
        self._table = table(title, columns)
        self._live = Live(self._table, console=self._console, auto_refresh=False)
        others = [max(map(len, (*c.split("\n"), " " * _NARROWEST))) for c in columns[1:]]
        self._widths = [-first_width, *others]

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start(refresh=True)
            return self
        print(self._title, file=self._console.file)
        headings = [column.split("\n") for column in self._columns]
        height = max(map(len, headings))
        for line in range(height):
            self._print([h[line] if line < len(h) else "" for h in headings])
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, *cells: str) -> None:
        """One row, shown at once."""
        self._table.add_row(*cells)
        if self._console.is_terminal:
            self._live.refresh()
        else:
            self._print(cells)

    def _print(self, cells: Sequence[str]) -> None:
        line = "  ".join(
            cell.ljust(-width) if width < 0 else cell.rjust(width)
            for cell, width in zip(cells, self._widths, strict=True)
        )
        print(line.rstrip(), file=self._console.file, flush=True)


def table(title: str, columns: Sequence[str]) -> Table:
    """An empty one, with its first column on the left and the others on the right."""
    found = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    found.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        found.add_column(column, justify="right", no_wrap=True)
    return found


def console() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH)
