"""Options by the original's names: what they make, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models.v3.network import DeepLabV3, meta_network
from deeplab_repro.models.v3.options import RELEASED_CELL, ModelOptions
from deeplab_repro.models.v3.parts import ConvUnit, SameConv2d
from deeplab_repro.ops import AtrousConv2d


def built(**options: Any) -> DeepLabV3:
    with torch.device("meta"):
        return DeepLabV3(ModelOptions.from_case(options)).eval()


def rates(net: DeepLabV3) -> dict[str, tuple[int, int]]:
    """Rate of each convolution with a kernel, by its scope without the backbone's."""
    return {
        module.scope.removeprefix(f"{net.options.variant.scope}/"): module.conv.rate
        for module in net.modules()
        if isinstance(module, ConvUnit) and module.conv.kernel_size != (1, 1)
    }


def test_a_case_and_a_flat_mapping_are_the_same_options() -> None:
    case = {
        "name": "any",
        "seed": 1,
        "salt": "",
        "input": [1, 65, 65],
        "model_variant": "xception_41",
        "output_stride": 16,
        "crop_size": [65, 65],
        "atrous_rates": [6, 12, 18],
        "eval_scales": [0.5, 1.0],
        "flip": True,
        "options": {"decoder_output_stride": [4], "dpc": False, "label_weights": [1.0]},
    }
    flat = {
        "model_variant": "xception_41",
        "outputs_to_num_classes": {"semantic": 21},
        "crop_size": (65, 65),
        "atrous_rates": (6, 12, 18),
        "decoder_output_stride": 4,
        "preprocessed_images_dtype": "float32",
    }
    assert ModelOptions.from_case(case) == ModelOptions.from_case(flat)
    options = ModelOptions.from_case({"dpc": True})
    assert options.dense_prediction_cell_config == RELEASED_CELL
    assert options == ModelOptions(dense_prediction_cell_config=RELEASED_CELL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atrous_rate": [6]}, "option atrous_rate; expected one of add_image_level_feature, "),
        ({"model_variant": "resnet_v1_34"}, "option model_variant; expected one of resnet_v1_18, "),
        ({"num_classes": 0}, "num_classes; expected a whole number of 1 to 2147483647, got 0"),
        ({"num_classes": 2**31}, "expected a whole number of 1 to 2147483647, got 2147483648"),
        ({"atrous_rates": [6, 10**22]}, "expected whole numbers of 1 to 2147483647, or null"),
        ({"crop_size": [65, 2**31]}, "option crop_size; expected two whole numbers of 1 to"),
        ({"depth_multiplier": 1e30}, "expected a number above 0 and at most 1000, got 1e+30"),
        ({"crop_size": [65]}, "option crop_size; expected two whole numbers"),
        ({"image_pyramid": [0.0]}, "option image_pyramid; expected numbers above 0, or null, got"),
        ({"merge_method": "sum"}, 'option merge_method; expected max or avg, got "sum"'),
        ({"use_bounded_activation": 1}, "expected true or false, got 1"),
        (
            {"model_variant": "resnet_v1_50", "output_stride": 2},
            "option output_stride of resnet_v1_50; expected one of 4, 8, 16, 32, got 2",
        ),
        (
            {"model_variant": "resnet_v1_18_beta", "multi_grid": [1, 2, 4]},
            "option multi_grid of resnet_v1_18_beta; expected 2 factors",
        ),
        ({"decoder_output_stride": [4, 8]}, "expected some of 16, 8, 4, in this order"),
        ({"cascade": True}, "option cascade; expected a ResNet-50 or 101, got mobilenet_v2"),
        ({"logits_kernel_size": 3}, "without atrous_rates; expected 1, got 3"),
        ({"dpc": True, "output_stride": 32}, "cell; expected at most 16, got 32"),
        (
            {"dense_prediction_cell_config": [{"op": "conv", "kernel": 3, "input": -1}]},
            "operation 0: rate; expected two whole numbers",
        ),
        (
            {"dense_prediction_cell_config": [{"op": "conv", "kernel": 1, "input": 0}]},
            "operation 0: input; expected -1 or the number of an earlier one, got 0",
        ),
        (
            {
                "dense_prediction_cell_config": [
                    {"op": "pyramid_pooling", "grid_size": [2, 2], "input": -1}
                ]
            },
            "pyramid_pooling; expected a crop_size",
        ),
        (
            {
                "aspp_with_squeeze_and_excitation": True,
                "aspp_with_concat_projection": False,
                "atrous_rates": [6],
            },
            "is multiplied onto one branch; expected null",
        ),
        ({"outputs_to_num_classes": {"depth": 1}}, 'expected {"semantic": NUMBER}'),
        ({"sync_batch_norm_method": "tpu"}, "expected None, got tpu"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        ModelOptions.from_case(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 2**31 - 1},
        {"aspp_convs_filters": 2**31 - 1},  # more values than 64 bits count
        {"depth_multiplier": 1000.0},
    ],
)
def test_networks_that_no_memory_holds(options: dict[str, Any]) -> None:
    with pytest.raises(
        BadInput, match=r"x\.ckpt: the network of these options has too many"
    ) as error:
        meta_network(ModelOptions.from_case(options), "x.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stride", "block3", "block4", "cascade"),
    [(32, 1, 1, 2), (16, 1, 2, 4), (8, 2, 4, 8), (4, 4, 8, 16)],
)
def test_rates_of_resnet(stride: int, block3: int, block4: int, cascade: int) -> None:
    found = rates(
        built(model_variant="resnet_v1_50_beta", output_stride=stride, multi_grid=[1, 2, 4])
    )
    # All units of a block have one rate, the one that lost its stride, too.
    for unit in range(1, 7):
        assert found[f"block3/unit_{unit}/bottleneck_v1/conv2"] == (block3, block3)
    for unit, factor in ((1, 1), (2, 2), (3, 4)):
        rate = block4 * factor
        assert found[f"block4/unit_{unit}/bottleneck_v1/conv2"] == (rate, rate)
    if stride < 32:
        deep = rates(built(model_variant="resnet_v1_50_beta", output_stride=stride, cascade=True))
        assert deep["block4/unit_3/bottleneck_v1/conv2"] == (block4, block4)
        assert deep["block5/unit_1/bottleneck_v1/conv2"] == (cascade, cascade)
        assert deep["block7/unit_1/bottleneck_v1/conv2"] == (4 * cascade, 4 * cascade)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["xception_41", "xception_65", "xception_71"])
