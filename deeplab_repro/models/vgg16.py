"""The VGG-16 networks of DeepLab v1 (arXiv 1412.7062) and v2 (arXiv 1606.00915), as tables.

Layer names, fillers and multipliers follow the train.prototxt and test.prototxt that were released
for DeepLab (`vgg128_noup`), DeepLab-MSc (`vgg128_ms_pool3`), DeepLab-LargeFOV, DeepLab-MSc-LargeFOV
and DeepLabv2_VGG16. The 4x4 (rate 8), 7x7 and ASPP-S networks were never released as files: their
kernels and rates stand in table 2 of the first paper and section 4.1.2 of the second; the padding
keeps the map's size, as in all the others.
"""

from __future__ import annotations

from dataclasses import replace

from deeplab_repro.models.architectures import Architecture, Stage
from deeplab_repro.models.blocks import Block, ConvUnit, Head, PoolUnit, SideBranch

Multipliers = tuple[float, float]  # of the learning rate, of weights and of biases

ORDINARY: Multipliers = (1, 2)
TENFOLD: Multipliers = (10, 20)
FROZEN: Multipliers = (0, 0)

# stage, convolutions in it, channels
_STAGES = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))

# Every pool halves the map in VGG-16. DeepLab's output stride of 8 drops the strides of the last
# two, so that conv5 gets the rate 2.
POOLS = tuple(PoolUnit(f"pool{stage}") for stage in range(1, 6))
# The 2x2 pools of the first network, with its odd paddings. The released train net does not pad
# pool4 and the test net does: 39x39 scores for 306, 67x67 (later cropped) for 514.
PLAIN_POOLS = (
    *(PoolUnit(f"pool{stage}", kernel=2) for stage in range(1, 4)),
    PoolUnit("pool4", kernel=2, train_pad=0),
    PoolUnit("pool5"),
)
POOL5A = PoolUnit("pool5a", stride=1, method="AVE")


def backbone(
    pools: tuple[PoolUnit, ...] = POOLS,
    last: tuple[PoolUnit, ...] = (),
    lr_mults: Multipliers = ORDINARY,
) -> tuple[Stage, ...]:
    """The thirteen 3x3 convolutions, a pool behind each stage, and `last` behind the last pool."""
    stages: list[Stage] = []
    for (stage, convolutions, channels), pool in zip(_STAGES, pools, strict=True):
        units = (
            ConvUnit(f"conv{stage}_{i}", channels, relu=f"relu{stage}_{i}", lr_mults=lr_mults)
            for i in range(1, convolutions + 1)
        )
        stages.append((*units, pool))
    stages[-1] += last
    return tuple(stages)


def head(
    kernel: int,
    rates: tuple[int, ...],
    channels: int,
    score: str = "fc8_{exp}",
    lr_mults: Multipliers = ORDINARY,
    score_lr_mults: Multipliers = TENFOLD,
) -> Head:
    """fc6, fc7 and the classifier, for each rate; with several rates, which is ASPP, their sum.

    Args:
        kernel: Of fc6.
        rates: Of fc6 at output stride 8.
        channels: Of fc6 and fc7.
        score: Name of the scores; the first releases wrote fc8_pascal, later ones fc8_${EXP}.
        lr_mults: Of fc6 and fc7.
        score_lr_mults: Of the classifier.
    """

    def branch(suffix: str, rate: int) -> tuple[Block, ...]:
        fc6, fc7 = (
            ConvUnit(
                f"fc{layer}{suffix}",
                channels,
                kernel=side,
                rate=rate,
                relu=f"relu{layer}{suffix}",
                dropout=f"drop{layer}{suffix}",
                lr_mults=lr_mults,
            )
            for layer, side, rate in ((6, kernel, rate), (7, 1, 1))
        )
        return fc6, fc7, ConvUnit(score + suffix, None, 1, lr_mults=score_lr_mults, std=0.01)

    suffixes = [""] if len(rates) == 1 else [f"_{i}" for i in range(1, len(rates) + 1)]
    return Head(tuple(map(branch, suffixes, rates)), top=score)


def _side_branch(source: str) -> SideBranch:
    """3x3 and 1x1 with 128 channels each, and a classifier."""
    return SideBranch(
        source,
        (
            ConvUnit(
                f"{source}_conv",
                128,
                relu=f"relu_{source}_conv",
                dropout=f"drop_{source}_conv",
                std=0.001,
            ),
            ConvUnit(
                f"{source}_fc",
                128,
                kernel=1,
                relu=f"relu_{source}_fc",
                dropout=f"drop_{source}_fc",
                std=0.005 if source == "pool4" else 0.001,
            ),
            # The released files give pool3_ms no filler: it starts from Caffe's default, zeros.
            ConvUnit(f"{source}_ms", None, kernel=1, std=None if source == "pool3" else 0.01),
        ),
    )


SIDE_BRANCHES = tuple(map(_side_branch, ("data", "pool1", "pool2", "pool3", "pool4")))

_PASCAL = "fc8_pascal"

PLAIN = Architecture(
    backbone(PLAIN_POOLS),
    head(4, (4,), 4096, _PASCAL),
    stem="fc8",
    # The paddings of the 2x2 pools add up: the test net's scores are zoomed to 529 = 8k + 17 rows
    # and columns for 514 = 8k + 2, and labels of 306 = 8k + 2 are decimated without the first.
    crop=(7, 8),
    label_skip=1,
)
POOL3 = Architecture(backbone(), head(4, (4,), 4096, _PASCAL), stem="fc8")
KERNEL_4X4_RATE_8 = replace(POOL3, head=head(4, (8,), 4096, _PASCAL))
KERNEL_7X7 = replace(POOL3, head=head(7, (4,), 4096, _PASCAL))
LARGEFOV = Architecture(backbone(last=(POOL5A,)), head(3, (12,), 1024), stem="fc8")
ASPP_S = Architecture(backbone(), head(3, (2, 4, 8, 12), 1024), stem="fc8")
ASPP_L = Architecture(backbone(), head(3, (6, 12, 18, 24), 1024), stem="fc8")

# DeepLab-MSc starts from a trained network and learns the branches, and fc8 in one of the two.
MSC = Architecture(
    backbone(lr_mults=FROZEN),
    head(4, (4,), 4096, _PASCAL, FROZEN, ORDINARY),
    stem="fc8",
    side_branches=SIDE_BRANCHES,
)
MSC_LARGEFOV = Architecture(
    backbone(last=(POOL5A,), lr_mults=FROZEN),
    head(3, (12,), 1024, lr_mults=FROZEN, score_lr_mults=FROZEN),
    stem="fc8",
    side_branches=SIDE_BRANCHES,
)
