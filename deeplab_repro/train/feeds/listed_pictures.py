"""ImageData and ImageSegData: pictures that a list names, read and transformed as Caffe does."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.data.labels import read_label
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.reading import read_picture, resize_picture
from deeplab_repro.train.feeds.draws import Draws, Purpose
from deeplab_repro.train.feeds.lists import Line, read_lines, require_files
from deeplab_repro.train.feeds.sources import Item, Source
from deeplab_repro.train.feeds.transform import Transformer
from prototxt_import.layers import ImageData, ImageSegData
from prototxt_import.words import show

__all__ = ["LabelledPictures", "SegmentedPictures"]

#: The largest number that a byte holds, and so the largest label of a pixel.
_MOST: Final = 255
#: A picture's file, and its label: a number, or the file of a label picture.
_Entry = tuple[str, int | str]


class _ListedPictures(Source):
    """The pictures of a list in their order, again and again.

    Args:
        layer: what the prototxt says.
        draws: the layer's random choices.

    Raises:
        BadInput: no list, a line of another form, or a file in it that is not there.
    """

    def __init__(self, layer: ImageData | ImageSegData, draws: Draws) -> None:
        super().__init__(layer, layer.batch_size or 0)
        self._draws, self._shuffle, self._is_color = draws, layer.shuffle, layer.is_color
        self._new_size, self._root = layer.new_size, layer.root_folder
        self._transform = Transformer(layer.transform, layer.phase, 3 if layer.is_color else 1)
        self._lines = read_lines(layer.source)
        self._entries = [self._entry(line) for line in self._lines]
        require_files(
            (file, line)
            for line, entry in zip(self._lines, self._entries, strict=True)
            for file in entry
            if isinstance(file, str)
        )
        # Caffe goes on behind what it skips, and begins with it the second time.
        self._skipped = 0
        if layer.rand_skip:
            self._skipped = int(draws.generator(Purpose.SKIP).integers(layer.rand_skip))
            if self._skipped >= len(self._lines):
                raise InputError(
                    "has too few pictures for rand_skip",
                    file=layer.source,
                    expected=f"at least {layer.rand_skip}",
                    got=len(self._lines),
                )

    def origin(self, number: int) -> str:
        """The line of the list."""
        line = self._lines[self._place(number)]
        return f"{line.text} ({line})"

    def item(self, number: int) -> Item:
        """A picture and what belongs to it; whatever is wrong with it names the line."""
        place = self._place(number)
        file, label = self._entries[place]
        try:
            pixels = read_picture(file, is_color=self._is_color)
            if self._new_size:
                pixels = resize_picture(pixels, self._new_size, file)
            tops = self._tops(pixels, file, label, self._draws.generator(Purpose.PICTURE, number))
        except BadInput as error:
            error.message += f" ({self._lines[place]})"
            raise error.with_file(file) from None
        return tops[: len(self.tops)]

    def _place(self, number: int) -> int:
        """Where in the list an item is."""
        times, place = divmod(number + self._skipped, len(self._lines))
        if self._shuffle:
            return int(self._draws.permutation(len(self._lines), Purpose.LINES, times)[place])
        return place

    @abstractmethod
    def _entry(self, line: Line) -> _Entry:
        """The picture's file and its label, from a line of the list."""

    @abstractmethod
    def _tops(
        self, pixels: NDArray[np.uint8], file: str, label: int | str, random: np.random.Generator
    ) -> Item:
        """A picture, (H, W, C), and its label, transformed."""


