"""Layer types that are known and left out, with the reason."""

from __future__ import annotations

from typing import Final

__all__ = ["REFUSED"]

_WEAK: Final = "the weakly supervised layers are left out"
_RECURRENT: Final = "recurrent layers are left out"
_DATABASE: Final = "reading LevelDB and LMDB is left out; declare an Input layer in its place"
_TRANSFORM: Final = "the domain transform is left out"

#: Layer type -> why a network that holds it is refused.
REFUSED: Final = {
    "AdaptiveBiasChannel": _WEAK,
    "BiasChannel": _WEAK,
    "CensorLabel": _WEAK,
    "ChannelAggregator": _WEAK,
    "Data": _DATABASE,
    "DomainTransform": _TRANSFORM,
    "DominantChannel": _WEAK,
    "GainChannel": _WEAK,
    "Histogram": _WEAK,
    "IgnoreOverlay": _WEAK,
    "LSTM": _RECURRENT,
    "LSTMUnit": _RECURRENT,
    "OneHot": _WEAK,
    "Python": "its computation is Python code outside the file; replace it by Caffe's own layers",
    "RNN": _RECURRENT,
    "Recurrent": _RECURRENT,
    "RelativeError": _WEAK,
    "UniqueLabel": _WEAK,
    "WindowData": "reading window files is left out; declare an Input layer in its place",
}
