"""Mistakes in saving a blob: the network is right, its recording is not."""

from __future__ import annotations

from collections.abc import Iterator

from deeplab_repro.parity.traps.core import Look, Variant, detector, trap

CUT = trap(
    "cut_off",
    "only a part of the map was saved",
    "The network may be right. Save the whole blob, as Caffe holds it.",
)


@detector()
def cut_off(look: Look) -> Iterator[Variant]:
    """Rows or columns that are missing at an edge, though later layers have read them."""
    chain = look.chain
    if look.k + 1 < len(chain.links) or (place := chain.part()) is None:
        return
    ours, recorded = look.run(), look.recorded
    assert recorded is not None
    (row, column), (height, width) = place, recorded.shape[2:]
    detail = (
        f"{height}x{width} of {ours.shape[2]}x{ours.shape[3]} were recorded,"
        f" from row {row} and column {column} on"
    )
    read = chain.evidence.follow(chain.blob)
    if read and not any(read):
        part = ours[:, :, row : row + height, column : column + width]
        yield Variant((CUT,), f"{detail}; the layers that read it have seen all of it", part)
    else:
        yield Variant((CUT,), f"{detail}; they are equal to ours", None, "likely")
