"""Every Caffe layer as a typed object: its parameters, shapes, blobs, memory and cost.

>>> from prototxt_import import parse_net
>>> net = parse_net('''
... input: "data" input_shape { dim: 1 dim: 3 dim: 321 dim: 321 }
... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
...         convolution_param { num_output: 64 kernel_size: 3 pad: 2 dilation: 2 } }''')
>>> net["conv"].dilation
(2,)
>>> net["conv"].shapes([(1, 3, 321, 321)])
LayerShapes(tops=[(1, 64, 321, 321)], params=[(64, 3, 3, 3), (64,)])

To add a layer type, write its class here and its module in ``deeplab_repro/caffe/layers/``;
``tests/caffe/test_layer_kinds.py`` says what is missing.
"""

from prototxt_import.layers.accuracy import Accuracy, SegAccuracy
from prototxt_import.layers.combine import Eltwise, SpatialProduct
from prototxt_import.layers.conv import (
    Convolution,
    Deconvolution,
    Im2col,
    Sliding,
    conv_output,
    deconv_output,
)
from prototxt_import.layers.core import AUTOMATIC, KINDS, Layer, Phase
from prototxt_import.layers.dense_crf import DenseCRF
from prototxt_import.layers.elementwise import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Dropout,
    Exp,
    Log,
    Power,
    PReLU,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from prototxt_import.layers.field import Field
from prototxt_import.layers.interp import Interp, Padding, interp_output
from prototxt_import.layers.linear import Embed, InnerProduct
from prototxt_import.layers.losses import (
    ContrastiveLoss,
    EuclideanLoss,
    HingeLoss,
    InfogainLoss,
    Loss,
    MultinomialLogisticLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxWithLoss,
)
from prototxt_import.layers.normalization import LRN, MVN, BatchNorm, Bias, Scale
from prototxt_import.layers.parts import Blob, Family, Filler, Kind, LayerShapes, Memory, Window
from prototxt_import.layers.pooling import SPP, Pool, Pooling, pool_output
from prototxt_import.layers.reading import read_layer
from prototxt_import.layers.refused import REFUSED, Unsupported
from prototxt_import.layers.shape_ops import (
    ArgMax,
    BatchReindex,
    Concat,
    Crop,
    Filter,
    Flatten,
    Reduction,
    Reshape,
    Slice,
    Softmax,
    Split,
    Tile,
)
from prototxt_import.layers.sizes import Shape, count
from prototxt_import.layers.sources import (
    DummyData,
    HDF5Data,
    HDF5Output,
    ImageData,
    ImageSegData,
    Input,
    MatRead,
    MatWrite,
    MemoryData,
    Parameter,
    Silence,
    Transformation,
)

__all__ = [
    "AUTOMATIC",
    "BNLL",
    "ELU",
    "KINDS",
    "LRN",
    "MVN",
    "REFUSED",
    "SPP",
    "AbsVal",
    "Accuracy",
    "ArgMax",
    "BatchNorm",
    "BatchReindex",
    "Bias",
    "Blob",
    "Clip",
    "Concat",
    "ContrastiveLoss",
    "Convolution",
    "Crop",
    "Deconvolution",
    "DenseCRF",
    "Dropout",
    "DummyData",
    "Eltwise",
    "Embed",
    "EuclideanLoss",
    "Exp",
    "Family",
    "Field",
    "Filler",
    "Filter",
    "Flatten",
    "HDF5Data",
    "HDF5Output",
    "HingeLoss",
    "Im2col",
    "ImageData",
    "ImageSegData",
    "InfogainLoss",
    "InnerProduct",
    "Input",
    "Interp",
    "Kind",
    "Layer",
    "LayerShapes",
    "Log",
    "Loss",
    "MatRead",
    "MatWrite",
    "Memory",
    "MemoryData",
    "MultinomialLogisticLoss",
    "PReLU",
    "Padding",
    "Parameter",
    "Phase",
    "Pool",
    "Pooling",
    "Power",
    "ReLU",
    "Reduction",
    "Reshape",
    "Scale",
    "SegAccuracy",
    "Shape",
    "Sigmoid",
    "SigmoidCrossEntropyLoss",
    "Silence",
    "Slice",
    "Sliding",
    "Softmax",
    "SoftmaxWithLoss",
    "SpatialProduct",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
    "Tile",
    "Transformation",
    "Unsupported",
    "Window",
    "conv_output",
    "count",
    "deconv_output",
    "interp_output",
    "pool_output",
    "read_layer",
]
