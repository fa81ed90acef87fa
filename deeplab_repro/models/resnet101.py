"""The ResNet-101 networks of DeepLab v2 (arXiv 1606.00915, section 4.1.2, table 4), as tables.

Layer and parameter names follow the train.prototxt and test.prototxt released as
DeepLabv2_ResNet101: three scales that share their weights, and ASPP. The other rows of table 4 were
not released as files; they are the same network with another head (plain is a 1x1 classifier, which
the paper does not spell out) or with one scale.
"""

from __future__ import annotations

from dataclasses import replace

from deeplab_repro.models.architectures import Architecture, InputScale, Stage
from deeplab_repro.models.blocks import ConvUnit, Head, Normalization, PoolUnit, Residual

# stage, names of its blocks, channels inside and out, stride of the first block. DeepLab's output
# stride of 8 drops the strides of the last two: their 3x3 convolutions get the rates 2 and 4.
_STAGES = (
    (2, ("a", "b", "c"), 64, 256, 1),
    (3, ("a", *(f"b{i}" for i in range(1, 4))), 128, 512, 2),
    (4, ("a", *(f"b{i}" for i in range(1, 23))), 256, 1024, 2),
    (5, ("a", "b", "c"), 512, 2048, 2),
)

# stage -> what stands for each of its blocks in the names of layers
BLOCKS = {stage: blocks for stage, blocks, *_ in _STAGES}


def backbone(multi_grid: tuple[int, int, int] = (1, 1, 1)) -> tuple[Stage, ...]:
    """The root and the four stages of bottleneck blocks.

    Args:
        multi_grid: Multiplies the rates of the 3x3 convolutions of the last stage's three blocks
            (DeepLab v3, arXiv 1706.05587, section 3.2.1); v2 has none.
    """
    stages: list[Stage] = [
        (_unit("conv1", "_conv1", 64, 7, stride=2, relu=True), PoolUnit("pool1"))
    ]
    for stage, blocks, inside, outside, stride in _STAGES:
        grid = multi_grid if stage == 5 else (1,) * len(blocks)
        stages.append(
            tuple(
                _bottleneck(f"{stage}{block}", inside, outside, stride if i == 0 else 1, grid[i])
                for i, block in enumerate(blocks)
            )
        )
    return tuple(stages)


def _bottleneck(name: str, inside: int, outside: int, stride: int, rate: int) -> Residual:
    """1x1, 3x3, 1x1 beside the identity, or beside a 1x1 in the first block of a stage.

    The stride sits on the first 1x1, not on the 3x3.
    """

    def unit(branch: str, channels: int, kernel: int, **options: int) -> ConvUnit:
        end = f"{name}_branch{branch}"
        return _unit(f"res{end}", end, channels, kernel, relu=branch in ("2a", "2b"), **options)

    return Residual(
        f"res{name}",
        body=(
            unit("2a", inside, 1, stride=stride),
            unit("2b", inside, 3, rate=rate),
            unit("2c", outside, 1),
        ),
        shortcut=unit("1", outside, 1, stride=stride) if name.endswith("a") else None,
        relu=f"res{name}_relu",
    )


def _unit(
    name: str, end: str, channels: int, kernel: int, *, relu: bool, stride: int = 1, rate: int = 1
) -> ConvUnit:
    """Convolution without bias, then BatchNorm and Scale, both frozen."""
    return ConvUnit(
        name,
        channels,
        kernel,
        stride,
        rate,
        norm=Normalization(f"bn{end}", f"scale{end}"),
        relu=f"{name}_relu" if relu else None,
        bias=False,
        suffixes=("_0",),
    )


def classifiers(kernel: int, rates: tuple[int, ...]) -> Head:
    """One classifier on the backbone's 2048 channels, or the sum of several: ASPP."""
    name = "fc1_{exp}{copy}"
    names = [name] if len(rates) == 1 else [f"{name}_c{i}" for i in range(len(rates))]
    units = (
        ConvUnit(unit, None, kernel, rate=rate, lr_mults=(10, 20), std=0.01, suffixes=("_w", "_b"))
        for unit, rate in zip(names, rates, strict=True)
    )
    return Head(tuple((unit,) for unit in units), top=name)


SCALES = (
    InputScale("", "_res1"),
    InputScale("_res05", "_res05", "shrink_data05", shrink=2),
    InputScale("_res075", "_res075", "shrink_data075", shrink=4, zoom=3),
)

PLAIN = Architecture(backbone(), classifiers(1, (1,)), stem="fc1")
LARGEFOV = replace(PLAIN, head=classifiers(3, (12,)))
ASPP = replace(PLAIN, head=classifiers(3, (6, 12, 18, 24)))
PLAIN_MSC = replace(PLAIN, scales=SCALES)
LARGEFOV_MSC = replace(LARGEFOV, scales=SCALES)
ASPP_MSC = replace(ASPP, scales=SCALES)
