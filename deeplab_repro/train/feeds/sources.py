"""What a data layer gives: endless items in a row, each a function of its number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import BadInput, InputError
from prototxt_import import Layer
from prototxt_import.words import show

__all__ = ["Item", "Source", "naming"]

#: One item: an array for each top of the layer, without the axis of the batch.
Item: TypeAlias = tuple[NDArray[np.float32], ...]


class Source(ABC):
    """What one data layer reads.  It is sent to other processes, and so holds no open files.

    Args:
        layer: what the prototxt says.
        batch_size: how many items the layer gives at a time.

    Attributes:
        tops: what its blobs are called.
        batch_size: as above.

    Raises:
        InputError: a batch of nothing.
    """

    def __init__(self, layer: Layer, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError("batch_size must be positive", got=batch_size)
        self.tops, self.batch_size = layer.tops, batch_size

    @abstractmethod
    def item(self, number: int) -> Item:
        """Item ``number``, counted from the beginning of training, 0 the first.

        Raises:
            BadInput: something that cannot be read.
        """

    @abstractmethod
    def origin(self, number: int) -> str:
        """Where item ``number`` comes from, for messages."""

    def blobs(self, numbers: range) -> dict[str, NDArray[Any]]:
        """The items of these numbers.

        Returns:
            blob -> (N, ...) float32, in the order of the tops.

        Raises:
            BadInput: an item that cannot be read, or items of different sizes.
        """
        items = [self.item(number) for number in numbers]
        return {
            top: self._stacked(top, list(arrays), numbers)
            for top, arrays in zip(self.tops, zip(*items, strict=True), strict=True)
        }

    def _stacked(
        self, top: str, arrays: list[NDArray[np.float32]], numbers: range
    ) -> NDArray[np.float32]:
        for number, array in zip(numbers, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise InputError(
                    f"'{top}' of {self.origin(number)} is not shaped like the first of its batch",
                    expected=show(arrays[0].shape),
                    got=show(array.shape),
                )
        return np.stack(arrays)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Errors name this layer, unless they name one already."""
    try:
        yield
    except BadInput as error:
        error.layer = error.layer or layer
        raise
