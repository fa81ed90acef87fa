"""State dicts of other people's PyTorch ports, as Caffe's blobs.

A port renames the layers and keeps their numbers.  Each is told by its keys::

    kazuto1011/deeplab-pytorch       layer4.block23.conv3x3.conv.weight, aspp.c0.weight
    isht7/pytorch-deeplab-resnet,
    speedinghzl/Pytorch-Deeplab      layer3.22.conv2.weight, layer5.conv2d_list.0.weight
    wangleihitcs/DeepLab-V1-PyTorch  features.0.weight ... features.38.weight

Their batch normalization is one layer with four tensors, where Caffe has BatchNorm (with a third
blob, by which the other two are divided: here 1) and Scale.  All of them read pictures as Caffe
does: blue, green, red, 0..255 minus the mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from torch import Tensor

from deeplab_repro.errors import InputError
from deeplab_repro.models.resnet101 import BLOCKS

__all__ = ["Ported", "translate"]

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Wrappers that give every key a prefix.  Under the last two, ports keep a network that looks at
#: three sizes of its input.
_WRAPPERS: Final = ("module", "model", "net", "network", "base", "Scale")
_THREE_SCALES: Final = ("base", "Scale")
#: Counters of nn.BatchNorm2d, which computes the same without them.
_COUNTER: Final = "num_batches_tracked"
#: Branches of a bottleneck unit, in Caffe's names and in those of the two ports.
_KAZUTO_BRANCHES: Final = {"shortcut": "1", "reduce": "2a", "conv3x3": "2b", "increase": "2c"}
_ISHT7_BRANCHES: Final = {"downsample": "1", "1": "2a", "2": "2b", "3": "2c"}
#: Convolutions of VGG-16 with a large field of view, in the order of a flat list of layers.
_FEATURES: Final = {
    **dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            (
                f"conv{stage}_{i}"
                for stage, count in enumerate((2, 2, 3, 3, 3), 1)
                for i in range(1, count + 1)
            ),
            strict=True,
        )
    ),
    32: "fc6",
    35: "fc7",
    38: "fc8_{exp}",
}


@dataclass(frozen=True)
class _Place:
    """Where a module of a port is in Caffe: a convolution, or BatchNorm and Scale."""

    layer: str
    scale: str | None = None

    def blob(self, tensor: str) -> tuple[str, int] | None:
        """(layer, number of the blob) of one of the module's tensors."""
        if self.scale is None:
            return {"weight": (self.layer, 0), "bias": (self.layer, 1)}.get(tensor)
        return {
            "running_mean": (self.layer, 0),
            "running_var": (self.layer, 1),
            "weight": (self.scale, 0),
            "bias": (self.scale, 1),
        }.get(tensor)


@dataclass(frozen=True)
class Ported:
    """The weights of a port under Caffe's names.

    Attributes:
        origin: whose port it is.
        network: name in `deeplab_repro.models.NETWORKS`.
        weights: layer -> blobs, without the copies for other scales.
        moved: key of the state dict -> where it went, such as "conv1 blob 0".
        dropped: keys without a counterpart that nothing depends on.
    """

    origin: str
    network: str
    weights: dict[str, list[Array]]
    moved: dict[str, str] = field(repr=False)
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Port:
    """How a port names its modules.

    Attributes:
        origin: whose it is.
        place: path of a module -> where it is in Caffe, or None.
        network: from Caffe's layers and whether there are three scales, the network's name.
    """

    origin: str
    place: Callable[[str], _Place | None]
    network: Callable[[set[str], bool], str]


