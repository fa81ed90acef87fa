"""Caffe's layers, as messages, for the steps of a network.

Nothing about a particular network stands here: `deeplab_repro.models.architectures` works out the
steps. The data layer in front of them and what a test net does with its scores are Caffe's own and
come from the settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deeplab_repro.models.architectures import Expansion
from deeplab_repro.models.prototxt import Enum, Message, Value
from deeplab_repro.models.steps import (
    Conv,
    Crop,
    Dropout,
    Loss,
    Merge,
    Norm,
    Pool,
    ReLU,
    Resize,
    Step,
)
from deeplab_repro.models.v1_format import to_v1
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_MEAN


@dataclass(frozen=True)
class Settings:
    """What is chosen about a network apart from its architecture.

    The last five stand for the placeholders of the released prototxts (`${EXP}`, `${DATA_ROOT}`,
    `${TRAIN_SET}`, `${TEST_SET}`, `${FEATURE_DIR}`).
    """

    phase: str  # TRAIN, TEST, or DEPLOY: the test graph behind an input blob, with no data layer
    format: str  # "v1": `layers {}` of the DeepLab v1 fork; "v2": `layer {}` of the v2 fork
    height_width: tuple[int, int]
    batch: int
    exp: str = "voc12"
    data_root: str = "VOC2012"
    train_set: str = "train_aug"
    test_set: str = "val"
    feature_dir: str = "features"


_FROZEN: Message = {"lr_mult": 0, "decay_mult": 0}


def net_message(
    title: str, stem: str, expansion: Expansion, scales: Sequence[float], settings: Settings
) -> Message:
    """A whole prototxt, to be written by `deeplab_repro.models.prototxt.to_text`.

    Args:
        title: Name of the net.
        stem: Start of the names of the layer and the folder that store the scores of a test net.
        expansion: The network's steps, for training if the phase is TRAIN.
        scales: Random scales of the training data.
        settings: What is chosen apart from the architecture.

    Raises:
        ValueError: A layer does not exist in the format, or the data layer cannot crop so.
    """
    message: dict[str, Value] = {"name": title}
    layers: list[Message] = []
    if settings.phase == "DEPLOY":
        shape = [settings.batch, 3, *settings.height_width]
        message["input"] = "data"
        message.update(
            {"input_dim": shape} if settings.format == "v1" else {"input_shape": {"dim": shape}}
        )
    else:
        layers.append(_data(settings, scales))
    for step in expansion.steps:
        layers.extend(_layers(step, settings.format))
    if settings.phase == "TEST":
        layers.append(_mat_write(stem, expansion.output.name, settings))
    layers.extend(_silence(settings))
    if settings.format == "v1":
        message["layers"] = [to_v1(layer) for layer in layers]
    else:
        message["layer"] = layers
    return message


def _layers(step: Step, format: str) -> Iterator[Message]:
    """The layers of one step in the current format (`v1_format` rewrites them)."""
    match step:
        case Conv():
            yield _layer(step, "Convolution", param=_params(step), convolution_param=_conv(step))
        case Norm(frozen=True, eps=1e-5):
            yield _layer(
                step,
                "BatchNorm",
                param=[{"name": f"{step.owner}_{i}", **_FROZEN} for i in range(3)],
                batch_norm_param={"use_global_stats": True},
            )
            yield {
                **_layer(step, "Scale"),
                "name": step.scale,
                "param": [{"name": f"{step.scale_owner}_{i}", **_FROZEN} for i in range(2)],
                "scale_param": {"bias_term": True},
            }
        case ReLU():
            yield _layer(step, "ReLU")
        case Dropout():
            yield _layer(step, "Dropout", dropout_param={"dropout_ratio": step.probability})
        case Pool():
            window: dict[str, Value] = {
                "pool": Enum(step.method),
                "kernel_size": step.kernel,
                "stride": step.stride,
            }
            if step.pad:
                window["pad"] = step.pad
            yield _layer(step, "Pooling", pooling_param=window)
        case Resize():
            yield _layer(step, "Interp", interp_param=_interp(step))
        case Crop():
            pads = {"pad_beg": -step.begin, "pad_end": -step.end}
            # The released test net crops by the v1 fork's Padding layer. The v2 fork dropped that
            # layer, but its Interp crops by negative paddings first, and a zoom of 1 then copies:
            # the same numbers.
            if format == "v1":
                yield _layer(step, "Padding", padding_param=pads)
            else:
                yield _layer(step, "Interp", interp_param={"zoom_factor": 1, **pads})
        case Merge(operation="SUM" | "MAX"):
            yield _layer(step, "Eltwise", eltwise_param={"operation": Enum(step.operation)})
        case Loss():
            ignore: Message = {"ignore_label": IGNORE_LABEL}
            yield _layer(step, "SoftmaxWithLoss", loss_param=ignore)
            yield {
                **_layer(step, "SegAccuracy", seg_accuracy_param=ignore),
                "name": step.accuracy,
                "top": [step.accuracy],
            }
        case _:
            raise ValueError(
                f"layer {step.name}: the released Caffe networks have no such {type(step).__name__}"
            )


def _layer(step: Step, kind: str, **fields: Value) -> Message:
    return {
        "name": step.name,
        "type": kind,
        "bottom": list(step.bottoms),
        "top": [step.top],
        **fields,
    }


def _params(step: Conv) -> list[Message]:
    """Names and multipliers; biases are never decayed: 1 and 0 in every released file."""
    params: list[Message] = []
    for i in range(2 if step.bias else 1):
        named = {"name": step.parameters[i]} if step.parameters else {}
        params.append({**named, "lr_mult": step.lr_mults[i], "decay_mult": (1, 0)[i]})
    return params


def _conv(step: Conv) -> Message:
    param: dict[str, Value] = {"num_output": step.out_channels}
    if not step.bias:
        param["bias_term"] = False
    param["kernel_size"] = step.kernel
    for field, value, default in (
        ("pad", step.pad, 0),
        ("stride", step.stride, 1),
        ("dilation", step.rate, 1),
        ("group", step.groups, 1),
    ):
        if value != default:
            param[field] = value
    if step.std is not None:
        param["weight_filler"] = {"type": "gaussian", "std": step.std}
        param["bias_filler"] = {"type": "constant", "value": 0}
    return param


def _interp(step: Resize) -> Message:
    """As the released files write it: the larger factor first, paddings where the map shrinks."""
    factors = {"zoom_factor": step.zoom, "shrink_factor": step.shrink}
    ordered = sorted(factors, key=factors.__getitem__, reverse=True)
    param: dict[str, Value] = {field: factors[field] for field in ordered if factors[field] > 1}
    if step.shrink > step.zoom:
        param.update(pad_beg=-step.skip, pad_end=0)
    return param


def _data(settings: Settings, scales: Sequence[float]) -> Message:
    """The data layer of a TRAIN or TEST net; in DEPLOY the net has an input blob instead."""
    training = settings.phase == "TRAIN"
    height, width = settings.height_width
    transform: dict[str, Value] = {"mirror": training}
    if height == width:
        transform["crop_size"] = height
    elif settings.format == "v2":
        transform.update(crop_height=height, crop_width=width)
    else:
        raise ValueError(
            f"input_size {height}x{width}: the data layer of the DeepLab v1 fork crops squares "
            'only; write the DEPLOY phase, or format "v2"'
        )
    transform["mean_value"] = VOC_MEAN
    if scales and training:
        transform["scale_factors"] = list(scales)
    subset = settings.train_set if training else settings.test_set
    source: dict[str, Value] = {
        "root_folder": settings.data_root,
        "source": f"{settings.exp}/list/{subset}.txt",
        "batch_size": settings.batch,
    }
    if training:
        source["shuffle"] = True
    source["label_type"] = Enum("PIXEL" if training else "NONE")
    return {
        "name": "data",
        "type": "ImageSegData",
        "bottom": [],
        # The v1 fork's layer can leave `data_dim` out, the v2 fork's cannot.
        "top": ["data", "label"] + (["data_dim"] if settings.format == "v2" else []),
        "transform_param": transform,
        "image_data_param": source,
    }


def _mat_write(stem: str, scores: str, settings: Settings) -> Message:
    """Full-size scores to one .mat per picture, the end of every released test net."""
    return {
        "name": f"{stem}_mat",
        "type": "MatWrite",
        "bottom": [scores],
        "top": [],
        "mat_write_param": {
            "prefix": f"{settings.feature_dir}/{settings.test_set}/{stem}/",
            "source": f"{settings.exp}/list/{settings.test_set}_id.txt",
            "strip": 0,
            "period": 1,
        },
    }


def _silence(settings: Settings) -> Iterator[Message]:
    """Swallow the data layer's tops that nothing reads, so that they are no outputs."""
    if settings.phase == "DEPLOY":
        return
    unread = ["label"] if settings.phase == "TEST" else []
    if settings.format == "v2":
        unread.append("data_dim")
    if unread:
        yield {"name": "silence", "type": "Silence", "bottom": unread, "top": []}
