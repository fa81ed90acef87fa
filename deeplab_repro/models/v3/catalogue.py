"""The networks of the papers and of the released checkpoints by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from deeplab_repro.models.atrous import rates_at
from deeplab_repro.models.v3.options import RELEASED_CELL, ModelOptions

__all__ = ["NETWORKS_V3", "NetworkV3"]

#: Rates of ASPP at output stride 16 (arXiv 1706.05587, section 4.1); at 8 they are twice as large.
_RATES = (6, 12, 18)


@dataclass(frozen=True)
class NetworkV3:
    """One network.

    Attributes:
        title: Its name in the papers.
        paper: Where it is described.
        output_stride: As published.
        rates: Of ASPP's 3x3 branches at output stride 16; empty: it has none.
        settings: The other options that are not the original's defaults.
    """

    title: str
    paper: str
    output_stride: int = 16
    rates: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def options(
        self, num_classes: int = 21, output_stride: int | None = None, **changes: Any
    ) -> ModelOptions:
        """Its options.

        Args:
            num_classes: channels of the scores.
            output_stride: as published where None; the rates follow it.
            **changes: fields of `ModelOptions` that are to be other ones.

        Raises:
            InputError: options that cannot be.
        """
        stride = self.output_stride if output_stride is None else output_stride
        given: dict[str, Any] = {**self.settings, "num_classes": num_classes}
        given["output_stride"] = stride
        if self.rates:
            given["atrous_rates"] = self.rates
        if self.settings.get("decoder_output_is_logits"):
            given["decoder_filters"] = num_classes
        options = ModelOptions.from_case({**given, **changes})
        if not self.rates or "atrous_rates" in changes:
            return options
        return replace(options, atrous_rates=rates_at(options.output_stride, self.rates))


_V3, _V3PLUS, _CELL = "arXiv 1706.05587", "arXiv 1802.02611", "arXiv 1809.04184"
_MNV2, _MNV3 = "arXiv 1801.04381", "arXiv 1905.02244"
_DECODER = {"decoder_output_stride": (4,)}


def _resnet(depth: int, **settings: Any) -> dict[str, Any]:
    """The variant that the checkpoints were released for, with their multi-grid."""
    return {"model_variant": f"resnet_v1_{depth}_beta", "multi_grid": (1, 2, 4), **settings}


def _v3(depth: int) -> NetworkV3:
    settings = _resnet(depth, aspp_with_separable_conv=False)
    return NetworkV3(f"DeepLabv3 ResNet-{depth}", f"{_V3}, section 3.3", 16, _RATES, settings)


def _cascade(depth: int) -> NetworkV3:
    settings = _resnet(
        depth,
        multi_grid=(1, 2, 1),
        cascade=True,
        aspp_with_batch_norm=False,
        add_image_level_feature=False,
    )
    return NetworkV3(f"DeepLabv3 ResNet-{depth} cascade", f"{_V3}, section 3.2", settings=settings)


def _v3plus(title: str, settings: Mapping[str, Any]) -> NetworkV3:
    return NetworkV3(f"DeepLabv3+ {title}", _V3PLUS, 16, _RATES, {**settings, **_DECODER})


def _mobilenet_v3(size: str) -> NetworkV3:
    settings = {
        "model_variant": f"mobilenet_v3_{size}_seg",
        "aspp_convs_filters": 128,
        "aspp_with_concat_projection": False,
        "aspp_with_squeeze_and_excitation": True,
        "image_se_uses_qsigmoid": True,
        "decoder_output_stride": (8,),
        "decoder_use_sum_merge": True,
        "decoder_output_is_logits": True,
    }
    return NetworkV3(f"MobileNetV3-{size.title()}", f"{_MNV3}, section 6.4", 32, (), settings)


NETWORKS_V3: Mapping[str, NetworkV3] = MappingProxyType(
    {
        **{f"deeplab_v3_resnet{depth}": _v3(depth) for depth in (50, 101)},
        **{f"deeplab_v3_resnet{depth}_cascade": _cascade(depth) for depth in (50, 101)},
        **{
            f"deeplab_v3plus_xception{depth}": _v3plus(
                f"Xception-{depth}", {"model_variant": f"xception_{depth}"}
            )
            for depth in (41, 65, 71)
        },
        "deeplab_v3plus_resnet18": _v3plus("ResNet-18", {"model_variant": "resnet_v1_18_beta"}),
        **{
            f"deeplab_v3plus_resnet{depth}": _v3plus(f"ResNet-{depth}", _resnet(depth))
            for depth in (50, 101)
        },
        "deeplab_v3plus_xception71_dpc": NetworkV3(
            "Xception-71 with a dense prediction cell",
            _CELL,
            settings={
                "model_variant": "xception_71",
                "dense_prediction_cell_config": RELEASED_CELL,
                **_DECODER,
            },
        ),
        "deeplab_v3_mobilenet_v2": NetworkV3("DeepLabv3 MobileNetV2", f"{_MNV2}, section 6.3"),
        "deeplab_v3_mobilenet_v2_aspp": NetworkV3(
            "DeepLabv3 MobileNetV2 with ASPP", f"{_MNV2}, section 6.3", 16, _RATES
        ),
        "deeplab_v3_mobilenet_v2_dpc": NetworkV3(
            "MobileNetV2 with a dense prediction cell",
            _CELL,
            settings={"dense_prediction_cell_config": RELEASED_CELL},
        ),
        "deeplab_v3plus_mobilenet_v2": _v3plus("MobileNetV2", {"model_variant": "mobilenet_v2"}),
        "deeplab_v3_mobilenet_v3_large": _mobilenet_v3("large"),
        "deeplab_v3_mobilenet_v3_small": _mobilenet_v3("small"),
    }
)
