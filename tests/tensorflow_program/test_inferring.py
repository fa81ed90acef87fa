"""Options read off the variables of networks that are made from known options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.catalogue import NETWORKS_V3
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.variables import shape_in_tensorflow
from deeplab_repro.tensorflow.inferring import Shapes, infer_options

#: What a run chooses, and no variable of the published networks depends on.
_OF_A_RUN = {"crop_size", "image_pooling_crop_size", "image_pooling_stride"}
OTHERS: list[dict[str, Any]] = [
    {"model_variant": "resnet_v1_50", "multi_grid": [1, 2, 4], "num_classes": 7},
    {"depth_multiplier": 0.35, "decoder_output_stride": [8, 4], "atrous_rates": [6, 12]},
    {"depth_multiplier": 1.4, "add_image_level_feature": False, "aspp_convs_filters": 64},
    {"decoder_output_stride": [4], "decoder_use_separable_conv": False, "decoder_filters": 32},
    {"decoder_output_stride": [8]},
    {"decoder_output_stride": [16], "depth_multiplier": 0.5},
    {"decoder_output_stride": [16, 4], "model_variant": "xception_41"},
    {"decoder_output_stride": [16, 8, 4], "model_variant": "resnet_v1_18"},
    {"decoder_output_stride": [4], "model_variant": "mobilenet_v3_small_seg", "output_stride": 32},
    {"decoder_output_stride": [4], "decoder_use_sum_merge": True, "decoder_filters": 32},
    {"aspp_with_batch_norm": False, "add_image_level_feature": False, "atrous_rates": [6, 12, 18]},
    {"aspp_with_concat_projection": False, "num_classes": 2},
]


def shapes_of(options: ModelOptions) -> Shapes:
    with torch.device("meta"):
        variables = DeepLabV3(options).variables
    return {name: shape_in_tensorflow(name, tensor.shape) for name, tensor in variables.items()}


def different(options: ModelOptions) -> dict[str, tuple[Any, Any]]:
    found = ModelOptions.from_case(infer_options(shapes_of(options)).options)
    pairs = {
        field.name: (getattr(options, field.name), getattr(found, field.name))
        for field in fields(ModelOptions)
        if field.name not in _OF_A_RUN
    }
    return {name: (have, got) for name, (have, got) in pairs.items() if have != got}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS_V3))
def test_published_networks(name: str) -> None:
    assert different(NETWORKS_V3[name].options(num_classes=5)) == {}


@pytest.mark.parametrize("case", OTHERS)
def test_other_options(case: dict[str, Any]) -> None:
    assert different(ModelOptions.from_case(case)) == {}


def test_what_no_variable_tells_is_said() -> None:
    options = NETWORKS_V3["deeplab_v3plus_mobilenet_v2"].options(output_stride=8)
    options_found, assumed = infer_options(shapes_of(options))
    assert (options_found["output_stride"], options_found["atrous_rates"]) == (16, [6, 12, 18])
    assert assumed == ("output_stride", "atrous_rates")
    slots = {"MobilenetV2/Conv/weights/Momentum": (3, 3, 3, 32), "global_step": ()}
    assert infer_options({**shapes_of(options), **slots}) == (options_found, assumed)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"model_variant": "resnet_v1_18"}, ("output_stride", "multi_grid")),
        ({"model_variant": "xception_41"}, ("output_stride", "multi_grid")),
        (
            {"model_variant": "resnet_v1_50", "multi_grid": [1, 2, 4]},
            ("output_stride", "multi_grid"),
        ),
        ({"decoder_output_stride": [8]}, ("output_stride",)),
        # Its maps at strides 8 and 4 have equally many channels.
        (
            {"decoder_output_stride": [8], "depth_multiplier": 0.01},
            ("output_stride", "decoder_output_stride"),
        ),
    ],
)
def test_options_that_are_assumed(case: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert infer_options(shapes_of(ModelOptions.from_case(case))).assumed == expected


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"vgg_16/conv1/weights": (3, 3, 3, 64)}, "do not say what the backbone is"),
        ({}, "got none of them"),
        ({"MobilenetV2/a": (1,), "xception_65/a": (1,)}, "got MobilenetV2, xception_65"),
        ({"xception_65/entry_flow/conv1_1/weights": (3, 3, 3, 32)}, "hold no classifier"),
    ],
)
def test_other_variables(shapes: Shapes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        infer_options(shapes)
