"""Faults of the original programs, computed as they were, each with one warning."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

from prototxt_import import DIALECTS, Dialect, DialectReport, Layer

__all__ = [
    "BATCH_STATISTICS",
    "EXP_SHIFT",
    "FIRST_PICTURE",
    "SHARED_MEMORY",
    "UPDATED_STATISTICS",
    "Fault",
    "QuirkWarning",
    "Quirks",
]


class QuirkWarning(UserWarning):
    """A network meets a fault of the program that it was made for."""


@dataclass(frozen=True)
class Fault:
    """Something that an original program computes and that nobody meant.

    Attributes:
        programs: the dialects whose program does it.
        does: what it does, as a sentence that follows the layer's name.
        meant: what ``quirks=False`` computes.
    """

    programs: tuple[Dialect, ...]
    does: str
    meant: str


BATCH_STATISTICS: Final = Fault(
    ("dl2",),
    "with statistics of the batch, the DeepLab v2 fork computes no variance. Its divisor starts at "
    "0 and becomes sqrt(divisor + eps) at each pass, and the three blobs stay as they are",
    "normalises by the batch's variance and lets the blobs follow",
)
UPDATED_STATISTICS: Final = Fault(
    ("dl2",),
    "with update_global_stats in the TRAIN phase, the DeepLab v2 fork divides by the deviation of "
    "the batch from the global mean, and adds the global mean to blob 0",
    "normalises by the global statistics and lets the blobs follow the batch",
)
FIRST_PICTURE: Final = Fault(
    ("dl2", "dl1"),
    "the DeepLab forks read the first picture of the batch for every item",
    "takes each item's own picture",
)
EXP_SHIFT: Final = Fault(
    ("dl2", "dl1"),
    "with the default base and a shift, the DeepLab forks multiply by pow(-1, shift)",
    "multiplies by exp(shift)",
)
SHARED_MEMORY: Final = Fault(
    DIALECTS,
    "it works in place on memory that Caffe shares with other blobs (of Flatten, Reshape, Split, a "
    "Concat of one bottom or a Slice into one top), and so overwrites those too",
    "leaves those blobs as they are",
)


class Quirks:
    """Decides for one network which faults are computed, and warns once of each.

    A fault is computed where every dialect that the file may be in has it, which a file proves or
    the caller says (``dialect=``).  Where only some have it, what was meant is computed.

    Args:
        report: the dialect of the file and its alternatives.
        enabled: False computes what was meant everywhere, without a word.
    """

    def __init__(self, report: DialectReport, enabled: bool = True) -> None:
        self.enabled = enabled
        self._candidates = {report.dialect, *(() if report.forced else report.alternatives)}
        self._told: set[str] = set()

    def computes(self, layer: Layer, fault: Fault, *, tell: bool = True) -> bool:
        """Whether ``layer`` is to be computed with ``fault``.

        Args:
            tell: warn if this network has not warned of the fault yet.
        """
        having = self._candidates.intersection(fault.programs)
        if not self.enabled or not having:
            return False
        certain = having == self._candidates
        if tell and fault.does not in self._told:
            self._told.add(fault.does)
            where = f"layer '{layer.name}': {layer.type}: {fault.does}"
            program = min(having, key=DIALECTS.index)
            warnings.warn(
                f"{where}. That is computed here; quirks=False (--no-quirks) {fault.meant}."
                if certain
                else f"{where}. This file reads the same in several dialects, so it is not computed"
                f' here; dialect="{program}" (--dialect {program}) does.',
                QuirkWarning,
                stacklevel=2,
            )
        return certain