class LabelledPictures(_ListedPictures):
    """ImageData: ``PICTURE NUMBER`` on each line (image_data_layer.cpp)."""

    def __init__(self, layer: ImageData, draws: Draws) -> None:
        super().__init__(layer, draws)
        self._label_shape = (1, 1, 1) if layer.is_legacy else ()

    def _entry(self, line: Line) -> _Entry:
        # A name may hold blanks: the label is what stands behind the last one.
        name, _, label = line.text.rpartition(" ")
        try:
            return self._root + name.rstrip(), int(label)
        except ValueError:
            raise InputError(
                f"line {line.number} is no picture and its label",
                file=line.file,
                expected="a file name, a blank and a whole number",
                got=line.text,
            ) from None

    def _tops(
        self, pixels: NDArray[np.uint8], file: str, label: int | str, random: np.random.Generator
    ) -> Item:
        return (
            self._transform.picture(pixels, random),
            np.full(self._label_shape, label, np.float32),
        )


class SegmentedPictures(_ListedPictures):
    """ImageSegData: ``PICTURE LABEL`` on each line (image_seg_data_layer.cpp of the forks).

    What LABEL is depends on ``label_type``: a label picture, one number for all pixels, or nothing.

    Label pictures hold class ids.  The original read them as grey pictures, which for a PNG with
    a palette gives the grey level of each id's colour, and a network that trains on nonsense; its
    users had to strip the palettes first.  Here the ids are read with a palette or without, and
    pictures in colours are refused: see :func:`deeplab_repro.data.labels.read_label`.

    Args:
        layer: what the prototxt says.
        draws: the layer's random choices.
        quirks: with new sizes, resize label pictures bilinearly as the forks do, which makes
            classes that are in neither of two neighbouring pixels; False takes the nearest pixel.
    """

    def __init__(self, layer: ImageSegData, draws: Draws, *, quirks: bool = True) -> None:
        self._label_type, self._ignore_label = layer.label_type, layer.ignore_label
        if not 0 <= layer.ignore_label <= _MOST:
            raise InputError("ignore_label", expected=f"0 to {_MOST}", got=layer.ignore_label)
        super().__init__(layer, draws)
        self._interpolation = cv2.INTER_LINEAR if quirks else cv2.INTER_NEAREST
        if self._label_type == "PIXEL" and self._new_size and quirks:
            warnings.warn(
                f"layer '{layer.name}': ImageSegData: with new_height and new_width, the DeepLab"
                " forks resize label pictures bilinearly, which makes classes that are in neither"
                " of two neighbouring pixels. That is computed here; quirks=False (--no-quirks)"
                " takes the nearest pixel.",
                QuirkWarning,
                stacklevel=2,
            )

    def _entry(self, line: Line) -> _Entry:
        picture, *rest = line.text.split()
        picture, label = self._root + picture, rest[0] if rest else ""
        expected = f"a picture and a number from 0 to {_MOST}"
        if self._label_type == "NONE":
            return picture, self._ignore_label
        if self._label_type == "PIXEL":
            if label:
                return picture, self._root + label
            expected = "a picture and its label picture"
        elif label.isdecimal() and int(label) <= _MOST:
            return picture, int(label)
        raise InputError(
            f"line {line.number} holds no label of label_type {self._label_type}",
            file=line.file,
            expected=expected,
            got=line.text,
        )

    def _tops(
        self, pixels: NDArray[np.uint8], file: str, label: int | str, random: np.random.Generator
    ) -> Item:
        size = pixels.shape[:2]
        labels = self._read(label) if isinstance(label, str) else np.full(size, label, np.uint8)
        if labels.shape != size:
            raise InputError(
                f"is not of the size of its picture {file}",
                file=label,
                expected=show(size),
                got=show(labels.shape),
            )
        data, target = self._transform.picture_and_labels(
            pixels, labels, self._ignore_label, random
        )
        # data_dim: what of the crop is picture, going by the picture's size before it is scaled.
        inside = np.minimum(size, data.shape[1:]).astype(np.float32).reshape(1, 1, 2)
        return data, target, inside

    def _read(self, file: str) -> NDArray[np.uint8]:
        labels = read_label(file, _MOST)
        if self._new_size:
            size = self._new_size[::-1]
            return np.asarray(cv2.resize(labels, size, interpolation=self._interpolation), np.uint8)
        return labels
