"""Layers without bottoms: inputs, data files, filled blobs; and layers without tops."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Family, Filler, LayerShapes, Memory, Role, field_value
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = [
    "DummyData", "HDF5Data", "HDF5Output", "ImageData", "ImageSegData", "Input", "MatRead",
    "MatWrite", "MemoryData", "Parameter", "Silence", "Transformation",
]  # fmt: skip


def _one_shape_or_one_each(layer: Layer, shapes: tuple[Shape, ...]) -> LayerShapes:
    tops = len(layer.tops)
    if len(shapes) not in (1, tops):
        layer.fail("needs one shape, or one per top", expected=f"1 or {tops}", got=len(shapes))
    return LayerShapes(list(shapes) * tops if len(shapes) == 1 else list(shapes))


@kind("Input", "input_param", bottoms=0, tops=(1, None), programs=("bvlc",))
class Input(Layer):
    """input_layer.cpp: one shape for all tops, or one each."""

    role: ClassVar[Role] = "input"
    family: ClassVar[Family] = "input"
    shape: tuple[Shape, ...]

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The tops have the stated shapes: one for all, or one for each."""
        return _one_shape_or_one_each(self, self.shape)


@kind("Parameter", "parameter_param", bottoms=0, programs=("bvlc",))
class Parameter(Layer):
    """parameter_layer.hpp: a top that is itself learned; zeros at first."""

    shape: Shape

    @property
    def memory(self) -> Memory:
        """The top is a view of the parameter."""
        return Memory.PART

    def fillers(self) -> tuple[Filler, ...]:
        """The parameter starts as zeros."""
        return (Filler(),)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Top and parameter have the stated shape."""
        return LayerShapes([self.shape], [self.shape])


@kind("DummyData", "dummy_data_param", bottoms=0, tops=(1, None))
class DummyData(Layer):
    """dummy_data_layer.cpp: shapes, or the older num, channels, height and width."""

    family: ClassVar[Family] = "input"
    shape: tuple[Shape, ...]
    data_filler: tuple[Filler, ...]
    num: tuple[int, ...]
    channels: tuple[int, ...]
    height: tuple[int, ...]
    width: tuple[int, ...]

    def top_fillers(self) -> tuple[Filler, ...]:
        """What fills each top."""
        fillers = self.data_filler or (Filler(),)
        return fillers * len(self.tops) if len(fillers) == 1 else fillers

    def check(self) -> None:
        """Shapes in one of the two ways."""
        tops, columns = len(self.tops), self._columns()
        if len(self.data_filler) not in (0, 1, tops):
            self.fail(
                "needs one data_filler, or one per top, or none",
                expected=f"0, 1 or {tops}",
                got=len(self.data_filler),
            )
        if self.shape and any(columns):
            self.fail("shape and num, channels, height, width are both given")
        if len({len(column) for column in columns}) != 1:
            self.fail(
                "num, channels, height and width must be equally many",
                got=", ".join(str(len(column)) for column in columns),
            )

    def _columns(self) -> tuple[tuple[int, ...], ...]:
        return self.num, self.channels, self.height, self.width

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The tops have the stated shapes, in the newer or the older form."""
        return _one_shape_or_one_each(self, self.shape or tuple(zip(*self._columns(), strict=True)))


class _Data(Layer):
    """A layer that reads files: without them, its tops are inputs of the network."""

    role: ClassVar[Role] = "data"
    family: ClassVar[Family] = "input"

    def _labels(self, batch: int | None) -> Shape:
        return (batch, 1, 1, 1) if self.is_legacy else (batch,)


