"""Caffe's files without Caffe: prototxt, caffemodel, ``.caffemodel.h5``, solverstate, in and out.

Knows nothing of torch: a network comes as a typed graph (:class:`Net`), weights as numpy arrays.

    >>> net = read_net("deploy.prototxt")
    >>> weights = read_weights("train_iter_20000.caffemodel")
    >>> weights["conv1_1"][0].shape
    (64, 3, 3, 3)
"""

from prototxt_import.caffemodel import Weights
from prototxt_import.dialect import DialectReport, RawNet
from prototxt_import.errors import BadInput, CaffeImportError
from prototxt_import.inference import NetShapes, ShapedLayer, infer_net
from prototxt_import.layers import Layer, LayerShapes, Phase, Shape
from prototxt_import.model import (
    Model,
    parse_net,
    read_model,
    read_net,
    read_weights,
    write_weights,
)
from prototxt_import.net import Input, Net
from prototxt_import.schema import DIALECTS, Dialect
from prototxt_import.solverstate import SolverState, read_solverstate, write_solverstate

__all__ = [
    "DIALECTS",
    "BadInput",
    "CaffeImportError",
    "Dialect",
    "DialectReport",
    "Input",
    "Layer",
    "LayerShapes",
    "Model",
    "Net",
    "NetShapes",
    "Phase",
    "RawNet",
    "Shape",
    "ShapedLayer",
    "SolverState",
    "Weights",
    "infer_net",
    "parse_net",
    "read_model",
    "read_net",
    "read_solverstate",
    "read_weights",
    "write_solverstate",
    "write_weights",
]
