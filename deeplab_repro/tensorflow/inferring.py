"""Which network a checkpoint belongs to, as far as its variables tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final, NamedTuple

from deeplab_repro.errors import InputError
from deeplab_repro.models.atrous import rates_at
from deeplab_repro.models.v3.options import VARIANTS, ModelOptions

__all__ = ["Inferred", "infer_options"]

Shapes = Mapping[str, Sequence[int]]

_SCOPES: Final = {
    **{f"xception_{depth}": f"xception_{depth}" for depth in (41, 65, 71)},
    **{f"resnet_v1_{depth}": f"resnet_v1_{depth}" for depth in (18, 50, 101)},
    "MobilenetV2": "mobilenet_v2",
    "MobilenetV3": "mobilenet_v3",
    "MobilenetEdgeTPU": "mobilenet_edgetpu",
}
#: Units of the large MobileNetV3; the small one has eleven.
_LARGE_V3_UNITS: Final = 15
#: The rates of all released networks with ASPP.
_RATES: Final = (6, 12, 18)


class Inferred(NamedTuple):
    """What variables say.

    Attributes:
        options: as :meth:`ModelOptions.from_case` takes them.
        assumed: names of those among them that no variable tells, such as the output stride: what
            the released networks have.
    """

    options: dict[str, Any]
    assumed: tuple[str, ...]


def infer_options(shapes: Shapes) -> Inferred:
    """The options of the network that variables belong to.

    Args:
        shapes: name -> shape in TensorFlow's layout, of all variables of a checkpoint.

    Raises:
        InputError: they are those of no backbone that is known, or there is no classifier.

    Example:
        >>> from tensorflow_import import list_variables
        >>> infos = list_variables("deeplabv3_pascal_train_aug/model.ckpt")
        >>> infer_options({name: info.shape for name, info in infos.items()})
    """
    # A scalar in place of a filter or a bias would tell nothing.
    shapes = {name: shape for name, shape in shapes.items() if len(shape)}
    backbone = _backbone(shapes)
    head, of_head = _head(shapes)
    decoder, of_decoder = _decoder(shapes, backbone)
    variant = backbone["model_variant"]
    of_backbone = ("multi_grid",) if VARIANTS[variant].multi_grid else ()
    is_light = variant.startswith("mobilenet_v3")
    options = {
        **backbone,
        "num_classes": _classes(shapes),
        "output_stride": 32 if is_light else 16,
        **head,
        **decoder,
    }
    return Inferred(options, ("output_stride", *of_backbone, *of_head, *of_decoder))


def _backbone(shapes: Shapes) -> dict[str, Any]:
    scopes = {name.partition("/")[0] for name in shapes} & _SCOPES.keys()
    if len(scopes) != 1:
        raise InputError(
            "the variables do not say what the backbone is",
            expected=f"those of one scope of {', '.join(_SCOPES)}",
            got=", ".join(sorted(scopes)) or "none of them",
        )
    (scope,) = scopes
    variant = _SCOPES[scope]
    if variant.startswith("resnet"):
        if f"{scope}/conv1_1/weights" in shapes:
            variant += "_beta"
        options: dict[str, Any] = {"model_variant": variant}
        if any(name.startswith(f"{scope}/block5/") for name in shapes):
            return {**options, "cascade": True, "multi_grid": [1, 2, 1]}
        return options if scope == "resnet_v1_18" else {**options, "multi_grid": [1, 2, 4]}
    if variant == "mobilenet_v2":
        last = shapes.get(f"{scope}/expanded_conv_16/project/weights", (320,))[-1]
        return {"model_variant": variant, "depth_multiplier": round(last / 320, 4)}
    if variant == "mobilenet_v3":
        is_large = f"{scope}/expanded_conv_{_LARGE_V3_UNITS - 1}/project/weights" in shapes
        return {"model_variant": f"{variant}_{'large' if is_large else 'small'}_seg"}
    return {"model_variant": variant}


def _head(shapes: Shapes) -> tuple[dict[str, Any], tuple[str, ...]]:
    if any(name.startswith("meta_architecture/") for name in shapes):
        return {"dpc": True}, ("dense_prediction_cell_config",)
    if "aspp0/weights" not in shapes:
        count = sum(bool(_SCORES.fullmatch(name)) for name in shapes)
        options: dict[str, Any] = {"aspp_with_batch_norm": False, "add_image_level_feature": False}
        if count > 1:
            options["atrous_rates"] = [_RATES[0] * i for i in range(1, count + 1)]
            options["logits_kernel_size"] = shapes["logits/semantic/weights"][0]
            return options, ("atrous_rates",)
        return options, ()
    options = {
        "add_image_level_feature": "image_pooling/weights" in shapes,
        "aspp_convs_filters": shapes["aspp0/weights"][-1],
        "aspp_with_concat_projection": "concat_projection/weights" in shapes,
        "aspp_with_squeeze_and_excitation": "image_pooling/biases" in shapes,
    }
    assumed: tuple[str, ...] = ()
    if options["aspp_with_squeeze_and_excitation"]:
        options |= {
            "image_se_uses_qsigmoid": True,
            "image_pooling_crop_size": [769, 769],
            "image_pooling_stride": [4, 5],
        }
        assumed = ("image_se_uses_qsigmoid", "image_pooling_crop_size", "image_pooling_stride")
    count = sum(bool(_BRANCH.fullmatch(name)) for name in shapes)
    if count:
        first, step = _RATES[0], _RATES[1] - _RATES[0]
        options["atrous_rates"] = list(rates_at(16, tuple(first + step * i for i in range(count))))
        options["aspp_with_separable_conv"] = "aspp1_depthwise/depthwise_weights" in shapes
        assumed = ("atrous_rates", *assumed)
    return options, assumed


_SCORES: Final = re.compile(r"logits/semantic(_\d+)?/weights")
_BRANCH: Final = re.compile(r"aspp[1-9]\d*(_pointwise)?/weights")


def _decoder(shapes: Shapes, backbone: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    count = sum(bool(_PROJECTION.fullmatch(name)) for name in shapes)
    if not count:
        return {}, ()
    ends = ["", *(f"_{i}" for i in range(1, count))]
    names = [f"decoder/feature_projection0{end}/weights" for end in ends]
    strides, is_told = _strides([shapes.get(name, ()) for name in names], backbone)
    is_logits = not any(_SCORES.fullmatch(name) for name in shapes)
    # Convolutions behind the finer maps, by the names that model.py gives them.
    kernels = [name for name in shapes if _DECODER.match(name) and name.endswith("/weights")]
    options = {
        "decoder_output_stride": strides,
        "decoder_output_is_logits": is_logits,
        "decoder_use_sum_merge": not any(_JOINED.match(name) for name in shapes),
        "decoder_use_separable_conv": is_logits or any("_pointwise/" in name for name in kernels),
        "decoder_filters": shapes[kernels[0]][-1] if kernels else 256,
    }
    return options, () if is_told else ("decoder_output_stride",)


def _strides(
    projections: Sequence[Sequence[int]], backbone: Mapping[str, Any]
) -> tuple[list[int], bool]:
    """Strides of a decoder, and whether they are the only ones whose maps fit its projections.

    Args:
        projections: shapes of their weights, from the coarsest map on.
        backbone: its options.
    """
    # Here alone: a checkpoint without a decoder needs no torch.
    import torch

    from deeplab_repro.models.v3.network import BACKBONES

    options = ModelOptions.from_case({**backbone, "decoder_output_stride": [16, 8, 4]})
    with torch.device("meta"):
        channels = BACKBONES[options.variant.family](options).low_level
    read = [tuple(shape[-2:-1]) for shape in projections]
    fitting = [
        list(strides)
        for strides in combinations((16, 8, 4), len(read))
        if [(channels[stride],) for stride in strides] == read
    ]
    released = [8] if options.model_variant.startswith("mobilenet_v3") else [16, 8, 4][-len(read) :]
    if not fitting or released in fitting:
        return released, len(fitting) == 1
    return fitting[-1], len(fitting) == 1


_PROJECTION: Final = re.compile(r"decoder/feature_projection0(_\d+)?/weights")
_DECODER: Final = re.compile(r"decoder/decoder_")
_JOINED: Final = re.compile(r"decoder/decoder_conv(1|0/decoder_conv0)")


def _classes(shapes: Shapes) -> int:
    for name in ("logits/semantic/biases", "decoder/feature_projection0/biases"):
        if name in shapes:
            return shapes[name][0]
    raise InputError(
        "the variables hold no classifier", expected="logits/semantic/weights", got="a backbone"
    )
