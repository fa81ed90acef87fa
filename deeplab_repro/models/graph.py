"""A network under construction: the layers that the DeepLab networks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeplab_repro.models.prototxt import Enum, Message, Value
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_MEAN


@dataclass(frozen=True)
class Settings:
    """What is chosen about a network apart from its architecture.

    The last five stand for the placeholders of the released prototxts (`${EXP}`, `${DATA_ROOT}`,
    `${TRAIN_SET}`, `${TEST_SET}`, `${FEATURE_DIR}`).
    """

    phase: str  # TRAIN, TEST, or DEPLOY: the test graph behind an input blob, with no data layer
    format: str  # "v1": `layers {}` of the DeepLab v1 fork; "v2": `layer {}` of the v2 fork
    num_labels: int
    width: int  # the published channel counts are divided by this
    height_width: tuple[int, int]
    batch: int
    exp: str = "voc12"
    data_root: str = "VOC2012"
    train_set: str = "train_aug"
    test_set: str = "val"
    feature_dir: str = "features"


def gaussian(std: float) -> Message:
    return {"type": "gaussian", "std": std}


CONSTANT_ZERO: Message = {"type": "constant", "value": 0}


class Graph:
    """Layers in the order Caffe runs them, in the current format (`v1_format` rewrites them).

    Every method adds one layer and returns the name of its top, which is the layer's own name
    or, for a layer that works in place, that of its bottom.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layers: list[dict[str, Value]] = []

    def add(
        self,
        kind: str,
        name: str,
        bottoms: Sequence[str] = (),
        tops: Sequence[str] | None = None,
        **fields: Value,
    ) -> str:
        tops = [name] if tops is None else list(tops)
        layer: dict[str, Value] = {"name": name, "type": kind}
        layer.update(bottom=list(bottoms), top=tops, **fields)
        self.layers.append(layer)
        return tops[0] if tops else ""

    def channels(self, published: int) -> int:
        return published // self.settings.width

    def convolution(
        self,
        name: str,
        bottom: str,
        num_output: int,
        kernel: int,
        *,
        pad: int = 0,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        lr: tuple[float, float] = (1, 2),
        shared: Sequence[str] = (),
        weight_filler: Message | None = None,
        bias_filler: Message | None = None,
    ) -> str:
        """A convolution; `lr` are the multipliers of weights and biases, `shared` their names.

        Biases are never decayed: `decay_mult` 1 and 0 in every released file.
        """
        params: list[Message] = []
        for i, (lr_mult, decay_mult) in enumerate(zip(lr, (1, 0), strict=True)):
            if i == 0 or bias:
                named = {"name": shared[i]} if shared else {}
                params.append({**named, "lr_mult": lr_mult, "decay_mult": decay_mult})
        param: dict[str, Value] = {"num_output": num_output}
        if not bias:
            param["bias_term"] = False
        param["kernel_size"] = kernel
        for field, value, default in (
            ("pad", pad, 0),
            ("stride", stride, 1),
            ("dilation", dilation, 1),
        ):
            if value != default:
                param[field] = value
        if weight_filler is not None:
            param["weight_filler"] = weight_filler
        if bias_filler is not None:
            param["bias_filler"] = bias_filler
        return self.add("Convolution", name, [bottom], param=params, convolution_param=param)

    def classifier(self, name: str, bottom: str, kernel: int, **options: Any) -> str:
        """A convolution to `num_labels` scores, drawn from a Gaussian as in the released files."""
        options = {
            "lr": (10, 20),
            "weight_filler": gaussian(0.01),
            "bias_filler": CONSTANT_ZERO,
            **options,
        }
        return self.convolution(name, bottom, self.settings.num_labels, kernel, **options)

    def relu(self, name: str, blob: str) -> str:
        return self.add("ReLU", name, [blob], [blob])

    def dropout(self, name: str, blob: str) -> str:
        return self.add("Dropout", name, [blob], [blob], dropout_param={"dropout_ratio": 0.5})

    def pool(
        self, name: str, bottom: str, kernel: int, stride: int, pad: int, method: str = "MAX"
    ) -> str:
        param: dict[str, Value] = {"pool": Enum(method), "kernel_size": kernel, "stride": stride}
        if pad:
            param["pad"] = pad
        return self.add("Pooling", name, [bottom], pooling_param=param)

    def interp(self, name: str, bottom: str, top: str | None = None, **param: int) -> str:
        return self.add("Interp", name, [bottom], [top or name], interp_param=dict(param))

    def eltwise(self, name: str, bottoms: Sequence[str], operation: str) -> str:
        return self.add("Eltwise", name, bottoms, eltwise_param={"operation": Enum(operation)})

    def data(self, scale_factors: Sequence[float] = ()) -> str:
        """The data layer of a TRAIN or TEST net; in DEPLOY the net has an input blob instead."""
        s = self.settings
        if s.phase == "DEPLOY":
            return "data"
        training = s.phase == "TRAIN"
        height, width = s.height_width
        transform: dict[str, Value] = {"mirror": training}
        if height == width:
            transform["crop_size"] = height
        elif s.format == "v2":
            transform.update(crop_height=height, crop_width=width)
        else:
            raise ValueError(
                f"input_size {height}x{width}: the data layer of the DeepLab v1 fork crops squares "
                'only; write the DEPLOY phase, or format "v2"'
            )
        transform["mean_value"] = VOC_MEAN
        if scale_factors and training:
            transform["scale_factors"] = list(scale_factors)
        subset = s.train_set if training else s.test_set
        source: dict[str, Value] = {
            "root_folder": s.data_root,
            "source": f"{s.exp}/list/{subset}.txt",
            "batch_size": s.batch,
        }
        if training:
            source["shuffle"] = True
        source["label_type"] = Enum("PIXEL" if training else "NONE")
        # The v1 fork's layer can leave `data_dim` out, the v2 fork's cannot.
        tops = ["data", "label"] + (["data_dim"] if s.format == "v2" else [])
        return self.add(
            "ImageSegData", "data", (), tops, transform_param=transform, image_data_param=source
        )

    def silence(self, *, label: bool) -> None:
        """Swallow the data layer's tops that nothing reads, so that they are no outputs."""
        unread = ["label"] if label else []
        if self.settings.format == "v2":
            unread.append("data_dim")
        if unread:
            self.add("Silence", "silence", unread, ())

    def loss_and_accuracy(self, scores: str, labels: str, suffix: str = "") -> None:
        """Softmax loss and SegAccuracy of `scores`, the end of every training net."""
        ignore: Message = {"ignore_label": IGNORE_LABEL}
        both = [scores, labels]
        self.add("SoftmaxWithLoss", "loss" + suffix, both, loss_param=ignore)
        self.add("SegAccuracy", "accuracy" + suffix, both, seg_accuracy_param=ignore)

    def write_scores(self, name: str, scores: str, folder: str) -> None:
        """Full-size scores to one .mat per picture, the end of every released test net."""
        s = self.settings
        self.add(
            "MatWrite",
            name,
            [scores],
            (),
            mat_write_param={
                "prefix": f"{s.feature_dir}/{s.test_set}/{folder}/",
                "source": f"{s.exp}/list/{s.test_set}_id.txt",
                "strip": 0,
                "period": 1,
            },
        )
        self.silence(label=True)
