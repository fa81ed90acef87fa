"""The batches that a network's data layers give."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.train.closing import Closing
from deeplab_repro.train.feeds.arrays import GivenArrays, HDF5Rows, MatFiles
from deeplab_repro.train.feeds.batches import Batch, Batches, Reader, Share
from deeplab_repro.train.feeds.draws import Draws
from deeplab_repro.train.feeds.listed_pictures import LabelledPictures, SegmentedPictures
from deeplab_repro.train.feeds.sources import Source, naming
from prototxt_import import Layer
from prototxt_import import layers as kinds

__all__ = ["Feeds"]

Arrays = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


class Feeds(Closing):
    """What a network's data layers give, batch after batch without end.

    Every random choice is a function of the seed, the layer and the item's number.  So the batches
    are the same with any number of workers, and after :meth:`seek`.  Caffe's distributions are
    kept, its random numbers are not.

    Args:
        layers: ``net.data_layers``.  Their files are looked for at once, relative to the working
            directory; what is in them is read when its turn comes.
        seed: of the random choices, not negative; None draws one, see :attr:`seed`.
        workers: processes that read ahead; 0 reads each batch when it is asked for.  They are
            started by importing the program again, which therefore needs the usual
            ``if __name__ == "__main__":``.
        rank: number of this process among those that train together.  Each gets its part of the
            batches: together they see what one process alone would see.
        count: how many such processes there are.  They need the same seed.
        iter_size: the solver's passes per iteration, which may have to be dealt out to the
            processes, see :attr:`passes`.
        arrays: layer name -> (data, labels) for MemoryData layers: (rows, C, H, W) and one label
            per row.
        quirks: compute faults of the original programs, each with a warning.
        prefetch: batches that each worker has ready.

    Attributes:
        seed: of the random choices.

    Raises:
        BadInput: a list or a file that is not there, or a layer that cannot be fed.

    Example:
        >>> feeds = Feeds(net.net.data_layers, seed=1, workers=2)
        >>> blobs = feeds.next()
        >>> blobs["data"].shape, blobs["label"].shape
        (torch.Size([10, 3, 321, 321]), torch.Size([10, 1, 321, 321]))
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        seed: int | None = None,
        workers: int = 0,
        rank: int = 0,
        count: int = 1,
        iter_size: int = 1,
        arrays: Arrays | None = None,
        quirks: bool = True,
        prefetch: int = 2,
    ) -> None:
        if seed is None and count > 1:
            raise InputError("several processes need one seed", expected="a number", got=seed)
        if seed is not None and seed < 0:
            raise InputError("seed", expected="a number that is not negative", got=seed)
        if workers < 0:
            raise InputError("workers", expected="0 or more", got=workers)
        self.seed = secrets.randbits(32) if seed is None else seed
        self._last = Batch({}, {})
        self._layers = list(layers)
        given = dict(arrays or {})
        sources: dict[str, Source] = {}
        for number, layer in enumerate(layers):
            with naming(layer.name):
                sources[layer.name] = _source(
                    layer, Draws(self.seed, number), given.pop(layer.name, None), quirks
                )
        if given:
            raise InputError(
                "arrays are given for what is no MemoryData layer", got=", ".join(sorted(given))
            )
        self._share = _share(sources, rank, count, iter_size)
        self._reader = Reader(Batches(sources, self._share), workers, prefetch)

    @property
    def origins(self) -> dict[str, list[str]]:
        """Layer -> where each item of the last batch comes from, such as the list's line."""
        return self._last.origins

    @property
    def passes(self) -> int:
        """Batches that this process takes per iteration: ``iter_size``.

        Less if the batches have too few items for all processes: then each takes ``iter_size`` /
        ``count`` whole ones.
        """
        return self._share.passes

    def next(self) -> dict[str, Tensor]:
        """This process's part of the next batch.

        Returns:
            blob -> float32 tensor on the CPU, for every top of all data layers.

        Raises:
            BadInput: a file that cannot be read or does not fit; the message names it, and its
                line in the list.  The next call goes on behind this batch.
        """
        outcome = self._reader.next()
        if isinstance(outcome, BadInput):
            raise outcome
        self._last = outcome
        return outcome.blobs

    def blame(self, error: UnexpectedLabel) -> InputError:
        """Tell where a label that a loss does not know comes from.

        Args:
            error: what the loss raised for the last batch.

        Returns:
            an error of the same message that names the items of the batch that hold the label.
        """
        origins = [
            origin
            for layer in self._layers
            for i, origin in enumerate(self._last.origins.get(layer.name, []))
            # The first top is the picture.
            if any(bool((self._last.blobs[top][i] == error.label).any()) for top in layer.tops[1:])
        ]
        return InputError(f"{error}; it is in {', '.join(origins)}" if origins else str(error))

    def seek(self, batches: int) -> None:
        """Make the next batch the one of this number, 0 the first.

        Args:
            batches: what all processes have taken together, counted as if they were one: for a
                solver, iterations times ``iter_size``.
        """
        self._reader.seek(self._share.first(batches))

    def close(self) -> None:
        """End the worker processes."""
        self._reader.close()


def _source(
    layer: Layer,
    draws: Draws,
    arrays: tuple[NDArray[Any], NDArray[Any]] | None,
    quirks: bool,
) -> Source:
    """What a data layer reads."""
    if isinstance(layer, kinds.MemoryData):
        if arrays is None:
            raise InputError("MemoryData has no files", expected="arrays, given by the caller")
        return GivenArrays(layer, *arrays)
    if arrays is not None:
        raise InputError(f"{layer.type} takes no arrays", expected="a MemoryData layer")
    if isinstance(layer, kinds.ImageSegData):
        return SegmentedPictures(layer, draws, quirks=quirks)
    if isinstance(layer, kinds.ImageData):
        return LabelledPictures(layer, draws)
    if isinstance(layer, kinds.HDF5Data):
        return HDF5Rows(layer, draws)
    if isinstance(layer, kinds.MatRead):
        return MatFiles(layer)
    raise InputError(f"{layer.type} is no layer that reads data", layer=layer.name)


def _share(sources: Mapping[str, Source], rank: int, count: int, iter_size: int) -> Share:
    """How the batches are shared among ``count`` processes."""
    if not 0 <= rank < count or iter_size < 1:
        raise InputError(
            "rank, count and iter_size",
            expected="rank below count, iter_size at least 1",
            got=f"{rank}, {count}, {iter_size}",
        )
    smallest = min((source.batch_size for source in sources.values()), default=count)
    if smallest < count and iter_size % count:
        raise InputError(
            "the batches cannot be shared among the processes",
            expected=f"batch_size of at least {count}, or iter_size a multiple of it",
            got=f"batch_size {smallest}, iter_size {iter_size}",
        )
    return Share(rank, count, iter_size, dealt=smallest < count)
