"""Layers without bottoms: inputs, data files, filled blobs; and layers without tops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Family, Filler, LayerShapes, Memory, Role
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = [
    "DummyData", "HDF5Data", "HDF5Output", "ImageData", "ImageSegData", "Input", "MatRead",
    "MatWrite", "MemoryData", "Parameter", "Silence",
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
        """As stated."""
        return _one_shape_or_one_each(self, self.shape)


@kind("Parameter", "parameter_param", bottoms=0, programs=("bvlc",))
class Parameter(Layer):
    """parameter_layer.hpp: a top that is itself learned; zeros at first."""

    shape: Shape

    @property
    def memory(self) -> Memory:
        """The parameter's."""
        return Memory.PART

    def fillers(self) -> tuple[Filler, ...]:
        """Zeros."""
        return (Filler(),)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """As stated."""
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
        """As stated."""
        return _one_shape_or_one_each(self, self.shape or tuple(zip(*self._columns(), strict=True)))


class _Data(Layer):
    """A layer that reads files: without them, its tops are inputs of the network."""

    role: ClassVar[Role] = "data"
    family: ClassVar[Family] = "input"

    def _labels(self, batch: int | None) -> Shape:
        return (batch, 1, 1, 1) if self.is_legacy else (batch,)


@kind("MemoryData", "memory_data_param", bottoms=0, tops=2)
class MemoryData(_Data):
    """memory_data_layer.cpp."""

    batch_size: int
    channels: int
    height: int
    width: int

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Data and a label each."""
        sizes = (self.batch_size, self.channels, self.height, self.width)
        data = tuple(size or None for size in sizes)
        return LayerShapes([data, self._labels(data[0])])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pictures(_Data):
    """Pictures from a list of files.

    Attributes:
        batch_size: None where it is not stated.
        picture: channels, height and width of what image_data_param and transform_param let
            through.
    """

    batch_size: int | None
    picture: Shape

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Crops go before new sizes."""
        transform = spec.transform_param
        crop = transform.crop_size or message.crop_size
        height = crop or transform.crop_height or message.new_height or None
        width = crop or transform.crop_width or message.new_width or None
        return {
            "batch_size": message.batch_size or None,
            "picture": (3 if message.is_color else 1, height, width),
        }


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
    """image_seg_data_layer.cpp: pictures, label maps, and (height, width) before padding."""

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
    """hdf5_data_layer.cpp."""


@kind("MatRead", "mat_read_param", bottoms=0, tops=(1, None), programs=("dl2",))
class MatRead(_Arrays):
    """mat_read_layer.cpp."""


class _Sink(Layer):
    """A layer that makes nothing."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Anything."""
        return LayerShapes([])


@kind("Silence", bottoms=(1, None), tops=0)
class Silence(_Sink):
    """silence_layer.cpp: its bottoms are discarded on purpose."""

    role: ClassVar[Role] = "silence"


@kind("HDF5Output", "hdf5_output_param", bottoms=(1, None), tops=0, v1="HDF5_OUTPUT")
class HDF5Output(_Sink):
    """hdf5_output_layer.cpp."""

    role: ClassVar[Role] = "writer"


@kind("MatWrite", "mat_write_param", bottoms=(1, None), tops=0, programs=("dl2",))
class MatWrite(_Sink):
    """mat_write_layer.cpp."""

    role: ClassVar[Role] = "writer"
