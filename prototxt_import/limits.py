"""How much of anything a file may hold: all limits in one place, checked before memory is taken.

A Caffe file of a few bytes can ask for petabytes, and a file of a few megabytes for hours.  Every
reader holds what a file states against these limits before it allocates or loops.  They lie far
above any network of the three Caffe programs; where one is in the way all the same, the
environment variable that the error names raises it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from prototxt_import.errors import CaffeImportError
from prototxt_import.words import show

__all__ = [
    "INT_MAX",
    "MAX_BLOB_AXES",
    "MAX_BLOB_BYTES",
    "MAX_BLOB_PIECES",
    "MAX_FIELDS",
    "MAX_HDF5_DEPTH",
    "MAX_HDF5_EXPANSION",
    "MAX_HDF5_OBJECTS",
    "MAX_LAYERS",
    "MAX_NET_BYTES",
    "MAX_PARAMETER_BYTES",
    "MAX_PIXELS",
    "MAX_SHARED_COPIES",
    "MAX_TEXT_BLANKS",
    "MAX_TEXT_BYTES",
    "MAX_TEXT_TOKENS",
    "SMALL_BYTES",
    "Limit",
    "check_shape",
]


@dataclass(frozen=True)
class Limit:
    """The most that is read of something, which an environment variable may raise.

    Attributes:
        name: also that of the environment variable, behind ``DEEPLAB_REPRO_``.
        default: what holds unless the variable says otherwise.
    """

    name: str
    default: int

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"DEEPLAB_REPRO_{self.name}"

    @property
    def value(self) -> int:
        """The limit in force.

        Raises:
            CaffeImportError: the environment variable holds no positive whole number.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not text.isdecimal() or len(text) > 18 or not int(text):
            raise CaffeImportError(self.variable, expected="a positive whole number", got=text)
        return int(text)

    def check(
        self, got: int, what: str, *, file: object | None = None, layer: str | None = None
    ) -> None:
        """Refuse more than the limit.

        Args:
            got: how much there is; of sizes that follow from each other, the exact number.
            what: what there is too much of, in words; the message starts with it.
            file: for the message.
            layer: for the message.

        Raises:
            CaffeImportError: ``got`` is over the limit.
        """
        if got > self.value:
            raise CaffeImportError(
                what,
                file=file,
                layer=layer,
                expected=f"at most {self.value} ({self.variable} raises this limit)",
                got=got if got < 10**30 else "far more",
            )


#: A blob's count, and so each of its sizes, is an int (blob.cpp, Blob::Reshape).
INT_MAX: Final = 2**31 - 1
#: blob.hpp, kMaxBlobAxes.
MAX_BLOB_AXES: Final = 32
#: What is small enough to read however it is stored.
SMALL_BYTES: Final = 32 << 20

#: A prototxt.  The longest known, three-scale ResNet-101 as Caffe prints it, has 420 KB; reading
#: takes a second or two a megabyte, because every dialect has to be tried.
MAX_TEXT_BYTES: Final = Limit("MAX_TEXT_BYTES", 2 << 20)
#: Words and marks of a prototxt: that ResNet-101 has 80,000.  Each takes 2 microseconds a dialect.
MAX_TEXT_TOKENS: Final = Limit("MAX_TEXT_TOKENS", 600_000)
#: Blanks in a row on one line, each of which takes protobuf's parser 150 bytes.
MAX_TEXT_BLANKS: Final = Limit("MAX_TEXT_BLANKS", 100_000)
#: A binary file's network, blobs left out: ResNet-101 has 80 KB.
MAX_NET_BYTES: Final = Limit("MAX_NET_BYTES", 4 << 20)
#: Protobuf fields of such a network: ResNet-101 has 9,000.  Each takes a microsecond a dialect.
MAX_FIELDS: Final = Limit("MAX_FIELDS", 300_000)
#: Layers of a network, or groups of weights in a file: ResNet-152, three scales: 1,600.
MAX_LAYERS: Final = Limit("MAX_LAYERS", 20_000)
#: Pieces that one blob's numbers come in.  Caffe writes one; protobuf lets a list be split.
MAX_BLOB_PIECES: Final = Limit("MAX_BLOB_PIECES", 10_000)

#: Parameters of a network, shared ones as often as they occur, and blobs that DummyData fills.
#: The largest DeepLab, the plain one with 7x7 windows, has 0.54 GB.
MAX_PARAMETER_BYTES: Final = Limit("MAX_PARAMETER_BYTES", 4 << 30)
#: Blobs that are in memory at the same time in a forward pass, float32.  More than the machine
#: has would end in swapping or with the process killed.
MAX_BLOB_BYTES: Final = Limit(
    "MAX_BLOB_BYTES", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
)

#: Groups and data sets of an HDF5 file that are looked at.
MAX_HDF5_OBJECTS: Final = Limit("MAX_HDF5_OBJECTS", 50_000)
#: Groups inside groups, as a "/" in a name makes them.
MAX_HDF5_DEPTH: Final = Limit("MAX_HDF5_DEPTH", 32)
#: How many times larger a data set may be than what the file stores of it: compressed activations
#: of ReLU shrink to a third, while chunks that were never written cost the file nothing at all.
#: Data sets of up to SMALL_BYTES may be compressed as they like.  The same holds for a ``.mat``.
MAX_HDF5_EXPANSION: Final = Limit("MAX_HDF5_EXPANSION", 4)
#: How many times its own size a safetensors file may stand for by naming shared tensors again.
MAX_SHARED_COPIES: Final = Limit("MAX_SHARED_COPIES", 16)

#: Pixels of a picture, 4 bytes a channel once it is a blob.
MAX_PIXELS: Final = Limit("MAX_PIXELS", 1 << 26)


def check_shape(
    shape: Sequence[int | None],
    what: str,
    *,
    file: object | None = None,
    layer: str | None = None,
) -> None:
    """Refuse a shape that no blob can have (blob.cpp, Blob::Reshape).

    Args:
        shape: None stands for a size that is not known.
        what: whose shape it is, for the message.
        file: for the message.
        layer: for the message.

    Raises:
        CaffeImportError: too many axes, a negative size, or more values than an int counts.
    """
    known = [size for size in shape if size is not None]
    values = 1
    if len(shape) <= MAX_BLOB_AXES:
        values = prod(size for size in known if size)  # of 32 sizes at most: no giant number
        if min(known, default=0) >= 0 and values <= INT_MAX:
            return
    raise CaffeImportError(
        f"{what} has an impossible shape",
        file=file,
        layer=layer,
        expected=f"at most {MAX_BLOB_AXES} axes, sizes >= 0, at most {INT_MAX} values",
        got=show(shape[: MAX_BLOB_AXES + 1]),
    )