@kind("MemoryData", "memory_data_param", bottoms=0, tops=2)
class MemoryData(_Data):
    """memory_data_layer.cpp: pictures and labels that the caller hands over."""

    batch_size: int
    channels: int
    height: int
    width: int

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Data and a label each."""
        sizes = (self.batch_size, self.channels, self.height, self.width)
        data = tuple(size or None for size in sizes)
        return LayerShapes([data, self._labels(data[0])])


@dataclass(frozen=True)
class Transformation:
    """What a data layer does to each of its pictures (caffe.proto, TransformationParameter).

    Attributes:
        scale_factors: one of them is drawn for each picture and multiplies its height and width;
            ImageSegData's alone, and of the v2 fork alone.
        crop_size: height and width of the crop; 0 for none.
        crop_height: in place of ``crop_size``, together with ``crop_width``.
        crop_width: likewise.
        mirror: every other picture, drawn at random, is mirrored.
        mean_value: subtracted, one per channel or one for all of them.
        mean_file: a mean picture in place of ``mean_value``; "" for none.
        scale: multiplies what is left when the mean is subtracted.
    """

    scale_factors: tuple[float, ...] = ()
    crop_size: int = 0
    crop_height: int = 0
    crop_width: int = 0
    mirror: bool = False
    mean_value: tuple[float, ...] = ()
    mean_file: str = ""
    scale: float = 1.0

    @classmethod
    def read(cls, message: Any) -> Transformation:
        """Read a TransformationParameter message."""
        known = message.DESCRIPTOR.fields_by_name
        names = (item.name for item in dataclasses.fields(cls))
        return cls(**{name: field_value(message, known[name], optional=False) for name in names})

    @property
    def crop(self) -> tuple[int, int] | None:
        """Height and width of the crop; None where whole pictures are taken."""
        height, width = self.crop_size or self.crop_height, self.crop_size or self.crop_width
        return (height, width) if height and width else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pictures(_Data):
    """Pictures from a list of files.

    Attributes:
        source: the list, a picture on each line.
        root_folder: what the names in the list follow.
        batch_size: None where it is not stated.
        shuffle: whether the list is read in another order each time.
        rand_skip: fewer pictures than this, drawn at random, are left out at the beginning.
        new_height: what each picture is resized to before anything else; 0 for its own size.
        new_width: likewise.
        is_color: False for one channel, grey.
        transform: what is done to the pictures then.
    """

    source: str
    root_folder: str
    batch_size: int | None
    shuffle: bool
    rand_skip: int
    new_height: int
    new_width: int
    is_color: bool
    transform: Transformation

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Read the layer's own message, and how its pictures are transformed."""
        return {
            **super().read(message, spec, dialect),
            "batch_size": message.batch_size or None,
            "transform": Transformation.read(spec.transform_param),
        }

    def check(self) -> None:
        """Both new sizes or none, and one kind of mean."""
        if bool(self.new_height) != bool(self.new_width):
            self.fail("new_height and new_width must be given together")
        if self.transform.mean_file and self.transform.mean_value:
            self.fail("mean_file and mean_value are both given")

    @property
    def new_size(self) -> tuple[int, int] | None:
        """Height and width that each picture is resized to; None for its own."""
        return (self.new_height, self.new_width) if self.new_height else None

    @property
    def picture(self) -> Shape:
        """Channels, height and width; crops go before new sizes."""
        height, width = self.transform.crop or self.new_size or (None, None)
        return (3 if self.is_color else 1, height, width)


@kind("ImageData", "image_data_param", bottoms=0, tops=(1, 2))
class ImageData(_Pictures):
    """image_data_layer.cpp: pictures and a label each."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W), and N labels."""
        batch = self.batch_size
        tops = [(batch, *self.picture), self._labels(batch)]
        return LayerShapes(tops[: len(self.tops)])