@pytest.mark.parametrize(
    ("stride", "last_entry", "middle", "exit1", "exit2"),
    [(32, 1, 1, 1, 1), (16, 1, 1, 1, 2), (8, 1, 2, 2, 4), (4, 2, 4, 4, 8)],
)
def test_rates_of_xception(
    name: str, stride: int, last_entry: int, middle: int, exit1: int, exit2: int
) -> None:
    found = rates(built(model_variant=name, output_stride=stride, multi_grid=[1, 2, 1]))
    entry = 5 if name == "xception_71" else 3
    for block, expected in (
        (f"entry_flow/block{entry}", last_entry),
        ("middle_flow/block1", middle),
        ("exit_flow/block1", exit1),
        ("exit_flow/block2", exit2),
    ):
        for k, factor in ((1, 1), (2, 2 if block.endswith("flow/block2") else 1), (3, 1)):
            scope = f"{block}/unit_1/xception_module/separable_conv{k}_depthwise"
            assert found[scope] == (expected * factor,) * 2
    assert len(found) == 2 + 3 * (entry + 2 + (8 if name == "xception_41" else 16))


def test_rates_of_mobilenet() -> None:
    for stride, expected in ((16, [1] * 14 + [2] * 3), (8, [1] * 7 + [2] * 7 + [4] * 3)):
        found = rates(built(output_stride=stride))
        scopes = ["expanded_conv", *(f"expanded_conv_{i}" for i in range(1, 17))]
        assert [found[f"{scope}/depthwise"][0] for scope in scopes] == expected


