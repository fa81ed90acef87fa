"""Layer types that are known and left out, with the reason; and layers of such types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NoReturn

from prototxt_import.layers.core import Layer
from prototxt_import.layers.parts import Kind
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = ["REFUSED", "Refused", "Unsupported"]


@dataclass(frozen=True)
class Refused:
    """A type that is left out.

    Attributes:
        reason: why.
        programs: the programs of the current format that have it.
        v1: its V1 name, if that is not its words in capitals.
        message: the field of its parameters, where that lies at a number in dispute.
    """

    reason: str
    programs: tuple[Dialect, ...] = ("bvlc", "dl2")
    v1: str | None = None
    message: str = ""


_WEAK: Final = "the weakly supervised layers are left out"
_RECURRENT: Final = "recurrent layers are left out"
_DATABASE: Final = "reading LevelDB and LMDB is left out; declare an Input layer in its place"
_TRANSFORM: Final = "the domain transform is left out"
_PYTHON: Final = "its computation is Python code outside the file; replace it by Caffe's own layers"
_WINDOWS: Final = "reading window files is left out; declare an Input layer in its place"

#: Layer type -> why a network that holds it is refused.
REFUSED: Final = {
    "AdaptiveBiasChannel": Refused(_WEAK, ("dl2",), message="adaptive_bias_channel_param"),
    "BiasChannel": Refused(_WEAK, ("dl2",)),
    "CensorLabel": Refused(_WEAK, ()),
    "ChannelAggregator": Refused(_WEAK, ()),
    "Data": Refused(_DATABASE),
    "DomainTransform": Refused(_TRANSFORM, ("dl2",), message="domain_transform_param"),
    "DominantChannel": Refused(_WEAK, ()),
    "GainChannel": Refused(_WEAK, ()),
    "Histogram": Refused(_WEAK, ()),
    "IgnoreOverlay": Refused(_WEAK, ()),
    "LSTM": Refused(_RECURRENT, ("bvlc",), message="recurrent_param"),
    "LSTMUnit": Refused(_RECURRENT, ("bvlc",)),
    "OneHot": Refused(_WEAK, (), v1="ONEHOT"),
    "Python": Refused(_PYTHON),
    "RNN": Refused(_RECURRENT, ("bvlc",), message="recurrent_param"),
    "Recurrent": Refused(_RECURRENT),
    "RelativeError": Refused(_WEAK, ()),
    "UniqueLabel": Refused(_WEAK, ("dl2",)),
    "WindowData": Refused(_WINDOWS),
}


class Unsupported(Layer):
    """A layer of a type that is left out or unknown.

    It can be read, shown and written; asking for its shapes refuses the network.
    """

    kind: ClassVar[Kind] = Kind("", (0, None), (0, None), "", (), "")

    def infer(self, bottoms: list[Shape]) -> NoReturn:
        """Refuse the layer: nothing of its kind is computed."""
        if self.type in REFUSED:
            self.fail(f"layer type not supported: {REFUSED[self.type].reason}")
        self.fail("unknown layer type")