@kind("ImageSegData", "image_data_param", bottoms=0, tops=(1, 3), programs=("dl2",))
class ImageSegData(_Pictures):
    """image_seg_data_layer.cpp: pictures, label maps, and (height, width) before padding.

    Attributes:
        label_type: ``"PIXEL"``, a label picture for each picture; ``"IMAGE"``, one number for all
            of its pixels; ``"NONE"``, all pixels are ignored.
        ignore_label: the label of the padding, and of pictures without labels.
    """

    label_type: str
    ignore_label: int

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Older files of the v1 fork say ``has_label: false`` for ``label_type: NONE``."""
        fields = super().read(message, spec, dialect)
        return fields if message.has_label else {**fields, "label_type": "NONE"}

    def check(self) -> None:
        """No mean picture, and a crop of one kind (data_transformer.cpp of the v2 fork)."""
        super().check()
        transform = self.transform
        if transform.mean_file:
            self.fail("takes no mean_file", expected="mean_value")
        sides = bool(transform.crop_height), bool(transform.crop_width)
        if sides[0] != sides[1] or (transform.crop_size and any(sides)):
            self.fail("needs crop_size, or both crop_height and crop_width, or none of them")

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W), (N, 1, H, W) and (N, 1, 1, 2)."""
        batch = self.batch_size
        tops: list[Shape] = [
            (batch, *self.picture),
            (batch, 1, *self.picture[1:]),
            (batch, 1, 1, 2),
        ]
        return LayerShapes(tops[: len(self.tops)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Arrays(_Data):
    """All but the batch size stands in the data files."""

    batch_size: int

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Four axes, most of them unknown."""
        return LayerShapes([(self.batch_size or None, None, None, None)] * len(self.tops))


@kind("HDF5Data", "hdf5_data_param", bottoms=0, tops=(1, None), v1="HDF5_DATA")
class HDF5Data(_Arrays):
    """hdf5_data_layer.cpp: rows of the data sets that are called like its tops.

    Attributes:
        source: a list of HDF5 files.
        shuffle: whether files, and rows within each, come in another order each time.
        has_transform: a ``transform_param`` is there, which Caffe refuses.
    """

    source: str
    shuffle: bool
    has_transform: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Read the layer's own message, and whether it states a transformation."""
        return {
            **super().read(message, spec, dialect),
            "has_transform": spec.HasField("transform_param"),
        }

    def check(self) -> None:
        """Data of any kind are not transformed."""
        if self.has_transform:
            self.fail("does not transform data", expected="no transform_param")


@kind("MatRead", "mat_read_param", bottoms=0, tops=(1, None), programs=("dl2",))
class MatRead(_Arrays):
    """mat_read_layer.cpp: item after item the files ``PREFIX NAME _blob_TOP.mat``.

    Attributes:
        prefix: how the files' names begin.
        source: a list of names; None where they are ``iter_0``, ``iter_1``, ...
        strip: characters to leave out at the end of each name.
    """

    prefix: str
    source: str | None = None
    strip: int


class _Sink(Layer):
    """A layer that makes nothing."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The bottoms may have any shape, and there is no top."""
        return LayerShapes([])


@kind("Silence", bottoms=(1, None), tops=0)
class Silence(_Sink):
    """silence_layer.cpp: its bottoms are discarded on purpose."""

    role: ClassVar[Role] = "silence"


@kind("HDF5Output", "hdf5_output_param", bottoms=(1, None), tops=0, v1="HDF5_OUTPUT")
class HDF5Output(_Sink):
    """hdf5_output_layer.cpp: data sets ``data`` and ``label`` of one file.

    Attributes:
        file_name: of that file.
    """

    role: ClassVar[Role] = "writer"
    file_name: str


@kind("MatWrite", "mat_write_param", bottoms=(1, None), tops=0, programs=("dl2",))
class MatWrite(_Sink):
    """mat_write_layer.cpp: each bottom of each pass goes to ``PREFIX NAME _blob_BOTTOM.mat``.

    Attributes:
        prefix: how the files' names begin.
        source: a list of names, one per pass; None where they are ``iter_0``, ``iter_1``, ...
        strip: characters to leave out at the end of each name.
        period: only every so many passes are written.
    """

    role: ClassVar[Role] = "writer"
    prefix: str
    source: str | None = None
    strip: int
    period: int

    def check(self) -> None:
        """A period is at least 1."""
        if self.period < 1:
            self.fail("period must be positive", got=self.period)
