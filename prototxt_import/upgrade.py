"""Any layer of any dialect, brought to the current form; in Caffe, upgrade_proto.cpp does it."""

from __future__ import annotations

from typing import Any, Final

from prototxt_import.errors import CaffeImportError
from prototxt_import.layers import KINDS, REFUSED
from prototxt_import.schema import Dialect, carry_over, unified

__all__ = ["current_type_name", "upgrade_layer"]

#: V1 enum name -> the type's name in the current format.
_TYPE_NAMES: Final = {
    **{cls.kind.v1: name for name, cls in KINDS.items()},
    **{refused.v1: name for name, refused in REFUSED.items() if refused.v1},
}


def upgrade_layer(raw: Any, dialect: Dialect, file: object = None) -> Any:
    """A layer as a unified LayerParameter message, without its blobs.

    Of a layer whose type is left out, only name, type, bottoms and tops come along.

    Raises:
        CaffeImportError: a V0 layer; parameters that the v1 fork refuses.
    """
    is_v1 = raw.DESCRIPTOR.name == "V1LayerParameter"
    type_ = _v1_type(raw) if is_v1 else raw.type
    if type_ not in KINDS and not (is_v1 and raw.HasField("layer")):
        return unified("LayerParameter")(name=raw.name, type=type_, bottom=raw.bottom, top=raw.top)
    layer = _from_v1(raw, dialect, file) if is_v1 else _copied(raw)
    _upgrade_data_transformation(layer)
    _upgrade_batch_norm(layer)
    return layer


def _v1_type(raw: Any) -> str:
    """The type of a V1 layer as the current format spells it; "" if it states none."""
    if not raw.HasField("type"):
        return ""
    enum = raw.DESCRIPTOR.enum_types_by_name["LayerType"]
    return current_type_name(enum.values_by_number[raw.type].name)


def current_type_name(v1_name: str) -> str:
    """``SIGMOID_CROSS_ENTROPY_LOSS`` -> ``SigmoidCrossEntropyLoss``."""
    if v1_name in _TYPE_NAMES:
        return _TYPE_NAMES[v1_name]
    return "".join(word.capitalize() for word in v1_name.split("_"))


def _copied(raw: Any) -> Any:
    layer = unified("LayerParameter")()
    carry_over(raw, layer)
    layer.ClearField("blobs")
    return layer


def _from_v1(raw: Any, dialect: Dialect, file: object) -> Any:
    if raw.HasField("layer"):
        raise CaffeImportError(
            "V0 layers ('layers { layer {') are not read; Caffe's upgrade_net_proto_text can"
            " upgrade the file",
            file=file,
            layer=raw.layer.name or raw.name,
            expected="V1 or current format",
            got="V0",
        )
    layer = unified("LayerParameter")()
    layer.name = raw.name
    layer.type = _v1_type(raw)
    layer.bottom.extend(raw.bottom)
    layer.top.extend(raw.top)
    layer.loss_weight.extend(raw.loss_weight)
    for rule in ("include", "exclude"):
        for item in getattr(raw, rule):
            carry_over(item, getattr(layer, rule).add())
    if not getattr(raw, "strict_dim", True):
        layer.strict_dim = False
    if dialect == "dl1":
        _check_counts(raw, file)
        _check_hole(raw, file)
    _upgrade_param_specs(raw, layer)
    for field, value in raw.ListFields():
        if field.name.endswith("_param"):
            target = getattr(layer, field.name)
            target.SetInParent()
            if field.name == "convolution_param":
                _upgrade_convolution(value, target)
            else:
                carry_over(value, target)
    return layer


def _upgrade_param_specs(raw: Any, layer: Any) -> None:
    """blobs_lr, weight_decay, param (names) and blob_share_mode become one ParamSpec a blob."""
    columns = {
        "lr_mult": list(raw.blobs_lr),
        "decay_mult": list(raw.weight_decay),
        "name": list(raw.param),
        "share_mode": list(raw.blob_share_mode),
    }
    for _ in range(max(map(len, columns.values()))):
        layer.param.add()
    for field, values in columns.items():
        for spec, value in zip(layer.param, values, strict=False):
            setattr(spec, field, value)


def _check_counts(raw: Any, file: object) -> None:
    """net.cpp of 2014: each of the lists is empty or has an entry for every blob."""
    counts = {name: len(getattr(raw, name)) for name in ("blobs_lr", "weight_decay", "param")}
    if len(set(counts.values()) - {0}) > 1:
        raise CaffeImportError(
            "the v1 fork wants blobs_lr, weight_decay and param for all blobs or for none",
            file=file,
            layer=raw.name,
            got=", ".join(f"{number} {name}" for name, number in counts.items()),
        )


def _check_hole(raw: Any, file: object) -> None:
    """conv_layer.cpp of the v1 fork: one hole for both sides, or both of them."""
    convolution = raw.convolution_param
    sides = [name for name in ("hole_h", "hole_w") if convolution.HasField(name)]
    if len(sides) == 1 or (sides and convolution.HasField("hole")):
        given = [name for name in ("hole", *sides) if convolution.HasField(name)]
        raise CaffeImportError(
            "the v1 fork takes hole, or hole_h and hole_w",
            file=file,
            layer=raw.name,
            got=", ".join(given),
        )


def _upgrade_convolution(raw: Any, convolution: Any) -> None:
    """dl1's hole, or hole_h and hole_w, is what now is called dilation."""
    fields = raw.DESCRIPTOR.fields_by_name
    if "hole" not in fields:
        carry_over(raw, convolution)
        return
    plain = raw.__class__()
    plain.CopyFrom(raw)
    for name in ("hole", "hole_h", "hole_w"):
        plain.ClearField(name)
    carry_over(plain, convolution)
    if raw.HasField("hole"):
        convolution.dilation.append(raw.hole)
    elif raw.HasField("hole_h") or raw.HasField("hole_w"):
        convolution.dilation.extend([raw.hole_h, raw.hole_w])


def _upgrade_data_transformation(layer: Any) -> None:
    """upgrade_proto.cpp, UpgradeNetDataTransformation, for the one of its layers that is read."""
    if layer.type != "ImageData" or not layer.HasField("image_data_param"):
        return
    old = layer.image_data_param
    for field in ("scale", "mean_file", "crop_size", "mirror"):
        if old.HasField(field):
            setattr(layer.transform_param, field, getattr(old, field))
            old.ClearField(field)


def _upgrade_batch_norm(layer: Any) -> None:
    """upgrade_proto.cpp, UpgradeNetBatchNorm: three specs that try to train the statistics."""
    if layer.type != "BatchNorm" or len(layer.param) != 3:
        return
    for spec in layer.param:
        spec.lr_mult = 0
        spec.decay_mult = 0
