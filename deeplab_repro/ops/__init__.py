"""Ops on torch tensors: public functions with checks; kernels in csrc/, twins in reference/."""

from deeplab_repro.ops._atrous_filters import KeptFilters
from deeplab_repro.ops._atrous_rules import ACCURACIES, ALGORITHMS
from deeplab_repro.ops.atrous_conv2d import (
    AtrousConv2d,
    atrous_conv2d,
    choose_algorithm,
    im2col,
    set_accuracy,
)
from deeplab_repro.ops.channel_affine import channel_affine
from deeplab_repro.ops.mean_field import mean_field
from deeplab_repro.ops.permutohedral import Lattice, permutohedral_build, permutohedral_filter

__all__ = [
    "ACCURACIES",
    "ALGORITHMS",
    "AtrousConv2d",
    "KeptFilters",
    "Lattice",
    "atrous_conv2d",
    "channel_affine",
    "choose_algorithm",
    "im2col",
    "mean_field",
    "permutohedral_build",
    "permutohedral_filter",
    "set_accuracy",
]
