"""Ops on torch tensors: public functions with checks; kernels in csrc/, twins in reference/."""

from deeplab_repro.ops.atrous_conv2d import atrous_conv2d
from deeplab_repro.ops.channel_affine import channel_affine

__all__ = ["atrous_conv2d", "channel_affine"]
