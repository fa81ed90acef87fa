"""The CUDA kernels through CuPy: the sources that nvcc takes, compiled at run time by NVRTC.

For machines with a GPU and without nvcc. Works on torch tensors: their memory is passed as it is,
on torch's current stream. Importing this package does not import CuPy.
"""

from collections.abc import Callable
from typing import Any

from deeplab_repro.native.cupy_backend import (
    atrous_conv2d,
    atrous_depthwise,
    channel_affine,
    permutohedral,
)

KERNELS: dict[str, Callable[..., Any]] = {
    "channel_affine": channel_affine.channel_affine,
    "channel_affine_backward": channel_affine.channel_affine_backward,
    "atrous_conv2d_direct": atrous_conv2d.direct,
    "atrous_conv2d_direct_grad_input": atrous_conv2d.direct_grad_input,
    "atrous_conv2d_direct_grad_weight": atrous_conv2d.direct_grad_weight,
    "atrous_depthwise": atrous_depthwise.depthwise,
    "atrous_depthwise_grad_input": atrous_depthwise.grad_input,
    "atrous_depthwise_grad_weight": atrous_depthwise.grad_weight,
    "atrous_im2col": atrous_conv2d.im2col,
    "atrous_col2im": atrous_conv2d.col2im,
    "permutohedral_build": permutohedral.build,
    "permutohedral_filter": permutohedral.filter_values,
    "permutohedral_grad_weight": permutohedral.grad_weight,
    "mean_field": permutohedral.mean_field,
}
