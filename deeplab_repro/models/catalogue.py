"""Every DeepLab v1 and v2 network by name, with what the papers state about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from numbers import Integral
from types import MappingProxyType

from deeplab_repro.models import resnet101, vgg16
from deeplab_repro.models.architectures import Architecture, expand
from deeplab_repro.models.schedules import (
    POLY_RESNET,
    POLY_VGG,
    STEP,
    STEP_AVERAGED,
    STEP_PLAIN,
    Stages,
)
from deeplab_repro.models.steps import Norm
from deeplab_repro.models.v3.catalogue import NETWORKS_V3

# All published channel counts are multiples of this, so any divisor of it is a valid width.
_COMMON_CHANNELS = 64
PHASES = ("TRAIN", "TEST", "DEPLOY")
FORMATS = ("v1", "v2")
#: How full names begin.
_VERSION = re.compile(r"^deeplab_v\d(plus)?_")
#: How much two names have in common, of 1, that may be meant for each other; and how many are told.
_ALIKE, _MOST_HINTS = 0.6, 4


@dataclass(frozen=True)
class Network:
    """One network of the papers.

    Attributes:
        title: Its name in the papers.
        full_name: Paper, backbone, head, fusion of scales, and the data that it was trained on if
            not VOC alone: what the name does not say is as in the released network, so that the
            head of DeepLab v2 is ASPP; networks that differ in their training data alone share an
            architecture.
        architecture: Its table.
        released: Its name in the authors' releases, None if no file was released.
        paper: Where its result stands, with mean IoU on VOC 2012 val before and after the CRF.
        parameters: Learned values at 21 labels: convolutions and Scale, shared ones once, without
            BatchNorm's statistics.
        batch: Pictures per forward pass in training.
        train_size, test_size: Side of the square inputs used in training and testing.
        train_scores, test_scores: Side of the score map before it is zoomed by 8.
        random_scales: The training pictures are resized by one of these factors at random.
        schedules: Of the two stages of training; where no solver file was released, those of the
            network's nearest relation.
    """

    title: str
    full_name: str
    architecture: Architecture = field(repr=False)
    released: str | None
    paper: str
    parameters: int
    batch: int
    train_size: int = 321
    test_size: int = 513
    train_scores: int = 41
    test_scores: int = 65
    random_scales: tuple[float, ...] = ()
    schedules: Stages = field(default=STEP, repr=False)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats it can be written in: the DeepLab v1 fork has no BatchNorm."""
        steps = expand(self.architecture).steps
        return ("v2",) if any(isinstance(step, Norm) for step in steps) else FORMATS

    @property
    def scores(self) -> str:
        """The blob of the score map before it is zoomed by 8 (with exp="voc12").

        In the MSc networks it is one of six: they are fused at this size in training, at full size
        in testing.
        """
        return expand(self.architecture).scores.name

    @property
    def output(self) -> str:
        """The full-size score blob of the TEST and DEPLOY phases."""
        return expand(self.architecture).output.name

    @property
    def input_rule(self) -> tuple[int, int]:
        """(step, rest) of the sides that fit: `Architecture.input_rule` at the published stride."""
        return self.architecture.input_rule()


