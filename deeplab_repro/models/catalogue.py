"""Every DeepLab v1 and v2 network by name, with what the papers state about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deeplab_repro.models.graph import Graph, Settings
from deeplab_repro.models.prototxt import Message, to_text
from deeplab_repro.models.resnet101 import ResNet101
from deeplab_repro.models.v1_format import to_v1
from deeplab_repro.models.vgg16 import VGG16

PHASES = ("TRAIN", "TEST", "DEPLOY")
FORMATS = ("v1", "v2")
# All published channel counts are multiples of this, so any divisor of it is a valid width.
_COMMON_CHANNELS = 64
_MAX_VALUES = 2**31 - 1  # of one blob in Caffe (blob.cpp, Reshape)


@dataclass(frozen=True)
class Network:
    """One network of the papers.

    title            its name in the papers
    released         its name in the authors' releases, None if no file was released
    paper            where its result stands, with mean IoU on VOC 2012 val before and after the CRF
    parameters       learned values at 21 labels: convolutions and Scale, shared ones once, without
                     BatchNorm's statistics
    train_size, test_size      side of the square inputs used in training and testing
    train_scores, test_scores  side of the score map before it is zoomed by 8
    scores           the blob that holds this map (with exp="voc12"); in the MSc networks one of
                     six: they are fused at this size in training, at full size in testing
    output           the full-size score blob of the TEST and DEPLOY phases
    batch            pictures per forward pass in training
    input_rule       (step, rest): inputs of step * k + rest rows and columns give scores of the
                     input's size, and labels and scales that fit each other
    """

    title: str
    released: str | None
    paper: str
    parameters: int
    architecture: VGG16 | ResNet101 = field(repr=False)
    scores: str
    output: str
    batch: int
    train_size: int = 321
    test_size: int = 513
    train_scores: int = 41
    test_scores: int = 65
    input_rule: tuple[int, int] = (8, 1)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats it can be written in: the DeepLab v1 fork has no BatchNorm."""
        return ("v2",) if isinstance(self.architecture, ResNet101) else FORMATS


_MSC_BRANCHES = 1_206_121  # parameters of the five branches of DeepLab-MSc


def _vgg16(
    title: str,
    released: str | None,
    paper: str,
    parameters: int,
    batch: int,
    architecture: VGG16,
    **options: Any,
) -> Network:
    return Network(
        title,
        released,
        paper,
        parameters,
        architecture,
        scores=architecture.score.format(exp="voc12"),
        output=architecture.output,
        batch=batch,
        **options,
    )


def _resnet101(title: str, released: str | None, paper: str, head: str, msc: bool) -> Network:
    # Convolutions and Scale of the trunk, then the classifiers on 2048 channels.
    trunk = 42_394_816 + 105_344
    heads = {"plain": 43_029, "largefov": 387_093, "aspp": 4 * 387_093}
    return Network(
        title,
        released,
        paper,
        trunk + heads[head],
        ResNet101(head, msc),
        scores="fc_fusion" if msc else "fc1_voc12",
        output="fc1_interp",
        batch=1,
        # The 0.75 and 0.5 copies must come out of their strides at whole sizes too.
        input_rule=(32, 1) if msc else (8, 1),
    )


