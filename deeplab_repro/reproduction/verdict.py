"""What came out, held against what was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from deeplab_repro.released.models import CaffeModel, Score, TensorFlowModel

__all__ = ["Row", "compare", "compare_score"]

Verdict = Literal["reproduced", "not reproduced", "no verdict"]

#: Rounding of the published numbers, which have two decimals: half of the last one.
_ROUNDING: Final = 0.005


@dataclass(frozen=True)
class Row:
    """One number, in percent.

    Attributes:
        what: Which number it is.
        paper: The authors', None where they state none.
        others: Who measured it too, and what they got.
        ours: This run's.
        tolerance: How far it may be off, None where nobody can tell.
        verdict: Whether it is reproduced.
        reason: Why, in one sentence.
    """

    what: str
    paper: float | None
    others: tuple[tuple[str, float], ...]
    ours: float
    tolerance: float | None
    verdict: Verdict
    reason: str


def compare(
    model: CaffeModel, miou: float, miou_crf: float | None, obstacle: str = ""
) -> list[Row]:
    """Hold the mean IoU on VOC 2012 val against the paper and what others measured.

    A number is reproduced if it is within the tolerance of the paper's, or of what somebody else
    measured with the same released weights.

    Args:
        model: The released model.
        miou: Percent, before the CRF.
        miou_crf: Percent, after it; None for a run without.
        obstacle: Why the numbers cannot be compared, such as that not all pictures were run.

    Returns:
        A row for each number.
    """
    published = model.published
    rows = [
        _row(
            "mean IoU",
            published["miou"],
            published["tolerance"],
            [(each.who, each.miou, each.same_weights) for each in model.reported],
            miou,
            obstacle,
        )
    ]
    if miou_crf is not None:
        rows.append(
            _row(
                "mean IoU after the CRF",
                published["miou_crf"],
                published["tolerance_crf"],
                [(each.who, each.miou_crf, each.same_weights) for each in model.reported],
                miou_crf,
                obstacle,
            )
        )
    return rows


def compare_score(
    model: TensorFlowModel,
    score: Score,
    miou: float,
    miou_crf: float | None,
    obstacle: str = "",
) -> list[Row]:
    """Hold the mean IoU of a checkpoint against what its authors published of this way to run it.

    Args:
        model: The released model.
        score: The way, with its number.
        miou, miou_crf, obstacle: As of :func:`compare`; nobody has published numbers after a CRF.

    Returns:
        A row for each number.
    """
    rows = [_row("mean IoU", score.miou, model.tolerance, [], miou, obstacle)]
    if miou_crf is not None:
        rows.append(_row("mean IoU after the CRF", None, None, [], miou_crf, obstacle))
    return rows


def _row(
    what: str,
    paper: float | None,
    tolerance: float | None,
    reported: list[tuple[str, float | None, bool]],
    ours: float,
    obstacle: str,
) -> Row:
    others = tuple((who, value) for who, value, _ in reported if value is not None)
    targets = [paper] if paper is not None else []
    targets += [value for _, value, same in reported if value is not None and same]
    verdict: Verdict = "no verdict"
    if obstacle:
        reason = obstacle
    elif not targets:
        reason = "nobody has published this number"
    elif tolerance is None:
        reason = "nobody has reproduced this number, so that no tolerance is known"
    else:
        nearest = min(targets, key=lambda target: abs(ours - target))
        off = ours - nearest
        verdict = "reproduced" if abs(off) <= tolerance + _ROUNDING else "not reproduced"
        reason = f"{off:+.2f} from {nearest:.2f}; at most {tolerance:g} is allowed"
    return Row(what, paper, others, ours, tolerance, verdict, reason)
