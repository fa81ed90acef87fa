"""What typed layers are made of: blobs and their fillers, windows, shapes, kinds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = [
    "Blob",
    "Family",
    "Filler",
    "Kind",
    "LayerShapes",
    "Memory",
    "Range",
    "Role",
    "Window",
    "enum_name",
    "field_value",
]


class Memory(Enum):
    """Where a layer's tops lie."""

    FRESH = "memory of their own"
    VIEW = "the memory of bottom 0, seen in another shape"
    PART = "a part of the memory of a bottom or of a parameter"


Family = Literal["input", "weights", "pooling", "resampling", "joining", "loss", "other"]
Role = Literal["layer", "input", "data", "writer", "silence", "loss"]


@dataclass(frozen=True)
class Filler:
    """Initial values of a blob (caffe.proto, FillerParameter)."""

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = "FAN_IN"

    @classmethod
    def read(cls, message: Any) -> Filler:
        """Read a FillerParameter message."""
        known = message.DESCRIPTOR.fields_by_name
        names = (item.name for item in dataclasses.fields(cls))
        return cls(**{name: field_value(message, known[name], optional=False) for name in names})


@dataclass(frozen=True)
class Blob:
    """How one parameter blob of a layer is learned, filled and shared (ParamSpec).

    Attributes:
        lr_mult: times the solver's rate; where it is 0, Caffe computes no gradient.
        decay_mult: times the solver's weight decay.
        share_name: blobs of one name are one blob; "" is a blob of the layer's own.
        permissive: what it shares with needs the same number of values, not the same shape.
        filler: its initial values.
    """

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    share_name: str = ""
    permissive: bool = False
    filler: Filler = Filler()


@dataclass(frozen=True)
class Window:
    """A sliding window, one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """What the kernel spans with its holes."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


@dataclass(frozen=True)
class LayerShapes:
    """Shapes of what one layer makes and of what it learns, in Caffe's order.

    Attributes:
        tops: one shape per top.  A loss whose file names no top has one all the same, as Caffe
            makes one for it (``AutoTopBlobs`` in net.cpp).
        params: one shape per parameter blob.
    """

    tops: list[Shape]
    params: list[Shape] = field(default_factory=list)


Range: TypeAlias = tuple[int, int | None]


@dataclass(frozen=True)
class Kind:
    """What is the same for all layers of a type.

    Attributes:
        type: as the current format spells it.
        bottoms: least and greatest number of blobs it reads; None for any number.
        tops: likewise, of blobs it writes.
        message: the field of LayerParameter that holds its parameters; "" if there are none.
        programs: the programs that have it, of those that write the current format.
        v1: its name in the V1 format's enum of types.
    """

    type: str
    bottoms: Range
    tops: Range
    message: str
    programs: tuple[Dialect, ...]
    v1: str


def enum_name(message: Any, name: str) -> str:
    """The name of the value of an enum field, such as ``"MAX"``."""
    text: str = field_value(message, message.DESCRIPTOR.fields_by_name[name], optional=False)
    return text


def field_value(message: Any, descriptor: Any, *, optional: bool) -> Any:
    """A field of a message as a plain Python value."""
    name = descriptor.name
    if descriptor.is_repeated:
        items = list(getattr(message, name))
        return tuple(_single(descriptor, item) for item in items)
    if optional and not message.HasField(name):
        return None
    return _single(descriptor, getattr(message, name))


def _single(descriptor: Any, value: Any) -> Any:
    if descriptor.enum_type is not None:
        return descriptor.enum_type.values_by_number[value].name
    if descriptor.message_type is None:
        return value
    if descriptor.message_type.name == "FillerParameter":
        return Filler.read(value)
    assert descriptor.message_type.name == "BlobShape", descriptor.full_name
    return tuple(value.dim)
