"""Everything that decides a network of the original program, under its own names.

The original keeps some of it in `ModelOptions` (common.py) and some in flags of its programs; here
it is one dataclass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from deeplab_repro.errors import InputError

__all__ = ["RELEASED_CELL", "VARIANTS", "ModelOptions", "Variant"]


@dataclass(frozen=True)
class Variant:
    """A backbone that `model_variant` names.

    Attributes:
        scope: TensorFlow's scope of its variables.
        family: "resnet", "xception" or "mobilenet".
        output_strides: Those that it can have.
        multi_grid: How many rates of multi-grid it takes; 0: it takes none and looks at none.
    """

    scope: str
    family: str
    output_strides: tuple[int, ...]
    multi_grid: int = 0


_RESNET, _XCEPTION, _MOBILENET = (4, 8, 16, 32), (2, 4, 8, 16, 32), (1, 2, 4, 8, 16, 32)

VARIANTS: Mapping[str, Variant] = {
    "resnet_v1_18": Variant("resnet_v1_18", "resnet", _RESNET, 2),
    "resnet_v1_18_beta": Variant("resnet_v1_18", "resnet", _RESNET, 2),
    "resnet_v1_50": Variant("resnet_v1_50", "resnet", _RESNET, 3),
    "resnet_v1_50_beta": Variant("resnet_v1_50", "resnet", _RESNET, 3),
    "resnet_v1_101": Variant("resnet_v1_101", "resnet", _RESNET, 3),
    "resnet_v1_101_beta": Variant("resnet_v1_101", "resnet", _RESNET, 3),
    "xception_41": Variant("xception_41", "xception", _XCEPTION, 3),
    "xception_65": Variant("xception_65", "xception", _XCEPTION, 3),
    "xception_71": Variant("xception_71", "xception", _XCEPTION, 3),
    "mobilenet_v2": Variant("MobilenetV2", "mobilenet", _MOBILENET),
    "mobilenet_v3_large_seg": Variant("MobilenetV3", "mobilenet", _MOBILENET),
    "mobilenet_v3_small_seg": Variant("MobilenetV3", "mobilenet", _MOBILENET),
    "mobilenet_edgetpu": Variant("MobilenetEdgeTPU", "mobilenet", _MOBILENET),
}

#: Each of blocks 4 to 6 of the cascaded networks has a stride of 2 more.
_CASCADE = (*_RESNET, 64, 128, 256)
#: The output stride for which a dense prediction cell states its rates; it cannot be larger.
_LARGEST_OF_CELL = 16

#: The dense prediction cell of the released networks (arXiv 1809.04184, figure 5).
RELEASED_CELL: tuple[Mapping[str, Any], ...] = tuple(
    {"op": "conv", "kernel": 3, "rate": rate, "input": read}
    for rate, read in (((1, 6), -1), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))
)

#: What a case or the original's flags say beside the network: about a run, training or evaluation.
_NOT_OF_THE_NETWORK = frozenset(
    {
        *("name", "seed", "salt", "input"),
        *("eval_scales", "flip", "add_flipped_images"),
        *("loss", "label_weights", "step", "global_step", "dropout", "weight_decay"),
        # This revision of the original reads neither; nas_architecture_options is for others.
        *("batch_norm_decay", "nas_architecture_options"),
    }
)


@dataclass(frozen=True)
class ModelOptions:
    """What decides a network; names, meanings and defaults are the original's.

    Attributes:
        model_variant: The backbone, one of `VARIANTS`.
        num_classes: Channels of the scores (the original's `outputs_to_num_classes["semantic"]`).
        crop_size: (height, width) of every input; None: inputs of any size.
        atrous_rates: Of the 3x3 branches of ASPP, as they are at this output stride; None: none.
        output_stride: Pixels of the input for a row or column of the backbone's map.
        merge_method: "max" or "avg", over the scales of `image_pyramid`.
        image_pyramid: Sizes of the picture, as factors, whose scores are merged; None: its own.
        add_image_level_feature: Whether ASPP has image pooling.
        image_pooling_crop_size: (height, width) of the input that one window of image pooling
            sees; None: all of it.
        image_pooling_stride: (height, width) from one window to the next, in pixels of the map.
        aspp_with_batch_norm: Whether there is ASPP at all; else scores are made of the backbone's
            map, by one convolution for each of `atrous_rates`.
        aspp_with_separable_conv: Depthwise and pointwise branches (v3+) in place of full ones (v3).
        aspp_with_concat_projection: Whether a 1x1 convolution follows the branches.
        aspp_with_squeeze_and_excitation: Image pooling is multiplied onto the branches, not joined
            with them.
        aspp_convs_filters: Channels of every branch.
        image_se_uses_qsigmoid: relu6(x + 3) * 0.16667 in place of the sigmoid there.
        multi_grid: Factors of the rates in the last block.
        decoder_output_stride: Of the decoder's stages, from the coarsest on; None: no decoder.
        decoder_use_separable_conv: Likewise for the decoder's convolutions.
        decoder_use_sum_merge: The decoder adds the finer map instead of joining it.
        decoder_filters: Channels of the decoder's maps.
        decoder_output_is_logits: These are the scores.
        logits_kernel_size: Side of the convolutions that make scores, without ASPP.
        depth_multiplier: Of MobileNets: factor of all channel counts.
        divisible_by: Of MobileNet v2: what channel counts are multiples of; None: 8 at
            `depth_multiplier` 1 and 1 otherwise.
        prediction_with_upsampled_logits: Scores are resized before labels are chosen; False:
            labels are chosen first, then resized.
        dense_prediction_cell_config: The branches of a dense prediction cell in place of ASPP.
        use_bounded_activation: ReLU6 and clipping in Xception, ASPP and the decoder.
        cascade: Blocks 5 to 7 (ResNet-50 and 101): no variant of the original's own, but made of
            its blocks.
        fine_tune_batch_norm: Whether batch normalization follows batches in train mode.
    """

    model_variant: str = "mobilenet_v2"
    num_classes: int = 21
    crop_size: tuple[int, int] | None = None
    atrous_rates: tuple[int, ...] | None = None
    output_stride: int = 16
    merge_method: str = "max"
    image_pyramid: tuple[float, ...] | None = None
    add_image_level_feature: bool = True
    image_pooling_crop_size: tuple[int, int] | None = None
    image_pooling_stride: tuple[int, int] = (1, 1)
    aspp_with_batch_norm: bool = True
    aspp_with_separable_conv: bool = True
    aspp_with_concat_projection: bool = True
    aspp_with_squeeze_and_excitation: bool = False
    aspp_convs_filters: int = 256
    image_se_uses_qsigmoid: bool = False
    multi_grid: tuple[int, ...] | None = None
    decoder_output_stride: tuple[int, ...] | None = None
    decoder_use_separable_conv: bool = True
    decoder_use_sum_merge: bool = False
    decoder_filters: int = 256
    decoder_output_is_logits: bool = False
    logits_kernel_size: int = 1
    depth_multiplier: float = 1.0
    divisible_by: int | None = None
    prediction_with_upsampled_logits: bool = True
    dense_prediction_cell_config: tuple[Mapping[str, Any], ...] | None = None
    use_bounded_activation: bool = False
    cascade: bool = False
    fine_tune_batch_norm: bool = True

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, _checked(name, kind, getattr(self, name)))
        _check_together(self)

    @property
    def variant(self) -> Variant:
        """The backbone's entry in `VARIANTS`."""
        return VARIANTS[self.model_variant]

    @property
    def decoder_strides(self) -> tuple[int, ...]:
        """`decoder_output_stride`, empty where there is no decoder."""
        return self.decoder_output_stride or ()

    @classmethod
    def from_case(cls, case: Mapping[str, Any]) -> ModelOptions:
        """Options from a mapping with the original's names.

        Args:
            case: The fields above, some of them under "options" where the mapping is a whole case
                of reference data. Also `outputs_to_num_classes`, a mapping of one output, and
                `dpc`, which stands for the cell of the released networks. What belongs to a run,
                to training or to evaluation (name, seed, salt, input, eval_scales, flip, loss,
                label_weights, step, global_step, dropout, weight_decay, batch_norm_decay) is left
                to those who run it.

        Raises:
            InputError: Another name, or a value that the network cannot have.
        """
        if not isinstance(case, Mapping):
            raise InputError("options", expected="a mapping", got=type(case).__name__)
        given: dict[str, Any] = {}
        inner = case.get("options") or {}
        if not isinstance(inner, Mapping):
            raise InputError("options", expected="a mapping", got=json.dumps(inner, default=str))
        for name, value in [*case.items(), *inner.items()]:
            if name == "options" or name in _NOT_OF_THE_NETWORK:
                continue
            given.update(_translated(name, value))
        return cls(**given)


def _translated(name: str, value: Any) -> dict[str, Any]:
    """A field by another name that the original has for it."""
    known = {field.name for field in fields(ModelOptions)}
    match name:
        case "outputs_to_num_classes":
            if not isinstance(value, Mapping) or list(value) != ["semantic"]:
                raise InputError(f"option {name}", expected='{"semantic": NUMBER}', got=value)
            return {"num_classes": value["semantic"]}
        case "dpc":
            return {"dense_prediction_cell_config": RELEASED_CELL} if value else {}
        case "preprocessed_images_dtype":
            if str(value) not in ("float32", "<dtype: 'float32'>"):
                raise InputError(f"option {name}", expected="float32", got=value)
            return {}
        case "sync_batch_norm_method":
            if value not in (None, "None"):
                raise InputError(f"option {name}", expected="None", got=value)
            return {}
        case _ if name in known:
            return {name: value}
    raise InputError(f"option {name}", expected=f"one of {', '.join(sorted(known))}")


# ------------------------------------------------------------------------ what a field may hold

_KINDS = {
    "model_variant": "variant",
    "num_classes": "whole",
    "crop_size": "pair?",
    "atrous_rates": "wholes?",
    "output_stride": "whole",
    "merge_method": "merge",
    "image_pyramid": "factors?",
    "add_image_level_feature": "flag",
    "image_pooling_crop_size": "pair?",
    "image_pooling_stride": "pair",
    "aspp_with_batch_norm": "flag",
    "aspp_with_separable_conv": "flag",
    "aspp_with_concat_projection": "flag",
    "aspp_with_squeeze_and_excitation": "flag",
    "aspp_convs_filters": "whole",
    "image_se_uses_qsigmoid": "flag",
    "multi_grid": "wholes?",
    "decoder_output_stride": "wholes?",
    "decoder_use_separable_conv": "flag",
    "decoder_use_sum_merge": "flag",
    "decoder_filters": "whole",
    "decoder_output_is_logits": "flag",
    "logits_kernel_size": "whole",
    "depth_multiplier": "width",
    "divisible_by": "whole?",
    "prediction_with_upsampled_logits": "flag",
    "dense_prediction_cell_config": "cell?",
    "use_bounded_activation": "flag",
    "cascade": "flag",
    "fine_tune_batch_norm": "flag",
}

#: The original keeps whole numbers in 32 bits.
_LARGEST = 2**31 - 1
#: Of `depth_multiplier`: a thousand times as wide as any MobileNet that was published.
_WIDEST = 1000
_EXPECTED = {
    "variant": "one of " + ", ".join(VARIANTS),
    "merge": "max or avg",
    "flag": "true or false",
    "whole": f"a whole number of 1 to {_LARGEST}",
    "wholes": f"whole numbers of 1 to {_LARGEST}",
    "pair": f"two whole numbers of 1 to {_LARGEST}, height and width",
    "width": f"a number above 0 and at most {_WIDEST}",
    "factors": "numbers above 0",
    "cell": "a list of operations, each a mapping with op, input and what the op needs",
}


def _checked(name: str, kind: str, value: Any) -> Any:
    """The value with lists as tuples."""
    optional = kind.endswith("?")
    kind = kind.rstrip("?")
    if optional and (value is None or (isinstance(value, Sequence) and not value)):
        return None
    if kind in ("wholes", "factors") and not isinstance(value, Sequence):
        value = (value,)  # older revisions had one output stride of the decoder
    if _fits(kind, value):
        if kind == "factors":
            return tuple(float(item) for item in value)
        return tuple(value) if isinstance(value, list) else value
    expected = _EXPECTED[kind] + (", or null" if optional else "")
    raise InputError(f"option {name}", expected=expected, got=json.dumps(value, default=str))


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "variant":
            return value in VARIANTS if isinstance(value, str) else False
        case "merge":
            return value in ("max", "avg")
        case "flag":
            return isinstance(value, bool)
        case "whole":
            return isinstance(value, int) and value is not True and 1 <= value <= _LARGEST
        case "factor":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and 0 < value < float("inf")
        case "width":
            return _fits("factor", value) and value <= _WIDEST
        case "pair":
            return _is_list(value) and len(value) == 2 and all(_fits("whole", v) for v in value)
        case "wholes" | "factors":
            return _is_list(value) and all(_fits(kind[:-1], v) for v in value)
        case _:
            return _is_list(value) and all(isinstance(v, Mapping) for v in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _check_together(options: ModelOptions) -> None:
    """What the original refuses, and what it cannot build."""
    variant = options.variant
    strides = variant.output_strides
    if options.cascade:
        if variant.multi_grid != 3 or variant.family != "resnet":
            raise InputError(
                "option cascade", expected="a ResNet-50 or 101", got=options.model_variant
            )
        strides = _CASCADE
    has_cell = options.dense_prediction_cell_config is not None
    if options.output_stride not in strides:
        largest = _LARGEST_OF_CELL if has_cell and options.aspp_with_batch_norm else max(strides)
        raise InputError(
            f"option output_stride of {options.model_variant}",
            expected=f"one of {', '.join(str(n) for n in strides if n <= largest)}",
            got=options.output_stride,
        )
    if variant.multi_grid and options.multi_grid not in (None, ()):
        assert options.multi_grid is not None
        if len(options.multi_grid) != variant.multi_grid:
            raise InputError(
                f"option multi_grid of {options.model_variant}",
                expected=f"{variant.multi_grid} factors",
                got=list(options.multi_grid),
            )
    decoder = options.decoder_strides
    if list(decoder) != sorted(decoder, reverse=True) or not set(decoder) <= {4, 8, 16}:
        raise InputError(
            "option decoder_output_stride",
            expected="some of 16, 8, 4, in this order",
            got=list(decoder),
        )
    if decoder and options.model_variant == "mobilenet_edgetpu":
        raise InputError("option decoder_output_stride of mobilenet_edgetpu", expected="null")
    if options.logits_kernel_size != 1 and (
        options.aspp_with_batch_norm or options.atrous_rates is None
    ):
        raise InputError(
            "option logits_kernel_size with ASPP or without atrous_rates",
            expected=1,
            got=options.logits_kernel_size,
        )
    if (
        *(options.aspp_with_batch_norm, not has_cell, options.add_image_level_feature),
        *(options.aspp_with_squeeze_and_excitation, not options.aspp_with_concat_projection),
    ) == (True,) * 5 and options.atrous_rates is not None:
        raise InputError(
            "option atrous_rates with aspp_with_squeeze_and_excitation and without "
            "aspp_with_concat_projection, where image pooling is multiplied onto one branch",
            expected="null",
            got=list(options.atrous_rates),
        )
    if has_cell and options.aspp_with_batch_norm:
        if options.output_stride > _LARGEST_OF_CELL:
            raise InputError(
                "option output_stride with a dense prediction cell",
                expected=f"at most {_LARGEST_OF_CELL}",
                got=options.output_stride,
            )
        _check_cell(options)


def _check_cell(options: ModelOptions) -> None:
    for i, branch in enumerate(options.dense_prediction_cell_config or ()):
        where = f"option dense_prediction_cell_config, operation {i}"
        read = branch.get("input")
        if not isinstance(read, int) or isinstance(read, bool) or read >= i:
            raise InputError(
                f"{where}: input", expected="-1 or the number of an earlier one", got=read
            )
        op = branch.get("op")
        if op == "pyramid_pooling":
            if not _fits("pair", branch.get("grid_size")):
                raise InputError(
                    f"{where}: grid_size", expected=_EXPECTED["pair"], got=branch.get("grid_size")
                )
            if options.crop_size is None:
                raise InputError(f"{where}: pyramid_pooling", expected="a crop_size")
        elif op == "conv":
            kernel = branch.get("kernel")
            if not _fits("whole", kernel) and not _fits("pair", kernel):
                raise InputError(
                    f"{where}: kernel", expected="a whole number or two of them", got=kernel
                )
            if kernel not in (1, [1, 1], (1, 1)) and not _fits("pair", branch.get("rate")):
                raise InputError(
                    f"{where}: rate", expected=_EXPECTED["pair"], got=branch.get("rate")
                )
        else:
            raise InputError(f"{where}: op", expected="conv or pyramid_pooling", got=op)