def test_the_scopes_of_a_decoder() -> None:
    """slim.repeat and the number of the stage both end up in the names."""
    common = {"model_variant": "resnet_v1_18_beta", "decoder_output_stride": [8, 4]}

    def names(**options: Any) -> list[str]:
        variables = built(**common, **options).variables
        return [
            name
            for name in variables
            if name.startswith(("decoder/", "logits/")) and name.endswith(("weights", "biases"))
        ]

    assert names() == [
        "decoder/feature_projection0/weights",
        "decoder/decoder_conv0_depthwise/depthwise_weights",
        "decoder/decoder_conv0_pointwise/weights",
        "decoder/decoder_conv1_depthwise/depthwise_weights",
        "decoder/decoder_conv1_pointwise/weights",
        "decoder/feature_projection0_1/weights",
        "decoder/decoder_conv0_1_depthwise/depthwise_weights",
        "decoder/decoder_conv0_1_pointwise/weights",
        "decoder/decoder_conv1_1_depthwise/depthwise_weights",
        "decoder/decoder_conv1_1_pointwise/weights",
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]
    assert names(decoder_use_separable_conv=False) == [
        "decoder/feature_projection0/weights",
        "decoder/decoder_conv0/decoder_conv0_1/weights",
        "decoder/decoder_conv0/decoder_conv0_2/weights",
        "decoder/feature_projection0_1/weights",
        "decoder/decoder_conv0_1/decoder_conv0_1_1/weights",
        "decoder/decoder_conv0_1/decoder_conv0_1_2/weights",
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]
    assert names(decoder_use_sum_merge=True, decoder_filters=64) == [
        "decoder/feature_projection0/weights",
        "decoder/decoder_split_sep_conv0_depthwise/depthwise_weights",
        "decoder/decoder_split_sep_conv0_pointwise/weights",
        "decoder/feature_projection0_1/weights",
        "decoder/decoder_split_sep_conv0_1_depthwise/depthwise_weights",
        "decoder/decoder_split_sep_conv0_1_pointwise/weights",
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]
    logits = built(
        **common, decoder_use_sum_merge=True, decoder_filters=21, decoder_output_is_logits=True
    )
    assert names(decoder_use_sum_merge=True, decoder_filters=21, decoder_output_is_logits=True) == [
        f"decoder/{scope}/{leaf}"
        for scope in (
            *("feature_projection0", "decoder_conv0"),
            *("feature_projection0_1", "decoder_conv0_1"),
        )
        for leaf in ("weights", "biases")
    ]
    assert logits.variables["decoder/decoder_conv0_1/weights"].shape == (21, 21, 1, 1)
    with torch.no_grad():
        found = logits.endpoints(torch.empty(1, 3, 65, 97, device="meta"))
    assert found["head/decoder/ResizeBilinear_3"].shape == (1, 21, 17, 25)
    # Four sizes are computed with additions before the second stage's own.
    assert found["head/decoder/add_5"].shape == found["head/semantic"].shape == (1, 21, 17, 25)


def test_classifiers_without_aspp_are_summed() -> None:
    net = built(
        model_variant="resnet_v1_50",
        aspp_with_batch_norm=False,
        atrous_rates=[6, 12],
        logits_kernel_size=3,
        crop_size=[65, 65],
    )
    assert rates(net)["logits/semantic_1"] == (12, 12)
    found = net.endpoints(torch.empty(1, 3, 65, 65, device="meta"))
    assert found["head/logits/AddN"].shape == found["head/logits/semantic_1/BiasAdd"].shape
    assert net.variables["logits/semantic_1/weights"].shape == (21, 2048, 3, 3)


