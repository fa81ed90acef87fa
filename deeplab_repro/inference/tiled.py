"""Pictures too large for the memory: the network and the CRF on overlapping tiles.

Only a tile's activations, energies and lattices are in memory at a time, besides the picture and
its labels; scores of the whole picture lie in a file.

>>> with scratch_scores(folder, (21, *picture.shape[:2])) as scores:
...     for tile, values in score_tiles(segmenter, picture, Tiling(1025)):
...         scores.put(*tile.kept, values.cpu().numpy())
...     for tile, _, marginals in refine_tiles(scores, picture, params, Tiling(1025)):
...         labels[tile.kept] = marginals.argmax(0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.caffe.scoring import scoring_net
from deeplab_repro.crf.params import CRFParams
from deeplab_repro.crf.part import dense_crf_part, reach
from deeplab_repro.errors import InputError
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.pictures.score_parts import ScoreParts
from deeplab_repro.pictures.scores import energies
from deeplab_repro.pictures.tiles import Tile, tiles

__all__ = ["Tiling", "network_overlap", "refine_tiles", "score_tiles"]

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tiling:
    """How large tiles are.

    Attributes:
        side: pixels of a tile, overlaps included.  The network takes the next smaller size that
            suits it.
        overlap: pixels that neighbours share.  By default as many as are needed for results that
            the cuts hardly change: :func:`network_overlap`, and for the CRF twice
            :func:`~deeplab_repro.crf.part.reach`.

    Raises:
        InputError: no pixels, or a tile that is not larger than the overlap.
    """

    side: int
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.side < 1 or (self.overlap is not None and not 0 <= self.overlap < self.side):
            raise InputError(
                "tiles",
                expected="a side larger than the overlap, which is not negative",
                got=f"side {self.side}, overlap {self.overlap}",
            )


def network_overlap(segmenter: Segmenter, side: int) -> tuple[int, bool]:
    """The overlap of a network's tiles by default, and whether it makes the scores exact.

    Where the layers tell how far a score sees (of a CaffeNet without pooling over whole pictures),
    it is that far on both sides, and scores are those of the untiled picture up to rounding.  If
    that is more than half a tile, it is half a tile.

    Args:
        segmenter: the network.
        side: pixels of a tile.
    """
    if isinstance(segmenter.net, CaffeNet):
        part = scoring_net(segmenter.net.net, segmenter.blob)
        crop = segmenter.rule.crop
        field = analyse(part, {next(iter(part.inputs)): (1, 3, *crop)})[-1].field
        if field is not None:
            # One more stride: what is cut is rounded to whole strides.
            seen = math.ceil(max(field.size)) - 1 + (segmenter.rule.step or 1)
            if seen <= side // 2:
                return seen, True
    return side // 2, False


def score_tiles(
    segmenter: Segmenter, picture: Picture, tiling: Tiling
) -> Iterator[tuple[Tile, Tensor]]:
    """The network's scores, tile by tile.

    The picture is padded as a whole, to the size that it would have untiled; tiles have sizes that
    suit the network, and begin where its strides begin.  A tile at the picture's edge sees the
    padding there, and one inside sees the picture, cut off in its overlap.

    Args:
        segmenter: a network of one scale.
        picture: (H, W, 3) uint8, BGR.
        tiling: the tiles.

    Yields:
        A tile, and the scores (C, h, w) of what is kept of it, where the network is.

    Raises:
        InputError: several scales, tiles smaller than what suits the network, or a picture that
            :meth:`Segmenter.scores` refuses.
    """
    if segmenter.scales != (1.0,):
        raise InputError("tiles", expected="one scale, of 1", got=list(segmenter.scales))
    height, width = picture.shape[:2]
    (canvas,) = segmenter.input_sizes(height, width)
    overlap = tiling.overlap
    if overlap is None:
        overlap, _ = network_overlap(segmenter, tiling.side)
    rule = segmenter.rule
    step = rule.step or 1
    rows, columns = (tiling.side - (tiling.side - side) % step for side in rule.crop)
    if min(rows, columns) < 1:
        raise InputError("tiles", expected=f"sides of {rule.words()}", got=tiling.side)
    for whole in tiles(canvas, (rows, columns), overlap, step):
        tile = _within(whole, height, width)
        if tile is None:
            continue
        size = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        (scores,) = segmenter.part_scores(picture, tile.computed, size)
        rows_kept, columns_kept = tile.inner
        yield tile, scores[:, rows_kept, columns_kept]


def _within(tile: Tile, height: int, width: int) -> Tile | None:
    """The tile, of which only pixels of the picture are kept; None if it has none."""
    rows = tile.rows._replace(keep_stop=min(tile.rows.keep_stop, height))
    columns = tile.columns._replace(keep_stop=min(tile.columns.keep_stop, width))
    empty = rows.keep_start >= rows.keep_stop or columns.keep_start >= columns.keep_stop
    return None if empty else Tile(rows, columns)


def refine_tiles(
    scores: ScoreParts,
    picture: Picture,
    params: CRFParams,
    tiling: Tiling,
    *,
    device: torch.device | None = None,
    probabilities: bool = False,
    look: Callable[[Array], object] = lambda scores: None,
    **options: Any,
) -> Iterator[tuple[Tile, Array, Array]]:
    """Marginals of the dense CRF, tile by tile.

    Every tile has the lattice that the whole picture has there, so that only what lies beyond the
    overlap is missing.

    Args:
        scores: (C, H, W), of the picture's size or, padded right and below, larger.
        picture: (H, W, 3) uint8, BGR.
        params: of the CRF.
        tiling: the tiles.
        device: where the CRF runs; the CPU by default.
        probabilities: the scores are probabilities.
        look: called with the scores of each tile.
        options: as of :func:`~deeplab_repro.crf.part.dense_crf_part`.

    Yields:
        A tile, and the energies and the marginals (C, h, w) of what is kept of it.

    Raises:
        InputError: scores that the CRF cannot use, or a tile that is not larger than the overlap.
    """
    size = picture.shape[0], picture.shape[1]
    overlap = 2 * reach(params) if tiling.overlap is None else tiling.overlap

    def refined(tile: Tile) -> tuple[Array, Array]:
        rows, columns = tile.computed
        kept = (slice(None), *tile.inner)
        bgr = picture[rows, columns]
        values = scores.part(rows, columns)
        look(values)
        unary = energies(values, (bgr.shape[0], bgr.shape[1]), probabilities=probabilities)
        del values
        rgb = torch.from_numpy(np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1)))
        try:
            q = dense_crf_part(
                torch.from_numpy(unary)[None].to(device),
                rgb[None].to(device),
                params,
                (rows.start, columns.start),
                **options,
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        return unary[kept], q[0].cpu().numpy()[kept]

    for tile in tiles(size, (tiling.side, tiling.side), overlap):
        yield tile, *refined(tile)