_V1, _V2 = "arXiv 1412.7062", "arXiv 1606.00915"
_PASCAL = "fc8_pascal"  # the first releases wrote this name, later ones fc8_${EXP}
_FROZEN = (0.0, 0.0)
_LARGEFOV = VGG16(3, (12,), 1024, average_pool=True)
_MSC_LARGEFOV = VGG16(3, (12,), 1024, average_pool=True, multi_scale=True, fc8_lr=_FROZEN)

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "plain": _vgg16(
            "DeepLab",
            "vgg128_noup",
            f"{_V1} table 1: 59.80, 63.74 with CRF",
            65_140_565,
            20,
            VGG16(4, (4,), 4096, _PASCAL, plain_pools=True),
            train_size=306,
            test_size=514,
            train_scores=39,
            test_scores=67,
            input_rule=(8, 2),
        ),
        "msc": _vgg16(
            "DeepLab-MSc",
            "vgg128_ms_pool3",
            f"{_V1} table 1: 61.30, 65.21 with CRF",
            65_140_565 + _MSC_BRANCHES,
            20,
            VGG16(4, (4,), 4096, _PASCAL, multi_scale=True, fc8_lr=(1, 2)),
        ),
        # Its file is not to be found; pool3 in the released name means 3x3 pools.
        "coco": _vgg16(
            "DeepLab-COCO",
            "vgg128_noup_pool3_cocomix",
            "project page: 70.4 on VOC 2012 test with CRF",
            65_140_565,
            20,
            VGG16(4, (4,), 4096, _PASCAL),
        ),
        "4x4": _vgg16(
            "DeepLab-4x4",
            None,
            f"{_V1} table 2, {_V2} table 1 (rate 8): 63.41, 67.14 with CRF",
            65_140_565,
            20,
            VGG16(4, (8,), 4096, _PASCAL),
        ),
        "7x7": _vgg16(
            "DeepLab-7x7",
            None,
            f"{_V1} tables 1 and 2: 64.38, 67.64 with CRF",
            134_346_581,
            20,
            VGG16(7, (4,), 4096, _PASCAL),
        ),
        "largefov": _vgg16(
            "DeepLab-LargeFOV",
            "DeepLab-LargeFOV",
            f"{_V1} table 1: 62.25, 67.64 with CRF; {_V2} table 3: 65.76, 69.84",
            20_505_429,
            30,
            _LARGEFOV,
        ),
        "coco-largefov": _vgg16(
            "DeepLab-COCO-LargeFOV",
            "DeepLab-COCO-LargeFOV",
            f"{_V2} table 5: 72.7 on VOC 2012 test with CRF",
            20_505_429,
            30,
            _LARGEFOV,
        ),
        "msc-largefov": _vgg16(
            "DeepLab-MSc-LargeFOV",
            "DeepLab-MSc-LargeFOV",
            f"{_V1} table 1: 64.21, 68.70 with CRF",
            20_505_429 + _MSC_BRANCHES,
            30,
            _MSC_LARGEFOV,
        ),
        "msc-coco-largefov": _vgg16(
            "DeepLab-MSc-COCO-LargeFOV",
            "DeepLab-MSc-COCO-LargeFOV",
            "no number published in the papers",
            20_505_429 + _MSC_BRANCHES,
            30,
            _MSC_LARGEFOV,
        ),
        "aspp-s": _vgg16(
            "DeepLab-ASPP-S (VGG-16)",
            None,
            f"{_V2} table 3: 66.98, 69.73 with CRF",
            37_877_652,
            10,
            VGG16(3, (2, 4, 8, 12), 1024),
        ),
        "aspp-l": _vgg16(
            "DeepLab-ASPP-L (VGG-16)",
            "DeepLabv2_VGG16",
            f"{_V2} table 3: 68.96, 71.57 with CRF",
            37_877_652,
            10,
            VGG16(3, (6, 12, 18, 24), 1024),
        ),
        "resnet101": _resnet101("ResNet-101", None, f"{_V2} table 4: 68.72", "plain", msc=False),
        "resnet101-largefov": _resnet101(
            "ResNet-101 LargeFOV", None, "no row of its own", "largefov", msc=False
        ),
        "resnet101-aspp": _resnet101(
            "ResNet-101 ASPP", None, "no row of its own", "aspp", msc=False
        ),
        "resnet101-msc": _resnet101(
            "ResNet-101 MSC",
            None,
            f"{_V2} table 4: 71.27 (74.87 from COCO, with random scales)",
            "plain",
            msc=True,
        ),
        "resnet101-msc-largefov": _resnet101(
            "ResNet-101 MSC LargeFOV", None, f"{_V2} table 4: 75.54", "largefov", msc=True
        ),
        "resnet101-msc-aspp": _resnet101(
            "ResNet-101 MSC ASPP",
            "DeepLabv2_ResNet101",
            f"{_V2} table 4: 76.35, 77.69 with CRF",
            "aspp",
            msc=True,
        ),
    }
)


