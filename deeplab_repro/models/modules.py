"""From the tables' blocks to modules.

`Builder` makes a layer by its name, with the numbers that the atrous rule has worked out for it
(`deeplab_repro.models.walk`).  `layers_of` and `module_of` say for every kind of block how its
layers hang together.  A new kind of block brings its own::

    @layers_of.register
    def _(block: Separable, build: Builder) -> Iterator[Named]:
        yield build.layer(f"{block.name}_depthwise")
        yield build.layer(f"{block.name}_pointwise")
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import singledispatch
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.models.architectures import Architecture, expand
from deeplab_repro.models.blocks import ConvUnit, Head, ImagePooling, PoolUnit, Residual, SideBranch
from deeplab_repro.models.layers import CaffePool2d, Convolution, FrozenBatchNorm2d, resize
from deeplab_repro.models.steps import Conv, Dropout, GlobalPool, Norm, Pool, ReLU, Resize, Step

__all__ = [
    "Builder",
    "ImageLevel",
    "Named",
    "ParallelBranches",
    "ResidualSum",
    "SideScores",
    "chain",
    "layers_of",
    "module_of",
]

Named: TypeAlias = "tuple[str, nn.Module]"  # a layer under its name in the released files
NormFactory: TypeAlias = "Callable[[int], nn.Module]"  # channels -> module


class Builder:
    """Makes the layers of an architecture.

    Args:
        architecture: its table; several scales of the input share their layers.
        norm: makes every normalization in place of the table's own kind.
        **options: of `deeplab_repro.models.architectures.expand`.
    """

    def __init__(
        self, architecture: Architecture, norm: NormFactory | None = None, **options: Any
    ) -> None:
        self._norm = norm
        self._exp = options.get("exp", "voc12")
        one_scale = replace(architecture, scales=())
        self.test, self.train = (
            {step.name: step for step in expand(one_scale, training=training, **options).steps}
            for training in (False, True)
        )

    def layer(self, name: str) -> Named:
        """The layer of this name in the table, as the step of this name says."""
        name = name.format(exp=self._exp, copy="")
        return name, self._module(self.test[name], self.train[name])

    def _module(self, test: Step, train: Step) -> nn.Module:
        match test, train:
            case Conv(), Conv():
                return Convolution(test, train.stride)
            case Pool(), Pool():
                return CaffePool2d(test, train.pad)
            case Norm(), _:
                if self._norm is not None:
                    return self._norm(test.channels)
                kind = FrozenBatchNorm2d if test.frozen else nn.BatchNorm2d
                return kind(test.channels, test.eps)
            case ReLU(), _:
                return nn.ReLU(inplace=True)
            case Dropout(), _:
                return nn.Dropout(test.probability)
            case GlobalPool(), _:
                return nn.AdaptiveAvgPool2d(1)
        raise TypeError(f"layer {test.name}: {type(test).__name__} has no module of its own")


@singledispatch
def layers_of(block: Any, build: Builder) -> Iterator[Named]:
    """The named modules of a block, which run one after the other.

    Raises:
        TypeError: nobody has said what the modules of this kind of block are.
    """
    raise TypeError(
        f"no modules are known for blocks of the kind {type(block).__name__}; register a function "
        "with deeplab_repro.models.modules.layers_of"
    )


@singledispatch
def module_of(block: Any, build: Builder) -> nn.Module:
    """A block as one module: by default its layers one after the other."""
    return chain((block,), build)


def chain(blocks: Iterable[Any], build: Builder) -> nn.Sequential:
    """Blocks one after the other, each layer under its own name."""
    return nn.Sequential(
        OrderedDict(named for block in blocks for named in layers_of(block, build))
    )


@layers_of.register
def _conv_unit(block: ConvUnit, build: Builder) -> Iterator[Named]:
    """Convolution, then normalization, ReLU and dropout where the block has them."""
    name, convolution = build.layer(block.name)
    if block.channels is None and block.std is None and isinstance(convolution, Convolution):
        # A classifier without a filler starts from Caffe's default, which is 0. So does pool3_ms.
        # Other layers without one were never trained from new weights; they get He's here.
        convolution.start_from(0.0)
    yield name, convolution
    if block.norm is not None:
        yield build.layer(block.norm.name)
    for following in (block.relu, block.dropout):
        if following is not None:
            yield build.layer(following)


@layers_of.register
def _pool_unit(block: PoolUnit, build: Builder) -> Iterator[Named]:
    yield build.layer(block.name)


class ResidualSum(nn.Module):
    """relu(shortcut(x) + body(x)): the unit of ResNet (arXiv 1512.03385)."""

    def __init__(self, shortcut: nn.Module, body: nn.Module, relu: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.body, self.relu = shortcut, body, relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y: Tensor = self.relu(self.shortcut(x) + self.body(x))
        return y


@layers_of.register
def _residual(block: Residual, build: Builder) -> Iterator[Named]:
    shortcut = nn.Identity() if block.shortcut is None else module_of(block.shortcut, build)
    relu = nn.Identity() if block.relu is None else build.layer(block.relu)[1]
    yield block.name, ResidualSum(shortcut, chain(block.body, build), relu)


class ImageLevel(nn.Module):
    """What the whole picture says, at every place of it (arXiv 1706.05587, section 3.3)."""

    def __init__(self, pool: nn.Module, unit: nn.Module) -> None:
        super().__init__()
        self.pool, self.unit = pool, unit

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        return align_corners(self.unit(self.pool(x)), x.shape[2], x.shape[3])


@layers_of.register
def _image_pooling(block: ImagePooling, build: Builder) -> Iterator[Named]:
    name, pool = build.layer(block.pool)
    yield name, ImageLevel(pool, module_of(block.unit, build))


class ParallelBranches(nn.Module):
    """Branches that look at one map with different fields of view, and their sum: ASPP.

    Atrous spatial pyramid pooling (arXiv 1606.00915, section 3.2) looks at the same features with
    several rates.  DeepLab v2 gives each rate a classifier of its own and adds the scores; v3
    (`merge="CONCAT"`) joins features and classifies them in `after`.
    """

    def __init__(
        self, branches: Iterable[nn.Module], merge: Literal["SUM", "CONCAT"], after: nn.Module
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.merge = merge
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        if self.merge == "CONCAT":
            merged = torch.cat([branch(x) for branch in self.branches], 1)
        else:
            merged = self.branches[0](x)
            for branch in self.branches[1:]:
                merged = merged + branch(x)
        y: Tensor = self.after(merged)
        return y

    def extra_repr(self) -> str:
        """How the branches come together."""
        return f"merge={self.merge}"


@module_of.register
def _head(block: Head, build: Builder) -> nn.Module:
    if len(block.branches) == 1:
        return chain((*block.branches[0], *block.after), build)
    branches = (chain(branch, build) for branch in block.branches)
    return ParallelBranches(branches, block.merge, chain(block.after, build))


class SideScores(nn.Sequential):
    """A side branch of DeepLab-MSc: scores of an earlier map (arXiv 1412.7062, section 3.3).

    In train mode its first convolution is strided so that the scores are as coarse as the head's.
    In eval mode it looks at every place of the map, and the scores are zoomed to the input's size.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], zoom: int) -> None:
        super().__init__(layers)
        self.zoom = zoom

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')."""
        scores: Tensor = super().forward(x)
        return scores if self.training else resize(scores, self.zoom)


@module_of.register
def _side_branch(block: SideBranch, build: Builder) -> nn.Module:
    layers = OrderedDict(named for unit in block.units for named in layers_of(unit, build))
    interp = build.test.get(f"{block.source}_interp")
    return SideScores(layers, interp.zoom if isinstance(interp, Resize) else 1)
