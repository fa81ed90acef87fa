"""Every Caffe layer as a module.

>>> from prototxt_import import infer_net, parse_net
>>> net = parse_net('''
... input: "x" input_shape { dim: 1 dim: 1 dim: 2 dim: 2 }
... layer { name: "up" type: "Interp" bottom: "x" top: "y" interp_param { zoom_factor: 2 } }''')
>>> import torch
>>> build(infer_net(net).layers[0])(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))
tensor([[[[0., 1., 2.],
          [2., 3., 4.],
          [4., 5., 6.]]]])
"""

# Imported for the layers that they register.
from deeplab_repro.caffe.layers import (  # noqa: F401
    accuracy,
    combine,
    conv,
    dense_crf,
    elementwise,
    interp,
    linear,
    losses,
    normalization,
    pooling,
    shape_ops,
    sources,
)
from deeplab_repro.caffe.layers.base import LAYERS, CaffeLayer, build, register

__all__ = ["LAYERS", "CaffeLayer", "build", "register"]
