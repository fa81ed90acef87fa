"""The V1 layer format: `layers {}` with enum types, the only one of the DeepLab v1 fork.

The reverse of what `UpgradeV1LayerParameter` in Caffe's `util/upgrade_proto.cpp` does, for the
layers that the DeepLab networks use, with the v1 fork's own names (`hole`, `softmaxloss_param`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from deeplab_repro.models.prototxt import Enum, Message, Value
from prototxt_import.layers import KINDS
from prototxt_import.schema import message_class

_ENUM = message_class("dl1", "V1LayerParameter").DESCRIPTOR.enum_types_by_name["LayerType"]
_RENAMED = {"loss_param": "softmaxloss_param"}


def to_v1(layer: Message) -> Message:
    """The layer, given in the current format, as a V1 `layers` message."""
    kind = str(layer["type"])
    v1_name = KINDS[kind].kind.v1
    if v1_name not in _ENUM.values_by_name:
        raise ValueError(f"layer {layer['name']}: the V1 format has no {kind}; write format v2")
    out: dict[str, Value] = {}
    for field, value in layer.items():
        if field == "type":
            out["type"] = Enum(v1_name)
        elif field == "param":
            out.update(_multipliers(cast("list[Mapping[str, Any]]", value)))
        elif field == "convolution_param":
            renamed = {"dilation": "hole"}
            param = cast(Message, value)
            out[field] = {renamed.get(key, key): item for key, item in param.items()}
        else:
            out[_RENAMED.get(field, field)] = value
    return out


def _multipliers(params: list[Mapping[str, Any]]) -> Message:
    """`param { name lr_mult decay_mult }` as V1's three parallel lists."""
    lists: dict[str, Value] = {
        "blobs_lr": [param["lr_mult"] for param in params],
        "weight_decay": [param["decay_mult"] for param in params],
    }
    names = [param["name"] for param in params if "name" in param]
    return {"param": names, **lists} if names else lists
