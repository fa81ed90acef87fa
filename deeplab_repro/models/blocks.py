"""What backbones and heads are made of: frozen tables that add their steps to a walk.

A kind of block is a dataclass with the method `expand` of `Block`.  A new kind (a separable
convolution, an inverted residual, a decoder) is one more such class; nothing else has to know it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

from deeplab_repro.models.walk import Feature, Walk


class Block(Protocol):
    """Anything that reads one map and writes another."""

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the block's steps to `walk`; `feature` is what it reads, the result what it writes.

        A block that reads earlier maps too finds them in `walk.features`.
        """
        ...


@dataclass(frozen=True)
class Normalization:
    """Batch normalization with scale and shift.

    Attributes:
        name: Of the layer that holds the statistics (Caffe's BatchNorm).
        scale: Of the layer that holds scale and shift (Caffe's Scale).
        eps: Added to the variance; 1e-5 is the default of Caffe's BatchNorm.
        frozen: Neither statistics nor scale and shift change in training, as in DeepLab v2.
    """

    name: str
    scale: str
    eps: float = 1e-5
    frozen: bool = True


@dataclass(frozen=True)
class ConvUnit:
    """A convolution and what follows it in place: normalization, ReLU, dropout, where named.

    Attributes:
        name: Of the convolution; `relu` and `dropout` are names of layers too.
        channels: Of the output; None: one for each class, which makes it a classifier.
        stride: Before the atrous rule drops any (see `Walk`).
        rate: In a head, the rate at the head's output stride; in a backbone, what multiplies the
            rate that dropped strides have led to, which is multi-grid.
        lr_mults: Multipliers of the learning rate, of weights and biases.
        std: Deviation of the Gaussian that new weights are drawn from, where the released files
            name one.
        suffixes: What the names of its parameters have behind the layer's, where they have names.
    """

    name: str
    channels: int | None
    kernel: int = 3
    stride: int = 1
    rate: int = 1
    norm: Normalization | None = None
    relu: str | None = None
    dropout: str | None = None
    bias: bool = True
    lr_mults: tuple[float, float] = (1, 2)
    std: float | None = None
    suffixes: tuple[str, ...] = ()

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the convolution and what follows it."""
        feature = walk.conv(
            self.name,
            feature,
            self.channels,
            self.kernel,
            stride=self.stride,
            rate=self.rate,
            suffixes=self.suffixes,
            bias=self.bias,
            lr_mults=self.lr_mults,
            std=self.std,
        )
        if self.norm is not None:
            norm = self.norm
            feature = walk.norm(norm.name, norm.scale, feature, eps=norm.eps, frozen=norm.frozen)
        if self.relu is not None:
            feature = walk.relu(self.relu, feature)
        if self.dropout is not None:
            feature = walk.dropout(self.dropout, feature)
        return feature


@dataclass(frozen=True)
class PoolUnit:
    """A pool whose size is rounded up (see `deeplab_repro.models.steps.Pool`).

    Attributes:
        train_pad: The padding in training where it is another one than in testing.
    """

    name: str
    kernel: int = 3
    stride: int = 2
    pad: int = 1
    method: Literal["MAX", "AVE"] = "MAX"
    train_pad: int | None = None

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the pool to the network."""
        pad = self.pad
        if walk.training and self.train_pad is not None:
            pad = self.train_pad
        return walk.pool(self.name, feature, self.kernel, self.stride, pad, self.method)


@dataclass(frozen=True)
class Residual:
    """The sum of a shortcut and a body, and a ReLU on it where `relu` names one.

    Attributes:
        body: Blocks one after the other.
        shortcut: Block beside them; None: what the body reads.
    """

    name: str
    body: tuple[Block, ...]
    shortcut: Block | None = None
    relu: str | None = None

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the shortcut, the body and their sum, in the order of the released files."""
        shortcut = feature if self.shortcut is None else self.shortcut.expand(walk, feature)
        total = walk.merge(self.name, (shortcut, run(self.body, walk, feature)), "SUM")
        return total if self.relu is None else walk.relu(self.relu, total)


@dataclass(frozen=True)
class ImagePooling:
    """The mean of the whole map, a convolution on it, and that back in the map's size (DeepLab v3).

    Attributes:
        pool, resize: Names of the first and the last of the three.
    """

    pool: str
    unit: ConvUnit
    resize: str

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the three steps."""
        pooled = self.unit.expand(walk, walk.global_pool(self.pool, feature))
        return walk.resize_like(self.resize, pooled, feature)


@dataclass(frozen=True)
class Head:
    """Branches side by side on the backbone's map, merged, and what follows: ASPP in general.

    Attributes:
        branches: Each a tuple of blocks; DeepLab without ASPP has one.
        merge: SUM of the branches' scores (DeepLab v2), or CONCAT of their features (v3); one
            branch alone is not merged.
        top: Name of the sum or the concatenation.
        after: Blocks on the merged map: projection and classifier where features are merged.
        output_stride: At which the rates are those of the tables; at another one they are this many
            times as large or small, so that the field of view in pixels stays.
    """

    branches: tuple[tuple[Block, ...], ...]
    top: str
    merge: Literal["SUM", "CONCAT"] = "SUM"
    after: tuple[Block, ...] = ()
    output_stride: int = 8

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the branches one after the other, their sum or concatenation, and what follows."""
        read = replace(feature, rate=Fraction(self.output_stride, walk.output_stride))
        maps = [run(branch, walk, read) for branch in self.branches]
        merged = maps[0] if len(maps) == 1 else walk.merge(self.top, maps, self.merge)
        return run(self.after, walk, merged)


@dataclass(frozen=True)
class SideBranch:
    """Scores of an earlier map, added to the head's (DeepLab-MSc, arXiv 1412.7062, section 3.3).

    In training its first convolution has the stride that gives the size of the head's scores; in
    testing it has none, and the scores are zoomed to the input's size.

    Attributes:
        source: Name of the map.
        units: Convolutions, the last of which is a classifier.
    """

    source: str
    units: tuple[ConvUnit, ...]

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        """Add the branch; `feature` is the map called `source`."""
        stride = walk.output_stride / feature.stride if walk.training else Fraction(1)
        first = replace(self.units[0], stride=int(stride))
        scores = run((first, *self.units[1:]), walk, replace(feature, rate=Fraction(1)))
        return scores if walk.training else to_full_size(f"{self.source}_interp", walk, scores)


def run(blocks: tuple[Block, ...], walk: Walk, feature: Feature) -> Feature:
    """Expand blocks one after the other."""
    for block in blocks:
        feature = block.expand(walk, feature)
    return feature


def to_full_size(name: str, walk: Walk, scores: Feature) -> Feature:
    """The map in the size of the network's input; itself where it has that size."""
    if scores.stride == 1:
        return scores
    return walk.resize(name, scores, zoom=int(scores.stride))
