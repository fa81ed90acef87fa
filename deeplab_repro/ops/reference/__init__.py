"""The torch twin of every op: same arguments, plain torch, differentiable.

Documentation, oracle of the tests, rival of the benchmarks, and what runs where nothing could be
compiled. Imports torch alone.
"""

from deeplab_repro.ops.reference.atrous_conv2d import (
    atrous_col2im,
    atrous_conv2d_direct,
    atrous_conv2d_direct_grad_input,
    atrous_conv2d_direct_grad_weight,
    atrous_conv2d_winograd,
    atrous_depthwise,
    atrous_depthwise_grad_input,
    atrous_depthwise_grad_weight,
    atrous_im2col,
)
from deeplab_repro.ops.reference.channel_affine import channel_affine, channel_affine_backward
from deeplab_repro.ops.reference.mean_field import mean_field
from deeplab_repro.ops.reference.permutohedral import (
    permutohedral_build,
    permutohedral_filter,
    permutohedral_grad_weight,
)

__all__ = [
    "atrous_col2im",
    "atrous_conv2d_direct",
    "atrous_conv2d_direct_grad_input",
    "atrous_conv2d_direct_grad_weight",
    "atrous_conv2d_winograd",
    "atrous_depthwise",
    "atrous_depthwise_grad_input",
    "atrous_depthwise_grad_weight",
    "atrous_im2col",
    "channel_affine",
    "channel_affine_backward",
    "mean_field",
    "permutohedral_build",
    "permutohedral_filter",
    "permutohedral_grad_weight",
]