def translate(state: Mapping[str, Tensor], exp: str = "voc12") -> Ported | None:
    """The state dict of a port under Caffe's names; None if it is of none of the known ports.

    Args:
        state: keys as the port wrote them, wrappers such as `module.` included.
        exp: what the released files call ${EXP}.

    Raises:
        InputError: a port by most of its keys, but some have no counterpart.
    """
    keys = {key: key for key in state if not key.endswith(f".{_COUNTER}")}
    is_multi_scale = False
    while wrapper := _common_wrapper(keys.values()):
        is_multi_scale |= wrapper in _THREE_SCALES
        keys = {key: rest.partition(".")[2] for key, rest in keys.items()}
    found = [(port, {key: _blob(port, rest) for key, rest in keys.items()}) for port in _PORTS]
    port, places = max(found, key=lambda item: sum(map(bool, item[1].values())))
    unknown = [key for key, place in places.items() if place is None]
    if 2 * len(unknown) >= len(keys):
        return None
    if unknown:
        raise InputError(
            f"looks like a network of {port.origin}, but has other layers, too",
            expected="keys of DeepLab v1 or v2",
            got=", ".join(unknown[:4]) + (", ..." if unknown[4:] else ""),
        )
    blobs: dict[str, dict[int, Array]] = {}
    moved = {}
    for key, place in places.items():
        assert place is not None
        layer, number = place[0].format(exp=exp), place[1]
        blobs.setdefault(layer, {})[number] = state[key].detach().cpu().float().numpy()
        moved[key] = f"{layer} blob {number}"
    weights = {layer: _in_order(layer, parts) for layer, parts in blobs.items()}
    network = port.network(set(weights), is_multi_scale)
    return Ported(port.origin, network, weights, moved, tuple(state.keys() - keys.keys()))


def _common_wrapper(keys: Any) -> str | None:
    """The wrapper that every key starts with, if there is one."""
    (first, *others) = {key.partition(".")[0] for key in keys} or {""}
    return first if not others and first in _WRAPPERS else None


def _blob(port: _Port, key: str) -> tuple[str, int] | None:
    path, _, tensor = key.rpartition(".")
    place = port.place(path)
    return None if place is None else place.blob(tensor)


def _in_order(layer: str, parts: Mapping[int, Array]) -> list[Array]:
    if sorted(parts) != list(range(len(parts))):
        raise InputError(
            "a tensor is missing", layer=layer, expected="weights, or mean and variance"
        )
    blobs = [parts[i] for i in range(len(parts))]
    if layer.startswith("bn"):
        blobs.append(np.ones(1, np.float32))
    return blobs


def _unit(stage: int, block: int, branch: str | None, is_norm: bool) -> _Place | None:
    """A layer of ResNet-101's bottleneck units, counted from 0 in its stage."""
    blocks = BLOCKS.get(stage, ())
    if branch is None or not 0 <= block < len(blocks):
        return None
    end = f"{stage}{blocks[block]}_branch{branch}"
    return _Place(f"bn{end}", f"scale{end}") if is_norm else _Place(f"res{end}")


def _kazuto_place(path: str) -> _Place | None:
    if match := re.fullmatch(r"layer(\d)\.block(\d+)\.(\w+)\.(conv|bn)", path):
        stage, block, branch, kind = match.groups()
        return _unit(int(stage), int(block) - 1, _KAZUTO_BRANCHES.get(branch), kind == "bn")
    if match := re.fullmatch(r"aspp\.(c\d)", path):
        return _Place(f"fc1_{{exp}}_{match[1]}")
    return {
        "layer1.conv1.conv": _Place("conv1"),
        "layer1.conv1.bn": _Place("bn_conv1", "scale_conv1"),
        "fc": _Place("fc1_{exp}"),
    }.get(path)


def _isht7_place(path: str) -> _Place | None:
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)", path):
        stage, block, kind, branch = match.groups()
        return _unit(int(stage) + 1, int(block), _ISHT7_BRANCHES.get(branch), kind == "bn")
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])", path):
        stage, block, kind = match.groups()
        return _unit(int(stage) + 1, int(block), "1", kind == "1")
    if match := re.fullmatch(r"layer5\.conv2d_list\.(\d)", path):
        return _Place(f"fc1_{{exp}}_c{match[1]}")
    return {"conv1": _Place("conv1"), "bn1": _Place("bn_conv1", "scale_conv1")}.get(path)


def _largefov_place(path: str) -> _Place | None:
    match = re.fullmatch(r"features\.(\d+)", path)
    layer = _FEATURES.get(int(match[1])) if match else None
    return None if layer is None else _Place(layer)


def _resnet(layers: set[str], is_multi_scale: bool) -> str:
    is_pyramid = any(layer.endswith("_c0") for layer in layers)
    return "resnet101" + "-msc" * is_multi_scale + "-aspp" * is_pyramid


_PORTS: Final[Sequence[_Port]] = (
    _Port("kazuto1011/deeplab-pytorch", _kazuto_place, _resnet),
    _Port("isht7/pytorch-deeplab-resnet or speedinghzl/Pytorch-Deeplab", _isht7_place, _resnet),
    _Port("wangleihitcs/DeepLab-V1-PyTorch", _largefov_place, lambda *_: "largefov"),
)
