"""What a network in training gets to see, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from prototxt_import import CaffeImportError, Input, Net

__all__ = ["Batches", "Feed", "FeedMaker"]


class Feed(Protocol):
    """What gives a network its batches, see :class:`deeplab_repro.train.feeds.Feeds`."""

    def next(self) -> Mapping[str, Tensor]:
        """The next batch: top of a data layer -> values."""

    def seek(self, batches: int) -> None:
        """Make batch number ``batches`` the next one; 0 is the first."""

    def close(self) -> None:
        """Give back processes and files."""


#: Makes the feed of a network's data layers; takes ``seed``, ``workers``, ``rank``, ``count`` and
#: ``iter_size`` by name.
FeedMaker = Callable[..., Feed]


class Batches:
    """A network's feed; a network without data layers gets empty batches.

    Args:
        net: in the phase in which it runs.
        make_feed: makes the feed of its data layers.
        options: of the feed, such as its seed.

    Raises:
        CaffeImportError: an input of the network is the top of no data layer.
    """

    def __init__(self, net: Net, make_feed: FeedMaker, **options: int) -> None:
        self._feed: Feed | None = make_feed(net.data_layers, **options) if net.data_layers else None
        self._first: Mapping[str, Tensor] | None = None
        #: Items of the last batch.
        self.items = 0
        fed = {top for layer in net.data_layers for top in layer.tops}
        for name, declared in net.inputs.items():
            if declared.required and name not in fed:
                raise CaffeImportError(
                    f"input '{name}' is the top of no data layer",
                    file=net.file,
                    expected="networks in training to read their own data",
                )

    def shaped(self, net: Net) -> Net:
        """The network with the sizes that its data files have, where its own file says none.

        Parameters such as those of a convolution on HDF5Data depend on them.
        """
        if self._feed is None or all(None not in i.shape for i in net.inputs.values()):
            return net
        self._first = self._feed.next()
        inputs = dict(net.inputs)
        for name, value in self._first.items():
            if None in inputs[name].shape:
                inputs[name] = Input(tuple(value.shape), inputs[name].required)
        return replace(net, inputs=inputs)

    def next(self, device: torch.device, channels_last: bool) -> dict[str, Tensor]:
        """The next batch, on ``device``.

        A feed may give any order in memory.  It is made the same here, because a layer rounds by
        the order of its input, and trainings are to repeat.
        """
        order = torch.channels_last if channels_last else torch.contiguous_format
        batch, self._first = self._first, None
        if batch is None:
            batch = {} if self._feed is None else self._feed.next()
        self.items = max((len(value) for value in batch.values()), default=0)
        return {
            name: value.to(device, non_blocking=True).contiguous(
                memory_format=order if value.dim() == 4 else torch.contiguous_format
            )
            for name, value in batch.items()
        }

    def blame(self, error: UnexpectedLabel) -> Exception:
        """Where a label of the last batch that no class has comes from, if the feed can tell."""
        tell = getattr(self._feed, "blame", None)
        return error if tell is None else tell(error)

    def passes(self, iter_size: int) -> int:
        """How many of an iteration's passes this process makes."""
        return getattr(self._feed, "passes", iter_size)

    def seek(self, batches: int) -> None:
        """Make batch number ``batches`` the next one."""
        self._first = None
        if self._feed is not None:
            self._feed.seek(batches)

    def close(self) -> None:
        """Close the feed."""
        if self._feed is not None:
            self._feed.close()
