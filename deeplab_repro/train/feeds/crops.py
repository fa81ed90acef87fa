"""Pictures of a list and their label pictures, varied as the original's train.py does it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deeplab_repro.data.labels import read_label
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.tensorflow.flags import Recipe
from deeplab_repro.tensorflow.preprocessing import preprocess_for_training
from deeplab_repro.train.closing import Closing
from deeplab_repro.train.feeds.batches import Batches, Reader, Share
from deeplab_repro.train.feeds.draws import Draws, Purpose
from deeplab_repro.train.feeds.lists import read_lines, require_files
from deeplab_repro.train.feeds.sources import Item, Source

__all__ = ["CropFeed"]

_MOST_LABEL = 255


class _Crops(Source):
    """The pictures of a list, each time round in another order.

    Args:
        recipe: says which, and what is done to them.
        draws: the random choices.
        batch_size: of one process.

    Raises:
        BadInput: no list, a line of another form, or a file in it that is not there.
    """

    def __init__(self, recipe: Recipe, draws: Draws, batch_size: int) -> None:
        self.tops, self.batch_size = ["data", "label"], batch_size
        self._recipe, self._draws = recipe, draws
        self._lines = read_lines(recipe.data.train_list)
        self._entries = []
        for line in self._lines:
            words = line.text.split()
            if len(words) != 2:
                raise InputError(
                    f"line {line.number} is no picture and its labels",
                    file=line.file,
                    expected="PICTURE LABEL",
                    got=line.text,
                )
            self._entries.append([recipe.data.root_folder + word for word in words])
        require_files(
            (file, line)
            for line, entry in zip(self._lines, self._entries, strict=True)
            for file in entry
        )

    def origin(self, number: int) -> str:
        """The line of the list."""
        line = self._lines[self._place(number)]
        return f"{line.text} ({line})"

    def item(self, number: int) -> Item:
        """A crop (3, H, W) and its labels (1, H, W); whatever is wrong names the line."""
        place = self._place(number)
        (picture, label), recipe = self._entries[place], self._recipe
        try:
            prepared = preprocess_for_training(
                read_picture(picture)[..., ::-1],  # which gives blue, green, red
                read_label(label, _MOST_LABEL),
                crop_size=recipe.data.train_crop_size,
                random=self._draws.generator(Purpose.PICTURE, number),
                model_variant=recipe.network.model_variant,
                resizing=recipe.resizing,
                augmentation=recipe.augmentation,
                ignore_label=recipe.training.loss.ignore_label,
            )
        except BadInput as error:
            error.message += f" ({self._lines[place]})"
            raise error.with_file(picture) from None
        assert prepared.label is not None  # it was given
        return prepared.image.numpy(), prepared.label.numpy().astype(np.float32)[None]

    def _place(self, number: int) -> int:
        times, place = divmod(number, len(self._lines))
        return int(self._draws.permutation(len(self._lines), Purpose.LINES, times)[place])


class CropFeed(Closing):
    """The batches of a training by train.py's flags.

    Every random choice is a function of the seed and the picture's number, so that the batches are
    the same with any number of workers, and in a training that is resumed.

    Args:
        recipe: the flags.
        seed: of the random choices, not negative.
        workers: processes that read ahead.
        rank, count: number of this process among those that train together, and how many they are.

    Raises:
        BadInput: a list or a file that is not there, or batches that cannot be shared.
    """

    def __init__(
        self, recipe: Recipe, *, seed: int, workers: int = 0, rank: int = 0, count: int = 1
    ) -> None:
        size = recipe.data.train_batch_size
        if size % count:
            raise InputError(
                "flag train_batch_size", expected=f"a multiple of the {count} processes", got=size
            )
        source = _Crops(recipe, Draws(seed), size // count)
        share = Share(rank, count, count, dealt=True)
        self._reader = Reader(Batches({"pictures": source}, share), workers, prefetch=2)

    def next(self) -> dict[str, Tensor]:
        """This process's part of the next batch: data (N, 3, H, W) and label (N, 1, H, W).

        Raises:
            BadInput: a file that cannot be read or does not fit.
        """
        outcome = self._reader.next()
        if isinstance(outcome, BadInput):
            raise outcome
        return outcome.blobs

    def seek(self, batches: int) -> None:
        """Make the next batch the one of this number, 0 the first."""
        self._reader.seek(batches)

    def close(self) -> None:
        """End the worker processes."""
        self._reader.close()