_V1, _V2 = "arXiv 1412.7062", "arXiv 1606.00915"
_MSC_BRANCHES = 1_206_121  # parameters of the five branches of DeepLab-MSc
_RESNET101 = 42_394_816 + 105_344  # convolutions and Scale; the classifiers read 2048 channels
_SCALES = (0.5, 0.75, 1, 1.25, 1.5)  # section 4.1.2 of the second paper

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "plain": Network(
            "DeepLab",
            "deeplab_v1_vgg16",
            vgg16.PLAIN,
            "vgg128_noup",
            f"{_V1} table 1: 59.80, 63.74 with CRF",
            65_140_565,
            batch=20,
            train_size=306,
            test_size=514,
            train_scores=39,
            test_scores=67,
            schedules=STEP_PLAIN,
        ),
        "msc": Network(
            "DeepLab-MSc",
            "deeplab_v1_vgg16_msc",
            vgg16.MSC,
            "vgg128_ms_pool3",
            f"{_V1} table 1: 61.30, 65.21 with CRF",
            65_140_565 + _MSC_BRANCHES,
            batch=20,
        ),
        # Its file is not to be found; pool3 in the released name means 3x3 pools.
        "coco": Network(
            "DeepLab-COCO",
            "deeplab_v1_vgg16_coco",
            vgg16.POOL3,
            "vgg128_noup_pool3_cocomix",
            "project page: 70.4 on VOC 2012 test with CRF",
            65_140_565,
            batch=20,
        ),
        "4x4": Network(
            "DeepLab-4x4",
            "deeplab_v1_vgg16_4x4",
            vgg16.KERNEL_4X4_RATE_8,
            None,
            f"{_V1} table 2, {_V2} table 1 (rate 8): 63.41, 67.14 with CRF",
            65_140_565,
            batch=20,
        ),
        "7x7": Network(
            "DeepLab-7x7",
            "deeplab_v1_vgg16_7x7",
            vgg16.KERNEL_7X7,
            None,
            f"{_V1} tables 1 and 2: 64.38, 67.64 with CRF",
            134_346_581,
            batch=20,
        ),
        "largefov": Network(
            "DeepLab-LargeFOV",
            "deeplab_v1_vgg16_largefov",
            vgg16.LARGEFOV,
            "DeepLab-LargeFOV",
            f"{_V1} table 1: 62.25, 67.64 with CRF; {_V2} table 3: 65.76, 69.84",
            20_505_429,
            batch=30,
        ),
        "coco-largefov": Network(
            "DeepLab-COCO-LargeFOV",
            "deeplab_v1_vgg16_largefov_coco",
            vgg16.LARGEFOV,
            "DeepLab-COCO-LargeFOV",
            f"{_V2} table 5: 72.7 on VOC 2012 test with CRF",
            20_505_429,
            batch=30,
        ),
        "msc-largefov": Network(
            "DeepLab-MSc-LargeFOV",
            "deeplab_v1_vgg16_largefov_msc",
            vgg16.MSC_LARGEFOV,
            "DeepLab-MSc-LargeFOV",
            f"{_V1} table 1: 64.21, 68.70 with CRF",
            20_505_429 + _MSC_BRANCHES,
            batch=30,
            schedules=STEP_AVERAGED,
        ),
        "msc-coco-largefov": Network(
            "DeepLab-MSc-COCO-LargeFOV",
            "deeplab_v1_vgg16_largefov_msc_coco",
            vgg16.MSC_LARGEFOV,
            "DeepLab-MSc-COCO-LargeFOV",
            "no number published in the papers",
            20_505_429 + _MSC_BRANCHES,
            batch=30,
            schedules=STEP_AVERAGED,
        ),
        "aspp-s": Network(
            "DeepLab-ASPP-S (VGG-16)",
            "deeplab_v2_vgg16_aspp_s",
            vgg16.ASPP_S,
            None,
            f"{_V2} table 3: 66.98, 69.73 with CRF",
            37_877_652,
            batch=10,
            schedules=POLY_VGG,
        ),
        "aspp-l": Network(
            "DeepLab-ASPP-L (VGG-16)",
            "deeplab_v2_vgg16",
            vgg16.ASPP_L,
            "DeepLabv2_VGG16",
            f"{_V2} table 3: 68.96, 71.57 with CRF",
            37_877_652,
            batch=10,
            schedules=POLY_VGG,
        ),
        "resnet101": Network(
            "ResNet-101",
            "deeplab_v2_resnet101_plain",
            resnet101.PLAIN,
            None,
            f"{_V2} table 4: 68.72",
            _RESNET101 + 43_029,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
        "resnet101-largefov": Network(
            "ResNet-101 LargeFOV",
            "deeplab_v2_resnet101_largefov",
            resnet101.LARGEFOV,
            None,
            "no row of its own",
            _RESNET101 + 387_093,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
        "resnet101-aspp": Network(
            "ResNet-101 ASPP",
            "deeplab_v2_resnet101",
            resnet101.ASPP,
            None,
            "no row of its own",
            _RESNET101 + 4 * 387_093,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
        "resnet101-msc": Network(
            "ResNet-101 MSC",
            "deeplab_v2_resnet101_plain_msc",
            resnet101.PLAIN_MSC,
            None,
            f"{_V2} table 4: 71.27 (74.87 from COCO, with random scales)",
            _RESNET101 + 43_029,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
        "resnet101-msc-largefov": Network(
            "ResNet-101 MSC LargeFOV",
            "deeplab_v2_resnet101_largefov_msc",
            resnet101.LARGEFOV_MSC,
            None,
            f"{_V2} table 4: 75.54",
            _RESNET101 + 387_093,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
        "resnet101-msc-aspp": Network(
            "ResNet-101 MSC ASPP",
            "deeplab_v2_resnet101_msc",
            resnet101.ASPP_MSC,
            "DeepLabv2_ResNet101",
            f"{_V2} table 4: 76.35, 77.69 with CRF",
            _RESNET101 + 4 * 387_093,
            batch=1,
            random_scales=_SCALES,
            schedules=POLY_RESNET,
        ),
    }
)


def find(name: str, also: Iterable[str] = ()) -> Network:
    """The network of `NETWORKS` that has this name or full name.

    Args:
        name: which one.
        also: Names of other networks, which the message lists, too.

    Raises:
        ValueError: There is none.
    """
    by_name = {network.full_name: network for network in NETWORKS.values()} | dict(NETWORKS)
    if name not in by_name:
        if name in NETWORKS_V3:
            raise ValueError(
                f"network: {name} has no prototxt and no layers of Caffe's; create_model makes it,"
                " and `train --flagfile` trains it"
            )
        known = ", ".join([*NETWORKS, *also])
        raise ValueError(
            f"network: expected one of {known}; got {name!r}{hint(name, [*by_name, *also])}"
        )
    return by_name[name]


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean ...?", or nothing.

    Args:
        name: what was asked for.
        known: what there is.  Those that hold the name go before those that are like it;
            punctuation and the "deeplab_v3plus_" of full names count for nothing.

    >>> hint("Xception-65", ["deeplab_v3plus_xception65", "deeplab_v3plus_xception71"])
    '; did you mean deeplab_v3plus_xception65?'
    """
    wanted = _letters(name)
    forms = {one: (_letters(one), _letters(_VERSION.sub("", one))) for one in known}
    close = [one for one, (whole, _) in forms.items() if wanted and wanted in whole]
    if not close:
        alike = {
            one: max(SequenceMatcher(None, wanted, form).ratio() for form in both)
            for one, both in forms.items()
        }
        close = sorted((one for one in alike if alike[one] >= _ALIKE), key=lambda one: -alike[one])
    return f"; did you mean {' or '.join(close[:_MOST_HINTS])}?" if close else ""


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def check_whole(what: str, value: int) -> None:
    """Raise ValueError if `value` is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{what}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{what}: expected at least 1, got {value}")


def check_width(width: int) -> None:
    """Raise ValueError if the published channel counts cannot be divided by `width`."""
    check_whole("width", width)
    if _COMMON_CHANNELS % width:
        raise ValueError(f"width: expected a divisor of {_COMMON_CHANNELS}, got {width}")
