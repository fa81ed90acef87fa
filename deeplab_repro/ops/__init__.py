"""Ops on torch tensors: public functions with checks; kernels in csrc/, twins in reference/."""

from deeplab_repro.ops._atrous_rules import ALGORITHMS
from deeplab_repro.ops.atrous_conv2d import AtrousConv2d, atrous_conv2d, choose_algorithm, im2col
from deeplab_repro.ops.channel_affine import channel_affine

__all__ = [
    "ALGORITHMS",
    "AtrousConv2d",
    "atrous_conv2d",
    "channel_affine",
    "choose_algorithm",
    "im2col",
]