def write_network(
    name: str,
    phase: str = "DEPLOY",
    format: str = "v2",
    num_labels: int = 21,
    width: int = 1,
    input_size: int | tuple[int, int] | None = None,
    batch: int | None = None,
    **placeholders: str,
) -> str:
    """A network of `NETWORKS` as prototxt text.

    phase         TRAIN and TEST read pictures by an ImageSegData layer; DEPLOY is the test graph
                  from an input blob `data` to the full-size scores
    format        "v1" (`layers {}`, the DeepLab v1 fork) or "v2" (`layer {}`, the v2 fork)
    num_labels    channels of the scores
    width         divides the published channel counts: a small net of the same shape
    input_size    height and width, or one number for both; the published size by default
    batch         pictures per pass; the published number in TRAIN and 1 otherwise by default
    placeholders  what the released files call ${EXP}, ${DATA_ROOT}, ${TRAIN_SET}, ${TEST_SET} and
                  ${FEATURE_DIR}, in small letters: exp="voc12", data_root="VOC2012", ...

    Where the released files name no filler there is none here, and Caffe's default holds: constant
    0.  So a network starts from weights: without any, ResNet-101's scores are all zero.

    >>> print(write_network("largefov", width=8, input_size=97)[:61])
    name: "DeepLab-LargeFOV"
    input: "data"
    input_shape {
      dim: 1
    """
    network = _choice("network", name, NETWORKS)
    _choice("phase", phase, PHASES)
    _choice("format", format, FORMATS)
    if num_labels < 1:
        raise ValueError(f"num_labels: expected at least 1, got {num_labels}")
    if width < 1 or _COMMON_CHANNELS % width:
        raise ValueError(f"width: expected a divisor of {_COMMON_CHANNELS}, got {width}")
    training = phase == "TRAIN"
    if batch is None:
        batch = network.batch if training else 1
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    if input_size is None:
        input_size = network.train_size if training else network.test_size
    if isinstance(input_size, int):
        input_size = (input_size, input_size)
    _check_size(name, network, input_size)
    if 3 * batch * input_size[0] * input_size[1] > _MAX_VALUES:
        raise ValueError(
            f"batch {batch} of {input_size[0]}x{input_size[1]}: the blobs of Caffe hold at most "
            f"{_MAX_VALUES:,} values"
        )
    settings = Settings(phase, format, num_labels, width, input_size, batch, **placeholders)
    graph = Graph(settings)
    network.architecture.build(graph)
    return to_text(_net(network.title, graph))


def _net(title: str, graph: Graph) -> Message:
    settings = graph.settings
    message: dict[str, Any] = {"name": title}
    shape = [settings.batch, 3, *settings.height_width]
    if settings.phase == "DEPLOY":
        message["input"] = "data"
        if settings.format == "v1":
            message["input_dim"] = shape
        else:
            message["input_shape"] = {"dim": shape}
    if settings.format == "v1":
        message["layers"] = [to_v1(layer) for layer in graph.layers]
    else:
        message["layer"] = graph.layers
    return message


def _choice(what: str, value: str, choices: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{what}: expected one of {', '.join(choices)}; got {value!r}")
    return choices[value] if isinstance(choices, Mapping) else value


def _check_size(name: str, network: Network, size: tuple[int, int]) -> None:
    step, rest = network.input_rule
    for side in size:
        if side < step + rest or side % step != rest:
            below = max(step + rest, side - (side - rest) % step)
            raise ValueError(
                f"input_size {size[0]}x{size[1]}: {name} takes sides of {step}k + {rest}, "
                f"such as {below} or {below + step}"
            )
