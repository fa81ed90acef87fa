"""Networks for inference: normalisation, bias, shortcut and ReLU computed by the convolution."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplab_repro.caffe.graph import GraphModule, LayerModules, Node
from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.caffe.layers.combine import Eltwise
from deeplab_repro.caffe.layers.conv import Convolution, Deconvolution
from deeplab_repro.caffe.layers.elementwise import Dropout, ReLU
from deeplab_repro.caffe.layers.linear import InnerProduct
from deeplab_repro.caffe.layers.normalization import BatchNorm, Bias, Scale
from deeplab_repro.ops._residual import add_relu_
from prototxt_import import CaffeImportError
from prototxt_import.schedule import Schedule, Turn, Value

if TYPE_CHECKING:
    from deeplab_repro.caffe.net import CaffeNet

__all__ = ["FusedLayer", "FusedNet"]

_Weights = tuple[nn.Parameter, nn.Parameter | None]  # weight, bias
_Shared = dict[Hashable, _Weights]


class FusedLayer(nn.Module):
    """``relu(core(x) + other)``, without the ReLU or ``other`` where there is none.

    A ReLU right behind a convolution is left to that (:attr:`Convolution.activation`).  Else both
    are done in place, in the memory that ``core`` has just written.  oneDNN could do them within
    the convolution, but only through operators of torch that are no public interface, and saves
    1 to 3 % of a network's time by it.

    Args:
        core: the Convolution, Deconvolution or InnerProduct, with folded weights.
        relu: whether values below 0 become 0.
        takes_other: whether there is an ``other``.
    """

    def __init__(self, core: CaffeLayer, relu: bool, takes_other: bool) -> None:
        super().__init__()
        self.core = core
        if relu and not takes_other and isinstance(core, Convolution) and core.has_activation:
            core.activation = "relu"
            relu = False
        self.relu = relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """x as ``core`` takes it, ``other`` of the top's shape."""
        y: Tensor = self.core(x)
        if other is None:
            return y.relu_() if self.relu else y
        return add_relu_(y, other) if self.relu else y.add_(other)


class FusedNet(GraphModule):
    """A network with its layers folded together, for inference; :meth:`CaffeNet.fuse` makes it.

    What is folded into a Convolution, Deconvolution or InnerProduct with one bottom, as long as
    each blob in between has a single reader and is no output:

    - any of BatchNorm (with fixed statistics), Scale and Bias (of their own blobs, one value a
      channel), in any order and number: into weights and bias;
    - then one Eltwise SUM with a blob that is there by then (a shortcut), added on the spot;
    - then one ReLU without negative slope;
    - Dropout, anywhere: nothing is left of it.

    The blobs in between no longer exist: :meth:`blobs` returns those that are left, which
    :attr:`kept_blobs` names.  Filters are stored channels last, and so the convolutions'
    outputs are, too; shapes and values do not depend on that.  What layers share they still share.

    The module stays in evaluation mode and its weights ask for no gradient; inputs may.

    Attributes:
        kept_blobs: names of the blobs that :meth:`blobs` returns.
    """

    def __init__(self, net: CaffeNet) -> None:
        if net.training:
            raise CaffeImportError(
                "fuse() is for inference", expected="a network in eval mode", got="train mode"
            )
        super().__init__(net.net, net.quirks)
        self._blob_shapes = [list(shapes) for shapes in net._blob_shapes]
        self.layers = LayerModules()
        shared: _Shared = {}
        memo: dict[int, Any] = {}
        nodes = []
        for group in _groups([step.node for step in net._steps], net):
            node = _node(group, shared, memo)
            if node is not None:
                nodes.append(node)
                self.layers.append(node.layer.name, node.module)
        self._plan(nodes)
        self.requires_grad_(False)
        self.train(False)

    @property
    def kept_blobs(self) -> list[str]:
        """Inputs and what the remaining layers write, in the order of the first writing."""
        tops = [top for step in self._steps for top in step.node.tops]
        return list(dict.fromkeys([*self.inputs, *tops]))

    def weights(self) -> dict[str, list[NDArray[np.float32]]]:
        """Layer -> its blobs, with what was folded into them, in Caffe's order and shapes.

        They suit the same network without the layers that are gone, such as BatchNorm and Scale:

        >>> write_weights("plain.caffemodel", net.fuse().weights(), parse_net(plain_text))
        """
        found = {}
        for step in self._steps:
            module = step.node.module
            core = module.core if isinstance(module, FusedLayer) else module
            if isinstance(core, CaffeLayer) and core.blobs:
                blobs = [blob.numpy(force=True) for blob in core.blobs]
                found[step.node.layer.name] = [np.ascontiguousarray(blob) for blob in blobs]
        return found

    def train(self, mode: bool = True) -> FusedNet:
        """Stay in evaluation mode: there is no other."""
        super().train(False)
        return self


