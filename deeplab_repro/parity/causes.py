"""The likely cause of a difference: which layer is at fault, and which known mistake explains it.

A blob can differ because the layer that makes it is wrong, or because what it reads is.  Every
layer is therefore run again from what was *recorded* below it: if that gives what was recorded,
the layer is innocent.  For one that is not, the detectors of :mod:`deeplab_repro.parity.traps`
compute what each known mistake would have given; one that gives just what was recorded is the
cause, proved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from deeplab_repro.parity.comparison import BlobReport, Comparison
from deeplab_repro.parity.evidence import Chain, Evidence, Weights
from deeplab_repro.parity.traps import TRAPS, Look, Trap, Variant, detectors_for
from deeplab_repro.parity.traps.core import Sureness
from deeplab_repro.parity.traps.saving import CUT
from deeplab_repro.parity.traps.weights import OTHERS

__all__ = ["Cause", "likely_causes"]

#: Layers at fault for which all known mistakes are tried; for the rest only those found by then.
_MOST_SEARCHES: Final = 24

ROUNDING: Final = Trap(
    "rounding",
    "rounding that grew from layer to layer",
    "No layer is at fault: each follows from what was recorded below it. Compare with a wider "
    "tolerance, or record with float32 sums.",
)
UNKNOWN: Final = Trap(
    "unknown",
    "none of the known mistakes",
    "Look at the first layer that differs: its inputs are equal, its output is not.",
)


@dataclass
class Cause:
    """A mistake that explains a difference.

    Attributes:
        trap: the mistake.
        layer: the first layer where it was made.
        blob: what that layer wrote.
        sure: ``"proved"``: made on purpose, the mistake gives what was recorded; ``"likely"``;
            ``"unknown"``.
        evidence: what was seen, in sentences.
        also: further blobs that the same mistake explains.
    """

    trap: Trap
    layer: str
    blob: str
    sure: Sureness
    evidence: list[str]
    also: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For ``compare --json``."""
        return {
            "cause": self.trap.id,
            "title": self.trap.title,
            "layer": self.layer,
            "blob": self.blob,
            "sure": self.sure,
            "evidence": self.evidence,
            "also": self.also,
            "advice": self.trap.advice,
        }


@torch.inference_mode()
def likely_causes(
    comparison: Comparison,
    weights: Weights | None = None,
    advance: Callable[[float], None] = lambda share: None,
) -> list[Cause]:
    """Why a recording differs from what the network computes.

    Args:
        comparison: the network held against the recording.
        weights: the blobs of the weights file, where other copies are looked for.
        advance: called with the share of the work done.

    Returns:
        the causes in the order of the layers; one called ``"unknown"`` if the blobs differ and no
        known mistake explains it; none if they are equal.
    """
    if comparison.first is None:
        return []
    return _Search(Evidence(comparison, weights or {}), advance).causes()


