"""The report of a reproduction: JSON, and a page with links to the two evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deeplab_repro import pages
from deeplab_repro.evaluation import Evaluation, Pair
from deeplab_repro.evaluation.html import percent, write_evaluation_page
from deeplab_repro.evaluation.plots import trimap_plot
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.reproduction.verdict import Row
from prototxt_import.files import replacing

__all__ = ["Part", "Report", "write_report"]


@dataclass(frozen=True)
class Part:
    """The label maps of one step and their score.

    Attributes:
        title: "before the CRF" or "after the CRF".
        name: Of the page.
        pairs: Label maps and what they are held against.
        evaluation: Their score.
    """

    title: str
    name: str
    pairs: Sequence[Pair]
    evaluation: Evaluation


@dataclass(frozen=True)
class Report:
    """What a reproduction found.

    Attributes:
        model: Title of the released model.
        run: What was run, as `Identity.as_json` has it.
        pictures: How many of how many.
        rows: The numbers beside the published ones.
        parts: Before the CRF and, in a run with one, after it.
        classes: Names and colours.
        warning: Why the numbers say nothing, where that is so.
    """

    model: str
    run: Mapping[str, Any]
    pictures: tuple[int, int]
    rows: Sequence[Row]
    parts: Sequence[Part]
    classes: Classes
    warning: str

    def as_json(self) -> dict[str, Any]:
        """The numbers: rows, and for each part the confusion matrix and the trimap curves."""
        return {
            "model": self.model,
            "run": dict(self.run),
            "pictures": {"scored": self.pictures[0], "in_the_list": self.pictures[1]},
            "warning": self.warning or None,
            "rows": [asdict(row) for row in self.rows],
            "parts": {
                part.name: part.evaluation.as_json(self.classes.names) for part in self.parts
            },
        }


def write_report(folder: Path, report: Report) -> None:
    """Write report.json, report.html, and a page for each part, to the folder of the run."""
    for part in report.parts:
        write_evaluation_page(
            folder / f"{part.name}.html",
            part.evaluation,
            part.pairs,
            report.classes,
            title=f"{report.model}, {part.title}",
            warning=report.warning,
        )
    trimaps = {
        part.title: part.evaluation.trimap
        for part in report.parts
        if part.evaluation.trimap is not None and part.evaluation.trimap.rings.any()
    }
    text = pages.render_page(
        "deeplab_repro.reproduction",
        "reproduce.html",
        {"percent": percent},
        report=report,
        curves=Markup(trimap_plot(trimaps)) if trimaps else "",
    )
    pages.write_page(folder / "report.html", text)
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
