"""The steps that a network consists of: what an architecture's tables are expanded into.

A step is one layer with every number worked out: channels, stride, rate, padding.  Whatever is made
from a network reads the list of its steps and needs to know nothing else about it: the prototxt
(`deeplab_repro.models.graph`) as well as modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer.

    Attributes:
        name: The layer's name in the released files.
        bottoms: The maps that it reads.
        top: The map that it writes; ReLU, Dropout and Norm write over the one that they read.
        owner: The name without the suffix of a resized copy of the input (`name` where there is
            none): steps of one owner share their parameters.
    """

    name: str
    bottoms: tuple[str, ...]
    top: str
    owner: str


@dataclass(frozen=True, kw_only=True)
class Conv(Step):
    """A square convolution; the padding is on all four sides.

    Attributes:
        lr_mults: Multipliers of the learning rate, of the weights and of the biases.
        std: The weights are drawn from a Gaussian of this deviation and the biases are 0; None: the
            released files name no filler, so the layer starts from given weights.
        parameters: The names of weights and biases in the released files, by which copies share
            them; empty where they have none.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    rate: int = 1
    pad: int = 0
    groups: int = 1
    bias: bool = True
    lr_mults: tuple[float, float] = (1, 2)
    std: float | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Norm(Step):
    """Batch normalization with a scale and a shift for each channel, in place.

    In Caffe these are two layers: BatchNorm, which is `name` and holds the statistics, and Scale,
    which is `scale`.  `frozen`: the given statistics are used in training too, and nothing of it is
    learned.
    """

    scale: str
    scale_owner: str
    channels: int
    eps: float
    frozen: bool


@dataclass(frozen=True, kw_only=True)
class ReLU(Step):
    """max(x, 0), in place."""


@dataclass(frozen=True, kw_only=True)
class Dropout(Step):
    """Sets values to 0 with this probability in training and divides the others by the rest."""

    probability: float


@dataclass(frozen=True, kw_only=True)
class Pool(Step):
    """A square pool as Caffe computes it (`pooling_layer.cpp`).

    The output's size is rounded up, but the last window starts inside the map or its padding before
    it.  Padding never wins a maximum and counts as zeros in an average.
    """

    kernel: int
    stride: int
    pad: int
    method: Literal["MAX", "AVE"]


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Step):
    """The mean of each channel over the whole map, as a map of 1x1."""


@dataclass(frozen=True, kw_only=True)
class Resize(Step):
    """Bilinear with aligned corners (`interp_layer.cpp`), from n to (n - 1) * zoom / shrink + 1.

    Before that, the first `skip` rows and columns are left out.
    """

    zoom: int = 1
    shrink: int = 1
    skip: int = 0


@dataclass(frozen=True, kw_only=True)
class ResizeLike(Step):
    """The first of `bottoms` in the size of the second, bilinear with aligned corners."""


@dataclass(frozen=True, kw_only=True)
class Crop(Step):
    """Cuts rows and columns off: `begin` at the top and left, `end` at the bottom and right."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Merge(Step):
    """The sum or the maximum of several maps, or their channels one after the other."""

    operation: Literal["SUM", "MAX", "CONCAT"]


@dataclass(frozen=True, kw_only=True)
class Loss(Step):
    """Softmax loss of scores and labels (`bottoms`), and their accuracy under the name `accuracy`.

    Its value is the mean over the pixels that are not void.
    """

    accuracy: str