class _Search:
    """One pass over the blobs that differ."""

    def __init__(self, evidence: Evidence, advance: Callable[[float], None]) -> None:
        self.evidence = evidence
        self.advance = advance
        self.found: dict[tuple[str, ...], list[Cause]] = {}
        self.unexplained: list[Chain] = []
        self.innocent: list[str] = []
        self.unexamined: list[str] = []
        self.searches = 0

    def causes(self) -> list[Cause]:
        reports = [r for r in self.evidence.comparison.reports if r.equal is False]
        for i, report in enumerate(reports):
            self._examine(report)
            self.advance((i + 1) / len(reports))
        causes = [cause for causes in self.found.values() for cause in causes]
        if self.unexplained and (others := self._only_weights()):
            causes.append(others)
        elif self.unexplained and causes:
            names = _listed(chain.blob for chain in self.unexplained)
            causes[0].evidence.append(
                f"another {len(self.unexplained)} layers are at fault for another reason: {names}"
            )
        if causes and self.innocent:
            causes[0].evidence.append(
                f"{len(self.innocent)} of the blobs that differ follow from what was recorded "
                "below them"
            )
        return causes or [self._nothing_found(reports)]

    def _examine(self, report: BlobReport) -> None:
        chain = self.evidence.chain(report.blob) if report.layer else None
        if chain is None or (report.agreement and report.agreement.note.startswith("holds NaN")):
            self.unexamined.append(report.blob)
            return
        if chain.follows():
            self.innocent.append(report.blob)
            return
        if self.searches >= _MOST_SEARCHES and not self.found:
            self.unexplained.append(chain)
            return
        hit = self._explain(chain)
        if hit is None:
            self.unexplained.append(chain)
            return
        variant, layer = hit
        causes = self.found.get(variant.traps)
        if causes is None:
            evidence = [self._in_words(chain, variant)]
            self.found[variant.traps] = [
                Cause(
                    TRAPS[trap], layer, chain.blob, self._sureness(chain, variant), list(evidence)
                )
                for trap in variant.traps
            ]
        else:
            for cause in causes:
                cause.also.append(chain.blob)

    def _explain(self, chain: Chain) -> tuple[Variant, str] | None:
        """The first variant of a link that gives what was recorded; known causes go first."""
        later: list[tuple[Variant, str]] = []
        wanted = None if self.searches < _MOST_SEARCHES else set(self.found)
        self.searches += 1
        y: Tensor | None = None
        for k, (layer, _) in enumerate(chain.links):
            look = Look(chain, k, y)
            for variant in _variants(look):
                if wanted is not None and variant.traps not in wanted:
                    continue
                if variant.top is None:
                    later.append((variant, layer.name))
                elif _gives(look, variant.top):
                    return variant, layer.name
            y = chain.step(k, y)
        return later[0] if later else None

    def _sureness(self, chain: Chain, variant: Variant) -> Sureness:
        """How far the evidence carries: of a map that is a part of ours, not to the layer itself.

        Rows may be missing because the layer did not compute them, or because they were not saved.
        Only what reads the blob can tell.
        """
        if CUT in variant.traps or chain.part() is None:
            return variant.sure
        return variant.sure if any(self.evidence.follow(chain.blob)) else "likely"

    def _in_words(self, chain: Chain, variant: Variant) -> str:
        if variant.top is None:
            return variant.detail
        return (
            f"{variant.detail}. Run so from the recorded bottoms, the layer gives the recorded "
            f"'{chain.blob}' within the tolerance; as the file states it, it is off by "
            f"{chain.agreement(chain.run())}"
        )

    def _only_weights(self) -> Cause | None:
        """All layers without weights follow from the recording, and those with weights do not."""
        fault = [chain for chain in self.unexplained if any(m.blob_shapes for _, m in chain.links)]
        follow = [
            name
            for name in self.innocent
            if (chain := self.evidence.chain(name))
            and not any(module.blob_shapes for _, module in chain.links)
        ]
        known = self.found.get((OTHERS,))
        if len(fault) < len(self.unexplained) or (not known and (len(fault) < 2 or not follow)):
            return None
        if known:
            known[0].also += [chain.blob for chain in fault]
            self.unexplained.clear()
            return None
        first = fault[0]
        return Cause(
            TRAPS[OTHERS],
            first.links[0][0].name,
            first.blob,
            "likely",
            [
                f"{len(fault)} layers with weights do not follow from what was recorded below "
                f"them, while all {len(follow)} without weights do"
            ],
            [chain.blob for chain in fault[1:]],
        )

    def _nothing_found(self, reports: list[BlobReport]) -> Cause:
        first = reports[0]
        if self.innocent and not self.unexplained and not self.unexamined:
            return Cause(
                ROUNDING,
                first.layer,
                first.blob,
                "likely",
                [
                    f"each of the {len(self.innocent)} blobs that differ follows from what was "
                    "recorded below it, within the tolerance"
                ],
            )
        evidence = []
        if self.unexplained:
            evidence.append(
                f"{len(self.unexplained)} of {len(reports)} blobs that differ do not follow from "
                f"what was recorded below them: {_listed(c.blob for c in self.unexplained)}"
            )
        if self.searches:
            evidence.append(f"none of {len(TRAPS)} known mistakes gives what was recorded there")
        if len(reports) == 1:
            evidence.append("everything else agrees: this one recorded blob may be damaged")
        if self.unexamined:
            evidence.append(
                f"{len(self.unexamined)} could not be examined (not recorded whole, not a number, "
                f"or not of this network): {_listed(self.unexamined)}"
            )
        return Cause(UNKNOWN, first.layer, first.blob, "unknown", evidence)


def _variants(look: Look) -> Iterator[Variant]:
    """What all detectors offer; a mistaken layer may not fit what was recorded around it."""
    for detector in detectors_for(look.layer.type):
        with contextlib.suppress(ValueError, RuntimeError, IndexError):
            yield from detector(look)


def _gives(look: Look, top: Tensor) -> bool:
    """Whether the chain gives what was recorded if the link wrote ``top``."""
    with contextlib.suppress(ValueError, RuntimeError, IndexError):
        return look.chain.reproduced(look.chain.run(look.k + 1, top))
    return False


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:5]) + (", ..." if len(every) > 5 else "")
