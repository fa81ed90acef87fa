"""What a network in training gets to see, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from deeplab_repro.errors import InputError
from prototxt_import import CaffeImportError, Input, Net

__all__ = ["Batches", "Feed", "FeedMaker", "Given", "IteratedFeed", "made_feed"]


@runtime_checkable
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


#: Batches that the caller has: a feed, or anything that can be iterated over.
Given = Feed | Iterable[Mapping[str, Tensor]]


class IteratedFeed:
    """Batches out of something that can be iterated over, again and again.

    Args:
        batches: such as a DataLoader.  To go on in the middle it is read from its beginning, so
            that a training that is resumed sees the same order only where the order is the same
            each time.
    """

    def __init__(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        self._batches = batches
        self._ahead: Iterator[Mapping[str, Tensor]] | None = None

    def next(self) -> Mapping[str, Tensor]:
        """The next batch; behind the last one the first of a new round.

        Raises:
            InputError: there is none.
        """
        if self._ahead is not None:
            for batch in self._ahead:
                return batch
        self._ahead = iter(self._batches)
        for batch in self._ahead:
            return batch
        raise InputError("batches have come to an end", expected="what can be iterated over again")

    def seek(self, batches: int) -> None:
        """Make batch number ``batches`` the next one; 0 is the first."""
        self._ahead = None
        for _ in range(batches):
            self.next()

    def close(self) -> None:
        """Let go of what is being iterated over."""
        self._ahead = None


def made_feed(net: Net, make_feed: FeedMaker, **options: int) -> Feed | None:
    """The feed of a network's data layers; None where it has none, and then needs no input.

    Args:
        net: in the phase in which it runs.
        make_feed: makes the feed.
        options: of the feed, such as its seed.

    Raises:
        CaffeImportError: an input of the network is the top of no data layer.
    """
    fed = {top for layer in net.data_layers for top in layer.tops}
    for name, declared in net.inputs.items():
        if declared.required and name not in fed:
            raise CaffeImportError(
                f"input '{name}' is the top of no data layer",
                file=net.file,
                expected="networks in training to read their own data",
            )
    return make_feed(net.data_layers, **options) if net.data_layers else None


class Batches:
    """What a network gets to see.

    Args:
        feed: gives it; without one all batches are empty.
    """

    def __init__(self, feed: Feed | None) -> None:
        self._feed = feed
        self._first: Mapping[str, Tensor] | None = None
        self._number = 0
        #: Items of the last batch.
        self.items = 0

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
        self._number += 1
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

    def skip(self, batches: int) -> None:
        """Leave out that many batches."""
        if batches:
            self.seek(self._number + batches)

    def seek(self, batches: int) -> None:
        """Make batch number ``batches`` the next one."""
        self._first, self._number = None, batches
        if self._feed is not None:
            self._feed.seek(batches)

    def close(self) -> None:
        """Close the feed."""
        if self._feed is not None:
            self._feed.close()
