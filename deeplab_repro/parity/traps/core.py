"""What a detector is: it computes what a layer would have written, had the mistake been made.

Whether that is what was recorded is for the caller to see.  If it is, the cause is proved: nothing
but the mistake stands between the recorded bottoms and the recorded top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.parity.evidence import Chain, run_layer
from prototxt_import import Layer

__all__ = ["TRAPS", "Look", "Sureness", "Trap", "Variant", "detector", "detectors_for", "trap"]

Sureness = Literal["proved", "likely", "unknown"]


@dataclass(frozen=True)
class Trap:
    """A known mistake.

    Attributes:
        id: for programs.
        title: what was done wrong.
        advice: what to do about it.
    """

    id: str
    title: str
    advice: str


@dataclass(frozen=True)
class Variant:
    """What a layer would have written.

    Attributes:
        traps: the mistakes made.
        detail: which form of them.
        top: what the layer would write then; None if the evidence is of another kind.
        sure: how far the evidence carries if it holds.
    """

    traps: tuple[str, ...]
    detail: str
    top: Tensor | None
    sure: Sureness = "proved"


@dataclass(frozen=True)
class Look:
    """A layer under suspicion.

    Attributes:
        chain: the layers that write the blob.
        k: which of them is suspected.
        y: what the link before wrote; None for the first.
    """

    chain: Chain
    k: int
    y: Tensor | None

    @property
    def layer(self) -> Layer:
        """The layer under suspicion."""
        return self.chain.links[self.k][0]

    @property
    def module(self) -> CaffeLayer:
        """Its module."""
        return self.chain.links[self.k][1]

    @property
    def bottoms(self) -> list[Tensor]:
        """What it read, as recorded."""
        return self.chain.bottoms(self.k, self.y)

    @property
    def recorded(self) -> Tensor | None:
        """What the chain wrote in the end, if recorded whole."""
        return self.chain.target

    def run(self, bottoms: list[Tensor] | None = None, blobs: list[Tensor] | None = None) -> Tensor:
        """What the layer writes with other bottoms or blobs."""
        tops = run_layer(self.module, self.bottoms if bottoms is None else bottoms, blobs)
        return tops[self.layer.tops.index(self.chain.blob)]

    def size(self) -> tuple[int, ...] | None:
        """Recorded height and width, if the layers behind keep them."""
        recorded = self.recorded
        return None if recorded is None or recorded.dim() != 4 else tuple(recorded.shape[2:])


Detector = Callable[[Look], Iterator[Variant]]
#: All known mistakes.
TRAPS: Final[dict[str, Trap]] = {}
_DETECTORS: Final[list[tuple[tuple[str, ...], Detector]]] = []


def trap(id_: str, title: str, advice: str) -> str:
    """Enter a mistake into :data:`TRAPS`; returns its id."""
    TRAPS[id_] = Trap(id_, title, advice)
    return id_


def detector(*types: str) -> Callable[[Detector], Detector]:
    """Register a detector for layers of ``types``; of every type if there are none."""

    def enter(function: Detector) -> Detector:
        _DETECTORS.append((types, function))
        return function

    return enter


def detectors_for(type_: str) -> list[Detector]:
    """The detectors for a layer of a type, in the order in which they are to be tried."""
    return [function for types, function in _DETECTORS if not types or type_ in types]