# -------------------------------------------------------------------- what belongs together


@dataclass
class _Group:
    """Nodes that become one: the first, what is folded into its weights, and what comes after."""

    first: Node
    top: str
    affine: list[nn.Module]
    other: str | None = None
    relu: bool = False


def _groups(nodes: list[Node], net: CaffeNet) -> list[_Group]:
    """Divide the nodes, in the order of the groups' first ones.

    A group runs where its first node ran.  That is early enough, and as nobody else reads the
    blobs in between, not too early either, if the shortcut is there by then.
    """
    schedule = Schedule(nodes, net.inputs, net.outputs)
    groups = []
    taken: set[int] = set()
    for i, node in enumerate(nodes):
        if i in taken:
            continue
        group = _Group(node, node.tops[0] if node.tops else "", [])
        groups.append(group)
        if not _can_lead(node):
            continue
        (value,) = schedule.turns[i].writes
        while value not in schedule.final and len(schedule.readers.get(value, ())) == 1:
            (j,) = schedule.readers[value]
            if not _absorb(group, nodes[j], value, schedule.turns[j], i, schedule):
                break
            taken.add(j)
            (value,) = schedule.turns[j].writes
            group.top = value.blob
    return groups


def _can_lead(node: Node) -> bool:
    return (
        isinstance(node.module, Convolution | InnerProduct)
        and len(node.bottoms) == 1
        and node.bottoms != node.tops
    )


def _absorb(
    group: _Group, node: Node, value: Value, turn: Turn, first: int, schedule: Schedule
) -> bool:
    """Take ``node``, the only reader of the group's present ``value``, into the group if it fits.

    Args:
        turn: the node's.
        first: number of the group's first node.
    """
    module = node.module
    if len(node.tops) != 1 or node.detached:
        return False
    if isinstance(module, Dropout):
        return True
    open_ended = not group.relu
    if open_ended and isinstance(module, ReLU) and module.layer.negative_slope == 0:
        group.relu = True
        return True
    if open_ended and group.other is None:
        if _is_affine(group.first.module, node):
            group.affine.append(module)
            return True
        two = len(node.bottoms) == 2 and isinstance(module, Eltwise)
        if two and module.layer.is_plain_sum:  # type: ignore[union-attr]
            (other,) = (read for read in turn.reads if read != value)
            if other.blob != node.tops[0] and schedule.is_there(other, first):
                group.other = other.blob
                return True
    return False


def _is_affine(first: nn.Module, node: Node) -> bool:
    """Whether ``node`` does no more than scale and shift the channels that ``first`` makes."""
    # The channel axis of what follows has to be the one that the weights' rows make.
    if _channel_axis(first) != 1 or len(node.bottoms) != 1:
        return False
    module = node.module
    if isinstance(module, BatchNorm):
        return module.uses_global_stats
    if isinstance(module, Scale | Bias):
        on_channels = module.layer.axis % _output_axes(first) == 1
        return on_channels and all(len(shape) == 1 for shape in module.blob_shapes)
    return False


def _channel_axis(first: nn.Module) -> int:
    if isinstance(first, Convolution):
        return first.axis
    assert isinstance(first, InnerProduct)
    return 1 if first.is_legacy else first.layer.axis


def _output_axes(first: nn.Module) -> int:
    if isinstance(first, Convolution):
        return 2 + first.spatial_axes
    assert isinstance(first, InnerProduct)
    return 4 if first.is_legacy else 2


# -------------------------------------------------------------------- folding