def test_bounded_activations() -> None:
    """ReLU6 in the head, everything within -6 and 6 in the backbone."""
    torch.manual_seed(0)
    options = ModelOptions(
        "xception_41", use_bounded_activation=True, atrous_rates=(6,), decoder_output_stride=(4,)
    )
    net = DeepLabV3(options).eval()
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.mul_(4.0)
        found = net.endpoints(torch.rand(1, 3, 64, 50) * 255)
    for key in ("head/aspp0/Relu6", "head/aspp1_depthwise/Relu6", "head/image_pooling/Relu"):
        assert key in found
    assert found["head/decoder/decoder_conv1_pointwise/Relu6"].shape == (1, 256, 16, 13)
    scope = "ep/xception_41/middle_flow/block1/unit_1/xception_module"
    assert found[f"{scope}/separable_conv1_depthwise"].aminmax() == pytest.approx((-6, 6))
    assert found[scope].aminmax() == pytest.approx((0, 6))
    # Strided separable convolutions pad as "SAME" then: at even sizes another pixel comes first.
    kinds = {
        module.scope.rpartition("/")[2]: type(module.conv)
        for module in net.backbone.modules()
        if isinstance(module, ConvUnit) and module.conv.stride == (2, 2)
    }
    assert kinds == {
        "conv1_1": AtrousConv2d,
        "shortcut": AtrousConv2d,  # 1x1: it has no padding
        "separable_conv3_depthwise": SameConv2d,
    }


def test_a_cell_with_every_operation() -> None:
    cell = [
        {"op": "pyramid_pooling", "grid_size": [2, 4], "input": -1},
        {"op": "conv", "kernel": [1, 1], "input": 0},
        {"op": "conv", "kernel": [3, 3], "rate": [3, 6], "input": 1},
        {"op": "pyramid_pooling", "grid_size": [1, 1], "input": 2},
    ]
    net = built(dense_prediction_cell_config=cell, output_stride=8, crop_size=[129, 193])
    assert rates(net)["meta_architecture/branch2_depthwise"] == (6, 12)
    found = net.endpoints(torch.empty(2, 3, 129, 193, device="meta"))
    # Windows of 9 x 7 of the map's 17 x 25.
    assert found["head/meta_architecture/AvgPool2D/AvgPool"].shape == (2, 320, 9, 19)
    assert found["head/meta_architecture/AvgPool2D_1/AvgPool"].shape == (2, 256, 1, 1)
    assert found["head/meta_architecture/ResizeBilinear_1"].shape == (2, 256, 17, 25)
    assert found["head/meta_architecture/concat"].shape == (2, 1024, 17, 25)


@pytest.mark.parametrize("multiplier", [0.35, 0.75, 1.4])
@pytest.mark.parametrize("variant", ["mobilenet_v2", "mobilenet_v3_small_seg", "mobilenet_edgetpu"])
def test_widths_of_mobilenets(variant: str, multiplier: float) -> None:
    net = built(model_variant=variant, depth_multiplier=multiplier, output_stride=32)
    last = {"mobilenet_v2": 320, "mobilenet_v3_small_seg": 288, "mobilenet_edgetpu": 1280}[variant]
    exact = int(last * multiplier + 0.5)
    if variant == "mobilenet_v2":
        assert net.backbone.channels == exact
        by_eight = built(depth_multiplier=multiplier, divisible_by=8)
        assert by_eight.backbone.channels % 8 == 0
    else:
        assert net.backbone.channels % 8 == 0
        assert net.backbone.channels == pytest.approx(exact, rel=0.1)
    assert net(torch.empty(1, 3, 97, 64, device="meta")).shape == (1, 21, 97, 64)


def test_the_edgetpus_fused_convolutions() -> None:
    net = built(model_variant="mobilenet_edgetpu", output_stride=32, crop_size=[65, 65])
    names = net.variables
    scope = "MobilenetEdgeTPU/expanded_conv"
    assert f"{scope}/expand/weights" not in names  # as many channels as it reads
    assert f"{scope}_1/depthwise/depthwise_weights" not in names
    assert names[f"{scope}_1/expand/weights"].shape == (128, 16, 3, 3)
    assert names[f"{scope}_9/depthwise/depthwise_weights"].shape == (384, 1, 3, 3)
    found = net.endpoints(torch.empty(1, 3, 65, 65, device="meta"))
    assert found["ep/layer_3/expansion_output"].shape == (1, 128, 17, 17)
    assert found["features"].shape == found["ep/layer_24"].shape == (1, 1280, 3, 3)