def _node(group: _Group, shared: _Shared, memo: dict[int, Any]) -> Node | None:
    """The group as one node; None where nothing is left to do.

    Args:
        shared: the folded weights of earlier groups.
        memo: of ``copy.deepcopy``, so that copies share what the originals share.
    """
    node = group.first
    module = node.module
    if isinstance(module, Dropout) and node.bottoms == node.tops:
        return None
    if not _can_lead(node):
        # Where the bottom has no other use, even a top of another name may take its memory.
        may_overwrite = getattr(module, "can_run_inplace", False) and len(node.tops) == 1
        copied = copy.deepcopy(module, memo)
        return Node(node.layer, copied, node.bottoms, node.tops, may_overwrite, node.detached)
    assert isinstance(module, Convolution | InnerProduct)
    core = _folded(module, group.affine, shared)
    fused = FusedLayer(core, group.relu, takes_other=group.other is not None)
    others = () if group.other is None else (group.other,)
    bottoms = (*node.bottoms, *others)
    return Node(node.layer, fused, bottoms, (group.top,), detached=node.detached)


@torch.no_grad()
def _folded(
    module: Convolution | InnerProduct, affine: list[nn.Module], shared: _Shared
) -> CaffeLayer:
    """A layer like ``module`` with what follows it in the weights, which are its own."""
    key = _key(module, affine)
    if key not in shared:
        shared[key] = _fold(module, affine)
    weight, bias = shared[key]
    # Without the weights.
    core = copy.deepcopy(module, {id(blob): None for blob in module.parameters()})
    core.blob_shapes = [tuple(weight.shape)]
    core.share_blob(0, weight)
    if bias is not None:
        core.blob_shapes.append(tuple(bias.shape))
        core.share_blob(1, bias)
    return core


def _key(module: CaffeLayer, affine: list[nn.Module]) -> Hashable:
    """Equal where the folded weights are: at the layers of a network's scales, which share all."""
    parts: list[Hashable] = []
    for part in (module, *affine):
        assert isinstance(part, CaffeLayer)
        blobs = tuple((blob.data_ptr(), blob.shape) for blob in part.blobs)
        options = (getattr(part.layer, name, None) for name in ("group", "transpose", "eps"))
        parts.append((type(part), blobs, *options))
    return tuple(parts)


def _fold(module: Convolution | InnerProduct, affine: list[nn.Module]) -> _Weights:
    weight = module.blob(0)
    bias = module.blob(1).double().view(-1) if len(module.blob_shapes) > 1 else None
    if affine:
        total, shift = _affine(affine[0])
        bias = shift if bias is None else bias * total + shift
        for part in affine[1:]:
            scale, shift = _affine(part)
            total, bias = total * scale, bias * scale + shift
        folded = _scale_outputs(module, weight.double(), total).to(weight.dtype)
    else:
        folded = weight.clone()
    if type(module) is Convolution and folded.dim() == 4:
        folded = folded.contiguous(memory_format=torch.channels_last)
    return (
        nn.Parameter(folded, requires_grad=False),
        None if bias is None else nn.Parameter(bias.to(weight.dtype), requires_grad=False),
    )


def _scale_outputs(module: CaffeLayer, weight: Tensor, scale: Tensor) -> Tensor:
    """``weight`` with every output channel multiplied by its value of ``scale`` (K,)."""
    if isinstance(module, InnerProduct):
        return weight * (scale if module.layer.transpose else scale[:, None])
    assert isinstance(module, Convolution)
    if isinstance(module, Deconvolution):  # (C, K / group, ...): the rows of a group share its K
        rows = weight.view(module.groups, -1, *weight.shape[1:])
        return (rows * _behind(scale.view(module.groups, 1, -1), rows)).view(weight.shape)
    return weight * _behind(scale, weight)


def _behind(factors: Tensor, like: Tensor) -> Tensor:
    """``factors`` with axes of size 1 behind, as many axes as ``like``."""
    return factors.reshape(factors.shape + (1,) * (like.dim() - factors.dim()))


def _affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """What a BatchNorm, Scale or Bias does to a channel: factor and shift, (C,) float64."""
    if isinstance(module, BatchNorm):
        return module.scale_and_shift()
    if isinstance(module, Bias):
        shift = module.blob(0).double()
        return torch.ones_like(shift), shift
    assert isinstance(module, Scale)
    scale = module.blob(0).double()
    bias = module.bias
    return scale, torch.zeros_like(scale) if bias is None else bias.double()
